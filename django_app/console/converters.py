"""Ids in addresses."""

from __future__ import annotations


class IdConverter:
    """Whatever a task id may be, slashes and line ends among it; no NUL, which no database takes."""

    regex = r"[\s\S]+"

    def to_python(self, value: str) -> str:
        if "\x00" in value:
            raise ValueError("no id holds NUL")
        return value

    def to_url(self, value: str) -> str:
        return value
