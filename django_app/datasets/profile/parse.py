"""Reads one range of records strictly: every record must have as many fields as the header."""

from __future__ import annotations

import csv
import io
import os
import re

# Set before polars is loaded: parallelism comes from tasks, not from threads inside one of them.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl

from django_app.datasets.profile import limits
from django_app.datasets.profile.errors import InputError
from django_app.datasets.profile.split import even_outside_quotes


def parse(data: bytes, columns: tuple[str, ...], separator: str, first_line: int) -> pl.DataFrame:
    """The records as a frame of strings, nulls where limits.NULLS say so. Blank lines are no records.

    data: whole records without the header. first_line: its first line's number in the file, for messages.
    Raises InputError naming the first line that is wrong.
    """
    names = [str(number) for number in range(len(columns))]
    # polars takes the width of a file without a header from its first record, which may be a blank line.
    header = separator.join(names).encode() + b"\n"
    try:
        frame = pl.read_csv(
            header + data,
            infer_schema=False,
            separator=separator,
            null_values=list(limits.NULLS),
        )
    except pl.exceptions.PolarsError as error:
        _blank_records(data, len(columns), separator, first_line)  # names the line, if it sees what is wrong
        if stray := re.search(rb'(?:^|%b)[^"\n%b]+"' % ((re.escape(separator.encode()),) * 2), data, re.MULTILINE):
            raise InputError(_stray_quote(first_line + data[: stray.end()].count(b"\n"))) from None
        last = first_line + data.count(b"\n")
        said = str(error).splitlines()[0]
        raise InputError(
            f"Lines {first_line} to {last} cannot be read as CSV: {said}. Mend the quoting there."
        ) from None
    if len(columns) > 1 and _separators(data, separator) != frame.height * (len(columns) - 1):
        blanks = _blank_records(data, len(columns), separator, first_line)
        if not blanks or blanks[-1] >= frame.height:
            raise InputError(f"Line {first_line} and after: fields do not match the header. Mend the quoting there.")
        keep = np.ones(frame.height, dtype=bool)
        keep[blanks] = False
        frame = frame.filter(pl.Series(keep))
    return frame


def _separators(data: bytes, separator: str) -> int:
    outside = even_outside_quotes(data)
    if outside is None:
        return data.count(separator.encode())
    return int(np.count_nonzero((np.frombuffer(data, np.uint8) == ord(separator)) & outside))


def _blank_records(data: bytes, width: int, separator: str, first_line: int) -> list[int]:
    """The positions of blank lines. Slow; called where the fast count does not add up.

    Raises InputError for the first record that has another number of fields than the header, or a stray quote.
    """
    blanks = []
    reader = csv.reader(io.StringIO(data.decode("utf-8"), newline=""), delimiter=separator, strict=True)
    line = first_line
    try:
        for position, record in enumerate(reader):
            if not record and width > 1:
                blanks.append(position)
            elif record and len(record) != width:
                raise InputError(
                    f"Line {line} has {len(record)} fields, the header has {width}. "
                    "Add or remove fields there; a separator inside a field needs quotes around the field."
                )
            line = first_line + reader.line_num
    except csv.Error:
        raise InputError(_stray_quote(line)) from None
    return blanks


def _stray_quote(line: int) -> str:
    return (
        f"Line {line} has a quote (or a carriage return) in the middle of a field. "
        'Put the whole field in quotes and write the quote inside twice, such as "5"" pipe".'
    )
