"""The report's charts, each drawn once and written twice: SVG for the page, PNG for the PDF."""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from django_app.datasets.profile.summary import ColumnDict
from django_app.datasets.report.document import Document, shortened, shown

_INK, _MUTED, _ACCENT, _WARN = "#1f2933", "#7b8794", "#2f6f9f", "#c2542d"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    # A column called "$x$" is a name, not a formula.
    "text.parse_math": False,
    # The same figures give the same bytes.
    "svg.hashsalt": "cloudqueue",
}
# A character that the font lacks is drawn as a box: not worth a line in the log for each.
warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
_WIDTH = 7.2  # inches
_PNG_DPI = 150


@dataclass(frozen=True)
class Chart:
    """A drawn chart. text: what it shows, for those who cannot see it. width, height: in inches."""

    title: str
    text: str
    svg: bytes
    png: bytes
    width: float
    height: float

    @property
    def data_url(self) -> str:
        """For an <img>, in which an SVG can neither run scripts nor load anything."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


def draw(document: Document) -> list[Chart]:
    """Every chart that the figures allow: none of missing values where none are missing, and so on."""
    return list(_drawn(document))


def _drawn(document: Document) -> Iterator[Chart]:
    drawings: tuple[Callable[[Document], tuple[str, str, Figure] | None], ...] = (
        _missing,
        _timeline,
        _distributions,
        _correlations,
    )
    for drawing in drawings:
        with rc_context(_STYLE):
            drawn = drawing(document)
            if drawn is None:
                continue
            title, text, figure = drawn
            svg, png = io.BytesIO(), io.BytesIO()
            figure.savefig(png, format="png", dpi=_PNG_DPI)
            # The layout was found for the first; finding it again takes as long as drawing.
            figure.set_layout_engine("none")
            figure.savefig(svg, format="svg", metadata={"Date": None})
            width, height = figure.get_size_inches()
            yield Chart(title, text, svg.getvalue(), png.getvalue(), float(width), float(height))


def _missing(document: Document) -> tuple[str, str, Figure] | None:
    columns = [column for column in document.profile["columns"] if column["nulls"]]
    if not columns:
        return None
    columns = sorted(columns, key=lambda column: -column["nulls"])[:24]
    shares = [column["nulls"] / max(document.profile["rows"], 1) for column in columns]
    figure = Figure(figsize=(_WIDTH, 0.6 + 0.2 * len(columns)), layout="constrained")
    axes = figure.subplots()
    axes.barh([shortened(column["name"]) for column in columns], shares, color=_WARN, height=0.7)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.1%}"))
    axes.set_xlim(left=0)
    worst = f"{columns[0]['name']} has the most: {shares[0]:.1%} of rows."
    return "Missing values", f"Share of rows without a value, by column. {worst}", figure


def _timeline(document: Document) -> tuple[str, str, Figure] | None:
    timeline = document.profile["timeline"]
    if timeline is None or len(timeline["points"]) < 2:
        return None
    figure = Figure(figsize=(_WIDTH, 2.2), layout="constrained")
    axes = figure.subplots()
    labels = [point[0] for point in timeline["points"]]
    values = [point[1] for point in timeline["points"]]
    axes.plot(range(len(values)), values, color=_ACCENT, linewidth=1)
    axes.fill_between(range(len(values)), values, color=_ACCENT, alpha=0.15)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda at, _: labels[int(at)] if 0 <= at < len(labels) and at == int(at) else "")
    )
    axes.set_ylim(bottom=0)
    _thousands(axes)
    text = f"Rows by {timeline['unit']} of {timeline['column']}, from {labels[0]} to {labels[-1]}."
    return f"Rows by {timeline['unit']}", text, figure


def _distributions(document: Document) -> tuple[str, str, Figure] | None:
    columns = document.drawn
    if not columns:
        return None
    across = 3
    down = math.ceil(len(columns) / across)
    figure = Figure(figsize=(_WIDTH, 1.35 * down + 0.2), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axes, column in zip(grid, columns, strict=False):
        axes.set_title(shortened(column["name"]), loc="left", fontsize=8, color=_INK)
        if column["bars"]:
            _histogram(axes, column)
        else:
            _top_values(axes, column)
    for axes in grid[len(columns) :]:
        axes.set_axis_off()
    left = len(document.profile["columns"]) - len(columns)
    more = f" {left} more columns are in the table only." if left else ""
    return "Distributions", f"How the values of {len(columns)} columns are spread.{more}", figure


def _histogram(axes: Axes, column: ColumnDict) -> None:
    lows = [bar[0] for bar in column["bars"]]
    widths = [max(bar[1] - bar[0], 1e-9) for bar in column["bars"]]
    if len(lows) == 1:
        lows, widths = [lows[0] - 0.5], [1.0]
    axes.bar(lows, [bar[2] for bar in column["bars"]], widths, align="edge", color=_ACCENT)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=column["kind"] == "integer"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(float(value))))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    _thousands(axes)


def _top_values(axes: Axes, column: ColumnDict) -> None:
    top = column["top"][:5]
    axes.barh(range(len(top)), [count for _, count in top], color=_ACCENT, height=0.7)
    axes.set_yticks(range(len(top)), [shortened(str(value))[:14] for value, _ in top])
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _correlations(document: Document) -> tuple[str, str, Figure] | None:
    found = document.profile["correlations"]
    if found is None:
        return None
    # A column that never varies relates to nothing.
    kept = [at for at, row in enumerate(found["r"]) if any(value is not None for value in row)]
    if len(kept) < 2:
        return None
    names = [found["columns"][at] for at in kept]
    r = [[found["r"][i][j] for j in kept] for i in kept]
    size = 0.9 + 0.36 * len(names)
    figure = Figure(figsize=(min(_WIDTH, size + 1.2), size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(
        [[float("nan") if value is None else value for value in row] for row in r], cmap="RdBu", vmin=-1, vmax=1
    )
    labels = [shortened(name)[:18] for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=90)
    axes.set_yticks(range(len(names)), labels)
    for i, row in enumerate(r):
        for j, value in enumerate(row):
            if value is not None:
                tone = "white" if abs(value) > 0.6 else _INK
                axes.text(j, i, f"{round(value, 2) + 0.0:.2f}", ha="center", va="center", fontsize=5.5, color=tone)
    figure.colorbar(image, ax=axes, shrink=0.6)
    pairs = [
        (abs(r[i][j]), names[i], names[j], r[i][j]) for i in range(len(names)) for j in range(i) if r[i][j] is not None
    ]
    strongest = max(pairs, default=None)
    said = f" Strongest: {strongest[1]} and {strongest[2]}, r = {strongest[3]:.2f}." if strongest else ""
    return "Correlations", f"Pearson's r between numeric columns.{said}", figure


def _thousands(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
