"""The console's JSON API: what it answers is what it says of itself, and errors say what to do."""

from __future__ import annotations

import copy
import datetime
import json

import jsonschema
import pytest
from celery import shared_task
from django.core.cache import cache
from django.core.signals import got_request_exception
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from openapi_spec_validator import validate

from django_app.console import audit, queries, tokens
from django_app.console.actions import ACTIONS
from django_app.console.api.openapi import description
from django_app.console.api.routes import ROUTES
from django_app.console.api.urls import urlpatterns
from django_app.console.errors import RefusalError
from django_app.console.models import AuditEntry
from django_app.console.services import letters
from django_app.ledger.models import Attempt, Pause, QueueSample, Run
from django_app.ledger.states import State
from tasks.celery import app
from tasks.runtime.dead_letters import Done, Letter, Listing
from tests.integration.test_console_access import person, run, worker

pytestmark = pytest.mark.django_db

ROOT = "/console/api/v1"
NOW = datetime.datetime(2026, 3, 1, 12, 0, 30, tzinfo=datetime.UTC)
SCRIPT = "<script>alert(1)</script>\u202e\x1b"


@shared_task(name="tests.console_api.work")
def work(*arguments: object, **named: object) -> None:
    """Enqueued, never run."""


@pytest.fixture(autouse=True)
def _clean():
    cache.clear()
    with app.connection_for_write() as broker:
        for queue in app.amqp.queues.values():
            queue(broker.default_channel).purge()


class Program:
    """Somebody's program: it has a token, and checks each answer against the description."""

    def __init__(self, kind: str) -> None:
        _, text = tokens.issue(person(kind), "a program")
        self.client = Client(headers={"Authorization": f"Bearer {text}"}, enforce_csrf_checks=True)

    def get(self, path: str, status: int = 200, described: str = ""):
        answer = self.client.get(ROOT + path)
        return self._checked(answer, described or path.partition("?")[0], "get", status)

    def act(self, name: str, status: int = 200, /, **fields: object):
        answer = self.client.post(f"{ROOT}/actions/{name}", fields, "application/json")
        return self._checked(answer, f"/actions/{name}", "post", status)

    def _checked(self, answer, described: str, method: str, status: int):
        assert answer.status_code == status, answer.content
        assert answer.headers["content-type"] == "application/json"
        assert "no-store" in answer.headers["cache-control"]
        data = answer.json()
        check(data, described, method, status)
        return data


def check(data: object, path: str, method: str, status: int) -> None:
    """Raises jsonschema.ValidationError where an answer is not what the description says."""
    whole = description()
    schema = whole["paths"][path][method]["responses"][str(status)]["content"]["application/json"]["schema"]
    resolved = {**schema, "components": whole["components"]}
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(resolved, format_checker=checker).validate(data)


@pytest.fixture
def program() -> Program:
    return Program("superuser")


def enqueued(**fields) -> Run:
    result = work.delay(1)
    Run.objects.filter(pk=result.id).update(**{"state": State.FAILED, "finished_at": timezone.now(), **fields})
    return Run.objects.get(pk=result.id)


# The description -----------------------------------------------------------------------------------------------------


def test_the_description_is_openapi(program):
    assert program.get("/openapi.json") == json.loads(json.dumps(description()))
    validate(description())


def test_every_address_is_described_and_nothing_else():
    routes = {f"api_{route.name}" for route in ROUTES} | {f"api_act_{name}" for name in ACTIONS}
    assert {str(pattern.name) for pattern in urlpatterns} == routes | {"api_nothing"}
    paths = description()["paths"]
    assert set(paths) == {route.path for route in ROUTES} | {f"/actions/{name}" for name in ACTIONS}
    for name, action in ACTIONS.items():
        body = paths[f"/actions/{name}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert set(body["properties"]) == set(action.fields)


def test_every_object_that_is_described_says_all_of_its_fields():
    free = {"Description"}
    for name, schema in description()["components"]["schemas"].items():
        if name not in free:
            assert schema["additionalProperties"] is False, name
            assert schema["required"] == list(schema["properties"]), name


def test_a_field_that_is_not_described_is_noticed(program):
    run()
    data = program.get("/runs")
    for change in (
        lambda each: each.update(more=1),
        lambda each: each.pop("task"),
        lambda each: each.update(attempts="1"),
    ):
        spoiled = copy.deepcopy(data)
        change(spoiled["runs"][0])
        with pytest.raises(jsonschema.ValidationError):
            check(spoiled, "/runs", "get", 200)


# Reading -------------------------------------------------------------------------------------------------------------


def test_runs_with_all_that_they_may_have(program):
    parent = run(state=State.SUCCEEDED, result='={"n": 1}')
    made = run(
        id="a/b?c",
        state=State.WAITING,
        parked_for="paused",
        parent_id=parent.pk,
        root_id="root",
        group_id="group",
        retry_of=parent.pk,
        priority=9,
        not_before=NOW,
        expires_at=NOW,
        started_at=NOW,
        progress_done=1,
        progress_note=SCRIPT,
        stamps={"a": ["b"]},
        error=SCRIPT,
        arguments=json.dumps({"args": [SCRIPT], "kwargs": {}}),
    )
    Attempt.objects.create(run=made, number=1, ended_at=NOW, outcome="lost", traceback=SCRIPT)
    listed = program.get("/runs?state=waiting")["runs"]
    assert [each["id"] for each in listed] == ["a/b?c"]
    assert listed[0]["progress"] == {"done": 1, "total": None, "note": SCRIPT}
    detail = program.get("/runs/a%2Fb%3Fc", described="/runs/{id}")
    assert detail["arguments"] == {"args": [SCRIPT], "kwargs": {}}
    assert detail["past_attempts"][0]["traceback"] == SCRIPT
    assert [each["id"] for each in detail["workflow"]] == ["a/b?c"]
    assert program.get(f"/runs/{parent.pk}", described="/runs/{id}")["result"] == {"n": 1}


@pytest.mark.parametrize("arguments", ["", "{not json", "[1, 2]", "null", '"text"', "[" * 5000])
def test_arguments_that_cannot_be_read_are_null(program, arguments):
    made = run(arguments=arguments, state=State.SUCCEEDED, result="s3:x", stamps=[])
    detail = program.get(f"/runs/{made.pk}", described="/runs/{id}")
    assert detail["arguments"] is None
    assert (detail["result"], detail["result_note"]) == (None, "It is too long for the database and lies in S3.")


def test_lists_go_on_with_next_until_there_is_none(program):
    made = {run(created_at=NOW - datetime.timedelta(seconds=each // 3)).pk for each in range(10)}
    seen: list[str] = []
    path = "/runs?limit=4"
    while path:
        data = program.get(path)
        seen += [each["id"] for each in data["runs"]]
        path = f"/runs?limit=4&cursor={data['next']}" if data["next"] else ""
    assert len(seen) == 10
    assert set(seen) == made


def test_a_page_that_has_looked_far_enough_says_so(program, monkeypatch):
    monkeypatch.setattr(queries, "WINDOW", 2)
    for number in range(4):
        run(created_at=NOW - datetime.timedelta(seconds=number), task="a")
        run(created_at=NOW - datetime.timedelta(seconds=number), queue="low")
    data = program.get("/runs?task=a&queue=low")
    assert data["runs"] == []
    assert data["looked_back_to"] == "2026-03-01T12:00:29+00:00"
    assert data["next"]


def test_queues_workers_failures_and_dead_letter_counts(program):
    now = timezone.now()
    QueueSample.objects.create(queue="default", at=now, depth=3, in_flight=None, dead=2, oldest_age_seconds=1.5)
    Pause.objects.create(key="queue:low", by="ada", reason=SCRIPT, created_at=now)
    Pause.objects.create(key="task:shop.tasks.ship", created_at=now)
    worker(queues="default,low")
    run(state=State.FAILED, fingerprint="a" * 16, error=SCRIPT)
    queues = program.get("/queues")
    by_name = {each["name"]: each for each in queues["queues"]}
    assert (by_name["default"]["depth"], by_name["default"]["in_flight"], by_name["high"]["depth"]) == (3, None, None)
    assert by_name["low"]["pause"]["reason"] == SCRIPT
    assert [each["name"] for each in queues["paused_tasks"]] == ["shop.tasks.ship"]
    assert program.get("/workers")["workers"][0]["queues"] == ["default", "low"]
    assert program.get("/failures?since=1h")["failures"][0]["error"] == SCRIPT
    assert {"queue": "default", "dead": 2} in program.get("/dead-letters")["queues"]


def letter(**fields) -> Letter:
    defaults = {
        "message_id": "m1",
        "task": SCRIPT,
        "task_id": "t1",
        "reason": SCRIPT,
        "queue": "default",
        "worker": "",
        "receives": 5,
        "redrives": 0,
        "size_bytes": 100,
        "sent_at": None,
        "dead_lettered_at": NOW,
        "arguments": '{"args": []}',
        "error": "",
        "state": "",
    }
    return Letter(**{**defaults, **fields})


@pytest.fixture
def sqs(monkeypatch, settings):
    """Stands in for tasks.runtime.dead_letters; what it was asked for. Its own tests are with the fake SQS."""
    asked: list[tuple] = []
    settings.BROKER_URL = "sqs://"

    def note(name, result):
        def call(*args, **kwargs):
            asked.append((name, *args, kwargs.get("by")))
            return result

        return call

    done = Done((("t1", "sent back"),), (("m2", "too often"),), complete=False)
    monkeypatch.setattr(letters.dead_letters, "peek", note("peek", Listing((letter(),), complete=True)))
    monkeypatch.setattr(letters.dead_letters, "redrive", note("redrive", done))
    monkeypatch.setattr(letters.dead_letters, "discard", note("discard", done))
    return asked


def test_dead_letters_can_be_read_redriven_and_discarded(program, sqs):
    assert program.get("/dead-letters/default", described="/dead-letters/{queue}")["dead_letters"][0]["task"] == SCRIPT
    answer = program.act("redrive", queue="default", messages=["m1", "m2", "m3"])
    assert (
        answer["message"]
        == "1 sent to work again. 1 stay: too often 1 were no longer there. There may be more: look again."
    )
    assert answer["data"] == {
        "moved": [{"run": "t1", "what": "sent back"}],
        "left": [{"message": "m2", "why": "too often"}],
        "missing": 1,
        "complete": False,
    }
    program.act("discard", queue="default")
    assert sqs == [
        ("peek", "default", 50, None),
        ("redrive", "default", ["m1", "m2", "m3"], "superuser"),
        ("discard", "default", None, "superuser"),
    ]


def test_the_audit_log_is_read_page_by_page(program):
    for number in range(5):
        audit.write("ada", "pause", f"queue {number}", {"why": SCRIPT})
    first = program.get("/audit?action=pause&limit=3")
    assert [each["target"] for each in first["entries"]] == ["queue 4", "queue 3", "queue 2"]
    second = program.get(f"/audit?action=pause&limit=3&cursor={first['next']}")
    assert [each["target"] for each in second["entries"]] == ["queue 1", "queue 0"]
    assert second["next"] is None


# Acting --------------------------------------------------------------------------------------------------------------


def test_a_run_is_retried_once_with_other_arguments(program):
    made = enqueued()
    answer = program.act("retry", run=made.pk, args=[2], kwargs={"size": 4})
    again = Run.objects.get(retry_of=made.pk)
    assert answer["data"] == {"run": again.pk}
    assert json.loads(again.arguments) == {"args": [2], "kwargs": {"size": 4}}
    refused = program.act("retry", 409, run=made.pk)["error"]
    assert refused["thing"] == "run"
    assert refused["value"] == made.pk
    assert refused["rule"].startswith("it was already retried by superuser at ")
    assert refused["remedy"] == "Look at that run; if it has failed, retry it."
    assert refused["message"] == f'run "{made.pk}": {refused["rule"]}. {refused["remedy"]}'
    detail = program.get(f"/runs/{made.pk}", described="/runs/{id}")
    assert detail["retry_id"] == again.pk


def test_the_run_goes_on_to_belong_to_whoever_asked_for_it(program):
    made = enqueued(requested_by="bob")
    program.act("retry", run=made.pk)
    entry = AuditEntry.objects.get(action="retry")
    assert (entry.actor, entry.detail["token"]) == ("superuser", "a program")


def test_all_else_that_pages_do(program):
    failed = enqueued(fingerprint="a" * 16)
    assert list(program.act("retry-failures", fingerprint="a" * 16)["data"]["retried"]) == [failed.pk]
    queued = run(state=State.QUEUED)
    assert program.act("revoke", run=queued.pk)["data"] == {"state": "revoked"}
    assert program.act("revoke", 409, run=queued.pk)["error"]["remedy"] == "Nothing is left to revoke."
    program.act("pause", kind="queue", name="low", reason="x")
    program.act("pause", 409, kind="queue", name="low")
    program.act("resume", kind="queue", name="low")
    program.act("resume", 409, kind="queue", name="low")
    program.act("stop-worker", worker=worker().name)
    program.act("stop-worker", 404, worker="nobody@nowhere")


def test_what_sqs_does_not_do_is_502(program, sqs, monkeypatch):
    def fail(queue):
        raise RefusalError("queue", queue, "SQS did not do it", "Look at its permissions.", 502)

    monkeypatch.setattr(letters, "peek", fail)
    program.get("/dead-letters/default", 502, described="/dead-letters/{queue}")


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/runs?stat=failed", 'parameter "stat": it is not known. Did you mean "state"?'),
        ("/runs?state=fail", 'state "fail": no run has such a state. Did you mean "failed"?'),
        ("/runs?limit=0", 'limit "0": it is no number from 1 to 200. Correct it.'),
        ("/runs?limit=201", 'limit "201": it is no number from 1 to 200. Correct it.'),
        ("/runs?limit=x", 'limit "x": it is no number from 1 to 200. Correct it.'),
        ("/runs?limit=" + "9" * 5000, None),
        ("/runs?cursor=x", 'cursor "x": it is none that a list gave. Begin at the list\'s first page.'),
        ("/runs?since=soon", 'since "soon": it is no age and no time. Write 15m, 24h, 7d or 2026-01-31T12:00:00Z.'),
        ("/runs?task=%00", 'task "\\0": it holds a NUL character. Leave that out.'),
        ("/failures?since=soon", 'since "soon": it is no age and no time. Write 15m, 24h, 7d or 2026-01-31T12:00:00Z.'),
        ("/failures?until=1h", 'parameter "until": it is not known. Known: since.'),
        ("/audit?actor=a&target=b", None),
        ("/workers?pool=x", 'parameter "pool": it is not known. There are none.'),
    ],
)
def test_what_makes_no_sense_is_400_with_the_rule_and_the_remedy(program, path, message):
    error = program.get(path, 400)["error"]
    if message is not None:
        assert error["message"] == message


@pytest.mark.parametrize(
    ("body", "content_type", "status", "thing"),
    [
        (b'{"run": 1}', "application/json", 400, "run"),
        (b"{}", "application/json", 400, "field"),
        (b'{"run": "x", "runs": 1}', "application/json", 400, "field"),
        (b'{"run": "x", "args": {}}', "application/json", 400, "args"),
        (b'{"run": "x", "kwargs": []}', "application/json", 400, "kwargs"),
        (b'{"run": "\\u0000"}', "application/json", 400, "run"),
        (b"[]", "application/json", 400, "body"),
        (b" ", "application/json", 400, "body"),
        (b"", "application/json", 415, "content type"),
        (b'{"run": NaN}', "application/json", 400, "body"),
        (b"\xff", "application/json", 400, "body"),
        (b"[" * 200_000, "application/json", 400, "body"),
        (b" " * 300_000, "application/json", 413, "body"),
        (b" " * 3_000_000, "application/json", 413, "body"),
        (b"run=x", "application/x-www-form-urlencoded", 415, "content type"),
        (b'{"run": "x"}', "text/plain", 415, "content type"),
        (b'{"run": "no-such-run"}', "application/json", 404, "address"),
    ],
)
def test_a_body_that_makes_no_sense_is_refused(program, body, content_type, status, thing):
    answer = program.client.post(f"{ROOT}/actions/retry", body, content_type)
    assert answer.status_code == status
    check(answer.json(), "/actions/retry", "post", status)
    assert answer.json()["error"]["thing"] == thing
    assert not AuditEntry.objects.exclude(action="issue-token").exists()


def test_fields_that_are_wrong_are_named(program):
    error = program.act("revoke", 400, run="x", terminate="yes")["error"]
    assert error["message"] == 'terminate "yes": it is neither true nor false. Write one of them.'
    error = program.act("redrive", 400, queue="default", messages=[])["error"]
    assert error["message"] == 'messages "": none is chosen. Choose at least one.'
    error = program.act("redrive", 400, queue="default", messages=["x"] * 501)["error"]
    assert error["rule"] == "at most 500 are taken at once"
    error = program.act("redrive", 400, queue="default", messages=[1])["error"]
    assert error["rule"] == "it is no list of texts"
    error = program.act("pause", 400, kind="queue", name="lwo")["error"]
    assert error["remedy"] == 'Did you mean "low"?'
    error = program.act("pause", 400, kind="queue", name="low", reason="x" * 501)["error"]
    assert error["rule"] == "it has 501 characters, and 500 are allowed"


def test_other_methods_are_told_which_to_use(program):
    answer = program.client.post(f"{ROOT}/runs", {}, "application/json")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    check(answer.json(), "/runs", "get", 405)
    answer = program.client.get(f"{ROOT}/actions/retry")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_head_is_answered_as_get_without_a_body(program):
    answer = program.client.head(f"{ROOT}/runs")
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("path", ["/", "/nowhere", "/runs/", "/runs/x/y", "/actions/unknown", "/runs/%0A"])
def test_what_is_not_there_is_404_in_json(program, path):
    answer = program.client.get(ROOT + path)
    assert answer.status_code == 404
    check(answer.json(), "/runs", "get", 404)


def test_what_fails_is_500_in_json_and_heard_of(program, monkeypatch):
    heard: list[object] = []

    def fail(*args: object) -> None:
        raise RuntimeError("secret detail")

    def hear(request: object, **told: object) -> None:
        heard.append(request)

    program.client.raise_request_exception = False
    monkeypatch.setattr(queries, "workers", fail)
    got_request_exception.connect(hear)
    try:
        error = program.get("/workers", 500)["error"]
    finally:
        got_request_exception.disconnect(hear)
    assert len(heard) == 1
    assert "secret" not in json.dumps(error)
    assert error["remedy"] == "Try again in a moment."


def test_an_absent_database_is_503_in_json(program, monkeypatch):
    def fail(*args: object) -> None:
        raise OperationalError("connection to db.internal failed for user web")

    monkeypatch.setattr(queries, "workers", fail)
    error = program.get("/workers", 503)["error"]
    assert error["rule"] == "it does not answer"
    assert "db.internal" not in json.dumps(error)


def test_strangers_are_told_where_tokens_are_made():
    answer = Client().get(f"{ROOT}/runs")
    assert answer.status_code == 401
    check(answer.json(), "/runs", "get", 401)
    assert "/console/tokens/" in answer.json()["error"]["remedy"]


def test_whoever_lacks_a_role_is_told_which():
    error = Program("viewer").act("pause", 403, kind="queue", name="low")["error"]
    assert error["message"] == 'role "operator": this takes it. Ask an admin for it.'
