"""What probes and scrapers are told, by whom they are asked, and what that costs; on a real database."""

from __future__ import annotations

import datetime
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction
from django.contrib.auth.models import AnonymousUser
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_app import health
from django_app.health import ProbeMiddleware, Readiness
from django_app.ledger import figures, fleet, requester, samples
from django_app.ledger.models import Run, Worker
from django_app.ledger.samples import Stats
from django_app.ledger.states import FINAL, State
from django_app.requests import RequesterMiddleware
from tests.conftest import ROOT
from tests.unit.test_metrics import parse
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)

MINUTE = datetime.timedelta(minutes=1)
PROBES = ["/healthz", "/readyz"]
TOKEN = "token"


@pytest.fixture(autouse=True)
def fresh_readiness(monkeypatch):
    monkeypatch.setattr(health, "_readiness", Readiness())


# Probes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PROBES)
def test_a_probe_that_names_the_host_by_its_address_is_answered(client, path):
    assert client.get("/sign-in/", headers={"host": "10.0.3.7:8000"}).status_code == 400
    answer = client.get(path, headers={"host": "10.0.3.7:8000"})
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert client.head(path).status_code == 200


@pytest.mark.parametrize("path", [*PROBES, "/metrics"])
def test_probes_are_read_only(client, settings, path):
    settings.METRICS_TOKEN = TOKEN
    for method in ("post", "put", "delete", "patch"):
        assert getattr(Client(enforce_csrf_checks=True), method)(path).status_code == 405


def test_the_health_probe_asks_no_database_and_opens_no_session(client, django_user_model, django_assert_num_queries):
    client.force_login(django_user_model.objects.create_user("ada"))
    with django_assert_num_queries(0):
        answer = client.get("/healthz")
    assert (answer.status_code, answer.content, answer.cookies) == (200, b"ok\n", {})


def test_probes_are_answered_under_asgi_as_well(settings):
    settings.METRICS_TOKEN = TOKEN

    async def ask() -> list[tuple[int, bytes]]:
        client = AsyncClient()
        answers = [await client.get(path, headers={"host": "10.0.3.7"}) for path in PROBES]
        answers.append(await client.get("/metrics", headers={"authorization": "Bearer token"}))
        answers.append(await client.get("/sign-in/"))
        return [(answer.status_code, answer.content) for answer in answers]

    answers = async_to_sync(ask)()
    assert [status for status, _ in answers] == [200, 200, 200, 200]
    assert json.loads(answers[1][1]) == {"ready": True, "reasons": []}


def test_between_asynchronous_middleware_probes_are_answered_and_all_else_is_passed_on(rf, settings):
    settings.METRICS_TOKEN = TOKEN

    async def page(request: HttpRequest) -> HttpResponse:
        return HttpResponse("a page")

    async def ask(path: str) -> bytes:
        # As Django itself goes about it only where all that stands behind is asynchronous.
        middleware = ProbeMiddleware(page)
        assert iscoroutinefunction(middleware)
        answer = await middleware(rf.get(path, headers={"authorization": "Bearer token"}))
        return answer.content

    told = {path: async_to_sync(ask)(path) for path in (*PROBES, "/metrics", "/healthz/more")}
    assert told["/healthz"] == b"ok\n"
    assert json.loads(told["/readyz"])["ready"] is True
    assert b"cloudqueue_runs" in told["/metrics"]
    assert told["/healthz/more"] == b"a page"


def test_ready_means_that_the_database_has_the_tables_of_this_release(client):
    assert client.get("/readyz").json() == {"ready": True, "reasons": []}
    migration = MigrationRecorder.Migration.objects.filter(app="ledger").latest("id")
    migration.delete()
    try:
        health._readiness = Readiness()
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json() == {"ready": False, "reasons": ["migrations: 1 not applied"]}
    finally:
        MigrationRecorder.Migration.objects.create(app=migration.app, name=migration.name, applied=timezone.now())


def test_what_was_not_ready_is_ready_once_it_is(client):
    health._readiness = Readiness(keep_seconds=0)
    migration = MigrationRecorder.Migration.objects.filter(app="ledger").latest("id")
    migration.delete()
    assert client.get("/readyz").status_code == 503
    MigrationRecorder.Migration.objects.create(app=migration.app, name=migration.name, applied=timezone.now())
    assert client.get("/readyz").status_code == 200


def test_however_many_probes_there_are_the_database_is_asked_once_in_a_while(monkeypatch):
    asked = []

    def look(self: Readiness) -> list[str]:
        asked.append(time.monotonic())
        return []

    monkeypatch.setattr(Readiness, "_look", look)
    health._readiness = Readiness(keep_seconds=0.5)
    until = time.monotonic() + 1.2
    threads = [threading.Thread(target=probe_until, args=(until,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert 2 <= len(asked) <= 4


def probe_until(end: float) -> None:
    while time.monotonic() < end:
        assert Client().get("/readyz").status_code == 200


def test_while_the_database_hangs_probes_are_answered_and_one_thread_waits(monkeypatch):
    begun, go_on = [], threading.Event()

    def hang(self: Readiness) -> list[str]:
        begun.append(1)
        go_on.wait(30)
        return []

    monkeypatch.setattr(Readiness, "_look", hang)
    health._readiness = Readiness(bound_seconds=0.2, keep_seconds=0)
    began = time.monotonic()
    answers = [Client().get("/readyz") for _ in range(10)]
    assert time.monotonic() - began < 5
    assert {answer.status_code for answer in answers} == {503}
    assert answers[0].json()["reasons"] == ["database: no answer within 0.2 s"]
    assert len(begun) == 1
    go_on.set()
    wait_for(lambda: Client().get("/readyz").status_code == 200, "the database", 10)


def test_a_connection_that_never_answers_is_given_up(monkeypatch):
    begun, go_on = [], threading.Event()

    def hang_once(self: Readiness) -> list[str]:
        begun.append(1)
        if len(begun) == 1:
            go_on.wait(30)
        return []

    monkeypatch.setattr(Readiness, "_look", hang_once)
    monkeypatch.setattr(health, "_GIVE_UP_SECONDS", 0.3)
    health._readiness = Readiness(bound_seconds=0.1, keep_seconds=60)
    assert Client().get("/readyz").status_code == 503
    wait_for(lambda: Client().get("/readyz").status_code == 200, "another connection", 10)
    go_on.set()


PROBE = """
import time
import django; django.setup()
from django.test import Client
began = time.monotonic()
answer = Client().get("/readyz")
print(answer.status_code, time.monotonic() - began, Client().get("/healthz").status_code, answer.content.decode())
"""


def probe_database(url: str) -> tuple[int, float, int, str, str]:
    """What a process says whose database is at that address: status, seconds, status of /healthz, body, log."""
    environment = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "django_app.settings"}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    status, seconds, healthy, body = done.stdout.strip().split(" ", 3)
    return int(status), float(seconds), int(healthy), body, done.stderr


@contextmanager
def listening(*, is_open: bool):
    """A port on which nobody answers; or, if it is not open, nobody listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if is_open:
            server.listen()
        yield server.getsockname()[1]


def test_a_database_that_refuses_is_told_without_a_word_of_where_it_is():
    with listening(is_open=False) as port:
        status, _, healthy, body, log = probe_database(f"postgres://somebody:hunter2@127.0.0.1:{port}/secrets")
    assert (status, healthy) == (503, 200)
    assert json.loads(body) == {"ready": False, "reasons": ["database: not reachable (OperationalError)"]}
    assert "hunter2" not in log


def test_a_database_that_says_nothing_keeps_no_probe_waiting():
    with listening(is_open=True) as port:
        status, seconds, healthy, body, _ = probe_database(f"postgres://somebody:hunter2@127.0.0.1:{port}/secrets")
    assert (status, healthy) == (503, 200)
    assert seconds < 5
    assert json.loads(body)["reasons"] == ["database: no answer within 2 s"]


# /metrics ------------------------------------------------------------------------------------------------------------


def scrape(client: Client, token: str = TOKEN) -> Any:
    return client.get("/metrics", headers={"authorization": f"Bearer {token}"})


def test_without_a_token_set_there_are_no_metrics(client):
    assert client.get("/metrics").status_code == 404
    assert scrape(client, "").status_code == 404


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic dG9rZW4=", "Basic token", "token", "Bearer töken"]
)
def test_whoever_does_not_send_the_token_sees_no_metrics(client, settings, header):
    settings.METRICS_TOKEN = TOKEN
    answer = client.get("/metrics", headers={"authorization": header} if header else {})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert b"cloudqueue_" not in answer.content


def test_a_scraper_that_sends_the_token_needs_no_host_name_and_no_session(client, settings):
    settings.METRICS_TOKEN = TOKEN
    answer = client.get("/metrics", headers={"authorization": "bearer token", "host": "10.0.3.7:8000"})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.cookies == {}


def make(state: State, count: int, **fields: Any) -> None:
    now = timezone.now()
    defaults: dict[str, Any] = {
        "task": "shop.ship",
        "queue": "default",
        "created_at": now,
        "publish_claimed_until": now,
        "published_at": now,
        "finished_at": now if state in FINAL else None,
    }
    Run.objects.bulk_create(Run(id=secrets.token_hex(8), state=state, **{**defaults, **fields}) for _ in range(count))


def test_a_scrape_tells_how_things_stand(client, settings):
    settings.METRICS_TOKEN = TOKEN
    now = timezone.now()
    make(State.PENDING, 1, created_at=now - 3 * MINUTE)
    make(State.QUEUED, 4)
    make(State.RUNNING, 2)
    make(State.SUCCEEDED, 5, queue="high")
    make(State.SUCCEEDED, 7, finished_at=now - 6 * MINUTE)
    make(State.FAILED, 3, error="KeyError: 'the customer\\'s password'", fingerprint="feed")
    make(State.DEAD, 1, error="WorkerLostError: x", fingerprint="beef")
    make(State.FAILED, 2, error="OldError: x", fingerprint="old", created_at=now - 90 * MINUTE)
    samples.sample(now - MINUTE, {"default": Stats(depth=9)})
    samples.sample(now, {"default": Stats(depth=4, in_flight=2, delayed=0, dead=1), "high": Stats()})
    fleet.beat("a@x", fleet.Sign(kind="prefork", pool="general", concurrency=2, busy=1, pid=1), lease_seconds=60)
    fleet.beat("b@x", fleet.Sign(kind="prefork", pool="general", concurrency=2, busy=2, pid=1), lease_seconds=60)
    fleet.beat("c@x", fleet.Sign(kind="prefork", pool="datasets", concurrency=4, pid=1), lease_seconds=60)
    Worker.objects.filter(pk="c@x").update(lease_until=now - MINUTE)

    page = scrape(client).content.decode()
    told = {name: value for (name, labels), value in parse(page).items() if not labels}
    labelled = {(name, *(value for _, value in labels)): number for (name, labels), number in parse(page).items()}
    assert told["cloudqueue_publish_lag_seconds"] == pytest.approx(180, abs=20)
    assert told["cloudqueue_scrape_seconds"] < 5
    expected = {
        ("cloudqueue_runs", "pending"): 1,
        ("cloudqueue_runs", "queued"): 4,
        ("cloudqueue_runs", "waiting"): 0,
        ("cloudqueue_runs", "running"): 2,
        ("cloudqueue_runs", "lost"): 0,
        ("cloudqueue_runs_finished", "high", "succeeded"): 5,
        ("cloudqueue_runs_finished", "default", "succeeded"): 0,
        ("cloudqueue_runs_finished", "default", "failed"): 5,
        ("cloudqueue_runs_finished", "default", "dead"): 1,
        ("cloudqueue_failures", "feed", "shop.ship", "KeyError"): 3,
        ("cloudqueue_failures", "beef", "shop.ship", "WorkerLostError"): 1,
        ("cloudqueue_queue_depth", "default"): 4,
        ("cloudqueue_queue_in_flight", "default"): 2,
        ("cloudqueue_queue_dead_letters", "default"): 1,
        ("cloudqueue_workers", "general", "running"): 2,
        ("cloudqueue_worker_slots", "general", "running"): 4,
        ("cloudqueue_worker_slots_busy", "general", "running"): 3,
        ("cloudqueue_workers", "datasets", "lost"): 1,
    }
    assert {key: labelled.get(key) for key in expected} == expected
    assert ("cloudqueue_queue_depth", "high") not in labelled
    assert ("cloudqueue_workers", "datasets", "running") not in labelled
    assert ("cloudqueue_failures", "old", "shop.ship", "OldError") not in labelled
    assert labelled["cloudqueue_queue_oldest_age_seconds", "default"] < 60
    # Messages of errors hold what not everybody may see.
    assert "password" not in page


def test_counts_stop_where_they_would_cost(monkeypatch):
    monkeypatch.setattr(figures, "MOST_COUNTED", 3)
    make(State.QUEUED, 5)
    make(State.SUCCEEDED, 5)
    assert figures.open_runs()[State.QUEUED] == 3
    assert sum(figures.finished(["default"], timezone.now() - MINUTE).values()) == 3


def plans(queries: list[str]) -> list[str]:
    """How the database would go about them, one text a query."""
    explain = "EXPLAIN QUERY PLAN " if connection.vendor == "sqlite" else "EXPLAIN "
    found = []
    with connection.cursor() as cursor:
        for query in queries:
            cursor.execute(explain + query)
            found.append("\n".join(str(row[-1]) for row in cursor.fetchall()))
    return found


def test_no_question_of_a_scrape_or_a_sample_reads_the_whole_table(client, settings):
    settings.METRICS_TOKEN = TOKEN
    now = timezone.now()
    for day in range(10):
        at = now - datetime.timedelta(days=day)
        make(State.SUCCEEDED, 1500, created_at=at, published_at=at, finished_at=at)
        make(State.FAILED, 100, created_at=at, finished_at=at, fingerprint="feed", error="KeyError: x")
    make(State.QUEUED, 20)
    make(State.PENDING, 20)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    with CaptureQueriesContext(connection) as captured:
        assert scrape(client).status_code == 200
        figures.oldest_ages(["default", "high"], now)
    queries = [query["sql"] for query in captured.captured_queries if "ledger_run" in query["sql"]]
    assert 8 <= len(queries) <= 12
    for query, plan in zip(queries, plans(queries), strict=True):
        lines = [line for line in plan.splitlines() if "ledger_run" in line]
        assert lines, plan
        reads = [line for line in lines if "Seq Scan" in line or ("SCAN ledger_run" in line and "INDEX" not in line)]
        assert not reads, f"{query}\n{plan}"


# Who asks ------------------------------------------------------------------------------------------------------------


def test_what_a_request_enqueues_is_asked_for_by_whoever_has_signed_in(rf, django_user_model):
    seen = []

    def view(request: HttpRequest) -> HttpResponse:
        seen.append(requester.current().user)
        return HttpResponse()

    async def view_async(request: HttpRequest) -> HttpResponse:
        return view(request)

    ada = django_user_model.objects.create_user("ada")
    for user in (ada, AnonymousUser(), None):
        request = rf.get("/")
        if user is not None:
            request.user = user
        RequesterMiddleware(view)(request)
        async_to_sync(RequesterMiddleware(view_async))(request)
    assert seen == ["ada", "ada", "", "", "", ""]
    assert requester.current().user == ""


# A worker's container ------------------------------------------------------------------------------------------------


def check(file: Path | str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    if file is not None:
        environment["LIVENESS_FILE"] = str(file)
    return subprocess.run(
        [sys.executable, *(arguments or ("-m", "serverless.entrypoints.worker_health"))],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def facts(**changes: Any) -> str:
    now = time.time()
    alive = {
        "pid": 1,
        "written_at": now,
        "hung": False,
        "stopping": False,
        "dead_pollers": [],
        "oldest_poll_seconds": 1,
    }
    return json.dumps({**alive, **changes})


def test_a_worker_that_lives_is_healthy(tmp_path):
    (tmp_path / "alive").write_text(facts())
    done = check(tmp_path / "alive")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    named = check(None, "-m", "serverless.entrypoints.worker_health", str(tmp_path / "alive"))
    assert named.returncode == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"written_at": 1_790_000_000}, "s old: the worker"),
        ({"hung": True}, "the event loop does not turn"),
        ({"oldest_poll_seconds": 300}, "a receive has not come back"),
        ({"dead_pollers": ["high"]}, "receive from high have ended"),
        ("{", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_worker_that_is_deaf_or_gone_is_told_with_its_reason(tmp_path, changes, said):
    if changes is not None:
        (tmp_path / "file").write_text(facts(**changes) if isinstance(changes, dict) else changes)
    done = check(tmp_path / "file")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_that_was_told_no_file_cannot_be_judged():
    done = check(None)
    assert (done.returncode, "LIVENESS_FILE is not set" in done.stderr) == (1, True)


def test_the_check_of_a_worker_loads_no_framework(tmp_path):
    (tmp_path / "alive").write_text(facts())
    code = (
        "import runpy, sys\n"
        "try:\n    runpy.run_module('serverless.entrypoints.worker_health', run_name='__main__')\n"
        "except SystemExit as ended:\n    assert not ended.code\n"
        "print(*sorted(set(sys.modules) & {'django', 'celery', 'kombu', 'boto3', 'botocore'}))"
    )
    done = check(tmp_path / "alive", "-c", code)
    assert (done.returncode, done.stdout.strip()) == (0, "")
    # The quickest of a few: the machine may be busy with other things.
    assert min(seconds_of(tmp_path / "alive") for _ in range(5)) < 0.3


def seconds_of(file: Path) -> float:
    began = time.monotonic()
    check(file)
    return time.monotonic() - began


# Traces --------------------------------------------------------------------------------------------------------------

LOADED = (
    "import django; django.setup()\nimport tasks.celery, sys\n"
    "from django.core.wsgi import get_wsgi_application; get_wsgi_application()\n"
    "print(sum(name.split('.')[0] == 'opentelemetry' for name in sys.modules), 'django_app.telemetry' in sys.modules)"
)


def load(**variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "django_app.settings", **variables}
    return subprocess.run(
        [sys.executable, "-c", LOADED], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_nothing_of_opentelemetry_is_loaded_unless_it_is_asked_for():
    done = load()
    assert (done.returncode, done.stdout.strip()) == (0, "0 False"), done.stderr


def test_an_endpoint_without_the_packages_is_said_once_and_stops_nothing():
    # A module of that name that cannot be imported stands for packages that are not there.
    hidden = "import sys; sys.modules['opentelemetry'] = None\n"
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "django_app.settings",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "LOG_FORMAT": "json",
    }
    done = subprocess.run(
        [sys.executable, "-c", hidden + LOADED], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert Counter(line["event"] for line in lines)["no_traces"] == 1
    assert next(line for line in lines if line["event"] == "no_traces")["remedy"] == "install requirements/otel.txt"
