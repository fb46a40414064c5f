"""The worker's image, as far as it can be judged without building it: the Dockerfile's rules, and what is let in."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT

SECRET = re.compile(r"SECRET|PASSWORD|TOKEN|_KEY|CREDENTIAL|DATABASE_URL", re.IGNORECASE)


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, arguments) of a Dockerfile, continued lines joined and comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(name.upper(), rest.strip()) for name, _, rest in found]


DOCKERFILE = instructions((ROOT / "Dockerfile").read_text())


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for name, rest in DOCKERFILE:
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, rest))
    return found


FINAL = stages()[-1]


def of(stage: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for each, rest in stage if each == name]


def test_both_stages_stand_on_the_same_image_by_tag_and_by_a_digest_that_must_be_given():
    bases = [rest.split()[0] for name, rest in DOCKERFILE if name == "FROM"]
    assert bases == ["python:${PYTHON_TAG}@${PYTHON_DIGEST}"] * 2
    declared = [rest for name, rest in DOCKERFILE[: DOCKERFILE.index(next(i for i in DOCKERFILE if i[0] == "FROM"))]]
    assert declared == ["PYTHON_TAG=3.11-slim-bookworm", "PYTHON_DIGEST"]


def test_packages_are_installed_from_the_lock_alone_and_only_as_wheels():
    (install,) = [each for each in of(stages()[0], "RUN") if "install" in each]
    assert {"--require-hashes", "--no-deps", "--only-binary=:all:", "--no-cache-dir"} <= set(install.split())
    assert re.findall(r"-r (\S+\.txt)", install) == ["requirements/worker.txt"]


def test_the_final_stage_has_no_installer_and_no_compiler_and_fetches_nothing():
    (run,) = of(FINAL, "RUN")
    assert "pip uninstall" in run
    assert not re.search(r"apt|apk|curl|wget|pip install|gcc", run)
    assert all("--from=build" in each for each in of(FINAL, "COPY"))
    assert of(FINAL, "ADD") == []


def test_it_runs_as_a_user_by_number_who_owns_nothing_of_the_code():
    assert of(FINAL, "USER") == ["10001:10001"]
    after = FINAL[FINAL.index(("USER", "10001:10001")) :]
    assert not {"RUN", "COPY", "ADD"} & {name for name, _ in after}
    assert not any("--chown" in rest for _, rest in DOCKERFILE)


def test_only_tmp_is_written_to():
    assert [json.loads(each) for each in of(FINAL, "VOLUME")] == [["/tmp"]]
    (env,) = of(FINAL, "ENV")
    set_to = dict(re.findall(r"(\w+)=(\S+)", env))
    assert set_to["LIVENESS_FILE"].startswith("/tmp/")
    assert set_to["HOME"] == "/tmp"
    assert set_to["PYTHONDONTWRITEBYTECODE"] == set_to["PYTHONUNBUFFERED"] == "1"
    assert set_to["LOG_FORMAT"] == "json"


def test_commands_are_in_exec_form_and_signals_reach_process_1():
    for name in ("ENTRYPOINT", "CMD"):
        (form,) = of(FINAL, name)
        assert all(isinstance(part, str) for part in json.loads(form))
    assert json.loads(of(FINAL, "ENTRYPOINT")[0]) == ["python", "-m", "serverless.container.init"]
    assert of(FINAL, "STOPSIGNAL") == ["SIGTERM"]


def test_the_health_check_is_the_one_that_the_documentation_gives_for_ecs():
    (health,) = of(FINAL, "HEALTHCHECK")
    options, _, command = health.partition("CMD ")
    assert json.loads(command) == ["python", "-m", "serverless.entrypoints.worker_health"]
    assert dict(re.findall(r"--([a-z-]+)=(\d+)", options)) == {
        "interval": "30",
        "timeout": "5",
        "start-period": "60",
        "retries": "3",
    }
    told = json.loads(re.search(r'^\{"command".*\}$', (ROOT / "docs/containers.md").read_text(), re.MULTILINE)[0])
    assert told == {
        "command": ["CMD", *json.loads(command)],
        "interval": 30,
        "timeout": 5,
        "startPeriod": 60,
        "retries": 3,
    }


def test_it_is_labelled_as_images_are():
    (labels,) = of(FINAL, "LABEL")
    named = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", labels))
    assert named == {"title", "description", "licenses", "version", "revision", "created"}


def test_nothing_secret_is_built_in():
    assert not [rest for name, rest in DOCKERFILE if name in ("ARG", "ENV") and SECRET.search(rest)]


# What is let in ------------------------------------------------------------------------------------------------------

IGNORE = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]


def is_let_in(path: str) -> bool:
    """Docker's rule: the last line that fits a path, or a folder above it, decides."""
    let_in = True
    parts = path.split("/")
    above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    for line in IGNORE:
        pattern = line.removeprefix("!")
        tried = [pattern, pattern.removeprefix("**/")]
        if any(fnmatch.fnmatchcase(each, one) for each in above for one in tried) or (
            pattern.startswith("**/") and any(fnmatch.fnmatchcase(part, pattern[3:]) for part in parts)
        ):
            let_in = line.startswith("!")
    return let_in


@pytest.mark.parametrize(
    "path",
    [
        *(".git/config", ".env", ".venv/bin/python", ".local/secret-key", "tests/conftest.py", "Dockerfile"),
        *("requirements/dev.txt", "infra/terraform/envs/production.tfvars", "docs/tasks.md", "build/web.zip"),
        *("serverless/local/cloud.py", "serverless/packaging/plan.py", "tasks/__pycache__/celery.cpython-311.pyc"),
    ],
)
def test_what_the_worker_does_not_run_stays_out(path):
    assert not is_let_in(path)


@pytest.mark.parametrize(
    "path",
    [
        *("manage.py", "requirements/worker.txt", "tasks/topology.json", "tasks/runtime/steward/process.py"),
        *("django_app/datasets/templates/datasets/mail.html", "serverless/entrypoints/worker.py", "serverless/aws.py"),
    ],
)
def test_what_the_worker_runs_is_let_in(path):
    assert is_let_in(path)


def test_what_is_copied_is_what_the_package_for_lambda_holds():
    """One list of folders: a project's own app is added to the package's and must not be missing here."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        packed = tomllib.load(file)["tool"]["cloudqueue"]["package"]
    copied = [each.split()[0] for each in of(stages()[0], "COPY")]
    assert {each for each in copied if Path(ROOT, each).is_dir()} == set(packed["files"])
    let_out = {f"{folder}/x.py" for folder in packed["except_files"]}
    assert not [path for path in let_out if is_let_in(path)]


# The linter ----------------------------------------------------------------------------------------------------------


def test_hadolint_finds_nothing():
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no hadolint: install requirements/dev.txt")
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
