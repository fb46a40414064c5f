"""What of the distributions is not needed at run time, by rules that each name one distribution and a reason."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from serverless.packaging.errors import PackageError, UnknownNameError
from serverless.packaging.locked import Pin
from serverless.packaging.plan import TABLE, LeftOut, Trim
from serverless.packaging.wheels import Installed


def without(pins: list[Pin], rules: Iterable[LeftOut]) -> list[Pin]:
    """The pins that no rule leaves out. Raises UnknownNameError if a rule names none of them."""
    names = {pin.name for pin in pins}
    left_out = set()
    for rule in rules:
        if rule.distribution not in names:
            raise UnknownNameError(f"{TABLE} leave_out", rule.distribution, names)
        left_out.add(rule.distribution)
    return [pin for pin in pins if pin.name not in left_out]


def trim(installed: list[Installed], rules: Iterable[Trim]) -> None:
    """Take away from the distributions' files what the rules drop.

    A pattern that matches nothing is an error: it says something about a version that is no longer locked.
    """
    by_name = {distribution.name: distribution for distribution in installed}
    for rule in rules:
        if rule.distribution not in by_name:
            raise UnknownNameError(f"{TABLE} trim", rule.distribution, by_name)
        distribution = by_name[rule.distribution]
        for pattern in (*rule.drop, *rule.keep):
            if not any(fnmatchcase(path, pattern) for path in distribution.files):
                raise PackageError(
                    f'{TABLE} trim: "{pattern}" matches no file of {rule.distribution} {distribution.version}. '
                    "Correct it or take it out."
                )
        distribution.files = [
            path for path in distribution.files if not _matches(path, rule.drop) or _matches(path, rule.keep)
        ]


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
