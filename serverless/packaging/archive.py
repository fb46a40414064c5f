"""The zip: the same files make the same bytes."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

#: The oldest date that a zip can name.
_DATE = (1980, 1, 1, 0, 0, 0)
#: A regular file that everybody may read: Lambda's user is not its owner.
_MODE = 0o100644
_UNIX = 3
_LEVEL = 9


def files(tree: Path) -> list[str]:
    """Every file of a folder, as paths from it, sorted."""
    return sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file())


def write(tree: Path, names: Iterable[str], output: Path) -> None:
    """Write files of a folder as a zip."""
    with zipfile.ZipFile(output, "w") as archive:
        for name in sorted(names):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system = _UNIX
            entry.external_attr = _MODE << 16
            archive.writestr(entry, (tree / name).read_bytes(), zipfile.ZIP_DEFLATED, _LEVEL)


def put(finished: Path, output: Path) -> None:
    """Put a finished zip in its place, at once: nobody sees half of it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    shutil.copyfile(finished, unfinished)
    unfinished.replace(output)
