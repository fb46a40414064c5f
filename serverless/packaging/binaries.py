"""Extension modules and shared libraries: whether the target can load them."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from serverless.packaging.errors import PackageError
from serverless.packaging.target import Target

#: e_machine of an ELF header: https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html
_MACHINES = {62: "x86_64", 183: "aarch64"}
_LIBRARY = re.compile(r"\.so(\.\d+)*$")
_TAG = re.compile(r"\.cpython-(\d+)-")


def machine(header: bytes) -> str | None:
    """The processor of a 64-bit little-endian ELF file, by its first 20 bytes; None if it is no such file."""
    if len(header) < 20 or header[:6] != b"\x7fELF\x02\x01":
        return None
    (number,) = struct.unpack_from("<H", header, 18)
    return _MACHINES.get(number, f"number {number}")


def libraries(tree: Path) -> list[Path]:
    return sorted(path for path in tree.rglob("*") if _LIBRARY.search(path.name))


def check(tree: Path, target: Target) -> None:
    """Raises PackageError if a library is for another processor or another Python than the target's."""
    for path in libraries(tree):
        with path.open("rb") as handle:
            found = machine(handle.read(20))
        tag = _TAG.search(path.name)
        if found not in (target.machine, None) or (tag and f"cp{tag[1]}" != target.tag):
            raise PackageError(
                f"{path.relative_to(tree)} is for {found or 'an unknown machine'}, but the package is for Python "
                f"{target.python} on {target.machine}. Lock a version that has a wheel for it."
            )
