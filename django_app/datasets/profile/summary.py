"""A piece's summary, how pieces merge, and the finished profile that pages and reports show."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from typing import Any, TypedDict

import datasketches as ds
import numpy as np
import polars as pl

from django_app.datasets.profile import limits
from django_app.datasets.profile.columns import Column
from django_app.datasets.profile.pairs import Pairs
from django_app.datasets.profile.parse import parse

_BARS = 24
_TOP = 10
_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class ColumnDict(TypedDict):
    """One column of a finished profile.

    kind: integer, number, boolean, date, time, text or empty. minimum, maximum: number, ISO date or text.
    distinct: estimate, between distinct_low and distinct_high at three standard errors.
    quantiles: by rank as text, such as "0.5"; each off by at most quantile_rank_error of the rows.
    bars: [low, high, count] of a histogram, counts estimated. top: [value, estimated count], most frequent first;
    each count is off by at most top_error.
    """

    name: str
    kind: str
    count: int
    nulls: int
    minimum: float | int | str | None
    maximum: float | int | str | None
    mean: float | None
    deviation: float | None
    distinct: float
    distinct_low: float
    distinct_high: float
    quantiles: dict[str, float]
    quantile_rank_error: float
    bars: list[list[float]]
    top: list[list[Any]]
    top_error: int


class ProfileDict(TypedDict):
    """A finished profile, as the database keeps it.

    correlations: {"columns": names, "r": matrix with None where undefined} or None.
    timeline: {"column": name, "unit": "day" | "month" | "year", "points": [[period, rows], ...]} or None.
    """

    rows: int
    columns: list[ColumnDict]
    correlations: dict[str, Any] | None
    timeline: dict[str, Any] | None


@dataclass
class Summary:
    """What was seen of a run of records: one Column each, and the pairs among the chosen numeric ones."""

    rows: int
    columns: list[Column]
    pairs: Pairs

    @classmethod
    def of(
        cls, data: bytes, names: tuple[str, ...], separator: str, related: tuple[int, ...], first_line: int = 1
    ) -> Summary:
        """Parse and summarise whole records. Raises InputError for records that break a rule.

        related: positions of the columns whose correlations are wanted.
        """
        frame = parse(data, names, separator, first_line)
        slots = limits.frequent_lg_slots(len(names))
        columns = [Column.of(_non_empty(frame[str(at)]), slots) for at in range(len(names))]
        return cls(frame.height, columns, Pairs.of(frame, related))

    @classmethod
    def none(cls, width: int, related: tuple[int, ...]) -> Summary:
        return cls(0, [Column.none(limits.frequent_lg_slots(width)) for _ in range(width)], Pairs.none(related))

    def merge(self, other: Summary) -> None:
        self.rows += other.rows
        for mine, theirs in zip(self.columns, other.columns, strict=True):
            mine.merge(theirs)
        self.pairs.merge(other.pairs)

    def encode(self) -> bytes:
        plain = {
            "version": 1,
            "rows": self.rows,
            "columns": [column.as_json() for column in self.columns],
            "pairs": self.pairs.as_json(),
        }
        return zlib.compress(json.dumps(plain).encode(), 1)

    @classmethod
    def decode(cls, data: bytes) -> Summary:
        plain = json.loads(zlib.decompress(data))
        if plain["version"] != 1:
            raise ValueError(f"summary version {plain['version']} is unknown to this release; run the dataset again.")
        columns = [Column.from_json(column) for column in plain["columns"]]
        return cls(plain["rows"], columns, Pairs.from_json(plain["pairs"]))

    def finish(self, names: tuple[str, ...]) -> ProfileDict:
        return {
            "rows": self.rows,
            "columns": [_column(name, column) for name, column in zip(names, self.columns, strict=True)],
            "correlations": self._correlations(names),
            "timeline": self._timeline(names),
        }

    def _correlations(self, names: tuple[str, ...]) -> dict[str, Any] | None:
        numeric = [
            place for place, at in enumerate(self.pairs.columns) if self.columns[at].kind in ("integer", "number")
        ]
        if len(numeric) < 2:
            return None
        return {
            "columns": [names[self.pairs.columns[place]] for place in numeric],
            "r": [[self.pairs.correlation(first, second) for second in numeric] for first in numeric],
        }

    def _timeline(self, names: tuple[str, ...]) -> dict[str, Any] | None:
        for name, column in zip(names, self.columns, strict=True):
            if column.kind in ("date", "time"):
                unit = {10: "day", 7: "month", 4: "year"}[len(next(iter(column.days)))]
                return {"column": name, "unit": unit, "points": [list(point) for point in sorted(column.days.items())]}
        return None


def choose_related(head: Summary) -> tuple[int, ...]:
    """The columns whose correlations are worth computing, judged by the first records: those of numbers."""
    numeric = [at for at, column in enumerate(head.columns) if column.kind in ("integer", "number")]
    return tuple(numeric[: limits.MOST_CORRELATED])


def _non_empty(values: pl.Series) -> pl.Series:
    """A quoted empty field is as empty as a bare one."""
    return values.set(values == "", None) if (values == "").any() else values


def _column(name: str, column: Column) -> ColumnDict:
    kind = column.kind
    numeric = kind in ("integer", "number")
    top = _top(column)
    seen = column.numbers_seen if numeric else column.texts_seen
    minimum: float | int | str | None
    maximum: float | int | str | None
    if kind == "empty":
        minimum = maximum = None
    elif numeric:
        minimum, maximum = column.least_number, column.most_number
        if kind == "integer":
            minimum, maximum = column.least_integer, column.most_integer
    elif kind in ("date", "time"):
        minimum, maximum = column.least_time, column.most_time
        if kind == "date":
            minimum, maximum = str(minimum)[:10], str(maximum)[:10]
    elif kind == "boolean":
        minimum = "true" if column.trues == column.count else "false"
        maximum = "true" if column.trues else "false"
    else:
        minimum, maximum = column.least_text, column.most_text
    return {
        "name": name,
        "kind": kind,
        "count": column.count,
        "nulls": column.nulls,
        "minimum": minimum,
        "maximum": maximum,
        "mean": _finite(column.moments.mean) if numeric else None,
        "deviation": _finite(column.moments.deviation) if numeric else None,
        "distinct": seen.get_estimate() if column.count else 0,
        "distinct_low": seen.get_lower_bound(3) if column.count else 0,
        "distinct_high": seen.get_upper_bound(3) if column.count else 0,
        "quantiles": _quantiles(column) if numeric else {},
        "quantile_rank_error": column.quantiles.normalized_rank_error(False),
        "bars": _bars(column) if numeric else [],
        "top": [item[:2] for item in top],
        "top_error": max((high - low for _, _, low, high in top), default=0),
    }


def _finite(value: float | None) -> float | None:
    """JSON has neither infinity nor NaN, which sums of very large numbers end in."""
    return value if value is not None and math.isfinite(value) else None


def _quantiles(column: Column) -> dict[str, float]:
    values = column.quantiles.get_quantiles(list(_QUANTILES), True)
    return {str(rank): float(value) for rank, value in zip(_QUANTILES, values, strict=True)}


def _bars(column: Column) -> list[list[float]]:
    """An equal-width histogram, from the quantile sketch."""
    low, high = column.least_number, column.most_number
    if low is None or high is None:
        return []
    if low == high or not math.isfinite(high - low):
        return [[low, high, column.numbers]]
    edges = np.linspace(low, high, _BARS + 1)
    inner = edges[1:-1]
    if len(np.unique(inner)) < len(inner):
        return [[low, high, column.numbers]]
    shares = column.quantiles.get_pmf(inner.tolist(), True)
    return [[float(edges[at]), float(edges[at + 1]), round(share * column.numbers)] for at, share in enumerate(shares)]


def _top(column: Column) -> list[list[Any]]:
    """[value, estimated count, least, most] of the most frequent values."""
    items = column.frequent.get_frequent_items(ds.frequent_items_error_type.NO_FALSE_NEGATIVES, 0)
    return [list(item) for item in sorted(items, key=lambda item: (-item[1], item[0]))[:_TOP]]
