"""The rules by which the Lambda package is made; tests/packaging builds and runs real ones."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.markers import default_environment

from serverless.packaging import __main__ as command
from serverless.packaging import (
    archive,
    binaries,
    bytecode,
    contents,
    limits,
    locked,
    manifest,
    plan,
    report,
    statics,
    target,
    trimming,
    wheels,
)
from serverless.packaging.building import Package
from serverless.packaging.errors import PackageError, SizeError, UnknownNameError
from serverless.packaging.wheels import Installed
from tests.conftest import ROOT

ARM = target.function("python3.12", "arm64")
TABLE = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cloudqueue"]["package"]
HASH = "sha256:" + "0" * 64


def a_plan(**values: object) -> plan.Plan:
    return plan.parse(
        {
            "files": ["shop"],
            "except_files": [],
            "kinds": [".py", ".json"],
            "requirements": "requirements/web.txt",
            "zip_mebibytes": 10,
            "unzipped_mebibytes": 20,
            **values,
        }
    )


# What is listed ----------------------------------------------------------------------------------------------------


def test_the_shipped_plan_is_read_and_each_rule_has_a_reason():
    shipped = plan.read(ROOT)
    assert {"django_app", "tasks", "serverless"} <= set(shipped.files)
    assert all(len(rule.reason.split()) > 2 for rule in (*shipped.leave_out, *shipped.trim))
    assert shipped.zip_mebibytes < limits.AWS_ZIP_MEBIBYTES
    assert shipped.unzipped_mebibytes < limits.AWS_UNZIPPED_MEBIBYTES


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": []}, '"kind" is unknown, did you mean "kinds"?'),
        ({"trim": [{"distribution": "six", "drop": ["a"]}]}, "trim: six: reason is missing"),
        ({"trim": [{"distribution": "six", "drop": ["a"], "reason": " "}]}, "trim: six: the reason is empty"),
        ({"leave_out": [{"distribution": "six", "reason": "no", "keep": []}]}, '"keep" is unknown'),
    ],
)
def test_a_wrong_plan_is_refused_with_its_reason(values, message):
    with pytest.raises(PackageError) as caught:
        a_plan(**values)
    assert message in str(caught.value)


def test_a_plan_that_lacks_a_key_or_is_missing_is_refused(tmp_path):
    with pytest.raises(PackageError, match="kinds is missing"):
        plan.parse({key: value for key, value in TABLE.items() if key != "kinds"})
    (tmp_path / "pyproject.toml").write_text("[tool.other]\n")
    with pytest.raises(PackageError, match="has no"):
        plan.read(tmp_path)


# Our own files -----------------------------------------------------------------------------------------------------


def test_only_listed_kinds_under_listed_paths_are_taken():
    taken, behind = contents.choose(
        [
            "shop/views.py",
            "shop/static/shop.json",
            "shop/.env",
            "shop/.git/hooks/sample.py",
            "shop/db.sqlite3",
            "shop/id_rsa",
            "shop/terraform.tfstate",
            "shop/__pycache__/views.cpython-312.pyc",
            "shop/local/up.py",
            "shopping/views.py",
            "settings.py",
        ],
        a_plan(except_files=["shop/local"]),
    )
    assert taken == ["shop/static/shop.json", "shop/views.py"]
    assert behind == [
        "shop/.env",
        "shop/.git/hooks/sample.py",
        "shop/db.sqlite3",
        "shop/id_rsa",
        "shop/terraform.tfstate",
    ]


def test_a_file_that_is_listed_itself_is_taken_whatever_its_kind():
    assert contents.choose(["LICENSE", "NOTICE"], a_plan(files=["LICENSE"])) == (["LICENSE"], [])


def test_files_are_copied_and_links_are_not_followed(tmp_path):
    root, tree = tmp_path / "root", tmp_path / "tree"
    (root / "shop" / "deep").mkdir(parents=True)
    (root / "shop" / "deep" / "views.py").write_text("x = 1\n")
    (root / "secret.json").write_text("{}")
    (root / "outside").mkdir()
    (root / "outside" / "module.py").write_text("")
    (root / "shop" / "link.json").symlink_to(root / "secret.json")
    (root / "shop" / "folder").symlink_to(root / "outside")
    assert contents.copy(a_plan(), root, tree) == []
    assert archive.files(tree) == ["shop/deep/views.py"]


@pytest.mark.parametrize("kind", ["", "RSA ", "OPENSSH "])
def test_a_private_key_under_an_innocent_name_stops_the_build(tmp_path, kind):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "account.json").write_text(json.dumps({"key": f"-----BEGIN {kind}PRIVATE KEY-----\nMIIE"}))
    with pytest.raises(PackageError, match="shop/account.json holds a private key"):
        contents.copy(a_plan(), tmp_path, tmp_path / "tree")


def test_a_listed_path_that_does_not_exist_suggests_the_nearest(tmp_path):
    (tmp_path / "shop" / "local").mkdir(parents=True)
    with pytest.raises(UnknownNameError, match='did you mean "shop"'):
        contents.copy(a_plan(files=["shpo"]), tmp_path, tmp_path / "tree")
    with pytest.raises(UnknownNameError, match='did you mean "shop/local"'):
        contents.copy(a_plan(except_files=["shop/locale"]), tmp_path, tmp_path / "tree")


def test_a_distribution_never_replaces_a_file_of_ours(tmp_path):
    for folder in ("site", "tree"):
        (tmp_path / folder / "shop").mkdir(parents=True)
        (tmp_path / folder / "shop" / "views.py").write_text(folder)
    with pytest.raises(PackageError, match=r"shop/views.py is a file of ours and of a distribution"):
        contents.move(["shop/views.py"], tmp_path / "site", tmp_path / "tree")
    assert (tmp_path / "tree" / "shop" / "views.py").read_text() == "tree"


# The lock file -----------------------------------------------------------------------------------------------------


def pins(text: str) -> list[locked.Pin]:
    return list(locked.parse(text, "web.txt"))


def test_the_lock_file_is_read_whole():
    text = (ROOT / "requirements" / "web.txt").read_text()
    read = pins(text)
    assert len(read) == text.count("==") - text.count(" == ")
    assert sum(len(pin.hashes) for pin in read) == text.count("--hash=sha256:")
    assert all(len(value) == len(HASH) for pin in read for value in pin.hashes)


def test_what_pip_is_given_has_hashes_and_no_marker():
    (pin,) = pins(
        f"Typing_Extensions==4.16.0 ; python_version < '3.13' \\\n    --hash={HASH} \\\n    --hash={HASH}  # via kombu\n    # why\n"
    )
    assert pin.line() == f"typing-extensions==4.16.0 --hash={HASH} --hash={HASH}"


@pytest.mark.parametrize(
    "line", ["six", "six>=1 --hash=" + HASH, "six==1.17.0", "-r other.txt", "six @ file:///six.whl"]
)
def test_a_line_without_exact_version_and_hash_is_refused(line):
    with pytest.raises(PackageError, match="Write it anew with make lock"):
        pins(line)


@pytest.mark.parametrize(
    ("marker", "wanted"),
    [
        ("sys_platform == 'linux'", True),
        ("sys_platform == 'win32'", False),
        ("platform_machine == 'aarch64'", True),
        ("platform_machine == 'x86_64'", False),
        ("python_version < '3.12'", False),
        ("python_full_version >= '3.12.4' and python_full_version < '3.13'", True),
        ("platform_python_implementation != 'PyPy' and implementation_name == 'cpython'", True),
        ("os_name == 'nt' or platform_system == 'Darwin'", False),
    ],
)
def test_markers_are_judged_for_the_target_and_not_for_this_machine(marker, wanted):
    assert bool(locked.wanted(pins(f"six==1.17.0 ; {marker} --hash={HASH}"), ARM.markers())) is wanted


def test_the_target_sets_every_value_that_a_marker_may_ask_for():
    """packaging fills what is missing with this machine's values."""
    assert set(default_environment()) == set(ARM.markers())


def test_a_local_package_judges_markers_as_this_machine_does():
    assert target.local().markers() == default_environment()


def test_pip_still_judges_markers_for_its_own_machine(tmp_path):
    """Once it does not, serverless/packaging/locked.py need not."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-index",
        "--no-deps",
        "--only-binary=:all:",
        "--target",
        tmp_path,
    ]
    command += ["--disable-pip-version-check", "--platform", "win_amd64", "six==1.17.0 ; sys_platform == 'win32'"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Ignoring six" in done.stdout


# The target --------------------------------------------------------------------------------------------------------


def test_the_function_takes_wheels_that_its_c_library_can_load_best_first():
    assert ARM.tag == "cp312"
    assert ARM.platforms[0] == "manylinux_2_34_aarch64"
    assert ARM.platforms[-2:] == ("manylinux_2_17_aarch64", "manylinux2014_aarch64")
    assert "manylinux_2_35_aarch64" not in ARM.platforms
    assert target.function("python3.11", "x86_64").platforms[0] == "manylinux_2_26_x86_64"


def test_the_target_is_what_zappa_deploys(tmp_path):
    base = json.loads((ROOT / "zappa_settings.json").read_text())["base"]
    assert target.read("lambda", ROOT) == target.function(base["runtime"], base["architecture"])
    (tmp_path / "zappa_settings.json").write_text('{"base": {"runtime": "python3.12"}}')
    with pytest.raises(PackageError, match="base lacks architecture, django_settings"):
        target.read("lambda", tmp_path)


@pytest.mark.parametrize(
    ("runtime", "architecture", "message"),
    [
        ("python312", "arm64", 'runtime: "python312" is unknown, did you mean "python3.12"'),
        ("python3.12", "arm46", 'architecture: "arm46" is unknown, did you mean "arm64"'),
    ],
)
def test_a_runtime_that_aws_has_not_suggests_the_nearest(runtime, architecture, message):
    with pytest.raises(UnknownNameError) as caught:
        target.function(runtime, architecture)
    assert message in str(caught.value)


def test_an_unknown_target_is_refused():
    with pytest.raises(UnknownNameError, match='target: "locale" is unknown, did you mean "local"'):
        target.read("locale", ROOT)


# Distributions -----------------------------------------------------------------------------------------------------


def botocore() -> Installed:
    files = ["botocore/__init__.py", "botocore/data/endpoints.json"]
    files += [f"botocore/data/{name}/service.json" for name in ("ec2", "s3", "sqs")]
    return Installed("botocore", "1.0", files)


def rule(**values: object) -> plan.Trim:
    return a_plan(trim=[{"distribution": "botocore", "reason": "not called", **values}]).trim[0]


def test_a_rule_drops_what_it_names_and_keeps_what_it_excepts():
    made = botocore()
    trimming.trim([made], [rule(drop=["botocore/data/*/*"], keep=["botocore/data/s3/*"])])
    assert made.files == ["botocore/__init__.py", "botocore/data/endpoints.json", "botocore/data/s3/service.json"]


def test_a_rule_touches_its_own_distribution_only():
    made, other = botocore(), Installed("boto3", "1.0", ["boto3/data/s3/resources.json"])
    trimming.trim([made, other], [rule(drop=["*.json"])])
    assert other.files == ["boto3/data/s3/resources.json"]


@pytest.mark.parametrize("values", [{"drop": ["botocore/date/*"]}, {"drop": ["*"], "keep": ["botocore/data/sqss/*"]}])
def test_a_pattern_that_matches_nothing_is_an_error(values):
    with pytest.raises(PackageError, match=r"matches no file of botocore 1.0\. Correct it or take it out"):
        trimming.trim([botocore()], [rule(**values)])


def test_an_unknown_distribution_in_a_rule_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match='trim: "botcore" is unknown, did you mean "botocore"'):
        trimming.trim([botocore()], [rule(distribution="botcore", drop=["*"])])
    left_out = a_plan(leave_out=[{"distribution": "click-rpel", "reason": "not called"}]).leave_out
    with pytest.raises(UnknownNameError, match='leave_out: "click-rpel" is unknown, did you mean "click-repl"'):
        trimming.without(pins(f"click-repl==1.0 --hash={HASH}"), left_out)


def test_what_is_left_out_is_not_installed():
    left_out = a_plan(leave_out=[{"distribution": "Click_Repl", "reason": "not called"}]).leave_out
    kept = trimming.without(pins(f"click-repl==1.0 --hash={HASH}\nclick==8.0 --hash={HASH}"), left_out)
    assert [pin.name for pin in kept] == ["click"]


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("six.py", True),
        ("six-1.17.0.dist-info/METADATA", True),
        ("six-1.17.0.dist-info/entry_points.txt", True),
        ("six-1.17.0.dist-info/LICENSE", True),
        ("six-1.17.0.dist-info/licenses/vendored/THIRD-PARTY.txt", True),
        ("six-1.17.0.dist-info/RECORD", False),
        ("six-1.17.0.dist-info/INSTALLER", False),
        ("six-1.17.0.dist-info/REQUESTED", False),
        ("six-1.17.0.dist-info/direct_url.json", False),
        ("bin/celery", False),
        ("__pycache__/six.cpython-312.pyc", False),
    ],
)
def test_metadata_and_licences_stay_and_the_installers_notes_go(path, kept):
    assert wheels.worth_keeping(path) is kept


def test_an_environment_with_other_versions_collects_no_static_files():
    import django

    wheels.check_environment([locked.Pin("django", django.__version__, (HASH,))])
    with pytest.raises(PackageError, match=rf"django 1.0 is locked, but .* has {django.__version__}"):
        wheels.check_environment([locked.Pin("django", "1.0", (HASH,))])
    with pytest.raises(PackageError, match="has none"):
        wheels.check_environment([locked.Pin("no-such-distribution", "1.0", (HASH,))])


# Libraries and byte code -------------------------------------------------------------------------------------------


def elf(machine: int) -> bytes:
    return b"\x7fELF\x02\x01" + bytes(10) + struct.pack("<HH", 3, machine) + bytes(44)


def test_the_processor_is_read_from_the_header():
    assert binaries.machine(elf(183)) == "aarch64"
    assert binaries.machine(elf(62)) == "x86_64"
    assert binaries.machine(elf(40)) == "number 40"
    assert binaries.machine(elf(183)[:19]) is None
    assert binaries.machine(b"GROUP ( libc.so.6 )" + bytes(40)) is None


@pytest.mark.parametrize(
    ("name", "machine"),
    [("pq.cpython-312-aarch64-linux-gnu.so", 62), ("pq.cpython-311-aarch64-linux-gnu.so", 183), ("libpq.so.5.18", 62)],
)
def test_a_library_that_the_function_cannot_load_is_refused(tmp_path, name, machine):
    (tmp_path / "good.abi3.so").write_bytes(elf(183))
    (tmp_path / "good.cpython-312-aarch64-linux-gnu.so").write_bytes(elf(183))
    binaries.check(tmp_path, ARM)
    (tmp_path / name).write_bytes(elf(machine))
    with pytest.raises(PackageError, match=rf"{name} is for .* but the package is for Python 3.12 on aarch64"):
        binaries.check(tmp_path, ARM)


def test_byte_code_names_the_place_where_lambda_puts_it_and_checks_no_source(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "views.py").write_text("def view(): pass\n")
    bytecode.compile_all(tmp_path, Path(sys.executable))
    (made,) = (tmp_path / "shop" / "__pycache__").iterdir()
    assert made.read_bytes()[4:8] == struct.pack("<I", 1)
    assert b"/var/task/shop/views.py" in made.read_bytes()
    assert str(tmp_path).encode() not in made.read_bytes()


def test_what_cannot_be_compiled_is_named(tmp_path):
    (tmp_path / "broken.py").write_text("def (:\n")
    with pytest.raises(PackageError, match=r"cannot compile(.|\n)*broken.py"):
        bytecode.compile_all(tmp_path, Path(sys.executable))


def test_the_interpreter_at_hand_compiles_for_its_own_version():
    assert bytecode.interpreter(target.local().python) == Path(sys.executable)


def test_a_missing_interpreter_is_an_error_that_names_the_remedy():
    with pytest.raises(
        PackageError, match=r"No Python 3\.98 was found(.|\n)*uv python install 3\.98(.|\n)*--without-byte-code"
    ):
        bytecode.interpreter("3.98")


def test_an_interpreter_that_only_claims_its_version_is_passed_over(tmp_path, monkeypatch):
    """pyenv puts a stand-in on PATH for every version that it knows, and most of them fail."""
    pretender = tmp_path / "python3.98"
    pretender.write_text("#!/bin/sh\necho 3.98\nexit 127\n")
    pretender.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(PackageError, match=r"No Python 3\.98"):
        bytecode.interpreter("3.98")
    pretender.write_text("#!/bin/sh\necho 3.98\n")
    assert bytecode.interpreter("3.98") == pretender


# What it says of itself --------------------------------------------------------------------------------------------


def a_manifest(*installed: Installed) -> manifest.Manifest:
    return manifest.Manifest("0", "3.12", "aarch64", True, {}, manifest.owners(installed))


def test_a_shared_folder_is_divided_where_its_owners_part():
    made = a_manifest(
        Installed("storage", "1", ["google/cloud/storage/a.py"]),
        Installed("auth", "1", ["google/auth/a.py", "auth.py"]),
    )
    assert made.owners == {"google/cloud": "storage", "google/auth": "auth", "auth.py": "auth"}
    assert made.owner("google/auth/__pycache__/a.cpython-312.pyc") == "auth"
    assert made.owner("__pycache__/auth.cpython-312.pyc") == "auth"
    assert made.owner("shop/views.py") == manifest.OWN


PATHS = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join), unique=True)


@given(PATHS, PATHS)
def test_every_file_of_a_distribution_is_found_to_be_its_own(first, second):
    # A module of one that is a folder of the other cannot be installed.
    first = [f"{path}/x.py" for path in first]
    second = [f"{path}/y.py" for path in second]
    made = a_manifest(Installed("first", "1", first), Installed("second", "1", second))
    assert {made.owner(path) for path in first} <= {"first"}
    assert {made.owner(path) for path in second} <= {"second"}


def test_a_manifest_is_read_as_it_was_written():
    made = a_manifest(Installed("six", "1", ["six.py"]))
    assert manifest.parse(made.text()) == made


def test_the_release_follows_names_and_content_and_not_byte_code(tmp_path):
    def release() -> str:
        return manifest.release(tmp_path, archive.files(tmp_path))

    (tmp_path / "a.py").write_text("x = 1\n")
    first = release()
    (tmp_path / "a.pyc").write_text("anything")
    assert release() == first
    (tmp_path / "a.py").write_text("x = 2\n")
    second = release()
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, second, release()}) == 3


def test_djangos_list_of_static_files_is_sorted(tmp_path):
    written = tmp_path / "staticfiles.json"
    written.write_text('{"paths": {"b": "b.1", "a": "a.1"}, "hash": "1"}')
    statics._sort(written)
    assert list(json.loads(written.read_text())["paths"]) == ["a", "b"]


# The zip -----------------------------------------------------------------------------------------------------------


def test_the_same_files_make_the_same_bytes(tmp_path):
    made = []
    for name in ("first", "second"):
        tree = tmp_path / name / "tree"
        (tree / "shop").mkdir(parents=True)
        for file in sorted(("shop/a.py", "b.py"), reverse=name == "second"):
            (tree / file).write_text("x = 1\n" * 100)
            (tree / file).chmod(0o600 if name == "second" else 0o755)
            os.utime(tree / file, (1_000_000_000, 1_000_000_000 if name == "second" else 1_500_000_000))
        archive.write(tree, archive.files(tree), tmp_path / f"{name}.zip")
        made.append((tmp_path / f"{name}.zip").read_bytes())
    assert made[0] == made[1]
    with zipfile.ZipFile(tmp_path / "first.zip") as zipped:
        assert [(entry.filename, entry.external_attr >> 16) for entry in zipped.infolist()] == [
            ("b.py", 0o100644),
            ("shop/a.py", 0o100644),
        ]


def test_a_zip_replaces_the_one_before_and_leaves_nothing_beside_it(tmp_path):
    finished, output = tmp_path / "finished.zip", tmp_path / "build" / "web.zip"
    for content in ("one", "two"):
        finished.write_text(content)
        archive.put(finished, output)
        assert output.read_text() == content
    assert list(output.parent.iterdir()) == [output]


def sizes(*, zip_mebibytes: float, unzipped_mebibytes: float) -> limits.Sizes:
    mib = limits.MEBIBYTE
    owners = Counter({name: number * mib for number, name in enumerate("abcdef", 1)})
    return limits.Sizes(int(zip_mebibytes * mib), int(unzipped_mebibytes * mib), owners, owners)


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        (sizes(zip_mebibytes=11, unzipped_mebibytes=5), "zip size 11.0 MiB exceeds 10 MiB, zip_mebibytes in"),
        (sizes(zip_mebibytes=5, unzipped_mebibytes=21), "unzipped size 21.0 MiB exceeds 20 MiB, unzipped_mebibytes in"),
    ],
)
def test_a_package_above_a_limit_is_refused_and_names_the_largest(measured, message):
    with pytest.raises(SizeError) as caught:
        limits.check(measured, a_plan())
    assert message in str(caught.value)
    assert "Largest: f 6.0, e 5.0, d 4.0, c 3.0, b 2.0. Trim" in str(caught.value)


def test_a_plan_cannot_allow_more_than_aws_takes():
    generous = a_plan(zip_mebibytes=1000, unzipped_mebibytes=1000)
    limits.check(sizes(zip_mebibytes=50, unzipped_mebibytes=250), generous)
    with pytest.raises(SizeError, match="exceeds 50 MiB, what AWS Lambda takes"):
        limits.check(sizes(zip_mebibytes=50.1, unzipped_mebibytes=60), generous)
    with pytest.raises(SizeError, match="exceeds 250 MiB, what AWS Lambda takes"):
        limits.check(sizes(zip_mebibytes=50, unzipped_mebibytes=250.1), generous)


# The report --------------------------------------------------------------------------------------------------------


def test_import_times_are_read_and_added_up_by_owner():
    text = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:      2000 |       2000 |     django.utils\n"
        "something that a module printed\n"
        "import time:      1500 |       3500 |   django\n"
        "import time:       500 |        500 | json.decoder\n"
        "import time:      3000 |       3000 | shop.views\n"
    )
    entries = list(report.parse(text))
    assert [(entry.module, entry.own_us) for entry in entries] == [
        ("django.utils", 2000),
        ("django", 1500),
        ("json.decoder", 500),
        ("shop.views", 3000),
    ]
    rows = report.imports_text(entries, a_manifest(Installed("django", "5", ["django/__init__.py"]))).splitlines()
    assert [row.split(maxsplit=1) for row in rows[1:5]] == [
        ["3.5", "django"],
        ["3.0", "own files"],
        ["0.5", "standard library"],
        ["7.0", "in all"],
    ]
    assert rows[-4].endswith("3.0  shop.views")


# The command -------------------------------------------------------------------------------------------------------


def run_command(monkeypatch: pytest.MonkeyPatch, build: Callable[..., Package], *arguments: str) -> int:
    monkeypatch.setattr(command, "build_package", build)
    monkeypatch.setattr(sys, "argv", ["packaging", *arguments])
    return command.main()


def test_the_command_says_what_it_built_what_stayed_behind_and_that_byte_code_is_missing(monkeypatch, capsys):
    def build(name: str, output: Path | None, *, byte_code: bool) -> Package:
        assert (name, output, byte_code) == ("local", Path("a.zip"), False)
        measured = sizes(zip_mebibytes=11, unzipped_mebibytes=21)
        return Package(Path("a.zip"), a_manifest(), measured, ["shop/.env"])

    assert run_command(monkeypatch, build, "--target", "local", "--output", "a.zip", "--without-byte-code") == 0
    printed = capsys.readouterr()
    assert printed.out == "a.zip: 11.0 MiB, 21.0 unzipped, release 0, Python 3.12 on aarch64\n"
    assert "left behind: shop/.env" in printed.err
    assert "warning: without byte code each cold start compiles everything anew" in printed.err


def test_the_command_fails_with_the_reason_and_no_traceback(monkeypatch, capsys):
    def build(name: str, output: Path | None, *, byte_code: bool) -> Package:
        assert (name, output, byte_code) == ("lambda", None, True)
        raise PackageError("six is too large")

    assert run_command(monkeypatch, build) == 1
    assert capsys.readouterr().err == "six is too large\n"
