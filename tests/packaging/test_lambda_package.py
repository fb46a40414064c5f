"""The zip for Lambda: what is in it, for whom it is, and that it is the same wherever it is built."""

from __future__ import annotations

import _imp
import hashlib
import os
import re
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serverless.packaging import binaries, bytecode, limits, locked, plan
from serverless.packaging.building import Package, build_package
from serverless.packaging.errors import PackageError, SizeError
from tests.conftest import ROOT
from tests.packaging.conftest import FOLDERS, LEFT_IN_THE_TREE, PLANTED, copy_of_the_tree

pytestmark = pytest.mark.package

#: Importlib's number for all of Python 3.12, as its .pyc files begin with it.
MAGIC_OF_3_12 = struct.pack("<H", 3531) + b"\r\n"
#: PEP 552: by hash, not to be checked.
UNCHECKED_HASH = struct.pack("<I", 0b01)


@pytest.fixture(scope="module")
def zipped(lambda_package: Package) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(lambda_package.path) as archive:
        yield archive


def test_what_somebody_left_in_the_tree_is_not_packaged(lambda_package, zipped):
    assert [name for name in zipped.namelist() if PLANTED.encode() in zipped.read(name)] == []
    last_names = {name.rpartition("/")[2] for name in zipped.namelist()}
    assert last_names.isdisjoint({name.rpartition("/")[2] for name in LEFT_IN_THE_TREE} | {"link.json"})
    assert not [name for name in zipped.namelist() if "/." in f"/{name}"]


def test_people_are_told_which_files_stayed_behind(lambda_package):
    folders = [folder for folder in FOLDERS if folder not in ("", "serverless/local")]
    assert {f"{folder}/{name}" for folder in folders for name in LEFT_IN_THE_TREE} == set(lambda_package.behind)


def test_no_folder_of_the_machine_that_built_it_is_named(lambda_package, zipped):
    """A traceback would show it, and the bytes would differ between two machines."""
    folders = [str(ROOT).encode(), b"cloudqueue-package-", str(lambda_package.path.parent).encode()]
    assert not [name for name in zipped.namelist() if any(folder in zipped.read(name) for folder in folders)]
    assert b"/var/task/six.py" in zipped.read("__pycache__/six.cpython-312.pyc")


def test_every_library_is_for_the_functions_processor_and_python(zipped):
    libraries = {
        name: binaries.machine(zipped.open(name).read(64))
        for name in zipped.namelist()
        if re.search(r"\.so(\.|$)", name)
    }
    assert set(libraries.values()) == {"aarch64"}
    modules = [name for name in libraries if ".libs/" not in name]
    assert all(name.endswith((".cpython-312-aarch64-linux-gnu.so", ".abi3.so")) for name in modules)
    assert {name.partition("/")[0].partition(".")[0] for name in modules} >= {
        "psycopg_binary",
        "cryptography",
        "_cffi_backend",
    }


def test_every_module_has_byte_code_of_the_functions_python_that_is_never_checked(zipped):
    names = set(zipped.namelist())
    modules = {name for name in names if name.endswith(".py")}
    assert len(modules) > 1000
    for name in modules:
        folder, _, file = name.rpartition("/")
        compiled = f"{folder}{'/' * bool(folder)}__pycache__/{file[:-3]}.cpython-312.pyc"
        header = zipped.read(compiled)[:16]
        assert header[:8] == MAGIC_OF_3_12 + UNCHECKED_HASH, name
        # The hash that Python would compare, were it to check, is the source's.
        assert header[8:] == _imp.source_hash(int.from_bytes(MAGIC_OF_3_12, "little"), zipped.read(name)), name
    assert len([name for name in names if name.endswith(".pyc")]) == len(modules)


def test_the_package_holds_what_is_locked_less_what_is_left_out(lambda_package):
    shipped = plan.read(ROOT)
    pins = locked.parse((ROOT / shipped.requirements).read_text(), shipped.requirements)
    wanted = {pin.name: pin.version for pin in pins}
    for name in (rule.distribution for rule in shipped.leave_out):
        del wanted[name]
    assert lambda_package.manifest.distributions == wanted


def test_each_distribution_keeps_its_metadata_and_its_licence(lambda_package, zipped):
    names = zipped.namelist()
    folders = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    assert len(folders) == len(lambda_package.manifest.distributions)
    assert all(f"{folder}/METADATA" in names for folder in folders)
    assert not [name for name in names if name.endswith((".dist-info/RECORD", "/INSTALLER", "/direct_url.json"))]
    licensed = {
        name.partition("/")[0] for name in names if re.search(r"\.dist-info/.*(licen|copying)", name, re.IGNORECASE)
    }
    assert len(folders - licensed) <= 3, folders - licensed


def test_own_files_are_all_there_but_for_what_lambda_does_not_run(planted_tree, lambda_package, zipped):
    names = set(zipped.namelist())
    left = tuple(f"{path}/" for path in plan.read(planted_tree).except_files)
    assert {"serverless/local/", "serverless/fakesqs/", "serverless/packaging/"} <= set(left)
    for folder in ("django_app", "tasks", "serverless"):
        for path in (planted_tree / folder).rglob("*"):
            name = path.relative_to(planted_tree).as_posix()
            if path.is_file() and not path.is_symlink() and name not in lambda_package.behind:
                assert (name in names) is not name.startswith(left), name


def test_every_service_that_our_code_calls_is_described(zipped):
    """botocore's descriptions are trimmed to a list; a client of a service that is not on it cannot be built."""
    names = zipped.namelist()
    described = {name.split("/")[2] for name in names if name.startswith("botocore/data/") and name.count("/") > 2}
    called: set[str] = set()
    for name in names:
        if name.startswith(("django_app/", "tasks/", "serverless/")) and name.endswith(".py"):
            called |= set(re.findall(r"""\bclient\(\s*["']([a-z0-9-]+)["']""", zipped.read(name).decode()))
    assert {"s3", "sqs"} <= called
    assert called <= described


def test_the_zip_is_sorted_and_its_entries_have_one_date_and_mode(zipped):
    entries = zipped.infolist()
    assert [entry.filename for entry in entries] == sorted({entry.filename for entry in entries})
    assert {(entry.date_time, entry.external_attr >> 16) for entry in entries} == {((1980, 1, 1, 0, 0, 0), 0o100644)}


def test_the_same_tree_in_another_place_makes_the_same_bytes(lambda_package, planted_tree, tmp_path, monkeypatch):
    """A tree without what somebody left there, another temporary folder, another time zone, another mask, a day later."""
    elsewhere = tmp_path / "a" / "rather" / "deeper" / "folder"
    elsewhere.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    monkeypatch.setattr(tempfile, "tempdir", None)
    root = copy_of_the_tree(planted_tree, tmp_path / "other")
    for path in root.rglob("*.py"):
        os.utime(path, (1_900_000_000, 1_900_000_000))
    mask = os.umask(0o077)
    try:
        again = build_package("lambda", tmp_path / "again.zip", root=root)
    finally:
        os.umask(mask)
    assert again.manifest == lambda_package.manifest
    assert hash_of(again.path) == hash_of(lambda_package.path)


def test_without_byte_code_no_interpreter_is_needed_and_the_release_is_the_same(
    lambda_package, planted_tree, tmp_path, monkeypatch
):
    monkeypatch.setattr(bytecode, "_candidates", lambda python: iter(()))
    with pytest.raises(PackageError, match=r"No Python 3\.12 was found"):
        build_package("lambda", tmp_path / "web.zip", root=planted_tree)
    assert not (tmp_path / "web.zip").exists()
    bare = build_package("lambda", tmp_path / "web.zip", root=planted_tree, byte_code=False)
    assert bare.manifest == replace(lambda_package.manifest, byte_code=False)
    with zipfile.ZipFile(bare.path) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".pyc")]


def test_the_package_stays_below_its_limits_and_names_its_largest_part_where_it_does_not(lambda_package):
    shipped = plan.read(ROOT)
    limits.check(limits.measure(lambda_package.path), shipped)
    assert limits.measure(lambda_package.path).zip_bytes == lambda_package.path.stat().st_size
    with pytest.raises(SizeError, match=r"zip size [0-9.]+ MiB exceeds 1 MiB, zip_mebibytes in .* Largest: django "):
        limits.check(limits.measure(lambda_package.path), replace(shipped, zip_mebibytes=1))


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
