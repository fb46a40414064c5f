"""The worker's image as it would run, without building it: its code, its packages, its environment and nothing else.

Where this machine lets us (root and Linux), also its namespaces: process 1 of its own, a user without rights, a root that
is read-only, and a /tmp in memory. Elsewhere the same commands run as whoever runs the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serverless.local.cloud import environment
from tests.conftest import ROOT
from tests.integration.boxes import USER, VOLUME, Image, copy_code, has_namespaces, install
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

WORKER = ("python", "-m", "serverless.entrypoints.worker", "--pool", "general")
HEALTH = ("python", "-m", "serverless.entrypoints.worker_health")


@pytest.fixture(scope="module")
def image(cloud_url: str) -> Iterator[Image]:
    folder = Path(tempfile.mkdtemp(prefix="cloudqueue-image-"))
    folder.chmod(0o755)
    python = install(folder / "packages")
    copy_code(folder / "code", python)
    for each in ("volume", "tmp"):
        (folder / each).mkdir()
        (folder / each).chmod(0o777)
    is_boxed = has_namespaces()
    database = (VOLUME if is_boxed else folder / "volume") / "db.sqlite3"
    variables = {
        **environment(cloud_url),
        "SECRET_KEY": "of the container",
        "DATABASE_URL": f"sqlite:///{database}",
        "PUBLIC_URL": "https://cloudqueue.example",
    }
    made = Image(folder, python, variables, is_boxed)
    try:
        yield made
    finally:
        for container in made.running:
            container.process.kill()
            container.process.wait(30)
        subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def outside(image: Image, code: str) -> str:
    """Run Python in a producer's process, on the same database."""
    variables = {**image.variables, "DATABASE_URL": f"sqlite:///{image.volume / 'db.sqlite3'}"}
    done = subprocess.run(
        [sys.executable, "-c", f"import django; django.setup()\n{code}"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DJANGO_SETTINGS_MODULE": "django_app.settings", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def events(text: str, event: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [each for each in found if each.get("event") == event]


@pytest.fixture(scope="module")
def migrated(image: Image) -> Image:
    done = image.run("python", "manage.py", "migrate", "--verbosity=0")
    assert done.returncode == 0, done.stdout + done.stderr
    return image


def test_a_worker_of_an_empty_database_waits_and_then_gives_up_with_what_to_do(image):
    empty = image.variables["DATABASE_URL"].replace("db.sqlite3", "empty.sqlite3")
    done = image.run(*WORKER, "--check", "--patience=15", DATABASE_URL=empty)
    assert done.returncode == 75, done.stdout + done.stderr
    (refused,) = events(done.stderr, "start_refused")
    assert "migrations of this release are not applied" in refused["error"]
    assert "Run `python manage.py migrate` from this image as a one-off task" in refused["error"]
    assert refused["tries"] > 1
    assert "Traceback" not in done.stderr


def test_migrations_and_other_commands_run_from_the_same_image(migrated):
    for command in (["check"], ["migrate", "--check"], ["clearsessions"]):
        done = migrated.run("python", "manage.py", *command)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_check_says_what_it_found_and_ends(migrated):
    done = migrated.run(*WORKER, "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    passed = {each["check"]: each["found"] for each in events(done.stderr, "start_check_passed")}
    assert list(passed) == ["settings", "temporary files", "liveness file", "queues", "database"]
    assert passed["queues"].startswith("high, default, low; clock ")
    assert passed["database"] == "sqlite, migrated"


@pytest.mark.parametrize(
    ("variables", "status", "said"),
    [
        ({"SECRET_KEY": ""}, 78, "SECRET_KEY is not set"),
        ({"QUEUE_URL_PREFIX": "cloudqueue-"}, 78, "is not the beginning of a queue's URL"),
        ({"LIVENESS_FILE": "/proc/none/alive"}, 78, 'LIVENESS_FILE="/proc/none/alive" cannot be written'),
        ({"QUEUE_URL_PREFIX": "http://127.0.0.1:1/2/other-"}, 75, 'queue "high": there is none at'),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, 75, 'queue "high": SQS does not answer'),
        ({"DATABASE_URL": "postgres://ada:secret@127.0.0.1:9/x"}, 75, "database: it does not answer"),
    ],
)
def test_what_is_wrong_is_named_in_one_line_of_json_with_a_status_for_who_can_mend_it(
    migrated, variables, status, said
):
    done = migrated.run(*WORKER, "--check", "--patience=0", **variables)
    assert done.returncode == status, done.stdout + done.stderr
    (refused,) = events(done.stderr, "start_refused")
    assert said in refused["error"]
    assert refused["status"] == status
    assert "secret" not in done.stderr.lower().replace("secret_key", "").replace("its secret", "")


def test_a_worker_works_is_healthy_and_stops_as_a_container_does(migrated):
    before = migrated.run(*HEALTH)
    assert (before.returncode, "the worker has not started" in before.stderr) == (1, True)
    container = migrated.start(*WORKER, "--concurrency=1")
    wait_for(lambda: " ready." in container.text() or container.process.poll() is not None, "the worker", 120)
    wait_for(lambda: container.run(*HEALTH).returncode == 0, "health", 60)
    run_id = outside(
        migrated,
        "from tasks.sessions import clear_expired_sessions\nprint(clear_expired_sessions.delay().id)",
    )
    wait_for(lambda: run_id in container.text(), "the task's outcome", 60)
    (outcome,) = [each for each in events(container.text(), "task_succeeded") if each["task_id"] == run_id]
    assert outcome["outcome"] == "succeeded"

    worker = container.worker()
    if migrated.is_boxed:
        assert {worker.uids().real, container.first().uids().real} == {USER}
        refused = container.run("python", "-c", "open('/srv/x', 'w')")
        assert "Read-only file system" in refused.stderr
    container.tell(signal.SIGTERM)
    assert container.process.wait(90) == 0
    said = [line for line in container.lines() if not line.startswith("{")]
    # Celery's own, written from a signal's handler.
    assert said == ["worker: Warm shutdown (MainProcess)"]
    assert outside(migrated, "from django_app.ledger.models import Run\nprint(Run.objects.get().state)") == "succeeded"


def test_a_worker_that_hangs_is_unhealthy_and_one_that_goes_on_is_healthy_again(migrated):
    container = migrated.start(*WORKER, "--concurrency=1")
    wait_for(lambda: " ready." in container.text(), "the worker", 120)
    wait_for(lambda: container.run(*HEALTH).returncode == 0, "health", 60)
    worker = container.worker()
    worker.suspend()
    try:
        wait_for(lambda: container.run(*HEALTH).returncode == 1, "ill health", 120)
        assert "s old: the worker" in container.run(*HEALTH).stderr
    finally:
        worker.resume()
    wait_for(lambda: container.run(*HEALTH).returncode == 0, "health again", 60)
    container.tell(signal.SIGTERM)
    assert container.process.wait(90) == 0


def test_a_stop_while_the_worker_waits_for_its_database_is_a_good_end(migrated):
    container = migrated.start(*WORKER, DATABASE_URL="postgres://ada:secret@127.0.0.1:9/x")
    wait_for(lambda: events(container.text(), "start_waits"), "the wait", 120)
    assert container.run(*HEALTH).returncode == 0, "what waits is not to be ended for it"
    container.tell(signal.SIGTERM)
    assert container.process.wait(60) == 0


def test_what_tasks_need_can_be_loaded(migrated):
    code = (
        "import matplotlib; matplotlib.use('agg')\n"
        "import datasketches, matplotlib.pyplot, numpy, polars, psycopg, reportlab.pdfgen.canvas, zoneinfo\n"
        "import django; django.setup()\n"
        "import tasks.datasets, tasks.reports, tasks.emails, tasks.runtime.steward.process\n"
        "zoneinfo.ZoneInfo('Europe/Berlin')\nprint('loaded')"
    )
    done = migrated.run("python", "-c", code)
    assert done.stdout.splitlines()[-1:] == ["loaded"], done.stderr
