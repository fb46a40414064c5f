"""The lock file as the target has to read it.

pip judges markers for the machine that it runs on, also with --platform, so they are judged here and left out of what
pip is given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from serverless.packaging.errors import PackageError


@dataclass(frozen=True)
class Pin:
    """One distribution at one version. hashes: sha256:..., any of which its file must have."""

    name: str
    version: str
    hashes: tuple[str, ...]
    marker: str = ""

    def line(self) -> str:
        """As pip reads it, with no marker."""
        return " ".join([f"{self.name}=={self.version}", *(f"--hash={value}" for value in self.hashes)])


def parse(text: str, name: str) -> Iterator[Pin]:
    """The pins of a lock file. name: what errors call the file."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        words = line.partition(" #")[0].strip()
        if not words or words.startswith("#"):
            continue
        head, *hashes = re.split(r"\s+--hash=", words)
        try:
            requirement = Requirement(head)
        except InvalidRequirement as error:
            raise PackageError(f'{name}: "{head}" is no requirement: {error}. Write it anew with make lock.') from error
        pins = [specifier.version for specifier in requirement.specifier if specifier.operator == "=="]
        if len(pins) != 1 or not hashes:
            raise PackageError(f'{name}: "{head}" has no exact version and hash. Write it anew with make lock.')
        marker = str(requirement.marker or "")
        yield Pin(canonicalize_name(requirement.name), pins[0], tuple(hashes), marker)


def wanted(pins: list[Pin], environment: Mapping[str, str]) -> list[Pin]:
    """Those that a target with these marker values installs."""
    return [pin for pin in pins if not pin.marker or Marker(pin.marker).evaluate(dict(environment))]
