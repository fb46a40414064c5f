"""The site as Lambda runs it: the real package, AWS's runtime client, sandboxes that are frozen between two events."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest

from serverless.local.cloud import ACCESS_KEY_ID, ACCOUNT_ID, NAMES_ARGUMENTS, REGION, SECRET_ACCESS_KEY
from serverless.local.front_door import HANDLER
from serverless.local.lambda_runtime import MOST_PAYLOAD_BYTES, Function, InitError, PayloadTooLargeError, Sandbox
from tests.environment import DATABASE_URL
from tests.lambda_events import answered, recorded, request
from tests.waiting import wait_for

pytestmark = pytest.mark.package

#: A team's own code beside the site: some views, some events.
SETTINGS = """
import random

from django_app.settings import *

ROOT_URLCONF = "team.urls"
EVENT_HANDLERS = EVENT_HANDLERS | {
    name: f"team.events.{name}" for name in ("broken", "slow", "crash", "draw", "modules", "backend", "audit")
}
# As a snapshot would: whoever goes on from it draws the same numbers.
random.seed(1)
"""
URLS = """
from django.contrib.auth.decorators import login_not_required
from django.http import HttpResponse
from django.urls import path, reverse

from django_app.urls import handler500, urlpatterns as site
from team.tasks import ship


@login_not_required
def developers(request):
    return HttpResponse(f"{request.path} {reverse('developers')} {request.build_absolute_uri('/x')}")


@login_not_required
def place(request):
    return HttpResponse(ship.delay(1).id)


@login_not_required
def large(request):
    return HttpResponse(b"x" * int(request.GET["bytes"]), content_type=request.GET.get("type", "text/plain"))


@login_not_required
def broken(request):
    raise TypeError("hunter2")


urlpatterns = [
    path("developers/", developers, name="developers"),
    path("place/", place),
    path("large/", large),
    path("broken/", broken),
    *site,
]
"""
TASKS = """
from celery import shared_task


@shared_task
def ship(order):
    return order
"""
EVENTS = """
import os
import random
import sys
import time
from pathlib import Path

from django.db import connection

AT_INIT = set(sys.modules)


def broken(event, invocation):
    with Path(event["file"]).open("a") as file:
        file.write("ran\\n")
    raise TypeError("broken() takes no joke")


def slow(event, invocation):
    time.sleep(event["seconds"])
    return invocation.remaining_seconds()


def crash(event, invocation):
    os._exit(3)


def draw(event, invocation):
    return random.random()


def modules(event, invocation):
    return sorted(sys.modules)


def audit(event, invocation):
    from django_app.console.models import AuditEntry

    return list(AuditEntry.objects.order_by("id").values_list("actor", "action", "target", "outcome", "detail"))


def backend(event, invocation):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]
"""


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layer")
    (folder / "team").mkdir()
    for name, text in (("settings", SETTINGS), ("urls", URLS), ("tasks", TASKS), ("events", EVENTS), ("__init__", "")):
        (folder / "team" / f"{name}.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def environment(site_environment: Mapping[str, str]) -> dict[str, str]:
    return {**site_environment, "DJANGO_SETTINGS_MODULE": "team.settings", "DATABASE_MAX_AGE_SECONDS": "600"}


@pytest.fixture(scope="module")
def site(package: Path, environment: Mapping[str, str], layer: Path) -> Iterator[Function]:
    """One sandbox of the site with the team's code, its database migrated."""
    made = Function(package, HANDLER, environment, layers=[layer], most_sandboxes=1)
    answer = made.invoke({"manage": "migrate --verbosity 0"})
    assert not answer.error, answer
    yield made
    made.close()


@pytest.fixture
def sandbox(site: Function, environment: Mapping[str, str], layer: Path) -> Iterator[Any]:
    """Make a sandbox of one's own; variables differ from the site's, options are of Sandbox."""
    made: list[Sandbox] = []

    def make(options: Mapping[str, Any] | None = None, **variables: str) -> Sandbox:
        told = {name: value for name, value in {**environment, **variables}.items() if value}
        made.append(Sandbox(site.code, HANDLER, told, layers=[layer], **(options or {})))
        return made[-1]

    yield make
    for each in made:
        each.close()


def ask(function: Function | Sandbox, event: Any) -> Any:
    payload = json.dumps(event).encode()
    answer = function.invoke(payload)
    assert not answer.error, answer
    return answer.json()


def get(function: Function | Sandbox, path: str, door: str = "api_gateway_v1", **asked: Any) -> Any:
    headers = [("Host", "site.example"), *asked.pop("headers", ())]
    return answered(ask(function, request(door, path=path, headers=headers, **asked)))


def lines(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


# Addresses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["api_gateway_v1", "api_gateway_v2"])
def test_a_path_that_begins_like_the_stage_is_itself(sandbox, door):
    there = sandbox(PUBLIC_URL="https://site.example/dev")
    _, _, body = get(there, "/developers/", door, stage="dev")
    assert body == b"/dev/developers/ /dev/developers/ https://site.example/x"
    status, headers, _ = get(there, "/", door, stage="dev")
    assert (status, dict(headers)["location"]) == (302, "/dev/sign-in/?next=/dev/")
    _, headers, page = get(there, "/sign-in/", door, stage="dev")
    assert any("csrftoken" in value and "Path=/dev/;" in value for name, value in headers if name == "set-cookie")
    style = re.search(rb'href="/dev(/static/css/site\.[0-9a-f]{12}\.css)"', page)
    status, headers, css = get(there, style[1].decode(), door, stage="dev")
    assert (status, b"font" in css) == (200, True)
    assert "immutable" in dict(headers)["cache-control"]


def test_another_host_is_refused(site):
    status, _, body = answered(
        ask(site, request("api_gateway_v1", path="/sign-in/", headers=[("Host", "evil.example")]))
    )
    assert status == 400
    assert b"Traceback" not in body


# What is enqueued -----------------------------------------------------------------------------------------------------


def test_what_was_enqueued_is_published_before_the_sandbox_is_frozen(sandbox, cloud_of_functions):
    there = sandbox()
    answer = there.invoke(
        json.dumps(request("api_gateway_v2", path="/place/", headers=[("Host", "site.example")])).encode()
    )
    process = psutil.Process(there.pid)
    wait_for(lambda: process.status() == psutil.STATUS_STOPPED, "the sandbox to be frozen", 5)
    run_id = answered(answer.json())[2].decode()
    sqs = boto3.client(
        "sqs",
        endpoint_url=cloud_of_functions,
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=SECRET_ACCESS_KEY,
    )
    queue = f"{cloud_of_functions}/{ACCOUNT_ID}/{NAMES_ARGUMENTS['queue_prefix']}default"
    [message] = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    headers = json.loads(message["Body"])["headers"]
    assert headers["id"] == run_id
    # The id by which CloudWatch's lines of this invocation are found stands in the task's as well.
    [told] = [line for line in lines(answer.log) if line["event"] == "request_finished"]
    assert told["request_id"] == headers["__django_structlog__"]["request_id"]
    assert re.fullmatch(r"[0-9a-f-]{36}", told["request_id"])
    assert told["ip"] == "203.0.113.7"


# Events ---------------------------------------------------------------------------------------------------------------


def test_an_error_in_a_handler_is_seen_as_itself_and_runs_once(site, tmp_path):
    answer = site.invoke({"event": "broken", "file": str(tmp_path / "ran")})
    assert answer.error
    told = answer.json()
    assert (told["errorType"], told["errorMessage"]) == ("TypeError", "broken() takes no joke")
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_an_event_of_an_unknown_name_fails_and_names_those_known(site):
    answer = site.invoke({"event": "housekeping"})
    assert answer.json()["errorType"] == "UnroutableError"
    assert "housekeeping" in answer.json()["errorMessage"]


def test_a_batch_of_messages_is_not_swallowed(site):
    answer = site.invoke(recorded("sqs"))
    assert answer.error
    assert "no records of aws:sqs" in answer.json()["errorMessage"]


def test_handlers_know_how_much_time_is_left(sandbox):
    there = sandbox({"timeout_seconds": 5})
    assert 3 < ask(there, {"event": "slow", "seconds": 0}) <= 5


def test_the_housekeeping_is_bounded_by_the_functions_time(sandbox):
    done = ask(sandbox({"timeout_seconds": 20}), recorded("eventbridge_scheduler"))
    assert done["steps_failed"] == 0


def test_what_takes_too_long_is_ended_and_the_next_one_has_a_sandbox_of_its_own(package, environment, layer, site):
    short = Function(package, HANDLER, environment, layers=[layer], most_sandboxes=1, timeout_seconds=3)
    try:
        answer = short.invoke({"event": "slow", "seconds": 60})
        assert "Task timed out after 3.00 seconds" in answer.json()["errorMessage"]
        answer = short.invoke({"event": "crash"})
        assert "Runtime exited with status 3" in answer.json()["errorMessage"]
        assert get(short, "/healthz")[2] == b"ok\n"
    finally:
        short.close()


def test_commands_are_written_into_the_audit_log(site):
    before = len(ask(site, {"event": "audit"}))
    site.invoke({"manage": "check --fail-level ERROR"})
    site.invoke({"manage": "shell"})
    refused = site.invoke({"manage": "check 'unclosed"})
    assert "Close the quotation" in refused.json()["errorMessage"]
    failed = site.invoke({"manage": "migrate --nonsense"})
    assert failed.error
    # It goes on after a command that exits.
    assert ask(site, {"manage": "showmigrations console"})["command"] == "showmigrations"
    entries = ask(site, {"event": "audit"})[before:]
    assert [entry[:4] for entry in entries] == [
        ["lambda", "manage", "check", "done"],
        ["lambda", "manage", "shell", "refused"],
        ["lambda", "manage", "migrate", "failed"],
        ["lambda", "manage", "showmigrations", "done"],
    ]
    assert entries[0][4]["words"] == ["--fail-level", "ERROR"]
    assert re.fullmatch(r"[0-9a-f-]{36}", entries[0][4]["request_id"])


# Limits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text/plain", "image/png"])
def test_an_answer_above_six_megabytes_is_a_clear_413(site, kind):
    fits = 4_000_000 if kind == "image/png" else 6_000_000
    status, _, body = get(site, "/large/", query=f"bytes={fits}&type={kind}")
    assert (status, len(body)) == (200, fits)
    status, _, body = get(site, "/large/", query=f"bytes=7000000&type={kind}")
    assert status == 413
    assert b"Give a presigned link" in body


def test_an_event_above_six_megabytes_is_refused_before_the_function(site):
    with pytest.raises(PayloadTooLargeError, match=str(MOST_PAYLOAD_BYTES)):
        site.invoke(request("api_gateway_v1", method="POST", body=b"x" * 5_000_000))


# Trouble --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cut_off(sandbox) -> Any:
    return sandbox(DATABASE_URL="postgres://web:hunter2@127.0.0.1:1/site")


@pytest.mark.parametrize("path", ["/datasets/", "/console/runs/", "/admin/"])
def test_without_the_database_a_page_says_so_and_nothing_leaks(cut_off, path):
    event = request(
        "api_gateway_v1", path=path, headers=[("Host", "site.example"), ("Cookie", "sessionid=" + "a" * 32)]
    )
    answer = cut_off.invoke(json.dumps(event).encode())
    status, headers, body = answered(answer.json())
    assert status == 503
    assert b"The database does not answer" in body
    assert dict(headers)["retry-after"] == "10"
    for secret in (b"hunter2", b"Traceback", b"psycopg", b"127.0.0.1"):
        assert secret not in body
    assert "hunter2" not in answer.log
    assert "x" * 50 not in answer.log


def test_without_the_database_probes_are_answered(cut_off):
    assert get(cut_off, "/healthz")[0] == 200
    status, _, body = get(cut_off, "/readyz")
    assert (status, json.loads(body)["ready"]) == (503, False)


def test_an_error_of_ours_is_a_page_without_its_cause(site):
    status, _, body = get(site, "/broken/")
    assert status == 500
    assert b"Something went wrong" in body
    assert b"hunter2" not in body
    status, _, body = get(site, "/broken/", headers=[("Accept", "application/json")])
    assert json.loads(body)["error"]["rule"] == "it failed, and has been logged"


def test_settings_that_cannot_be_read_fail_the_start_quickly(sandbox):
    began = time.monotonic()
    with pytest.raises(
        InitError, match=r'ParametersError: SETTINGS_PREFIX="/nowhere": settings: nothing is kept there'
    ):
        sandbox(SETTINGS_PREFIX="/nowhere")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("name", "told"),
    [("SECRET_KEY", "SECRET_KEY is not set"), ("DATABASE_URL", "a function keeps no files")],
)
def test_what_must_be_set_is_named_at_the_start(sandbox, name, told):
    with pytest.raises(InitError, match=told):
        sandbox(**{name: ""})


def test_a_connection_that_was_cut_while_the_sandbox_slept_is_opened_anew(sandbox):
    if DATABASE_URL.startswith("sqlite"):
        pytest.skip("SQLite has no connections to cut: .ci/with-postgres runs this")
    import psycopg

    there = sandbox()
    backend = ask(there, {"event": "backend"})
    assert get(there, "/sign-in/", headers=[("Cookie", "sessionid=" + "a" * 32)])[0] == 200
    with psycopg.connect(DATABASE_URL, autocommit=True) as server:
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname <> current_database()")
        gone = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
        wait_for(lambda: server.execute(gone, [backend]).fetchone()[0] == 0, "the end of the connection", 10)
    assert get(there, "/datasets/", headers=[("Cookie", "sessionid=" + "a" * 32)])[0] == 302
    assert ask(there, {"event": "backend"}) != backend


# Start-up -------------------------------------------------------------------------------------------------------------


def test_sandboxes_of_one_snapshot_draw_different_numbers(sandbox):
    assert ask(sandbox(), {"event": "draw"}) == ask(sandbox(), {"event": "draw"})
    first, second = (ask(sandbox({"snapshot": True}), {"event": "draw"}) for _ in range(2))
    assert first != second


def test_a_request_imports_nothing_heavy(sandbox):
    there = sandbox()
    before = set(ask(there, {"event": "modules"}))
    assert get(there, "/place/")[0] == 200
    assert get(there, "/sign-in/")[0] == 200
    late = set(ask(there, {"event": "modules"})) - before
    heavy = {name.partition(".")[0] for name in late} & {
        "boto3",
        "botocore",
        "celery",
        "kombu",
        "cryptography",
        "psycopg",
    }
    assert not heavy, sorted(late)
    assert len(late) < 40, sorted(late)
