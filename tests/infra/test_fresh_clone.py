"""The README followed literally: a fresh clone, an empty environment, the two commands and the others."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Iterator[Path]:
    """What is committed, and nothing else."""
    folder = tmp_path_factory.mktemp("fresh") / "cloudqueue"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def empty_environment() -> dict[str, str]:
    """What a login shell has, and pip's own settings, which name the package index and its certificates."""
    kept = ("PATH", "HOME", "TMPDIR", "SSL_CERT_FILE")
    return {
        name: value for name, value in os.environ.items() if name in kept or name.startswith(("PIP_", "PYENV_", "UV_"))
    }


def make_up(clone: Path) -> tuple[float, str]:
    """Run `make up` until it says that it is up, then press Ctrl-C; the seconds it took and what it printed."""
    began = time.monotonic()
    process = subprocess.Popen(
        ["make", "up"],
        cwd=clone,
        env=empty_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
    reader.start()
    try:
        wait_for(lambda: "Ctrl-C stops everything" in "".join(lines) or process.poll() is not None, "being up", 240)
        took = time.monotonic() - began
        assert process.poll() is None, "".join(lines)
    finally:
        # As a terminal does: to the whole foreground group, make included.
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
        reader.join(10)
    assert "stopped" in "".join(lines)
    return took, "".join(lines)


def test_make_up_comes_up_from_nothing_and_then_quickly(clone):
    first, said = make_up(clone)
    assert re.search(r"site\s+http://127\.0\.0\.1:\d+", said)
    assert re.search(r"sign in\s+demo / \S+", said)
    later = min(make_up(clone)[0] for _ in range(2))
    print(f"first start {first:.1f} s, later start {later:.1f} s")
    assert first < 120
    assert later < 10


def make(clone: Path, goal: str) -> str:
    done = subprocess.run(
        ["make", goal], cwd=clone, env=empty_environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_make_demo_says_where_report_and_mail_are(clone):
    said = make(clone, "demo")
    files = {Path(path).name: Path(path) for path in re.findall(r"^\s*up \|\s+(/\S+)$", said, re.MULTILINE)}
    assert set(files) == {"report.html", "report.pdf", "statistics.csv", "mail.eml"}
    assert all(file.stat().st_size > 1000 for file in files.values())
    assert "336,776" in files["report.html"].read_text()


def test_make_lock_changes_nothing_where_nothing_changed(clone):
    make(clone, "lock")
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True)
    assert changed.stdout == ""


def test_make_help_lists_every_goal(clone):
    listed = {line.split()[0] for line in make(clone, "help").splitlines()}
    phony = re.search(r"^\.PHONY: (.*)$", (clone / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert listed == set(phony)


def test_make_clean_leaves_what_was_cloned(clone):
    make(clone, "clean")
    assert not (clone / ".venv").exists()
    assert not (clone / ".local").exists()
