"""From a request through every task that it caused: the ids in the logs, the metrics and the traces of real workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.faults.shop import Shop, open_shop
from tests.unit.test_metrics import faults
from tests.waiting import wait_for

TASKS = """
import os
import time

import structlog
from celery import shared_task
from celery.exceptions import Ignore, Reject
from django.contrib.auth.models import Group
from django.db import transaction
from django_app.ledger import requester

log = structlog.get_logger("shop")


@shared_task
def order(number):
    log.info("ordered", number=number)
    with transaction.atomic():
        pack.delay(number)


@shared_task
def pack(number):
    log.info("packed", number=number)
    ship.apply_async((number,), countdown=1)


@shared_task
def ship(number):
    log.info("shipped", number=number)
    Group.objects.create(name=f"shipped {number}")


@shared_task
def quiet(number):
    log.info("quiet", number=number)


@shared_task
def nesting():
    assert quiet.apply((6,)).successful()
    log.info("nested")


@shared_task
def forwarding():
    with requester.asking("eve"):
        quiet.delay(11)


@shared_task(recorded=False)
def unrecorded(number):
    log.info("unrecorded", number=number)


@shared_task(bind=True, max_retries=1)
def shaky(self):
    if self.request.retries < 1:
        raise self.retry(countdown=0, exc=KeyError("not yet"))


@shared_task
def broken():
    raise LookupError("no such order")


@shared_task(throws=(LookupError,))
def expected():
    raise LookupError("as ever")


@shared_task
def ignoring():
    raise Ignore()


@shared_task
def rejecting():
    raise Reject("not mine")


@shared_task(bind=True)
def replacing(self):
    raise self.replace(quiet.si(7))


@shared_task(time_limit=1)
def endless():
    time.sleep(60)
"""

URLS = """
import structlog
from django.http import HttpResponse
from django.urls import path
from django.contrib.auth.decorators import login_not_required
from django.views.decorators.csrf import csrf_exempt
from django_app.ledger import requester
from shop.tasks import order


@login_not_required
@csrf_exempt
def place(request, number):
    with requester.asking(requester.current().user, "acme"):
        return HttpResponse(order.delay(number).id)


urlpatterns = [path("place/<int:number>", place)]
"""
PLACE = """
from django.contrib.auth.models import User
from django.test import Client
client = Client()
client.force_login(User.objects.get_or_create(username="ada")[0])
print(client.post("/place/{number}"{headers}).content.decode())
"""


@pytest.fixture
def shop(tmp_path: Path, stack_database_url: str) -> Iterator[Shop]:
    settings = "ROOT_URLCONF = 'shop_urls'\nALLOWED_HOSTS = ['testserver']"
    (tmp_path / "shop_urls.py").write_text(URLS)
    with open_shop(tmp_path, stack_database_url, TASKS, settings) as made:
        made.environment |= {"LOG_FORMAT": "json"}
        yield made


def place(shop: Shop, number: int, request_id: str | None = None, **variables: str) -> tuple[str, str]:
    """Ask the view for an order; the id of its first run, and what the web side logged."""
    headers = f", headers={{'X-Request-ID': {request_id!r}}}" if request_id is not None else ""
    done = shop.run(PLACE.format(number=number, headers=headers), **variables)
    return done.stdout.strip(), done.stderr


def lines(text: str, **fields: Any) -> list[dict[str, Any]]:
    """Lines of JSON that have these fields."""
    found = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in found if fields.items() <= line.items()]


def await_line(shop: Shop, **fields: Any) -> dict[str, Any]:
    def there() -> list[dict[str, Any]]:
        return [line for worker in shop.workers for line in lines(worker.text(), **fields)]

    wait_for(there, f"a line with {fields}", 60)
    return there()[0]


def test_the_ids_of_a_request_are_in_every_line_of_all_that_it_caused(shop):
    shop.start_worker()
    root, web = place(shop, 7, "req-7.from:outside/1")
    said = {event: await_line(shop, event=event) for event in ("ordered", "packed", "shipped")}
    await_line(shop, event="task_succeeded", task="shop.tasks.ship")
    (asked,) = lines(web, event="request_finished")
    assert asked["request_id"] == "req-7.from:outside/1"
    for line in said.values():
        assert line["request_id"] == "req-7.from:outside/1"
        assert line["root_id"] == root
        assert (line["tenant"], line["requested_by"]) == ("acme", "ada")
    assert said["ordered"]["task_id"] == root
    assert said["shipped"]["parent_task_id"] == said["packed"]["task_id"]
    assert said["packed"]["parent_task_id"] == root
    outcome = await_line(shop, event="task_succeeded", task="shop.tasks.ship")
    assert {name: outcome[name] for name in ("queue", "task_id", "outcome", "attempt", "receives", "request_id")} == {
        "queue": "default",
        "task_id": said["shipped"]["task_id"],
        "outcome": "succeeded",
        "attempt": 1,
        "receives": outcome["receives"],
        "request_id": "req-7.from:outside/1",
    }
    assert outcome["duration_ms"] >= 0
    # Enqueued with a delay of a second, which is not a wait.
    assert 0 <= outcome["wait_ms"] < 30_000
    # The address of whoever asked stays with the request.
    assert "127.0.0.1" not in json.dumps(list(said.values()))


def test_an_id_that_is_none_is_not_taken_over(shop):
    shop.start_worker()
    for request_id in ("x" * 129, "bad id\twith spaces", "", None, "{}"):
        _, web = place(shop, 1, request_id)
        (asked,) = lines(web, event="request_finished")
        assert asked["request_id"] != request_id
        assert len(asked["request_id"]) == 36


def test_what_one_task_bound_is_not_told_of_the_next(shop):
    shop.start_worker()
    place(shop, 7, "req-7")
    await_line(shop, event="shipped")
    shop.run("quiet.delay(8); unrecorded.delay(9); nesting.delay()")
    for event in ("quiet", "unrecorded", "nested"):
        # Also after another task was applied within it.
        line = await_line(shop, event=event)
        assert "request_id" not in line
        assert "requested_by" not in line
        assert line["root_id"] == line["task_id"]


def test_what_is_asked_for_by_another_is_not_told_as_the_firsts(shop):
    shop.start_worker()
    shop.run(
        "from django_app.ledger import requester\nwith requester.asking('ada', 'acme'):\n    forwarding.delay()",
    )
    line = await_line(shop, event="quiet", number=11)
    assert (line["requested_by"], line.get("tenant")) == ("eve", None)


def test_every_outcome_is_one_line_and_one_metric(shop):
    shop.start_worker(METRICS="emf")
    names = ("quiet.delay(1)", "unrecorded.delay(2)", "shaky.delay()", "broken.delay()", "expected.delay()")
    names += ("ignoring.delay()", "rejecting.delay()", "replacing.delay()", "endless.delay()", "nesting.delay()")
    shop.run("\n".join(names))
    shop.await_empty(60)
    expected = {
        ("quiet", "succeeded"): 2,
        ("unrecorded", "succeeded"): 1,
        ("shaky", "retried"): 1,
        ("shaky", "succeeded"): 1,
        ("broken", "failed"): 1,
        ("expected", "failed"): 1,
        ("ignoring", "ignored"): 1,
        ("rejecting", "dead"): 1,
        ("replacing", "replaced"): 1,
        ("endless", "failed"): 1,
        ("nesting", "succeeded"): 1,
    }

    def told() -> dict[tuple[str, str], int]:
        counts: dict[tuple[str, str], int] = {}
        for line in lines(shop.workers[0].text()):
            if "outcome" in line:
                key = (line["task"].rpartition(".")[2], line["outcome"])
                counts[key] = counts.get(key, 0) + 1
        return counts

    wait_for(lambda: told().keys() >= expected.keys(), "all outcomes", 30)
    # What was applied within another has a line, and is no run.
    assert told() == {**expected, ("quiet", "succeeded"): 3}
    text = shop.workers[0].text()
    assert all(
        {"queue", "task_id", "root_id", "receives", "attempt"} <= set(line) for line in lines(text) if "outcome" in line
    )
    # Celery says the same once more, in its own words.
    assert "raised unexpected" not in text
    (failed,) = lines(text, event="task_failed", task="shop.tasks.broken")
    assert failed["error"] == "LookupError: no such order"
    assert 'raise LookupError("no such order")' in failed["exception"]
    (as_ever,) = lines(text, event="task_failed", task="shop.tasks.expected")
    assert "exception" not in as_ever
    (again,) = lines(text, event="task_succeeded", task="shop.tasks.shaky")
    assert again["attempt"] == 2
    emitted = [line for line in text.splitlines() if line.startswith('{"_aws"')]
    assert [faults(line) for line in emitted] == [[] for _ in emitted]
    counted: dict[tuple[str, str], int] = {}
    for line in map(json.loads, emitted):
        outcome = next(name for name in line if name.startswith("Runs"))
        key = (line["Task"].rpartition(".")[2], outcome.removeprefix("Runs").lower())
        counted[key] = counted.get(key, 0) + 1
    assert counted == expected
    ran = next(line for line in map(json.loads, emitted) if line["Task"] == "shop.tasks.endless")
    assert 0.9 < ran["RunTime"] < 10


def test_a_worker_whose_container_is_asked_is_healthy_until_it_ends(shop, tmp_path):
    file = tmp_path / "liveness"
    worker = shop.start_worker(LIVENESS_FILE=str(file))

    def ask() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "serverless.entrypoints.worker_health"],
            cwd=ROOT,
            env={**os.environ, "LIVENESS_FILE": str(file)},
            capture_output=True,
            text=True,
            check=False,
        )

    wait_for(lambda: ask().returncode == 0, "a healthy worker", 30)
    worker.stop(signal.SIGTERM)
    done = ask()
    assert (done.returncode, "the worker has not started, or no longer runs" in done.stderr) == (1, True)


# Traces --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def otel_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what requirements/otel.txt locks, beside which the development environment stays as it is."""
    folder = tmp_path_factory.mktemp("otel")
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes"]
    command += ["--no-deps", "--no-compile", "--target", str(folder), "-r", "requirements/otel.txt"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """An OTLP collector: its address, and what it was sent."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                bodies.append(body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", bodies
    finally:
        server.shutdown()
        server.server_close()


#: Reads what a collector was sent, with the packages that only its own process has.
READ = """
import json, sys
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
spans = []
for line in sys.stdin:
    for resource in ExportTraceServiceRequest.FromString(bytes.fromhex(line)).resource_spans:
        service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
        for scope in resource.scope_spans:
            for span in scope.spans:
                spans.append({
                    "name": span.name, "trace": span.trace_id.hex(), "id": span.span_id.hex(), "kind": span.kind,
                    "parent": span.parent_span_id.hex(), "service": service, "status": span.status.code,
                    "attributes": {a.key: a.value.string_value for a in span.attributes},
                })
print(json.dumps(spans))
"""


def read(bodies: list[bytes], packages: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", READ],
        input="\n".join(body.hex() for body in list(bodies)),
        env={**os.environ, "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@contextmanager
def traced(shop: Shop, packages: Path) -> Iterator[list[bytes]]:
    """The shop with traces on."""
    with collector() as (url, bodies):
        shop.environment |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "PYTHONPATH": os.pathsep.join([shop.environment["PYTHONPATH"], str(packages)]),
        }
        yield bodies


def ancestors(span: dict[str, Any], spans: list[dict[str, Any]]) -> list[str]:
    """Names from a span up to its trace's root."""
    by_id = {each["id"]: each for each in spans}
    names = []
    while span["parent"]:
        span = by_id[span["parent"]]
        names.append(span["name"])
    return names


@pytest.mark.slow
def test_a_view_is_the_ancestor_of_the_tasks_of_its_tasks_in_one_trace(shop, otel_packages):
    with traced(shop, otel_packages) as bodies:
        # What it has not sent yet it sends when it is stopped.
        worker = shop.start_worker(OTEL_BSP_SCHEDULE_DELAY="600000")
        root, _ = place(shop, 7)
        place(shop, 8)
        wait_for(lambda: len(lines(worker.text(), event="shipped")) == 2, "two shipments", 60)
        worker.stop(signal.SIGTERM)
        spans = read(bodies, otel_packages)
    ships = [span for span in spans if span["name"] == "run shop.tasks.ship"]
    assert len(ships) == 2
    for ship in ships:
        assert ancestors(ship, spans) == [
            "enqueue shop.tasks.ship",
            "run shop.tasks.pack",
            "enqueue shop.tasks.pack",
            "run shop.tasks.order",
            "enqueue shop.tasks.order",
            "POST place/<int:number>",
        ]
    assert len({ship["trace"] for ship in ships}) == 2
    mine = next(ship for ship in ships if ship["attributes"]["celery.root_id"] == root)
    assert mine["service"] == "cloudqueue"
    assert mine["attributes"]["messaging.destination.name"] == "default"


@pytest.mark.slow
def test_what_cannot_be_enqueued_or_fails_spoils_no_other_trace(shop, otel_packages):
    with traced(shop, otel_packages) as bodies:
        worker = shop.start_worker()
        shop.run(
            "from django.test import Client\n"
            "try:\n    quiet.delay(object())\nexcept Exception: pass\n"
            "from tasks.celery import app\n"
            "try:\n    app.send_task('elsewhere.task', (object(),))\nexcept Exception: pass\n"
            "broken.delay()\n"
            "Client().post('/place/1')"
        )
        wait_for(lambda: lines(worker.text(), event="shipped"), "a shipment", 60)
        worker.stop(signal.SIGTERM)
        spans = read(bodies, otel_packages)
    (view,) = [span for span in spans if span["name"].startswith("POST")]
    assert view["parent"] == ""
    (broken,) = [span for span in spans if span["name"] == "run shop.tasks.broken"]
    assert broken["status"] == 2
    assert len({span["trace"] for span in spans if span["parent"] == ""}) == 4


@pytest.mark.slow
def test_a_collector_that_is_away_costs_no_task(shop, otel_packages):
    with traced(shop, otel_packages):
        shop.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
        shop.start_worker()
        place(shop, 7)
        await_line(shop, event="shipped")
        assert shop.workers[0].stop(signal.SIGTERM, 60) == 0
