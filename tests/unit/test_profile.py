"""A profile computed in pieces equals what polars computes on the whole file."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
import statistics
from fractions import Fraction

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_app.datasets.profile import limits
from django_app.datasets.profile.split import split
from django_app.datasets.profile.summary import ProfileDict, Summary, choose_related


def profile(data: bytes, chunk_bytes: int = 1 << 20, piece_bytes: int = 1 << 16) -> ProfileDict:
    """As the tasks do it: split, summarise each range, carry the summaries as bytes, merge."""
    layout = split((data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)), chunk_bytes)
    everything = range(len(layout.columns))
    whole = Summary.none(len(layout.columns), tuple(everything))
    for part in layout.ranges:
        piece = Summary.of(
            data[part.start : part.stop], layout.columns, layout.separator, tuple(everything), part.first_line
        )
        whole.merge(Summary.decode(piece.encode()))
    return whole.finish(layout.columns)


def truth(data: bytes, separator: str = ",") -> pl.DataFrame:
    return pl.read_csv(data, separator=separator, null_values=list(limits.NULLS), infer_schema_length=None)


def close(actual: float, expected: float, scale: float) -> bool:
    """Within 1e-9 relative; where large values cancel out, relative to the values that were added."""
    return math.isclose(actual, expected, rel_tol=1e-9, abs_tol=1e-9 * scale)


def check_against(found: ProfileDict, frame: pl.DataFrame) -> None:
    assert found["rows"] == frame.height
    for column in found["columns"]:
        values = frame[column["name"]]
        assert column["nulls"] == values.null_count(), column["name"]
        assert column["count"] == frame.height - values.null_count()
        present = values.drop_nulls()
        if present.is_empty():
            assert column["kind"] == "empty"
            continue
        assert column["distinct_low"] <= present.n_unique() <= column["distinct_high"]
        if values.dtype.is_numeric():
            check_numbers(column, present.cast(pl.Float64))
        elif values.dtype == pl.String and column["kind"] == "text":
            assert (column["minimum"], column["maximum"]) == (present.min(), present.max())


def check_numbers(column, present: pl.Series) -> None:
    assert column["kind"] in ("integer", "number")
    assert (column["minimum"], column["maximum"]) == (present.min(), present.max())
    scale = float(present.abs().max())
    assert close(column["mean"], present.mean(), scale)
    if len(present) > 1:
        assert close(column["deviation"], present.std(), scale)
    ordered, tolerance = present.sort(), column["quantile_rank_error"] * len(present) + 1
    for rank, value in column["quantiles"].items():
        wanted = float(rank) * len(present)
        below, upto = (ordered < value).sum(), (ordered <= value).sum()
        assert below - tolerance <= wanted <= upto + tolerance, (column["name"], rank)


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 8 << 20, 64 << 20])
def test_real_flights_equal_polars_on_the_whole_file(flights, chunk_bytes):
    check_against(profile(flights, chunk_bytes, 4 << 20), truth(flights))


def test_correlations_equal_polars_on_the_whole_file(flights):
    data = flights[: flights.index(b"\n", 3 << 20) + 1]
    layout = split([data], 400_000)
    frame = truth(data)
    numeric = tuple(at for at, name in enumerate(layout.columns) if frame[name].dtype.is_numeric())
    whole = Summary.none(len(layout.columns), numeric)
    for part in layout.ranges:
        whole.merge(Summary.of(data[part.start : part.stop], layout.columns, layout.separator, numeric))
    found = whole.finish(layout.columns)["correlations"]
    compared = 0
    for i, first in enumerate(found["columns"]):
        for j, second in enumerate(found["columns"]):
            both = frame.select(pl.col(first, second)).drop_nulls().cast(pl.Float64)
            expected = both.select(pl.corr(first, second)).item()
            actual = found["r"][i][j]
            if actual is None:
                assert expected is None or math.isnan(expected)
            else:
                assert actual == pytest.approx(expected, abs=1e-9)
                compared += 1
    assert compared > 100


def test_rows_by_day_equal_polars(flights):
    timeline = profile(flights, 8 << 20, 4 << 20)["timeline"]
    days = truth(flights).group_by(pl.col("time_hour").cast(pl.String).str.slice(0, 10)).len().sort("time_hour")
    assert timeline["column"] == "time_hour"
    assert [tuple(point) for point in timeline["points"]] == days.rows()


def test_the_most_frequent_values_are_within_their_stated_error(flights):
    frame = pl.read_csv(flights, infer_schema=False, null_values=list(limits.NULLS))
    for column in profile(flights, 4 << 20, 4 << 20)["columns"]:
        counts = dict(frame[column["name"]].drop_nulls().value_counts().rows())
        assert column["top"]
        for value, times in column["top"]:
            assert abs(times - counts[value]) <= column["top_error"]


FIELDS = st.one_of(
    st.integers(-(2**40), 2**40).map(str),
    st.floats(-1e6, 1e6, allow_nan=False, width=32).map(repr),
    st.sampled_from(
        ["", "NA", "null", "true", "2024-02-29", "2024-02-29T23:59:59Z", "=1+1", "ü", "🛩", "a,b", 'say "hi"']
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12),
)


@st.composite
def files(draw):
    """A CSV file in some dialect, with the rows that are in it."""
    width = draw(st.integers(2, 5))
    rows = draw(st.lists(st.lists(FIELDS, min_size=width, max_size=width), min_size=1, max_size=40))
    separator = draw(st.sampled_from([",", ";", "\t", "|"]))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerow([f"column {number}" for number in range(width)])
    writer.writerows(rows)
    text = file.getvalue()
    if draw(st.booleans()):
        text = text.removesuffix(end)
    bom = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    return bom + text.encode(), rows, separator


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(files(), st.integers(1, 400), st.integers(1, 200))
def test_any_dialect_in_any_number_of_chunks_counts_every_value(file, chunk_bytes, piece_bytes):
    data, rows, _ = file
    found = profile(data, chunk_bytes, piece_bytes)
    assert found["rows"] == len(rows)
    for at, column in enumerate(found["columns"]):
        values = [row[at] for row in rows if row[at] not in limits.NULLS]
        assert column["count"] == len(values)
        assert column["nulls"] == len(rows) - len(values)
        if column["kind"] == "text":
            # polars orders text by its bytes
            ordered = sorted(values, key=lambda value: value.encode())
            assert (column["minimum"], column["maximum"]) == (ordered[0], ordered[-1])
            assert column["distinct_low"] <= len(set(values)) <= column["distinct_high"]
            assert {value for value, _ in column["top"]} <= {value[: limits.FREQUENT_PREFIX] for value in values}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.none() | st.floats(-1e12, 1e12, allow_nan=False), min_size=1, max_size=200),
    st.floats(-1e9, 1e9),
    st.integers(1, 300),
)
def test_moments_merge_to_those_of_the_whole_for_any_chunks(values, offset, chunk_bytes):
    written = [None if value is None else value + offset for value in values]
    data = b"x,y\n" + b"".join(b",1\n" if value is None else b"%r,1\n" % value for value in written)
    check_against(profile(data, chunk_bytes), truth(data))


@pytest.mark.parametrize("rows", [["1e300", "-1e300"], ["1.7e308", "-1.7e308"], ["1e300"] * 3, ["1e-320", "2"]])
def test_numbers_beyond_all_measure_leave_a_profile_that_is_valid_json(rows):
    found = profile(("x,y\n" + "".join(f"{row},{n}\n" for n, row in enumerate(rows))).encode(), 12)
    json.dumps(found, allow_nan=False)
    assert found["columns"][0]["kind"] == "number"


def test_a_column_is_what_all_its_chunks_say():
    data = b"a,b,c\n" + b"1,2024-01-01,true\n" * 50 + b"2.5,2024-01-01T10:00:00+02:00,no\n" * 50
    kinds = {column["name"]: column["kind"] for column in profile(data, 100)["columns"]}
    assert kinds == {"a": "number", "b": "time", "c": "text"}


def test_times_are_compared_in_utc():
    data = b"t\n2024-01-01T00:30:00+02:00\n2023-12-31T23:00:00Z\n2024-01-01 00:00:00\n"
    (column,) = profile(data)["columns"]
    assert (column["minimum"], column["maximum"]) == ("2023-12-31T22:30:00", "2024-01-01T00:00:00")


def only(data: bytes, chunk_bytes: int = 1 << 20):
    """The one column of a file."""
    (column,) = profile(data, chunk_bytes)["columns"]
    return column


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"a\n0000-01-01\n", "text"),
        (b"a\n9999-12-31T23:00-05:00\n", "text"),
        (b"a\n0001-01-01T00:00:00+05:00\n", "text"),
        (b"a\n-001-01-01\n2024-01-01\n", "text"),
        (b"a\n2024-1-2\n2024-01-03\n", "text"),
        (b"a\n2024-02-30\n", "text"),
        (b"a\n2024-01-02T10:00+99:99\n", "text"),
        (b"a\n2024-01-02\n2024-01-02 10:00\n", "time"),
        (b"a\n2024-02-29\n", "date"),
        (b"a\nx^\n\xef\xbb\xbfy\n", "text"),
    ],
)
def test_what_a_column_is_does_not_depend_on_the_chunks(data, kind, chunk_bytes):
    assert only(data, chunk_bytes)["kind"] == kind


def test_large_integers_are_exact_and_told_apart():
    assert only(b"a\n9007199254740993\n")["minimum"] == 9007199254740993
    for base in (10**18, 10**20):
        column = only(b"a\n" + b"".join(b"%d\n" % (base + n) for n in range(20_000)), 50_000)
        assert (column["kind"], column["minimum"], column["maximum"]) == ("integer", base, base + 19_999)
        assert column["distinct_low"] <= 20_000 <= column["distinct_high"]


@pytest.mark.parametrize("chunk_bytes", [64, 270, 1 << 20])
def test_a_constant_column_deviates_by_nothing_and_relates_to_nothing(chunk_bytes):
    data = b"x,y\n" + b"".join(b"-0.86894,%d\n" % (n * n % 17) for n in range(242))
    found = profile(data, chunk_bytes)
    assert found["columns"][0]["deviation"] == 0.0
    assert found["correlations"]["r"][0][1] is None


def test_a_large_offset_costs_the_deviation_no_digits():
    values = [10**12 + n % 7 for n in range(5000)]
    exact = float(statistics.stdev(map(Fraction, values)))
    data = b"x\n" + b"".join(b"%d\n" % value for value in values)
    assert only(data, 3000)["deviation"] == pytest.approx(exact, rel=1e-12)


def test_a_correlation_counts_only_the_rows_where_both_have_a_value():
    rows = [(1_700_000_000 + n + 0.5, n % 13) for n in range(500)] + [(0, None)] * 500
    data = b"x,y\n" + b"".join(b"%r,%s\n" % (x, b"" if y is None else b"%d" % y) for x, y in rows)
    expected = statistics.correlation([x - 1_700_000_000 for x, _ in rows[:500]], [y for _, y in rows[:500]])
    for chunk_bytes in (2000, 1 << 20):
        assert profile(data, chunk_bytes)["correlations"]["r"][0][1] == pytest.approx(expected, rel=1e-9)


def test_a_timeline_of_very_many_days_is_told_by_month_or_year():
    days = [datetime.date(1900, 1, 1) + datetime.timedelta(days=n) for n in range(0, 40_000, 3)]
    data = b"when\n" + "".join(f"{day}\n" for day in days).encode()
    for chunk_bytes in (5_000, 1 << 20):
        timeline = profile(data, chunk_bytes)["timeline"]
        assert timeline["unit"] == "year"
        assert sum(rows for _, rows in timeline["points"]) == len(days)


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
def test_equal_values_are_equal_however_they_are_written(chunk_bytes):
    zero = only(b"a\n-0\n0\n-0.0\n", chunk_bytes)
    assert (repr(zero["minimum"]), round(zero["distinct"])) == ("0.0", 1)
    both = only(b"a\nTRUE\nfalse\n", chunk_bytes)
    assert (both["minimum"], both["maximum"]) == ("false", "true")


def test_blank_lines_are_no_rows():
    assert profile(b"a,b\n\n1,2\n\r\n\n3,4\n\n")["rows"] == 2


def test_only_numeric_columns_are_related():
    head = Summary.of(b"1,x,2.5\n2,y,3.5\n", ("a", "b", "c"), ",", ())
    assert choose_related(head) == (0, 2)
