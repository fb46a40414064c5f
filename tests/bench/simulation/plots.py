"""Pictures of simulated times: what waited and how many workers were wanted, minute by minute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tests.bench.simulation.results import Result
from tests.bench.simulation.shapes import HOUR

COLOURS = {"ours": "#0b6e4f", "policy": "#3a6ea5", "tracking": "#b5532a", "steps": "#8a8a8a"}


def draw(results: Sequence[Result]) -> Figure:
    """results: of one shape, one a variant."""
    figure = Figure(figsize=(7.0, 4.0), facecolor="white")
    above, below = figure.subplots(2, 1, sharex=True)
    for place, result in enumerate(results):
        # The first, ours, lies on top of the others, and is drawn as thick as they are thin.
        style = {"color": COLOURS[result.variant], "linewidth": 0.8 if place else 1.6, "zorder": 9 - place}
        hours = [moment.at / HOUR for moment in result.history]
        above.plot(hours, [moment.waiting for moment in result.history], **style)
        label = f"{result.variant}: p95 {result.wait(0.95):.0f} s, {result.worker_hours:.1f} worker-hours, {result.killed} killed"
        below.step(hours, [moment.desired for moment in result.history], where="post", label=label, **style)
    above.set_yscale("symlog", linthresh=10)
    above.set_ylim(bottom=0)
    above.set_ylabel("waiting")
    above.set_title(results[0].shape, fontsize=10)
    below.set_ylabel("workers wanted")
    below.set_ylim(bottom=0)
    below.set_xlabel("hours")
    for axes in (above, below):
        axes.grid(visible=True, color="#e4e4e4", linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    below.legend(fontsize=7.5, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=2)
    return figure


def save(results: Sequence[Result], folder: Path) -> Path:
    """scaling-<shape>.png. The same results make the same file."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "".join(letter if letter.isalnum() else "-" for letter in results[0].shape).replace("--", "-")
    path = folder / f"scaling-{name}.png"
    draw(results).savefig(path, dpi=80, bbox_inches="tight", metadata={"Software": None})
    return path
