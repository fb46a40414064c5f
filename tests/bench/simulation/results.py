"""What came out of a simulated time, in numbers and as a table."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from tests.bench.simulation.scalers import VARIANTS
from tests.bench.simulation.shapes import HOUR, SHAPES, Shape
from tests.bench.simulation.world import Moment, World

#: Dollars an hour of a container of 0.5 vCPU and 1 GiB on Fargate, Linux on x86 in us-east-1: 0.04048 a vCPU, 0.004445 a GiB.
DOLLARS_AN_HOUR = 0.5 * 0.04048 + 1 * 0.004445

HEADINGS = (
    "shape",
    "scaling",
    "tasks",
    "left",
    "p50 s",
    "p95 s",
    "max s",
    "killed",
    "worker-h",
    "$",
    "peak",
    "changes",
)


@dataclass(frozen=True)
class Result:
    """waits: seconds from sending to the first start, ascending. left: tasks without an outcome two hours after the load.

    killed: tasks that scaling, or Spot, cut off. changes: how often another number of workers was wanted.
    asleep: whether nobody was wanted at the end.
    """

    shape: str
    variant: str
    waits: tuple[float, ...]
    done: int
    dead: int
    left: int
    killed: int
    interrupted: int
    worker_hours: float
    peak: int
    changes: int
    asleep: bool
    history: tuple[Moment, ...]

    def wait(self, share: float) -> float:
        """The wait that a share of the tasks stayed within; 0 where there was no task."""
        return self.waits[min(len(self.waits) - 1, int(share * len(self.waits)))] if self.waits else 0.0

    def row(self) -> tuple[str, ...]:
        waits = [f"{self.wait(share):.0f}" if self.waits else "" for share in (0.5, 0.95, 1.0)]
        return (
            self.shape,
            self.variant,
            str(self.done + self.dead),
            str(self.left),
            *waits,
            str(self.killed),
            f"{self.worker_hours:.1f}",
            f"{self.worker_hours * DOLLARS_AN_HOUR:.2f}",
            str(self.peak),
            str(self.changes),
        )


def simulate(shape: Shape | str, variant: str = "ours", seed: int = 1) -> Result:
    """One time under one variant of scaling. The same seed gives the same result."""
    shape = SHAPES[shape] if isinstance(shape, str) else shape
    world = World(shape, VARIANTS[variant](shape.limits), seed).run()
    desired = [moment.desired for moment in world.history]
    return Result(
        shape=shape.name,
        variant=variant,
        waits=tuple(sorted(world.waits)),
        done=world.done,
        dead=world.dead,
        left=len(world.waiting) + world.in_flight,
        killed=world.killed,
        interrupted=world.interrupted,
        worker_hours=world.worker_seconds / HOUR,
        peak=max(desired),
        changes=sum(before != after for before, after in itertools.pairwise(desired)),
        asleep=world.desired == 0 and not world.workers,
        history=tuple(world.history),
    )


def table(results: Iterable[Result]) -> str:
    """In Markdown, so that it can be read here and pasted into docs/scaling.md."""
    rows = [HEADINGS, *(result.row() for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
