"""Where a CSV file may be cut: between records, never inside a quoted field.

Whether a line end is inside quotes depends on every quote before it, so the file is read once from its start, in
pieces, in constant memory. What cannot be a CSV file at all is refused on the way.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from django_app.datasets.profile import limits
from django_app.datasets.profile.errors import InputError

_SEPARATORS = ",;\t|"
_UTF8_BOM = codecs.BOM_UTF8
_NOT_CSV = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet (xlsx, ods)"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3", "an SQLite database"),
)
_LONGEST_MAGIC = max(len(magic) for magic, _ in _NOT_CSV)


@dataclass(frozen=True)
class Range:
    """Whole records: bytes start to stop, stop excluded. first_line: number of the first line in the file, from 1."""

    start: int
    stop: int
    first_line: int


@dataclass(frozen=True)
class Layout:
    """How a file is to be read.

    columns: names in the order of the file. separator: one character. ranges: the records after the header, in order.
    """

    columns: tuple[str, ...]
    separator: str
    ranges: tuple[Range, ...]


def split(pieces: Iterable[bytes], chunk_bytes: int) -> Layout:
    """Read a file from its start and cut it into ranges of about chunk_bytes.

    pieces: the file's bytes in order, in pieces of any size.
    Raises InputError for what is not a CSV file in UTF-8 with a header and at least one record.
    """
    scanner = _Scanner(chunk_bytes)
    for piece in pieces:
        scanner.feed(piece)
    return scanner.finish()


def even_outside_quotes(data: bytes, quotes_before: int = 0) -> np.ndarray | None:
    """For each byte whether it stands outside quotes; None where that is so for all of them.

    A doubled quote inside a quoted field opens and closes again, so the count's parity is all that matters.
    """
    if b'"' not in data:
        return None if quotes_before % 2 == 0 else np.zeros(len(data), dtype=bool)
    # Counting modulo 256 keeps the parity, in an eighth of the memory.
    count = np.cumsum(np.frombuffer(data, np.uint8) == ord('"'), dtype=np.uint8)
    outside: np.ndarray = (count + quotes_before % 2) & 1 == 0
    return outside


def refuse_stray(data: bytes, separator: str, first_line: int) -> None:
    """Raise InputError for the first quote that neither opens nor closes a whole field, or bare carriage return.

    data: whole records. With this kept, every reader of CSV sees the same fields in it.
    """
    if b'"' not in data and b"\r" not in data:
        return
    # A line end on either side: every byte then has neighbours.
    text = np.frombuffer(b"\n" + data + b"\n", np.uint8)
    faults = []
    quotes = np.flatnonzero(text == ord('"')).astype(np.int32)
    opening, closing = quotes[::2], quotes[1::2]
    before = text[opening - 1]
    faults.append(opening[~np.isin(before, [ord("\n"), ord(separator), ord('"')])][:1])
    after = text[closing + 1]
    faults.append(closing[~np.isin(after, [ord("\n"), ord("\r"), ord(separator), ord('"')])][:1])
    if len(quotes) % 2:
        faults.append(quotes[-1:])
    returns = np.flatnonzero(text == ord("\r"))
    returns = returns[text[returns + 1] != ord("\n")]
    if len(returns):
        returns = returns[np.searchsorted(quotes, returns) % 2 == 0]
    fault = min((int(found[0]) for found in (*faults, returns[:1]) if len(found)), default=None)
    if fault is None:
        return
    line = first_line + data.count(b"\n", 0, fault - 1)
    if len(quotes) % 2 and fault == quotes[-1] and text[fault - 1] in (ord("\n"), ord(separator)):
        raise InputError(_never_closed(line))
    if text[fault] == ord("\r"):
        raise InputError(
            f"Line {line} has a carriage return without a line feed. End lines in LF or CRLF, "
            "or put the field in quotes."
        )
    raise InputError(
        f"Line {line} has a quote in the middle of a field. "
        'Put the whole field in quotes and write the quote inside twice, such as "5"" pipe".'
    )


class _Scanner:
    def __init__(self, chunk_bytes: int) -> None:
        self.chunk_bytes = chunk_bytes
        self.begun = False  # whether there was enough to tell other formats by
        self.head = b""  # what came before the header's end was found
        self.layout: tuple[tuple[str, ...], str] | None = None
        self.ranges: list[Range] = []
        self.offset = 0  # of the next byte
        self.line = 1  # of the next byte
        self.quotes = 0
        self.record_start = 0
        self.record_line = 1
        self.range_start = 0
        self.range_line = 1
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def feed(self, piece: bytes) -> None:
        if not self.begun:
            self.head += piece
            if len(self.head) < _LONGEST_MAGIC:
                return
            self.begun = True
            piece, self.head = self.head, b""
            _refuse_other_formats(piece)
        self._check_text(piece)
        if self.layout is None:
            self.head += piece
            # Without a line end nothing new can be found, unless the header is too long.
            if b"\n" in piece or len(self.head) > limits.LARGEST_RECORD_BYTES:
                self._find_header(at_end=False)
            return
        self._scan(piece)

    def finish(self) -> Layout:
        if not self.begun:
            piece, self.head = self.head, b""
            _refuse_other_formats(piece)
            self._check_text(piece)
            self.head = piece
        held_back = len(self.decoder.getstate()[0])
        if held_back:
            raise _not_utf8(self._fed() - held_back, self._line_at(b"", 0))
        if self.layout is None:
            self._find_header(at_end=True)
        if self.quotes % 2:
            raise InputError(_never_closed(self.record_line))
        if self.offset > self.range_start:
            self.ranges.append(Range(self.range_start, self.offset, self.range_line))
        assert self.layout is not None  # noqa: S101 - _find_header(at_end=True) sets it or raises
        columns, separator = self.layout
        if not self.ranges:
            raise InputError("The file has a header and no rows. Upload one with at least one row of data.")
        return Layout(columns, separator, tuple(self.ranges))

    def _check_text(self, piece: bytes) -> None:
        at = piece.find(b"\0")
        if at >= 0:
            line = self._line_at(piece, at)
            raise InputError(
                f"Line {line}: byte {self._fed() + at} is a NUL character, which no text has. The file is binary, "
                "or text in UTF-16. Export it as CSV in UTF-8."
            )
        held_back = len(self.decoder.getstate()[0])  # the start of a character that the last piece cut
        try:
            self.decoder.decode(piece)
        except UnicodeDecodeError as error:
            at = error.start - held_back
            raise _not_utf8(self._fed() + at, self._line_at(piece, max(at, 0))) from None

    def _fed(self) -> int:
        return self.offset + len(self.head) if self.layout is None else self.offset

    def _line_at(self, piece: bytes, at: int) -> int:
        before = self.head.count(b"\n") + 1 if self.layout is None else self.line
        return before + piece[:at].count(b"\n")

    def _find_header(self, *, at_end: bool) -> None:
        head = self.head
        start = len(_UTF8_BOM) if head.startswith(_UTF8_BOM) else 0
        # Blank lines before the header are no header.
        start = len(head) - len(head[start:].lstrip(b"\n\r "))
        end = _record_end(head, start)
        if end is None:
            if len(head) > limits.LARGEST_RECORD_BYTES:
                raise _bare_carriage_returns() if b"\r" in head and b"\n" not in head else _record_too_long(1)
            if not at_end:
                return
            end = len(head)
        if not head[start:end].strip():
            raise InputError("The file is empty. Upload a CSV file with a header and at least one row.")
        if b"\r" in head[start:end].rstrip(b"\r\n") and b"\n" not in head:
            raise _bare_carriage_returns()
        self.layout = _header(head[start:end], head.count(b"\n", 0, start) + 1)
        self.head = b""
        self.offset = self.record_start = self.range_start = end
        self.line = self.record_line = self.range_line = head[:end].count(b"\n") + 1
        self._scan(head[end:])

    def _scan(self, piece: bytes) -> None:
        if not piece:
            return
        newlines = np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("\n"))
        outside = even_outside_quotes(piece, self.quotes)
        ends = newlines if outside is None else newlines[outside[newlines]]
        ends = ends + self.offset + 1  # absolute offsets just after each record
        self._check_record_lengths(ends, len(piece), piece)
        while len(ends):
            # The first record end at or after the wanted size.
            at = int(np.searchsorted(ends, self.range_start + self.chunk_bytes))
            if at == len(ends):
                break
            stop = int(ends[at])
            self.ranges.append(Range(self.range_start, stop, self.range_line))
            self.range_start = stop
            self.range_line = self.line + int(np.searchsorted(newlines, stop - self.offset))
        if len(ends):
            self.record_start = int(ends[-1])
            self.record_line = self.line + int(np.searchsorted(newlines, self.record_start - self.offset))
        self.quotes += piece.count(b'"')
        self.line += len(newlines)
        self.offset += len(piece)

    def _check_record_lengths(self, ends: np.ndarray, length: int, piece: bytes) -> None:
        starts = np.concatenate(([self.record_start], ends))
        stops = np.concatenate((ends, [self.offset + length]))
        too_long = np.flatnonzero(stops - starts > limits.LARGEST_RECORD_BYTES)
        if len(too_long):
            start = int(starts[too_long[0]])
            line = self.record_line if start < self.offset else self._line_at(piece, start - self.offset)
            raise _record_too_long(line)


def _record_end(data: bytes, start: int) -> int | None:
    """The offset just after the first line end outside quotes, or None."""
    data = data[start : start + limits.LARGEST_RECORD_BYTES + 1]
    newlines = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    outside = even_outside_quotes(data)
    ends = newlines if outside is None else newlines[outside[newlines]]
    return start + int(ends[0]) + 1 if len(ends) else None


def _header(data: bytes, line: int) -> tuple[tuple[str, ...], str]:
    text = data.decode("utf-8")
    bare = "".join(text.split('"')[::2])  # what stands outside quotes
    separator = max(_SEPARATORS, key=bare.count)
    refuse_stray(data, separator, line)
    try:
        fields = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True), [])
    except csv.Error:
        # What is left is a field beyond the reader's limit, far above ours.
        raise InputError(
            f"Line {line}: a column's name is too long; at most {limits.LONGEST_NAME} characters are read. "
            "Shorten it. (Is the header missing?)"
        ) from None
    names = [name.strip() for name in fields]
    if len(names) > limits.MOST_COLUMNS:
        raise InputError(
            f"The file has {len(names):,} columns; at most {limits.MOST_COLUMNS:,} are read. "
            "Remove columns, or turn them into rows."
        )
    seen: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise InputError(f"Column {number} has no name in the header. Give it one.")
        if len(name) > limits.LONGEST_NAME:
            raise InputError(
                f"Column {number}'s name has {len(name):,} characters; at most {limits.LONGEST_NAME} are read. "
                "Shorten it. (Is the header missing?)"
            )
        if name in seen:
            raise InputError(f'Columns {seen[name]} and {number} are both called "{name}". Rename one.')
        seen[name] = number
    return tuple(names), separator


def _refuse_other_formats(head: bytes) -> None:
    for magic, kind in _NOT_CSV:
        if head.startswith(magic):
            raise InputError(f"This is {kind}, not a CSV file. Export the data as CSV in UTF-8 and upload that.")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError("The file is text in UTF-16. Save it as UTF-8 and upload it again.")


def _never_closed(line: int) -> str:
    return (
        f'Line {line}: a quoted field is opened and never closed. Close it, or write a quote inside a field twice ("").'
    )


def _not_utf8(offset: int, line: int) -> InputError:
    return InputError(
        f"Line {line}: byte {offset} is not UTF-8; the file may be in Latin-1 (Windows-1252). "
        "Save it as UTF-8 and upload it again."
    )


def _bare_carriage_returns() -> InputError:
    return InputError("The lines end in bare carriage returns. Save the file with LF or CRLF line ends.")


def _record_too_long(line: int) -> InputError:
    return InputError(
        f"Line {line}: this record is longer than {limits.LARGEST_RECORD_BYTES >> 20} MiB, the most that is read. "
        "Shorten its fields, or close a quote that was left open."
    )
