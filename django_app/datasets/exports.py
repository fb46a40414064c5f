"""Figures for other programs."""

from __future__ import annotations

import csv
import io
from typing import Any

#: What spreadsheets take for the start of a formula.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")  # noqa: RUF001 - full-width forms count too

_HEADER = (
    *("column", "type", "values", "missing", "distinct", "distinct_low", "distinct_high"),
    *("minimum", "maximum", "mean", "standard_deviation", "q01", "q05", "q25", "median", "q75", "q95", "q99"),
    *("most_frequent", "most_frequent_count"),
)
_RANKS = ("0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99")


def statistics_csv(profile: dict[str, Any]) -> str:
    """One line a column. Text that a spreadsheet would take for a formula is escaped with an apostrophe."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(_HEADER)
    for column in profile["columns"]:
        top = column["top"][0] if column["top"] else ["", ""]
        cells = [
            *(column["name"], column["kind"], column["count"], column["nulls"]),
            *(round(column["distinct"]), round(column["distinct_low"]), round(column["distinct_high"])),
            *(column["minimum"], column["maximum"], column["mean"], column["deviation"]),
            *(column["quantiles"].get(rank) for rank in _RANKS),
            *top,
        ]
        writer.writerow([escaped(cell) for cell in cells])
    return file.getvalue()


def escaped(cell: Any) -> Any:
    """Numbers as they are; text that starts like a formula behind an apostrophe.

    Source: https://owasp.org/www-community/attacks/CSV_Injection
    """
    if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS):
        return f"'{cell}"
    return cell
