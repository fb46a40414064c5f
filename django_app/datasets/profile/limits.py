"""The rules that a file must keep, and how precise the sketches are."""

from __future__ import annotations

#: Columns of a file, at most.
MOST_COLUMNS = 1000
#: Bytes of one record, at most: a quote left open would otherwise swallow the rest of the file.
LARGEST_RECORD_BYTES = 1 << 20
#: Characters of a column's name, at most.
LONGEST_NAME = 200
#: What stands for "no value", beside an empty field.
NULLS = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "None")
#: HyperLogLog with 2^12 registers: the count of distinct values within about 4.9 % at three standard errors.
DISTINCT_LG_K = 12
#: KLL with k = 200: a quantile's rank within 1.33 % at 99 % confidence.
QUANTILE_K = 200
#: Characters by which frequent values are told apart.
FREQUENT_PREFIX = 200
#: Above so many points a timeline is told by month, then by year.
MOST_POINTS = 800
#: Numeric columns whose correlations are computed, at most, in the order of the file.
MOST_CORRELATED = 16


def frequent_lg_slots(columns: int) -> int:
    """Size of a column's frequent-items sketch, as a power of two: the wider the file, the smaller, to bound memory.

    Three quarters of the slots are counters; up to so many distinct values, the counts are exact.
    """
    return 12 if columns <= 64 else 10 if columns <= 256 else 8
