"""What the policy's constants were chosen from: how waits and worker-hours change with them.

.venv/bin/python -m tests.bench.simulation.choices
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from serverless.scaling import policy
from tests.bench.simulation.results import simulate

SHAPES = ("steady", "daily wave", "late metrics", "poison", "long tasks")
SEEDS = (1, 2)
CHOICES = [(share, policy.FULLEST) for share in (0.25, 0.5, 0.75, 1.0)] + [
    (policy.BACKLOG_SHARE, fullest) for fullest in (0.6, 0.7, 0.8, 0.9)
]


@contextmanager
def constants(backlog_share: float, fullest: float) -> Iterator[None]:
    """For a while, other ones than those that the policy ships with."""
    shipped = policy.BACKLOG_SHARE, policy.FULLEST
    policy.BACKLOG_SHARE, policy.FULLEST = backlog_share, fullest
    try:
        yield
    finally:
        policy.BACKLOG_SHARE, policy.FULLEST = shipped


def main() -> None:
    print("| backlog share | fullest | " + " | ".join(SHAPES) + " |")
    print("|---|---|" + "---|" * len(SHAPES))
    for backlog_share, fullest in CHOICES:
        cells = []
        for shape in SHAPES:
            with constants(backlog_share, fullest):
                found = [simulate(shape, "ours", seed) for seed in SEEDS]
            wait = max(result.wait(0.95) for result in found)
            hours = sum(result.worker_hours for result in found) / len(found)
            cells.append(f"{wait:.0f} s, {hours:.0f} h")
        print(f"| {backlog_share:g} | {fullest:g} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
