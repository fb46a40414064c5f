"""The project's own Python files, read as text: none is imported for it."""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

#: What a file must hold to be of interest; the rest is not even parsed.
_WORTH_READING = re.compile(
    r"\.(?:delay|apply_async)(?:_on_commit)?\(|\.(?:s|si|signature)\(|\bchord\(|shared_task|@[\w.]+\.task\b|Task\):"
)
#: Calls in tests and migrations are not the project's work.
_LEFT_OUT = re.compile(r"(?:^|/)(?:tests?|migrations|node_modules)/|(?:^|/)(?:test_\w+|tests|conftest)\.py$")
_IGNORE = re.compile(r"#\s*cloudqueue:\s*ignore\[([EW\d,\s]+)\]\s*\S")
_INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib"))
#: Debian has a folder of its own.
_INSTALLED_NAMES = frozenset({"site-packages", "dist-packages"})


@dataclass(frozen=True)
class Source:
    """One file. name: of the module. shown: how people call the file."""

    path: Path
    name: str
    shown: str
    tree: ast.Module = field(repr=False)
    lines: list[str] = field(repr=False)

    @property
    def package(self) -> str:
        """What its relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    @cached_property
    def ignored(self) -> dict[int, frozenset[str]]:
        """By line, the checks that a comment with a reason turns off: `# cloudqueue: ignore[E014] why`."""
        found = {}
        for number, line in enumerate(self.lines, 1):
            comment = _IGNORE.search(line)
            if comment:
                found[number] = frozenset(comment[1].replace(",", " ").split())
        return found

    def at(self, node: ast.AST) -> SourcePlace:
        """Where a node stands; of a function, its head."""
        first = getattr(node, "lineno", 1)
        last = getattr(node, "end_lineno", None) or first
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min([first, *(each.lineno for each in node.decorator_list)])
            last = max(node.lineno, node.body[0].lineno - 1)
        return SourcePlace(self, node.lineno if hasattr(node, "lineno") else first, first, last)


@dataclass(frozen=True)
class SourcePlace:
    """Lines of a source, both ends included, and the one that is named."""

    source: Source
    line: int
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.source.shown}:{self.line}"

    def ignores(self, number: str) -> bool:
        return any(number in self.source.ignored.get(line, ()) for line in range(self.first, self.last + 1))


def is_installed(path: Path) -> bool:
    """Whether it is somebody else's: a distribution's, or Python's."""
    return any(path.is_relative_to(folder) for folder in _INSTALLED) or not _INSTALLED_NAMES.isdisjoint(path.parts)


def read(files: Iterable[tuple[Path, str]], folder: Path) -> Iterator[Source]:
    """Parse what is worth it of files, given with their modules' names. folder: what paths are shown from."""
    for path, name in files:
        shown = str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
        try:
            text = path.read_text("utf-8")
            if _WORTH_READING.search(text):
                yield Source(path, name, shown, ast.parse(text), text.splitlines())
        except (OSError, SyntaxError, ValueError):
            # Whoever imports it is told.
            continue


def files_below(folder: Path, package: str) -> Iterator[tuple[Path, str]]:
    """Python files of a package, with their modules' names."""
    for path in sorted(folder.rglob("*.py")):
        inside = path.relative_to(folder)
        if not _LEFT_OUT.search(inside.as_posix()):
            parts = [*inside.parts[:-1], inside.stem] if inside.name != "__init__.py" else [*inside.parts[:-1]]
            yield path, ".".join([package, *parts])
