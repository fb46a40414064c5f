"""One column's summary: mergeable counts, moments and sketches.

What type a column has is only known when every piece of it was seen, so a summary keeps what each reading (text,
number, date) would need, and the readings that fit all values decide at the end.
"""

from __future__ import annotations

import base64
import math
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import astuple, dataclass, field
from typing import Any

import datasketches as ds
import numpy as np
import polars as pl

from django_app.datasets.profile import limits

#: ISO 8601 dates and times; others (such as 03/04/2024) have no one meaning and stay text.
_TIME_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M")
#: What a date or a time looks like; what does not is never parsed, however lenient the parser.
_TIME = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?(?:Z|[+-](?:0[0-9]|1[0-4]):?[0-5][0-9])?)?$"
)
_TIME_ZONE = r"(?:Z|[+-]\d\d:?\d\d)$"
#: Integers up to here are exact in a float.
_EXACT = 1 << 53


@dataclass
class Moments:
    """Count, mean and sum of squared deviations, merged as Chan, Golub and LeVeque do: no cancellation.

    The mean is origin + offset: kept apart, for a float of its size would round off what the deviation needs.
    """

    count: int = 0
    origin: float = 0.0
    offset: float = 0.0
    squares: float = 0.0

    @property
    def mean(self) -> float:
        return self.origin + self.offset

    @classmethod
    def of(cls, values: np.ndarray, counts: np.ndarray) -> Moments:
        """values: distinct numbers. counts: how often each occurs."""
        count = int(counts.sum())
        if not count:
            return cls()
        # Relative to one value, so that a large common offset costs no digits. Beyond 1e154 squares overflow.
        with np.errstate(over="ignore", invalid="ignore"):
            shifted = values - values[0]
            mean = float(np.dot(shifted, counts) / count)
            near = shifted - mean
            squares = float(np.dot(near**2, counts))
            mean += float(np.dot(near, counts) / count)  # what rounding left of it
        return cls(count, float(values[0]), mean, squares)

    def merge(self, other: Moments) -> None:
        count = self.count + other.count
        if not count:
            return
        if not self.count:
            self.origin = other.origin
        difference = (other.origin - self.origin) + (other.offset - self.offset)
        self.squares += other.squares + difference * difference * (self.count * other.count / count)
        # The share first, so that equal means stay equal and a constant column deviates by exactly 0.
        self.offset += difference * (other.count / count)
        self.count = count

    @property
    def deviation(self) -> float | None:
        """Standard deviation of a sample (n - 1), as polars has it; None below two values."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else None


@dataclass
class Column:
    """What was seen of one column so far.

    integers, numbers, booleans, dates, times: values that can be read so. times counts dates as well.
    least_text ... most_time: extremes of each reading, None where no value has it.
    """

    count: int = 0
    nulls: int = 0
    integers: int = 0
    numbers: int = 0
    booleans: int = 0
    trues: int = 0
    dates: int = 0
    times: int = 0
    least_text: str | None = None
    most_text: str | None = None
    least_integer: int | None = None
    most_integer: int | None = None
    least_number: float | None = None
    most_number: float | None = None
    least_time: str | None = None
    most_time: str | None = None
    moments: Moments = field(default_factory=Moments)
    days: dict[str, int] = field(default_factory=dict)
    texts_seen: Any = field(default_factory=lambda: ds.hll_sketch(limits.DISTINCT_LG_K))
    numbers_seen: Any = field(default_factory=lambda: ds.hll_sketch(limits.DISTINCT_LG_K))
    quantiles: Any = field(default_factory=lambda: ds.kll_doubles_sketch(limits.QUANTILE_K))
    frequent: Any = None

    @classmethod
    def none(cls, frequent_lg_slots: int) -> Column:
        """What is known before anything was seen. frequent_lg_slots: see limits.frequent_lg_slots."""
        return cls(frequent=ds.frequent_strings_sketch(frequent_lg_slots))

    @classmethod
    def of(cls, values: pl.Series, frequent_lg_slots: int) -> Column:
        """Summarise a series of strings with nulls, none of them empty."""
        column = cls.none(frequent_lg_slots)
        column.nulls = values.null_count()
        column.count = len(values) - column.nulls
        if not column.count:
            return column
        # Everything below works on distinct values and how often each occurs: most columns repeat a lot.
        table = values.drop_nulls().alias("value").value_counts(name="times", sort=False)
        texts, counts = table["value"], table["times"].cast(pl.Int64).to_numpy()
        column.least_text, column.most_text = _text(texts.min()), _text(texts.max())
        _feed(column.texts_seen, texts.to_list())
        _feed_weighted(column.frequent, texts.str.slice(0, limits.FREQUENT_PREFIX).to_list(), counts.tolist())
        column._read_numbers(texts, counts)
        if column.numbers == 0:
            column._read_booleans(texts, counts)
            column._read_times(texts, counts)
        return column

    def _read_numbers(self, texts: pl.Series, counts: np.ndarray) -> None:
        numbers = texts.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
        fits = np.isfinite(numbers)
        if not fits.any():
            return
        # + 0.0 makes -0.0 and 0.0 one value.
        values, times = numbers[fits] + 0.0, counts[fits]
        self.numbers = int(times.sum())
        # 128 bits, as polars reads a column of integers; floats hold them exactly up to 2^53 only.
        integers = texts.cast(pl.Int128, strict=False)
        self.integers = int(counts[integers.is_not_null().to_numpy()].sum())
        ends: tuple[Any, Any] = (integers.min(), integers.max())
        self.least_integer, self.most_integer = ends
        self.least_number, self.most_number = float(values.min()), float(values.max())
        self.moments = Moments.of(values, times)
        if self.integers and max(-ends[0], ends[1]) > _EXACT:
            large = (integers > _EXACT) | (integers < -_EXACT)
            _feed(self.numbers_seen, [str(value) for value in integers.filter(large).to_list()])
            small = ~large.fill_null(value=False).to_numpy()[fits]
            _feed(self.numbers_seen, values[small].tolist())
        else:
            _feed(self.numbers_seen, values.tolist())
        self.quantiles.update(np.repeat(values, times))

    def _read_booleans(self, texts: pl.Series, counts: np.ndarray) -> None:
        lower = texts.str.to_lowercase()
        self.trues = int(counts[(lower == "true").to_numpy()].sum())
        self.booleans = self.trues + int(counts[(lower == "false").to_numpy()].sum())

    def _read_times(self, texts: pl.Series, counts: np.ndarray) -> None:
        # A look at the shape spares most text columns the parsing.
        shaped = texts.str.contains(_TIME)
        if not shaped.any():
            return
        # Value by value: what a value is read as must not depend on its neighbours.
        texts, counts = texts.filter(shaped), counts[shaped.to_numpy()]
        times, is_date = read_times(texts)
        fits = times.is_not_null().to_numpy()
        if not fits.any():
            return
        self.times = int(counts[fits].sum())
        self.dates = int(counts[is_date.to_numpy()].sum())
        self.least_time = _iso(times.min())
        self.most_time = _iso(times.max())
        days = (
            pl.DataFrame({"day": times.dt.date(), "times": counts})
            .drop_nulls()
            .group_by("day")
            .agg(pl.col("times").sum())
        )
        self.days = coarsened(zip(map(str, days["day"].to_list()), days["times"].to_list(), strict=True))

    def merge(self, other: Column) -> None:
        """Take in what another piece of the same column showed."""
        for name in ("count", "nulls", "integers", "numbers", "booleans", "trues", "dates", "times"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for kind in ("text", "integer", "number", "time"):
            for choose, end in ((min, f"least_{kind}"), (max, f"most_{kind}")):
                both = [value for value in (getattr(self, end), getattr(other, end)) if value is not None]
                setattr(self, end, choose(both) if both else None)
        self.moments.merge(other.moments)
        if other.days:
            self.days = coarsened((*self.days.items(), *other.days.items()))
        self.texts_seen = _union(self.texts_seen, other.texts_seen)
        self.numbers_seen = _union(self.numbers_seen, other.numbers_seen)
        self.quantiles.merge(other.quantiles)
        self.frequent.merge(other.frequent)

    @property
    def kind(self) -> str:
        """integer, number, boolean, date, time, text, or empty: the narrowest reading that fits every value."""
        for name, fitting in (
            ("empty", 0),
            ("integer", self.integers),
            ("number", self.numbers),
            ("boolean", self.booleans),
            ("date", self.dates),
            ("time", self.times),
        ):
            if fitting == self.count:
                return name
        return "text"

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain JSON; sketches in base64."""
        plain = {name: getattr(self, name) for name in _PLAIN_FIELDS}
        plain["moments"] = list(astuple(self.moments))
        plain["texts_seen"] = _packed(self.texts_seen.serialize_compact())
        plain["numbers_seen"] = _packed(self.numbers_seen.serialize_compact()) if self.numbers else None
        plain["quantiles"] = _packed(self.quantiles.serialize()) if self.numbers else None
        plain["frequent"] = _packed(self.frequent.serialize())
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Column:
        """The reverse of as_json."""
        column = cls(**{name: plain[name] for name in _PLAIN_FIELDS})
        column.moments = Moments(*plain["moments"])
        column.texts_seen = ds.hll_sketch.deserialize(_unpacked(plain["texts_seen"]))
        column.frequent = ds.frequent_strings_sketch.deserialize(_unpacked(plain["frequent"]))
        if plain["numbers_seen"]:
            column.numbers_seen = ds.hll_sketch.deserialize(_unpacked(plain["numbers_seen"]))
            column.quantiles = ds.kll_doubles_sketch.deserialize(_unpacked(plain["quantiles"]))
        return column


_PLAIN_FIELDS = (
    *("count", "nulls", "integers", "numbers", "booleans", "trues", "dates", "times", "days"),
    *("least_text", "most_text", "least_integer", "most_integer", "least_number", "most_number"),
    *("least_time", "most_time"),
)


def coarsened(periods: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Rows by day, or by month where there are too many days, or by year: the same in whatever order pieces merge.

    periods: such as "2024-01-02", "2024-01" or "2024", in any mixture, and how often each occurs.
    """
    items = list(periods)
    coarsest = min((len(period) for period, _ in items), default=10)
    rows: Counter[str] = Counter()
    for length in (10, 7, 4):
        if length <= coarsest:
            rows = Counter()
            for period, times in items:
                rows[period[:length]] += times
            if len(rows) <= limits.MOST_POINTS:
                break
    return dict(rows)


def read_times(texts: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Texts shaped like _TIME as UTC without a zone, null where there is no such time; and which are dates alone."""
    is_day = texts.str.len_bytes() == len("2024-01-02")
    times = texts.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    if not is_day.all():
        times = times.zip_with(is_day, _clocks(texts))
    # Years that Python has no dates for (0000, or 9999 in a zone behind UTC) stay text.
    times = times.set(~times.dt.year().is_between(1, 9999), None)
    return times, is_day & times.is_not_null()


def _clocks(texts: pl.Series) -> pl.Series:
    # Offsets are taken into account; a time without one counts as UTC.
    offset = texts.str.extract(r"([+-]\d\d):?\d\d$").cast(pl.Int64, strict=False).fill_null(0)
    minutes = texts.str.extract(r"[+-]\d\d:?(\d\d)$").cast(pl.Int64, strict=False).fill_null(0)
    sign = pl.select(pl.when(texts.str.contains(r"-\d\d:?\d\d$")).then(-1).otherwise(1)).to_series()
    shift = pl.select(
        pl.when(texts.str.contains(_TIME_ZONE)).then(offset * 60 + sign * minutes).otherwise(0)
    ).to_series()
    bare = texts.str.replace(_TIME_ZONE, "")
    clocks = pl.select(pl.coalesce(*(bare.str.to_datetime(form, strict=False) for form in _TIME_FORMATS))).to_series()
    return pl.select(clocks - pl.duration(minutes=pl.lit(shift))).to_series()


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _iso(value: Any) -> str | None:
    return None if value is None else value.isoformat()


def _feed(sketch: Any, values: list[Any]) -> None:
    # A C loop over a C method: the fastest way where the binding takes one value at a time.
    deque(map(sketch.update, values), maxlen=0)


def _feed_weighted(sketch: Any, values: list[str], weights: list[int]) -> None:
    deque(map(sketch.update, values, weights), maxlen=0)


def _union(first: Any, second: Any) -> Any:
    union = ds.hll_union(limits.DISTINCT_LG_K)
    union.update(first)
    union.update(second)
    return union.get_result()


def _packed(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unpacked(text: str) -> bytes:
    return base64.b64decode(text)
