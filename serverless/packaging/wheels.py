"""Locked distributions, installed for the target from binary wheels alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path, PurePosixPath

from packaging.utils import canonicalize_name

from serverless.packaging.errors import PackageError
from serverless.packaging.locked import Pin
from serverless.packaging.target import Target

_DEADLINE_SECONDS = 600
#: What a distribution's metadata needs to keep: its version and licence, and the plugins that it announces.
_METADATA = {"METADATA", "entry_points.txt", "top_level.txt"}
_LICENCES = ("licen", "copying", "notice", "authors")


@dataclass
class Installed:
    """One distribution in a folder. files: paths from that folder; what pip notes for itself is not among them."""

    name: str
    version: str
    files: list[str] = field(default_factory=list)


def install(pins: list[Pin], target: Target, folder: Path) -> list[Installed]:
    """Install the pins and nothing else. pip takes its settings from the environment, as it does for `make setup`."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.write("\n".join(pin.line() for pin in pins))
        listed.flush()
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        command += ["--require-hashes", "--no-deps", "--only-binary=:all:", "--target", str(folder), "-r", listed.name]
        done = subprocess.run(
            command + _options(target), capture_output=True, text=True, check=False, timeout=_DEADLINE_SECONDS
        )
    if done.returncode:
        raise PackageError(
            f"pip could not install the locked distributions for Python {target.python} on {target.machine}. "
            f"Each needs a wheel for it; leave out or replace one that has none.\n{done.stderr}"
        )
    return listing(folder)


def check_environment(pins: list[Pin]) -> None:
    """Raises PackageError if this environment has other versions: static files are collected with it."""
    for pin in pins:
        try:
            found = version(pin.name)
        except PackageNotFoundError:
            found = "none"
        if found != pin.version:
            raise PackageError(
                f"{pin.name} {pin.version} is locked, but the environment that collects static files has {found}. "
                "Lock it for development too (requirements/dev.in, make lock) and run make setup."
            )


def listing(folder: Path) -> list[Installed]:
    """What is installed in a folder, by name."""
    found = []
    for distribution in distributions(path=[str(folder)]):
        made = Installed(canonicalize_name(distribution.metadata["Name"]), distribution.version)
        for file in distribution.files or ():
            path = file.as_posix()
            if ".." not in file.parts and worth_keeping(path) and (folder / path).is_file():
                made.files.append(path)
        made.files.sort()
        found.append(made)
    return sorted(found, key=lambda made: made.name)


def worth_keeping(path: str) -> bool:
    """Whether a file is more than a note of the installer, a script or byte code.

    RECORD, INSTALLER, REQUESTED and direct_url.json say how and from where pip installed: they differ between machines.
    """
    parts = PurePosixPath(path).parts
    if parts[0] == "bin" or "__pycache__" in parts:
        return False
    if not parts[0].endswith(".dist-info"):
        return True
    return path.count("/") > 1 or parts[-1] in _METADATA or parts[-1].lower().startswith(_LICENCES)


def _options(target: Target) -> list[str]:
    if not target.platforms:
        return []
    options = ["--implementation", "cp", "--python-version", target.python, "--abi", target.tag]
    for platform in target.platforms:
        options += ["--platform", platform]
    return options
