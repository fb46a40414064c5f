"""What can go wrong when the package is built, as exceptions that say what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PackageError(Exception):
    """A package that would be wrong, and so is not built; the message names the thing, the rule and the remedy."""


class UnknownNameError(PackageError):
    """A name that stands in a rule and nowhere else."""

    def __init__(self, where: str, name: str, known: Iterable[str]) -> None:
        self.name = name
        near = get_close_matches(name, list(known), n=1, cutoff=0)
        super().__init__(f'{where}: "{name}" is unknown' + (f', did you mean "{near[0]}"?' if near else "."))


class SizeError(PackageError):
    """A package that is larger than a limit allows."""
