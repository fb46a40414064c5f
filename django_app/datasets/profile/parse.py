"""Reads one range of records strictly: every record must have as many fields as the header."""

from __future__ import annotations

import os

# Set before polars is loaded: parallelism comes from tasks, not from threads inside one of them.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl

from django_app.datasets.profile import limits
from django_app.datasets.profile.errors import InputError
from django_app.datasets.profile.split import even_outside_quotes, refuse_stray


def parse(data: bytes, columns: tuple[str, ...], separator: str, first_line: int) -> pl.DataFrame:
    """The records as a frame of strings, nulls where limits.NULLS say so. Blank lines are no records.

    data: whole records without the header. first_line: its first line's number in the file, for messages.
    Raises InputError naming the first line that is wrong.
    """
    width = len(columns)
    names = [str(number) for number in range(width)]
    refuse_stray(data, separator, first_line)
    if not data.endswith(b"\n"):
        data += b"\n"  # without it polars takes a separator that ends the file for the field's end
    records = _count(data, "\n")
    whole = data
    if _count(data, separator) != records * (width - 1):
        data = _without_blank_lines(whole, width, separator, first_line)
        records = _count(data, "\n")
    # A header of our own: without it polars takes the width from the first record, which may be a blank line, strips
    # a byte order mark and unpacks what begins like a zlib stream ("x^").
    header = separator.join(names).encode() + b"\n"
    try:
        frame = pl.read_csv(header + data, infer_schema=False, separator=separator, null_values=list(limits.NULLS))
    except pl.exceptions.PolarsError as error:
        _without_blank_lines(whole, width, separator, first_line)  # names the line, if it sees what is wrong
        last = first_line + whole.count(b"\n") - 1
        said = str(error).splitlines()[0]
        raise InputError(f"Lines {first_line} to {last} cannot be read as CSV: {said}.") from None
    if frame.height != records:
        raise InputError(f"Line {first_line} and after: fields do not match the header. Mend the quoting there.")
    return frame


def _count(data: bytes, character: str) -> int:
    """How often a character stands outside quotes."""
    outside = even_outside_quotes(data)
    if outside is None:
        return data.count(character.encode())
    return int(np.count_nonzero((np.frombuffer(data, np.uint8) == ord(character)) & outside))


def _without_blank_lines(data: bytes, width: int, separator: str, first_line: int) -> bytes:
    """Called where the fast counts do not add up; in a file of one column, a blank line is an empty field.

    Raises InputError for the first record that has another number of fields than the header.
    """
    text = np.frombuffer(data, np.uint8)
    outside = even_outside_quotes(data)
    # 32 bits: a range is far below 2 GiB, and one of nothing but line ends has as many records as bytes.
    ends, marks = (
        np.flatnonzero((text == ord(character)) & (True if outside is None else outside)).astype(np.int32)
        for character in ("\n", separator)
    )
    starts = np.concatenate((np.zeros(1, np.int32), ends[:-1] + np.int32(1)))
    blank = (ends == starts) | ((ends - starts == 1) & (text[starts] == ord("\r")))
    if width == 1:
        blank[:] = False
    fields = np.diff(np.searchsorted(marks, ends).astype(np.int32), prepend=np.int32(0)) + np.int32(1)
    wrong = np.flatnonzero((fields != width) & ~blank)
    if len(wrong):
        record = wrong[0]
        line = first_line + data.count(b"\n", 0, int(starts[record]))
        count = int(fields[record])
        raise InputError(
            f"Line {line} has {count} field{'s' if count > 1 else ''}, the header has {width}. "
            "Add or remove fields there; a separator inside a field needs quotes around the field."
        )
    keep = np.ones(len(text), bool)
    keep[ends[blank]] = keep[starts[blank]] = False
    return text[keep].tobytes()
