"""Packages, each built once a run: for Lambda from a tree in which somebody left what must not be packaged, and for
this machine by the command that people run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from serverless.packaging import bytecode, target, unpacked
from serverless.packaging.building import Package, build_package
from serverless.packaging.errors import PackageError
from tests.conftest import ROOT

#: Stands in every planted file.
PLANTED = "planted-b1946ac92492d2347c6235b4d2611184"
KEY = f"-----BEGIN RSA PRIVATE KEY-----\n{PLANTED}\n-----END RSA PRIVATE KEY-----\n"
LEFT_IN_THE_TREE = [
    ".env",
    "terraform.tfstate",
    "terraform.tfstate.backup",
    "db.sqlite3",
    "id_rsa",
    "server.pem",
    ".git/config",
    ".git/hooks/module.py",
    ".idea/workspace.xml",
    "views.py~",
    "static/.env.json",
]
FOLDERS = ["", "django_app", "tasks", "serverless", "serverless/local", "serverless/broker"]


def copy_of_the_tree(source: Path, root: Path) -> Path:
    """What the packager reads of a checkout, with dates of its own, without what was planted."""
    left_out = shutil.ignore_patterns("__pycache__", "link.json", *(Path(name).name for name in LEFT_IN_THE_TREE))
    for name in ("django_app", "tasks", "serverless", "requirements"):
        shutil.copytree(source / name, root / name, ignore=left_out, copy_function=shutil.copyfile)
    for name in ("pyproject.toml", "zappa_settings.json"):
        shutil.copyfile(source / name, root / name)
    return root


def plant(root: Path) -> None:
    """Leave secrets in every folder of a tree, and links to one outside of it."""
    outside = root.parent / "outside.json"
    outside.write_text(PLANTED)
    for folder in FOLDERS:
        for name in LEFT_IN_THE_TREE:
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(KEY)
        (root / folder / "link.json").symlink_to(outside)


def need_the_targets_interpreter() -> None:
    """Skip, or fail in CI, where byte code for Lambda's Python cannot be made."""
    try:
        bytecode.interpreter(target.read("lambda", ROOT).python)
    except PackageError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def planted_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in which secrets lie about."""
    root = copy_of_the_tree(ROOT, tmp_path_factory.mktemp("planted") / "tree")
    plant(root)
    return root


@pytest.fixture(scope="session")
def lambda_package(planted_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The function's package, built from the planted tree."""
    need_the_targets_interpreter()
    return build_package("lambda", tmp_path_factory.mktemp("lambda") / "web.zip", root=planted_tree)


@dataclass(frozen=True)
class Local:
    """A package for this machine, what its command printed, and where it is unzipped."""

    path: Path
    printed: str
    folder: Path

    def run(self, code: str, *options: str, **environment: str) -> str:
        """What code prints that runs in the unzipped package alone."""
        values = {**unpacked.ENVIRONMENT, "DATABASE_URL": "sqlite://", **environment}
        done = unpacked.run(self.folder, code, *options, environment=values)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout


@pytest.fixture(scope="session")
def local_package(tmp_path_factory: pytest.TempPathFactory) -> Local:
    folder = tmp_path_factory.mktemp("local")
    command = [
        sys.executable,
        "-m",
        "serverless.packaging",
        "--target",
        "local",
        "--report",
        "--output",
        folder / "web.zip",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return Local(folder / "web.zip", done.stdout, unpacked.unpack(folder / "web.zip", folder / "unzipped"))
