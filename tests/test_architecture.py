"""The floors of docs/architecture.md, as import-linter's contracts in pyproject.toml state them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def lint(config: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--config", config]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_imports_point_down():
    done = lint(ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout


def test_a_contract_that_is_broken_is_noticed(tmp_path):
    """The linter would see a wrong import: a contract against one that exists fails."""
    config = tmp_path / "pyproject.toml"
    config.write_text(PYPROJECT.replace('forbidden_modules = ["boto3", "botocore"]', 'forbidden_modules = ["django"]'))
    done = lint(config)
    assert done.returncode == 1
    assert "BROKEN" in done.stdout


@pytest.mark.parametrize("contract", tomllib.loads(PYPROJECT)["tool"]["importlinter"]["contracts"])
def test_every_contract_says_its_reason_in_its_name(contract):
    assert len(contract["name"].split()) >= 6


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_the_topology_loads_neither_celery_nor_django():
    assert loaded_by("import tasks.topology").isdisjoint({"celery", "kombu", "django", "boto3", "django_app"})


def test_the_site_loads_no_parser_and_no_charts():
    loaded = loaded_by("import django_app.wsgi, django_app.datasets.views, tasks.datasets, tasks.reports, tasks.emails")
    assert "celery" in loaded
    assert loaded.isdisjoint({"polars", "numpy", "datasketches", "matplotlib", "reportlab", "moto", "pycurl"})


def test_celery_finds_the_app_and_the_tasks():
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", "report"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "task_acks_late: True" in done.stdout
    code = "from tasks.celery import app; app.loader.import_default_modules(); print(*app.tasks)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"tasks.datasets.profile_dataset", "tasks.reports.build_report", "tasks.emails.send_report"} <= set(
        found.split()
    )
