"""Our own files: which of a checkout belong into the package.

A file is taken because a rule names it, never because none forbids it: it lies under a listed path, has a listed
suffix and no leading dot, or is listed itself. So what somebody leaves in the tree (.env, a state of Terraform, a
database) stays out.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from serverless.packaging.errors import PackageError, UnknownNameError
from serverless.packaging.plan import TABLE, Plan

_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
#: Made by running the code; not worth a word.
_BY_PRODUCTS = {"__pycache__"}


def choose(paths: Iterable[str], plan: Plan) -> tuple[list[str], list[str]]:
    """Of the files of a checkout, those that are taken and those that stay behind although their folder is listed."""
    taken: list[str] = []
    behind: list[str] = []
    for path in sorted(paths):
        if not _under(path, plan.files) or _under(path, plan.except_files):
            continue
        parts = PurePosixPath(path).parts
        if _BY_PRODUCTS.intersection(parts):
            continue
        plain = not any(part.startswith(".") for part in parts) and PurePosixPath(path).suffix in plan.kinds
        (taken if plain or path in plan.files else behind).append(path)
    return taken, behind


def copy(plan: Plan, root: Path, tree: Path) -> list[str]:
    """Copy our files into the package's folder. Gives the files that stay behind, for people to look at.

    Raises PackageError if a listed path does not exist, or a file holds a private key.
    """
    for listed in (*plan.files, *plan.except_files):
        if not (root / listed).exists():
            near = (path.relative_to(root).as_posix() for path in (root / listed).parent.glob("*"))
            raise UnknownNameError(f"{TABLE} files", listed, near)
    taken, behind = choose(_files(root, plan.files), plan)
    for path in taken:
        content = (root / path).read_bytes()
        if _PRIVATE_KEY.search(content):
            raise PackageError(f"{path} holds a private key, which a package must not. Keep it in Secrets Manager.")
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return behind


def move(files: Iterable[str], source: Path, tree: Path) -> None:
    """Move files of distributions beside our own. Raises PackageError where both have one of the same name."""
    for path in files:
        target = tree / path
        if target.exists():
            raise PackageError(f"{path} is a file of ours and of a distribution. Rename ours.")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source / path, target)


def _files(root: Path, listed: Iterable[str]) -> Iterable[str]:
    """Regular files; what a symbolic link points to may lie anywhere, so links are not followed."""
    for path in listed:
        if (root / path).is_file():
            yield path
        for folder, folders, names in os.walk(root / path):
            folders.sort()
            for name in names:
                file = Path(folder, name)
                if not file.is_symlink():
                    yield file.relative_to(root).as_posix()


def _under(path: str, listed: Iterable[str]) -> bool:
    return any(path == entry or path.startswith(f"{entry}/") for entry in listed)
