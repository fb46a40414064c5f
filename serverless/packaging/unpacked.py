"""A package, unzipped and run by itself, as Lambda does it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

#: What the settings demand, so that they load.
ENVIRONMENT = {"SECRET_KEY": "unpacked", "BROKER_URL": "memory://", "DJANGO_SETTINGS_MODULE": "django_app.settings"}
_DEADLINE_SECONDS = 120


def unpack(package: Path, folder: Path) -> Path:
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)
    return folder


def run(
    folder: Path, code: str, *options: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run code with the standard library and the unzipped package, and with nothing else of this machine.

    options: of the interpreter. environment: all that the process gets beside PATH.
    """
    command = [sys.executable, "-I", "-S", *options, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"]
    return subprocess.run(
        command,
        cwd=folder,
        env={"PATH": os.environ.get("PATH", ""), **(ENVIRONMENT if environment is None else environment)},
        capture_output=True,
        text=True,
        check=False,
        timeout=_DEADLINE_SECONDS,
    )
