"""`manage.py check` itself: silent on what is shipped, loud on a project in which everything is wrong."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core import checks as django_checks
from django.db import connection
from django.utils import timezone

from django_app import checks
from django_app.checks import running
from django_app.checks.project import Project
from django_app.checks.tables import is_there
from django_app.ledger.models import Run, Schedule
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "checks.md").read_text()
#: Only a database shows them.
OF_THE_DATABASE = {"W015", "W017"}
PRODUCTION = {
    "SECRET_KEY": "long, random, and of this test alone: 4hX8w2Qz7Lk5Rv1Nc9Tb3Ym6Js0Pd",
    "DATABASE_URL": "postgres://cloudqueue@db.example/cloudqueue",
    "PUBLIC_URL": "https://site.example",
    "QUEUE_URL_PREFIX": "https://sqs.eu-central-1.amazonaws.com/111122223333/cloudqueue-production-",
    "RUN_KEYS": Fernet.generate_key().decode(),
}
LAPTOP = {"SECRET_KEY": "of this test"}


def manage(*words: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with these variables alone."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "manage.py", *words],
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def numbers(done: subprocess.CompletedProcess[str]) -> set[str]:
    return set(re.findall(r"\(cloudqueue\.([EW]\d{3})\)", done.stderr))


def all_numbers() -> set[str]:
    """Of all checks, from the first words of their docstrings."""
    every = (*running.AT_ANY_TIME, *running.IN_PRODUCTION, *running.IN_THE_DATABASE)
    return {str(each.__doc__)[:4] for each in every}


# What is shipped -----------------------------------------------------------------------------------------------------


def test_what_is_shipped_is_silent_in_production():
    done = manage("check", "--deploy", "--tag", "cloudqueue", "--fail-level", "WARNING", **PRODUCTION)
    assert (done.returncode, done.stderr) == (0, "")
    assert "no issues" in done.stdout


def test_what_is_shipped_is_silent_on_a_laptop():
    done = manage("check", "--fail-level", "WARNING", **LAPTOP)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_laptop_is_not_fit_for_production():
    done = manage("check", "--deploy", "--tag", "cloudqueue", **LAPTOP)
    assert done.returncode == 1
    assert numbers(done) == {"E024", "E025", "E026", "E027", "E028", "E029"}


# A project in which everything is wrong ------------------------------------------------------------------------------

WRONG_TASKS = """
from celery import chord, shared_task
from django.contrib.auth.models import User
from django.db import transaction


@shared_task(reject_on_worker_lost=False, ignore_result=True)
def part(number): ...


@shared_task(queue="nowhere")
def lost(): ...


@shared_task(time_limit=3000, recorded=False)
def whole(user: User):
    return part.delay(1).get()


@shared_task
def patient():
    return part.delay(1).get()  # cloudqueue: ignore[E014] of this test


@shared_task
def begin(numbers):
    chord([part.s(each) for each in numbers])(whole.s())
    with transaction.atomic():
        whole.delay(User.objects.get(pk=1))
"""
WRONG_SETTINGS = """
from django_app.settings import *

INSTALLED_APPS = [*INSTALLED_APPS, "shop"]
CELERY_BEAT_SCHEDULE = {"nightly": {"task": "shop.tasks.partt", "schedule": 3600}}
"""
WRONG_CELERY = """
app.conf.accept_content = ["json", "pickle"]
app.conf.task_queues = [*app.conf.task_queues, KombuQueue("attic")]
app.conf.broker_transport_options = {**app.conf.broker_transport_options, "lease_seconds": 7200}
"""


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that started from here, and went wrong wherever it could."""
    folder = tmp_path_factory.mktemp("wrong")
    for name in ("django_app", "tasks", "serverless"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "manage.py", folder)
    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").write_text("")
    (folder / "shop" / "tasks.py").write_text(WRONG_TASKS)
    (folder / "shop_settings.py").write_text(WRONG_SETTINGS)
    with (folder / "tasks" / "celery.py").open("a") as file:
        file.write(WRONG_CELERY)
    queues = json.loads((folder / "tasks" / "topology.json").read_text())
    queues["queues"]["datasets"]["prefetch"] = 10
    (folder / "tasks" / "topology.json").write_text(json.dumps(queues))
    stages = json.loads((ROOT / "zappa_settings.json").read_text())
    stages["dev"]["timeout_seconds"] = 300
    stages["dev"]["events"] = [{"name": "x", "function": "x", "kwargs": {"event": "nonesuch"}}]
    stages["staging"]["keep_warm"] = True
    stages["production"]["aws_environment_variables"] = {"DATABASE_URL": "postgres://me:hush@db.example/x"}
    (folder / "zappa_settings.json").write_text(json.dumps(stages))
    return folder


def check_wrong(wrong: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**LAPTOP, "DJANGO_SETTINGS_MODULE": "shop_settings", "DATABASE_URL": f"sqlite:///{wrong / 'db.sqlite3'}"}
    return manage("check", "--deploy", "--tag", "cloudqueue", *words, folder=wrong, **given, **environment)


def test_every_check_fires_on_a_project_in_which_everything_is_wrong(wrong):
    done = check_wrong(wrong, DEBUG="true", EXTRA_HOSTS="*", RESULT_BACKEND="disabled")
    assert done.returncode == 1, done.stderr
    others = check_wrong(wrong, RESULT_BACKEND="cache+memory://", RECORD_RUNS="false")
    assert numbers(others) >= {"E006", "E013"}
    assert numbers(done) | numbers(others) == all_numbers() - OF_THE_DATABASE
    assert "hush" not in done.stderr + others.stderr
    for line in done.stderr.splitlines():
        if line.strip().startswith("HINT"):
            assert re.search(r" See docs/checks\.md#[ew]\d{3}$", line), line


def test_a_finding_names_its_file_and_line_relative_to_the_project(wrong):
    said = check_wrong(wrong).stderr
    place = next(n for n, line in enumerate(WRONG_TASKS.splitlines(), 1) if ".get()" in line)
    assert f"\nshop/tasks.py:{place}: (cloudqueue.E014) task shop.tasks.whole waits for another task's result" in said
    # The other place has a comment with a reason.
    assert said.count("cloudqueue.E014") == 1


def test_findings_can_be_silenced_as_djangos_own(wrong):
    (wrong / "quiet_settings.py").write_text(
        "from shop_settings import *\n\nSILENCED_SYSTEM_CHECKS = ['cloudqueue.E014']\n"
    )
    done = manage(*("check", "--tag", "cloudqueue"), folder=wrong, **LAPTOP, DJANGO_SETTINGS_MODULE="quiet_settings")
    assert "E014" not in done.stderr
    assert "E011" in done.stderr
    assert "(1 silenced)" in done.stderr


# The database --------------------------------------------------------------------------------------------------------


def test_an_empty_database_can_be_migrated(tmp_path):
    url = f"sqlite:///{tmp_path / 'db.sqlite3'}"
    done = manage("migrate", "--verbosity", "0", **LAPTOP, DATABASE_URL=url)
    assert (done.returncode, done.stderr) == (0, "")
    done = manage("check", "--database", "default", "--fail-level", "WARNING", **LAPTOP, DATABASE_URL=url)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.django_db
def test_a_table_that_is_not_migrated_yet_is_not_asked():
    assert is_there(Schedule)
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {Schedule._meta.db_table} DROP COLUMN pause_reason")
    assert not is_there(Schedule)
    assert told() == []


def a_run(task: str, number: int, state: str = "queued") -> Run:
    now = timezone.now()
    return Run(
        id=f"{task}-{number}", task=task, queue="default", state=state, created_at=now, publish_claimed_until=now
    )


def told(**given: Any) -> list[str]:
    return [f"{each.id} {each}" for each in checks.in_the_database(databases=["default"], **given)]


@pytest.mark.django_db
def test_runs_of_a_task_that_was_renamed_are_found_with_its_new_name():
    assert told() == []
    ended = [a_run("shop.gone", number, "succeeded") for number in range(3)]
    Run.objects.bulk_create([*ended, *(a_run("shop.notifications.by_post.send_report", number) for number in range(2))])
    Run.objects.bulk_create([a_run("tasks.emails.send_report", 1), a_run("celery.backend_cleanup", 1)])
    (only,) = told()
    assert only.startswith(
        "cloudqueue.W015 task shop.notifications.by_post.send_report: (cloudqueue.W015) 2 runs of it have not ended"
    )
    assert 'Is it "tasks.emails.send_report" now? Keep the old name' in only


@pytest.mark.django_db
def test_a_schedule_of_the_table_that_this_release_cannot_run_is_found():
    now = timezone.now()
    given = {"timing": "0 8 * * *", "created_at": now, "changed_at": now, "checked_until": now}
    task = "tasks.reports.mail_report"
    Schedule.objects.bulk_create(
        [
            Schedule(name="good", task=task, args=["id"], **given),
            Schedule(name="gone", task="tasks.reports.mail_raport", **given),
            Schedule(name="unfit", task=task, args=[1, 2, 3], **given),
            Schedule(name="paused", task="shop.gone", paused_at=now, **given),
            Schedule(name="over", task="shop.gone", ends_at=now - datetime.timedelta(days=1), **given),
            Schedule(name="of code", task="shop.gone", source="code", **given),
        ]
    )
    gone, unfit = told()
    assert gone.startswith(
        'cloudqueue.W017 schedule "gone": (cloudqueue.W017) task "tasks.reports.mail_raport" is none of'
    )
    assert "cannot be called with 3 positional arguments" in unfit


def test_the_database_is_asked_only_if_it_was_named(django_db_blocker):
    with django_db_blocker.block():
        assert checks.in_the_database(databases=None) == []
        assert checks.in_the_database(databases=["other"]) == []


def test_what_is_read_is_the_projects_own():
    files = Project.of_this_process().files
    assert {ROOT / "django_app" / "datasets" / "views.py", ROOT / "tasks" / "reports.py"} <= set(files)
    assert files[ROOT / "django_app" / "datasets" / "views.py"] == "django_app.datasets.views"
    assert not [path for path in files if "site-packages" in path.parts or "migrations" in path.parts]


# Django, and the documentation ---------------------------------------------------------------------------------------


def test_django_knows_the_checks_by_their_tag():
    known = django_checks.registry.registry
    assert {checks.at_any_time, checks.in_the_database} <= known.registered_checks
    assert checks.in_production in known.deployment_checks
    assert known.tag_exists("cloudqueue")


def test_no_check_is_loaded_with_the_site_or_run_when_tasks_are_imported():
    code = """
import sys
import django; django.setup()
import django_app.wsgi
from celery import current_app
current_app.loader.import_default_modules()
print(sorted(name for name in sys.modules if name.startswith("django_app.checks.") or name == "django.core.checks.urls_"))
"""
    environment = {**os.environ, **LAPTOP, "DJANGO_SETTINGS_MODULE": "django_app.settings"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_check_has_a_section_and_every_section_a_check():
    sections = re.findall(r"^### ([EW]\d{3})$", PAGE, re.MULTILINE)
    assert len(sections) == len(set(sections))
    assert set(sections) == all_numbers()


def test_every_number_in_the_code_is_a_checks_own():
    source = "".join(path.read_text() for path in (ROOT / "django_app" / "checks").glob("*.py"))
    assert set(re.findall(r'"([EW]\d{3})"', source)) == all_numbers()
