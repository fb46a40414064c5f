"""What the package says of itself, in release.json at its root."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from serverless.packaging.wheels import Installed

NAME = "release.json"
OWN = "own files"


@dataclass(frozen=True)
class Manifest:
    """release: a hash of the content, byte code aside, which follows from it. byte_code: whether there is any.

    distributions: name to version. owners: a path from the root to whose it is, for all paths below it.
    """

    release: str
    python: str
    machine: str
    byte_code: bool
    distributions: dict[str, str]
    owners: dict[str, str]

    def text(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    def owner(self, path: str) -> str:
        """Whose a file is: a distribution's or, if nobody else's, ours."""
        parts = PurePosixPath(source(path)).parts
        for length in range(1, len(parts) + 1):
            name = self.owners.get("/".join(parts[:length]))
            if name:
                return name
        return OWN


def parse(text: str | bytes) -> Manifest:
    return Manifest(**json.loads(text))


def source(path: str) -> str:
    """The module that a .pyc was compiled from; any other path as it is."""
    file = PurePosixPath(path)
    if file.parent.name != "__pycache__":
        return path
    return (file.parent.parent / f"{file.name.partition('.')[0]}.py").as_posix()


def owners(installed: Iterable[Installed]) -> dict[str, str]:
    """The shortest paths below which all files are one distribution's: `django`, but `google/cloud/storage`."""
    claims: dict[str, set[str]] = {}
    for distribution in installed:
        for path in distribution.files:
            for prefix in _prefixes(path):
                claims.setdefault(prefix, set()).add(distribution.name)
    return {
        prefix: min(names)
        for prefix, names in claims.items()
        if len(names) == 1 and all(len(claims[above]) > 1 for above in _prefixes(prefix)[:-1])
    }


def release(tree: Path, files: Iterable[str]) -> str:
    """A hash of names and content; the same files give the same one, whatever compiled or compressed them."""
    digest = hashlib.sha256()
    for path in sorted(files):
        if not path.endswith(".pyc"):
            digest.update(f"{path}\0{hashlib.sha256((tree / path).read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def _prefixes(path: str) -> list[str]:
    parts = PurePosixPath(path).parts
    return ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
