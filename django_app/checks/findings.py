"""What a check finds, and how Django is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from django.core import checks
from django.core.checks import CheckMessage


class Place(Protocol):
    """Where in a source something stands."""

    def ignores(self, number: str) -> bool: ...


@dataclass(frozen=True)
class Finding:
    """One fault.

    number: E001, or W001 for what may be as it is. place: what it is about: a place in a source, or its name.
    text: the thing, its value and the rule. remedy: what to do.
    """

    number: str
    place: Place | str
    text: str
    remedy: str

    @property
    def is_ignored(self) -> bool:
        return not isinstance(self.place, str) and self.place.ignores(self.number)

    def message(self) -> CheckMessage:
        """As Django prints it, with a link to its section."""
        level = checks.ERROR if self.number.startswith("E") else checks.WARNING
        hint = f"{self.remedy} See docs/checks.md#{self.number.lower()}"
        return CheckMessage(level, self.text, hint=hint, obj=str(self.place), id=f"cloudqueue.{self.number}")
