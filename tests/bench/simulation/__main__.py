"""Print what each way of scaling does with each load shape."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.bench import simulation
from tests.bench.simulation import plots
from tests.bench.simulation.results import simulate, table
from tests.bench.simulation.scalers import VARIANTS
from tests.bench.simulation.shapes import SHAPES


def main() -> None:
    parser = argparse.ArgumentParser(
        description=simulation.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", action="append", choices=SHAPES, help="may be given several times; default: all")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="may be given several times; default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw each shape into this folder")
    options = parser.parse_args()
    found = []
    for name in options.shape or SHAPES:
        variants = options.variant or SHAPES[name].variants
        results = [simulate(name, variant, options.seed) for variant in variants]
        found += results
        if options.plots:
            print(plots.save(results, options.plots))
    print(table(found))
    for name in options.shape or SHAPES:
        print(f"{name}: {SHAPES[name].what}")


if __name__ == "__main__":
    main()
