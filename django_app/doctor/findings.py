"""What an examination finds, and how bad it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """OK: nothing to tell. NOTE: may be as it is. WARNING: somebody should look. ERROR: something does not work."""

    OK = 0
    NOTE = 1
    WARNING = 2
    ERROR = 3

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """One fault.

    id: D101, or of a system check cloudqueue.E001. thing, value: what it is about, and how it stands. rule: how it
    should stand. remedy: what to do, with a command that can be copied where there is one. page: its documentation.
    """

    severity: Severity
    id: str
    thing: str
    value: str
    rule: str
    remedy: str
    page: str = ""

    @property
    def where(self) -> str:
        """Its section."""
        return self.page or f"docs/doctor.md#{self.id.lower()}"


def error(id_: str, thing: str, value: str, rule: str, remedy: str) -> Finding:
    return Finding(Severity.ERROR, id_, thing, value, rule, remedy)


def warning(id_: str, thing: str, value: str, rule: str, remedy: str) -> Finding:
    return Finding(Severity.WARNING, id_, thing, value, rule, remedy)


def note(id_: str, thing: str, value: str, rule: str, remedy: str) -> Finding:
    return Finding(Severity.NOTE, id_, thing, value, rule, remedy)


def worst(findings: Iterable[Finding]) -> Severity:
    return max((each.severity for each in findings), default=Severity.OK)


def exit_status(severity: Severity) -> int:
    """0: nothing worse than a note. 1: warnings. 2: errors."""
    return max(0, severity - Severity.NOTE)
