"""Bad files get a message for their owner: the place, the rule, the remedy. Nothing crashes or hangs."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from django_app.datasets.profile.errors import InputError
from tests.unit.test_profile import profile

HEADER = b"name,size\n"
ROW = b"a,1\n"

BAD_FILES = {
    "empty": (b"", "The file is empty."),
    "blank": (b"\n \n", "The file is empty."),
    "byte order mark alone": (b"\xef\xbb\xbf", "The file is empty."),
    "header only": (HEADER, "The file has a header and no rows."),
    "header without line end": (b"name,size", "The file has a header and no rows."),
    "PNG": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "This is a PNG image, not a CSV file."),
    "gzip": (gzip.compress(HEADER + ROW), "This is a gzip archive, not a CSV file."),
    "spreadsheet": (b"PK\x03\x04\x14\0\x06\0", "This is a zip archive or a spreadsheet (xlsx, ods), not a CSV file."),
    "UTF-16": ((HEADER + ROW).decode().encode("utf-16"), "The file is text in UTF-16. Save it as UTF-8"),
    "UTF-16 without mark": ((HEADER + ROW).decode().encode("utf-16-le"), "NUL character"),
    "Latin-1": (HEADER + ROW + "Zoë,2\n".encode("latin-1"), "Line 3: byte 16 is not UTF-8; the file may be in Latin-1"),
    "NUL byte": (HEADER + ROW + b"b\0,2\n", "Line 3: byte 15 is a NUL character"),
    "too many fields": (HEADER + ROW + b"b,2,3\n", "Line 3 has 3 fields, the header has 2."),
    "too few fields": (HEADER + ROW + b"b\n" + ROW, "Line 3 has 1 field, the header has 2."),
    "too few and too many": (HEADER + b"b\nc,2,3\n", "Line 2 has 1 field, the header has 2."),
    "duplicate names": (b"x,y,x\n1,2,3\n", 'Columns 1 and 3 are both called "x". Rename one.'),
    "empty name": (b"x,,z\n1,2,3\n", "Column 2 has no name in the header. Give it one."),
    "long name": (b"x" * 500 + b",y\n1,2\n", "Column 1's name has 500 characters"),
    "10 MB field": (HEADER + b"a," + b"x" * (10 << 20) + b"\n", "Line 2: this record is longer than 1 MiB"),
    "10 MB quoted field": (
        HEADER + ROW + b'a,"' + b"x\n" * (5 << 20) + b'"\n',
        "Line 3: this record is longer than 1 MiB",
    ),
    "10 MB header": (b"x" * (10 << 20), "Line 1: this record is longer than 1 MiB"),
    "5,000 columns": (
        ",".join(f"c{number}" for number in range(5000)).encode() + b"\n" + b"1," * 4999 + b"1\n",
        "The file has 5,000 columns; at most 1,000 are read.",
    ),
    "quote left open": (HEADER + ROW + b'"b,2\nc,3\n', "Line 3: a quoted field is opened and never closed."),
    "quote inside a field": (
        HEADER + b'5" pipe,1\n7" pipe,2\n',
        "Line 2 has a quote in the middle of a field.",
    ),
    "ragged rows that a last separator would make up for": (b"a,b\n1\n3,4,", "Line 2 has 1 field, the header has 2."),
    "two fields in a file of one column": (b"a\n1,", "Line 2 has 2 fields, the header has 1."),
    "separators and no line end": (b"a,b\n\n,,", "Line 3 has 3 fields, the header has 2."),
    "quote inside a name": (b'h 5",b\n1,2\n3,4"\n5,6\n', "Line 1 has a quote in the middle of a field."),
    "text after a closing quote": (b'a\n"a"b"c"\n', "Line 2 has a quote in the middle of a field."),
    "quotes inside a bare field": (b'a\na"b"c\n', "Line 2 has a quote in the middle of a field."),
    "carriage return inside a bare field": (b"a\n1\r2\n", "Line 2 has a carriage return without a line feed."),
    "ragged row with a long field": (HEADER + b"x" * 140_000 + b"\n", "Line 2 has 1 field, the header has 2."),
    "carriage returns": (b"name,size\ra,1\rb,2\r", "The lines end in bare carriage returns."),
}


@pytest.mark.parametrize(("data", "said"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_refused_with_the_place_and_the_remedy(data, said):
    with pytest.raises(InputError) as caught:
        profile(data)
    message = str(caught.value)
    assert said in message
    assert len(message) < 400


@pytest.mark.parametrize("piece_bytes", [1, 7, 64])
@pytest.mark.parametrize("name", ["Latin-1", "NUL byte", "too few fields", "quote left open", "empty", "header only"])
def test_the_place_is_right_however_the_file_arrives(name, piece_bytes):
    data, said = BAD_FILES[name]
    with pytest.raises(InputError) as caught:
        profile(data, chunk_bytes=5, piece_bytes=piece_bytes)
    assert said in str(caught.value)


@settings(max_examples=400, deadline=None)
@given(
    st.binary(max_size=300) | st.text('a1,";\n\r é', max_size=200).map(str.encode),
    st.integers(1, 64),
    st.integers(1, 64),
)
@example(b'a,b\n"\n",""\n\n', 1, 1)
def test_whatever_the_bytes_the_answer_is_a_profile_or_our_error(data, chunk_bytes, piece_bytes):
    try:
        found = profile(data, chunk_bytes, piece_bytes)
    except InputError as error:
        assert str(error)[-1] in ".)"
    else:
        assert all(column["count"] + column["nulls"] == found["rows"] for column in found["columns"])


def test_a_formula_in_a_cell_is_only_text():
    (column,) = profile(b'cell\n"=HYPERLINK(""http://x"")"\n+1+1\n@SUM(A1)\n')["columns"]
    assert column["kind"] == "text"
