"""Figures for other programs."""

from __future__ import annotations

import csv
import io

import pytest

from django_app.datasets import exports
from tests.unit.test_profile import profile


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1"])
def test_text_that_starts_like_a_formula_is_escaped(cell):
    assert exports.escaped(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", [-1, -1.5, "1-1", "a=b", "", None])
def test_numbers_and_plain_text_are_left_alone(cell):
    assert exports.escaped(cell) == cell


def test_a_file_full_of_formulas_exports_none():
    data = b'=cmd,+b\n"=1+1",-5\n"=1+1",@x\n'
    rows = list(csv.DictReader(io.StringIO(exports.statistics_csv(profile(data)))))
    assert [row["column"] for row in rows] == ["'=cmd", "'+b"]
    for row in rows:
        for name, value in row.items():
            assert not value.startswith(("=", "+", "@")), (name, value)
    assert rows[0]["most_frequent"] == "'=1+1"
