"""Draw docs/images/broker-throughput.png: tasks a second over the round-trip time to SQS, at several concurrencies.

    .venv/bin/python -m tests.bench.plot_broker [GRID.json ...] [--output FILE]

GRID.json: what `tests.bench.broker_speed --measure grid --json` printed; several are put together, so that a grid may be
measured in parts. Without any, the whole grid is measured, which takes two minutes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tests.bench import broker_speed

OUTPUT = Path(__file__).resolve().parents[2] / "docs" / "images" / "broker-throughput.png"
LABELS = {"ours": "serverless.broker", "stock": "kombu's SQS, polling_interval=0"}
COLOURS = {"ours": "#0b6e4f", "stock": "#b5532a"}
MARKERS = {1: "o", 4: "s", 16: "^"}
STYLES = {1: ":", 4: "--", 16: "-"}


def draw(cells: list[dict[str, Any]]) -> Figure:
    """cells: results of broker_speed.consume() at one pool, with different latency_ms and concurrency."""
    figure = Figure(figsize=(7.0, 4.6), facecolor="white")
    axes = figure.subplots()
    held: set[str] = set()
    for name, label in LABELS.items():
        for concurrency in sorted({cell["concurrency"] for cell in cells}, reverse=True):
            points = sorted(
                (cell["latency_ms"], cell["contenders"][name]["tasks_a_second"])
                for cell in cells
                if cell["concurrency"] == concurrency and name in cell["contenders"]
            )
            if not points:
                continue
            axes.plot(
                *zip(*points, strict=True),
                color=COLOURS[name],
                linestyle=STYLES.get(concurrency, "-"),
                marker=MARKERS.get(concurrency, "."),
                markersize=5,
                label=f"{label}, {concurrency} thread{'s' if concurrency > 1 else ''}",
            )
        held |= {cell["contenders"][name]["prefetch"] for cell in cells if name in cell["contenders"]}
    axes.set(xscale="log", yscale="log")
    ticks = sorted({cell["latency_ms"] for cell in cells})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("round trip to SQS, ms")
    axes.set_ylabel("no-op tasks a second")
    axes.set_title(f"From a backlog, threads pool, prefetch {' or '.join(sorted(held))}", fontsize=10)
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", nargs="*", type=Path)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    cells = [cell for path in options.grids for cell in json.loads(path.read_text())["grid"]] or broker_speed.grid()
    # Without the time and the version in it, the same grid makes the same file.
    draw(cells).savefig(options.output, dpi=85, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    main()
