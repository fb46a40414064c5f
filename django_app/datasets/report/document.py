"""What a report says, ready to be laid out: the same for HTML and PDF."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from typing import Any, cast

from django.template.defaultfilters import filesizeformat
from django.utils import timezone

from django_app.datasets.models import Dataset
from django_app.datasets.profile.summary import ColumnDict, ProfileDict

#: Columns that are drawn; all of them stand in the table.
MOST_DRAWN = 24
_LONGEST_SHOWN = 40


@dataclass(frozen=True)
class Row:
    """One column of the file as a line of the report's table, all of it text."""

    name: str
    kind: str
    values: str
    missing: str
    distinct: str
    minimum: str
    median: str
    maximum: str
    mean: str
    deviation: str
    most_frequent: str


@dataclass(frozen=True)
class Document:
    """A report's content. profile: the figures that charts are drawn from."""

    title: str
    written_at: datetime.datetime
    facts: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    profile: ProfileDict

    @classmethod
    def of(cls, dataset: Dataset) -> Document:
        profile = cast(ProfileDict, dataset.profile)
        columns = profile["columns"]
        cells = profile["rows"] * len(columns)
        missing = sum(column["nulls"] for column in columns)
        facts = (
            ("Rows", f"{profile['rows']:,}"),
            ("Columns", f"{len(columns):,}"),
            ("Size", filesizeformat(dataset.size_bytes or 0)),
            ("Missing values", f"{missing:,} ({missing / max(cells, 1):.2%})"),
        )
        title = dataset.name or "Unnamed dataset"
        return cls(title, timezone.now(), facts, tuple(_row(column) for column in columns), profile)

    @property
    def drawn(self) -> list[ColumnDict]:
        """The columns whose distribution is drawn."""
        timeline = self.profile["timeline"] or {}
        columns = [column for column in self.profile["columns"] if column["name"] != timeline.get("column")]
        return [column for column in columns if column["bars"] or column["top"]][:MOST_DRAWN]


def _row(column: ColumnDict) -> Row:
    total = column["count"] + column["nulls"]
    top = column["top"]
    return Row(
        name=shortened(column["name"]),
        kind=column["kind"],
        values=f"{column['count']:,}",
        missing=f"{column['nulls']:,} ({column['nulls'] / max(total, 1):.1%})",
        distinct=_about(column),
        minimum=shown(column["minimum"]),
        median=shown(column["quantiles"].get("0.5")),
        maximum=shown(column["maximum"]),
        mean=shown(column["mean"]),
        deviation=shown(column["deviation"]),
        most_frequent=f"{shortened(str(top[0][0]))} ({'about ' if column['top_error'] else ''}{top[0][1]:,})"
        if top
        else "",
    )


def _about(column: ColumnDict) -> str:
    estimate = round(column["distinct"])
    exact = column["distinct_high"] - column["distinct_low"] < 1
    return f"{estimate:,}" if exact else f"about {estimate:,}"


def shown(value: Any) -> str:
    """A figure or text, short enough for a table."""
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value}" if abs(value) < 10_000 else f"{value:,}"
    if isinstance(value, float):
        if abs(value) < 1e15 and value == math.trunc(value):
            # A year or a clock time written 2,013 would be misread.
            return f"{int(value)}" if abs(value) < 10_000 else f"{int(value):,}"
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.4e}"
    return shortened(str(value))


def shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"
