"""Byte code that Lambda uses as it is.

A .pyc names the date and size of its source, and a zip's dates are not those of the source: Python would compile all
of it anew at each cold start, and could not store the result. An unchecked hash says that nobody edits the source.
https://peps.python.org/pep-0552/
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from serverless.packaging.errors import PackageError

#: Where Lambda puts the package: what tracebacks name.
ROOT = "/var/task"
_COMPILE_DEADLINE_SECONDS = 600
_ASK_DEADLINE_SECONDS = 30


def compile_all(tree: Path, interpreter: Path) -> None:
    """Compile every module of the tree.

    One process, in sorted order, with a fixed hash seed: the result depends on sources and interpreter alone.
    """
    command = [str(interpreter), "-s", "-S", "-P", "-m", "compileall", "-q", "-f"]
    command += ["--invalidation-mode", "unchecked-hash", "-s", str(tree), "-p", ROOT, str(tree)]
    done = subprocess.run(
        command,
        env={"PATH": os.environ.get("PATH", ""), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=_COMPILE_DEADLINE_SECONDS,
    )
    if done.returncode:
        raise PackageError(f"{interpreter} cannot compile what is to be packaged; mend it:\n{done.stdout}{done.stderr}")


def interpreter(python: str) -> Path:
    """An interpreter of a version such as "3.12": this one, one on PATH, one of pyenv's or one of uv's.

    Raises PackageError if there is none: byte code is valid for one minor version only.
    """
    for candidate in _candidates(python):
        if _version(candidate) == python:
            return candidate
    raise PackageError(
        f"No Python {python} was found, and Lambda's byte code needs one: it is valid for one minor version. "
        f"Install it (uv python install {python}, or pyenv install {python}) so that python{python} is on PATH, "
        "or build with --without-byte-code, which makes each cold start slower by about two seconds."
    )


def _candidates(python: str) -> Iterator[Path]:
    yield Path(sys.executable)
    on_path = shutil.which(f"python{python}")
    if on_path:
        yield Path(on_path)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob(f"versions/{python}*/bin/python{python}"), reverse=True)
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv:
        found = _ask([uv, "python", "find", "--no-python-downloads", "--managed-python", python])
        if found:
            yield Path(found)


def _version(candidate: Path) -> str:
    return _ask([str(candidate), "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])


def _ask(command: list[str]) -> str:
    """The last line that a command prints; empty if it fails, as pyenv's stand-ins do."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ASK_DEADLINE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().rpartition("\n")[2] if done.returncode == 0 else ""
