"""Schedules in the console: pages, actions, API and admin, on a real database; some with the local EventBridge."""

from __future__ import annotations

import datetime
import html
import json
import re
import uuid
from typing import Any

import boto3
import pytest
from celery import shared_task
from django.contrib.auth.models import Permission, User
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from django_app.console import actions, schedule_forms, schedule_queries
from django_app.console.access import Access, access_of
from django_app.console.errors import FieldsError, InvalidError, RefusalError
from django_app.console.models import AuditEntry
from django_app.console.roles import Role
from django_app.console.services import schedules
from django_app.console.services.acting import Actor
from django_app.console.services.schedule_finding import time_of
from django_app.datasets import subscriptions
from django_app.ledger.models import Run, Schedule
from django_app.ledger.schedules import ids
from django_app.ledger.states import State
from serverless.local.cloud import environment
from serverless.scheduler.wanted import prefix
from tasks.celery import app
from tests.integration.test_console_access import client_of, person, run
from tests.integration.test_console_api import Program
from tests.threads import at_once

pytestmark = pytest.mark.django_db

ADA = Access("ada", Role.ADMIN)
BERLIN = "Europe/Berlin"
MONDAY = datetime.datetime(2026, 1, 5, 7, tzinfo=datetime.UTC)


@shared_task(name="tests.schedules.work")
def work(number: int = 0, *, password: str = "", note: str = "") -> None:
    """Enqueued, never run."""


@shared_task(name="tests.schedules.other")
def other() -> None:
    """Enqueued, never run."""


@pytest.fixture(autouse=True)
def _clean():
    cache.clear()
    with app.connection_for_write() as broker:
        for queue in app.amqp.queues.values():
            queue(broker.default_channel).purge()


@pytest.fixture
def client() -> Client:
    return client_of(person("superuser", "ada"))


def schedule(name: str = "nightly", **fields: Any) -> Schedule:
    defaults = {"task": work.name, "timing": "0 8 * * mon", "zone": BERLIN, "requested_by": "bob"}
    return Schedule.objects.create(name=name, **{**defaults, **fields})


def page_of(client: Client, path: str, status: int = 200) -> str:
    answer = client.get(path)
    assert answer.status_code == status, path
    return html.unescape(answer.content.decode())


def press(client: Client, action: str, **fields: object) -> str:
    """Press a button; what the next page says."""
    answer = client.post(f"/console/actions/{action}-schedule/", {"next": "/console/schedules/", **fields}, follow=True)
    assert answer.status_code == 200
    said = re.findall(r'<p class="notice [^"]*" role="status">(.*?)</p>', answer.content.decode())
    return html.unescape(" ".join(said))


def act(action: str, access: Access = ADA, /, **fields: object) -> Any:
    return actions.perform(actions.ACTIONS[f"{action}-schedule"], Actor(access), fields)


# The list ------------------------------------------------------------------------------------------------------------


def test_the_list_says_when_whose_and_how_each_is(client):
    schedule("nightly")
    run(schedule="nightly", state=State.SKIPPED, created_at=timezone.now() - datetime.timedelta(days=1))
    run(schedule="nightly", state=State.SUCCEEDED)
    schedule(
        "clean-up", source="code", requested_by="", paused_at=timezone.now(), paused_by="eve", pause_reason="flood"
    )
    schedule("over", ends_at=timezone.now() - datetime.timedelta(days=1))
    Schedule.objects.filter(name="over").update(sync_error="EventBridge is away")
    Schedule.objects.exclude(name="over").update(synced_at=timezone.now())
    page = page_of(client, "/console/schedules/")
    rows = {
        name: row
        for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
        for name in re.findall(r"<bdi>(.*?)<", row)[:1]
    }
    assert [*rows] == ["clean-up", "nightly", "over"]
    for said in ("every Monday at 08:00", BERLIN, work.name, "<bdi>bob</bdi>", "08:00 CE", ">succeeded<", ">on<"):
        assert said in rows["nightly"], said
    assert "not in step" not in rows["nightly"]
    for said in (">code<", ">none<", ">paused<", " by <bdi>eve</bdi>", "<bdi>flood</bdi>"):
        assert said in rows["clean-up"], said
    for said in (">ended<", "not in step with EventBridge", "EventBridge is away"):
        assert said in rows["over"], said


def names(access: Access = ADA, most: int = 50, **asked: str) -> list[str]:
    page = schedule_queries.find(access, schedule_queries.read(asked), timezone.now(), most)
    return [row.schedule.name for row in page.rows]


def test_schedules_are_found_by_state_and_by_text():
    now = timezone.now()
    schedule("on")
    schedule("in-future", ends_at=now + datetime.timedelta(days=1))
    schedule("paused", paused_at=now)
    schedule("ended", ends_at=now - datetime.timedelta(days=1))
    schedule("Other", task=other.name)
    Schedule.objects.exclude(name="on").update(synced_at=now)
    assert names(state="on") == ["Other", "in-future", "on"]
    assert names(state="paused") == ["paused"]
    assert names(state="ended") == ["ended"]
    assert names(state="unsynced") == ["on"]
    assert names(q="OTHER") == ["Other"]
    assert names(q="schedules.other") == ["Other"]
    assert names(q="%") == []
    assert names(q="on", state="on") == ["on"]


def test_pages_show_each_schedule_once_and_look_through_a_bounded_number(monkeypatch):
    for number in range(10):
        schedule(f"s{number}", requested_by="bob" if number % 5 == 4 else "eve")
    seen, after = [], ""
    for _ in range(9):
        page = schedule_queries.find(ADA, schedule_queries.read({"cursor": after}), timezone.now(), 3)
        seen += [row.schedule.name for row in page.rows]
        after = page.after
        if not after:
            break
    assert seen == [f"s{number}" for number in range(10)]

    monkeypatch.setattr(schedule_queries, "LOOKED_THROUGH", 4)
    bob = Access("bob", Role.NOBODY)
    for begin, found, after in (("", [], "s3"), ("s3", ["s4"], "s7"), ("s7", ["s9"], "")):
        page = schedule_queries.find(bob, schedule_queries.read({"cursor": begin}), timezone.now())
        assert [row.schedule.name for row in page.rows] == found
        assert (page.after, page.is_cut) == (after, bool(after))


def test_the_list_asks_the_database_as_often_for_fifty_as_for_one(django_assert_max_num_queries):
    for number in range(50):
        schedule(f"s{number}")
        run(schedule=f"s{number}")
    with django_assert_max_num_queries(3):
        page = schedule_queries.find(ADA, schedule_queries.Asked(), timezone.now())
    assert all(row.last is not None and row.next_due is not None for row in page.rows)
    assert len(page.rows) == 50


def test_a_schedules_runs_are_found_by_way_of_their_index(django_assert_max_num_queries):
    """Else each schedule of a list would cost a look through all runs."""
    made = schedule()
    with django_assert_max_num_queries(4) as captured:
        schedule_queries.find(ADA, schedule_queries.Asked(), timezone.now())
        schedule_queries.history(ADA, made)
        subscriptions.newest_run(made)
    explain = "EXPLAIN " if connection.vendor == "postgresql" else "EXPLAIN QUERY PLAN "
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET LOCAL enable_seqscan = off")
        looked = [query["sql"] for query in captured.captured_queries if '"ledger_run"' in query["sql"]]
        assert len(looked) == 3
        for sql in looked:
            cursor.execute(explain + sql.replace("%", "%%"))
            plan = "\n".join(str(row[-1]) for row in cursor.fetchall())
            assert "run_by_schedule" in plan, plan


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("state=onn", 'state "onn": no schedule has such a state. Did you mean "on"?'),
        ("q=" + "x" * 101, "it has 101 characters, and 100 are allowed"),
        ("q=a%00b", "it holds a NUL character"),
        ("cursor=%00", "it holds a NUL character"),
    ],
)
def test_what_makes_no_sense_is_answered_with_the_rule_and_the_remedy(client, asked, said):
    assert said in page_of(client, f"/console/schedules/?{asked}")


def test_the_newest_run_is_not_shown_to_those_who_may_not_see_it(client):
    schedule("mine", requested_by="bob")
    run(schedule="mine", requested_by="ada", state=State.FAILED)
    page = schedule_queries.find(Access("bob", Role.NOBODY), schedule_queries.Asked(), timezone.now())
    assert [(row.schedule.name, row.last) for row in page.rows] == [("mine", None)]
    assert schedule_queries.history(Access("bob", Role.NOBODY), Schedule.objects.get()).runs == []
    assert len(schedule_queries.history(ADA, Schedule.objects.get()).runs) == 1


# One schedule --------------------------------------------------------------------------------------------------------


def history_of(name: str = "nightly") -> None:
    """A due run that was late, one that was skipped, one at once, one of a backfill and a retry."""
    took = {"started_at": MONDAY + datetime.timedelta(minutes=2), "finished_at": MONDAY + datetime.timedelta(minutes=3)}
    week = datetime.timedelta(days=7)
    common = {"schedule": name, "requested_by": "bob"}
    run(id=ids.due(name, MONDAY), scheduled_for=MONDAY, state=State.SUCCEEDED, created_at=MONDAY, **took, **common)
    run(
        id=ids.due(name, MONDAY + week),
        scheduled_for=MONDAY + week,
        created_at=MONDAY + week,
        state=State.SKIPPED,
        error="an earlier run has not ended",
        **common,
    )
    run(id=ids.now(name, "abc"), state=State.FAILED, **{**common, "requested_by": "eve"})
    run(id=ids.backfill(name, MONDAY, "def"), scheduled_for=MONDAY, state=State.QUEUED, **common)
    run(id="a-retry", state=State.RUNNING, **common)


def test_a_schedules_page_tells_when_it_is_due_by_what_rules_and_what_became_of_it(client):
    schedule(
        overlap="queue",
        catch_up_seconds=7200,
        jitter_minutes=5,
        pause_after_failures=3,
        ends_at=datetime.datetime(2099, 1, 1, tzinfo=datetime.UTC),
        kwargs={"password": "hunter2", "note": "blue"},
    )
    history_of()
    page = page_of(client, "/console/schedule/nightly")
    for said in (
        "every Monday at 08:00",
        "0 8 * * mon",
        "let one wait for its end",
        "2 h",
        "5 min",
        "Thu 2099-01-01 01:00 CET",
    ):
        assert said in page, said
    due = re.search(r'<ol class="due">(.*?)</ol>', page, re.DOTALL)[1]
    assert due.count("<li>") == 5
    assert all(
        re.search(r"Mon \d{4}-\d\d-\d\d 08:00 CES?T</time>.*0[67]:00 UTC", line) for line in due.split("</li>")[:-1]
    )
    assert "hunter2" not in page
    assert '"note": "blue"' in page

    label = "The last 5 runs: 1 failed, 1 queued, 1 running, 1 skipped, 1 succeeded. Higher bars took longer."
    assert f'aria-label="{label}"' in page
    assert page.count("<rect") == 5
    rows = re.findall(r"<tr>(.*?)</tr>", page.partition("<h2>History</h2>")[2], re.DOTALL)[1:]
    by_state = {re.search(r'class="state (\w+)"', row)[1]: row for row in rows}
    assert "the clock" in by_state["succeeded"]
    assert "120 s" in by_state["succeeded"] or "2 min" in by_state["succeeded"]
    assert "an earlier run has not ended" in by_state["skipped"]
    assert "<bdi>eve</bdi>, at once" in by_state["failed"]
    assert "backfill" in by_state["queued"]
    assert "a retry" in by_state["running"]
    assert '<a href="/console/runs/?schedule=nightly">' in page


def test_bars_are_as_high_as_runs_took_long_and_the_newest_stands_last(client):
    from django_app.console.templatetags.console import bars

    schedule()
    for number, seconds in enumerate((10, 100, None)):
        at = MONDAY + datetime.timedelta(days=number)
        end = at + datetime.timedelta(seconds=seconds) if seconds else None
        run(id=f"r{number}", schedule="nightly", created_at=at, started_at=at if end else None, finished_at=end)
    drawn = bars(schedule_queries.history(ADA, Schedule.objects.get()).runs)
    assert [each["ran"].run.pk for each in drawn] == ["r0", "r1", "r2"]
    assert [each["height"] for each in drawn] == [9, 40, 6]
    assert all(each["y"] + each["height"] == 40 for each in drawn)
    assert [each["x"] for each in drawn] == [376, 384, 392]


def test_history_is_bounded(client):
    schedule()
    for number in range(60):
        run(id=f"r{number}", schedule="nightly", created_at=MONDAY + datetime.timedelta(minutes=number))
    page = page_of(client, "/console/schedule/nightly")
    assert page.count("<rect") == 50
    assert "r10" in page
    assert len(re.findall(r"<tr>", page.partition("<h2>History</h2>")[2])) == 21
    assert "r39" not in page.partition("<tbody>")[2]


def test_a_schedule_of_the_code_is_not_changed_here_and_the_page_says_why(client):
    schedule(source="code")
    page = page_of(client, "/console/schedule/nightly")
    assert "It stands in <code>CELERY_BEAT_SCHEDULE</code>" in page
    for offered in (">Run now</button>", ">Pause the schedule</button>", ">Count due times</button>"):
        assert offered in page
    for offered in (">Edit</a>", ">Delete the schedule</button>"):
        assert offered not in page
    for action in ("change", "delete"):
        with pytest.raises(
            RefusalError, match="stands in CELERY_BEAT_SCHEDULE, and the next deploy would bring it back"
        ):
            act(action, schedule="nightly")
    answer = client.get("/console/edit-schedule/nightly")
    assert answer.headers["location"] == "/console/schedule/nightly"


def test_buttons_are_there_for_those_who_may_use_them(client):
    schedule()
    page = page_of(client, "/console/schedule/nightly")
    for offered in (
        ">Run now</button>",
        ">Try EventBridge again</button>",
        ">Edit</a>",
        ">Delete the schedule</button>",
    ):
        assert offered in page
    assert ">Resume</button>" not in page
    Schedule.objects.update(paused_at=timezone.now(), synced_at=timezone.now())
    page = page_of(client, "/console/schedule/nightly")
    assert ">Resume</button>" in page
    assert ">Pause the schedule</button>" not in page
    assert ">Try EventBridge again</button>" not in page
    viewer = client_of(person("viewer"))
    for path in ("/console/schedule/nightly", "/console/schedules/"):
        main = page_of(viewer, path).partition('<main id="main">')[2]
        assert re.findall(r"<button[^>]*>(.*?)</button>", main) in ([], ["Show"])


def test_htmx_gets_the_part_that_changes(client):
    schedule()
    for path in ("/console/schedules/", "/console/schedule/nightly"):
        part = client.get(path, headers={"HX-Request": "true"}).content.decode()
        assert part.startswith('<div id="live" data-live')
        assert "<html" not in part


@pytest.mark.parametrize("name", ["with/slash", "what?is=this", "ümläut", "%2F", "a b+c", "new", "<b>&"])
def test_a_schedule_may_have_any_name(client, name):
    schedule(name)
    page = page_of(client, "/console/schedules/")
    link = re.search(r'href="(/console/schedule/[^"]*)"', page)[1]
    page_of(client, link)
    assert client.post("/console/actions/pause-schedule/", {"schedule": name, "next": link}).headers["location"] == link
    assert Schedule.objects.get().is_paused


def test_what_this_machine_cannot_read_is_shown_as_it_is_written(client):
    schedule()
    Schedule.objects.update(zone="Mars/Base", timing="whenever")
    assert "whenever" in page_of(client, "/console/schedules/")
    assert "whenever" in page_of(client, "/console/schedule/nightly")
    assert 'value="Mars/Base"' in page_of(client, "/console/edit-schedule/nightly")


def test_a_run_leads_to_its_schedule_and_the_list_of_runs_to_a_schedules_runs(client):
    schedule()
    history_of()
    page = page_of(client, f"/console/run/{ids.due('nightly', MONDAY)}")
    assert '<a href="/console/schedule/nightly">' in page
    assert "2026-01-05 07:00 UTC" in page
    listed = page_of(client, "/console/runs/?schedule=nightly&state=skipped")
    assert "an earlier run has not ended" in listed
    assert listed.count('<span class="state skipped">') == 1
    Schedule.objects.all().delete()
    assert '<a href="/console/schedule/' not in page_of(client, f"/console/run/{ids.due('nightly', MONDAY)}")


# Pausing and running -------------------------------------------------------------------------------------------------


def test_a_schedule_is_paused_and_resumed_with_a_reason(client):
    schedule()
    assert "is not due any more" in press(client, "pause", schedule="nightly", reason="SES is down")
    made = Schedule.objects.get()
    assert (made.paused_by, made.pause_reason) == ("ada", "SES is down")
    assert "it is already paused by ada since" in press(client_of(person("operator")), "pause", schedule="nightly")
    assert "Schedule nightly is due again." in press(
        client, "resume", schedule="nightly", seen=made.paused_at.isoformat()
    )
    assert re.search(r"it was already resumed by ada at [\d: -]+ UTC", press(client, "resume", schedule="nightly"))
    entries = AuditEntry.objects.filter(target="schedule nightly").order_by("pk")
    assert [(each.action, each.outcome) for each in entries] == [
        ("pause-schedule", "done"),
        ("pause-schedule", "refused"),
        ("resume-schedule", "done"),
        ("resume-schedule", "refused"),
    ]
    assert entries[2].detail["reason"] == "SES is down"


def test_a_pause_that_is_not_the_one_that_was_seen_stays(client):
    made = schedule(paused_at=timezone.now(), paused_by="eve", pause_reason="another flood")
    seen = (made.paused_at - datetime.timedelta(hours=1)).isoformat()
    said = press(client, "resume", schedule="nightly", seen=seen)
    assert "the pause that you looked at is over, and it is paused anew by eve" in said
    assert Schedule.objects.get().is_paused
    assert 'seen "yesterday": it is no time' in press(client, "resume", schedule="nightly", seen="yesterday")


def test_run_now_makes_one_run_however_often_its_form_is_sent(client):
    schedule(paused_at=timezone.now())
    token = re.search(r'name="token" value="(\w+)"', page_of(client, "/console/schedule/nightly"))[1]
    answer = client.post("/console/actions/run-schedule/", {"schedule": "nightly", "token": token})
    made = Run.objects.get()
    assert answer.headers["location"] == f"/console/run/{made.pk}"
    assert (made.schedule, made.requested_by, made.scheduled_for) == ("nightly", "ada", None)
    again = press(client_of(person("operator")), "run", schedule="nightly", token=token)
    assert re.search(rf"this was already asked for by ada at [\d: -]+ UTC: run {made.pk}", again)
    assert Run.objects.count() == 1
    press(client, "run", schedule="nightly")
    assert Run.objects.count() == 2


def test_a_token_that_is_none_is_refused(client):
    schedule()
    assert "must be 1 to 32 letters and digits" in press(client, "run", schedule="nightly", token="a b")


def test_a_backfill_says_how_many_due_times_there_are_before_it_is_done(client):
    schedule()
    asked = "since=2026-01-05T08:00&until=2026-02-02T08:00"
    page = page_of(client, f"/console/schedule/nightly?{asked}")
    assert "5 due times, from Mon 2026-01-05 08:00 CET to Mon 2026-02-02 08:00 CET." in page
    assert not Run.objects.exists()
    form = dict(
        re.findall(
            r'<input type="hidden" name="(\w+)" value="([^"]*)"',
            page.partition('id="backfill"')[2].partition("</form>")[0],
        )
    )
    assert press(client, "backfill", **form) == "5 due times are made up for."
    assert sorted(Run.objects.values_list("scheduled_for", flat=True)) == [
        MONDAY + datetime.timedelta(days=7 * week) for week in range(5)
    ]
    assert re.search(r"this backfill was already begun by ada at", press(client, "backfill", **form))
    assert Run.objects.count() == 5
    entry = AuditEntry.objects.get(action="backfill-schedule", outcome="done")
    assert (entry.detail["runs"], entry.detail["since"]) == (5, "2026-01-05T07:00:00+00:00")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"since": "2026-01-05T08:00", "until": "2025-01-05T08:00"}, "ends before it begins"),
        ({"since": "2026-01-05T08:00", "until": "2999-01-05T08:00"}, "is not over yet"),
        ({"since": "2026-01-06T08:00", "until": "2026-01-06T09:00"}, "has no due time"),
        ({"since": "1990-01-06T08:00", "until": "2026-01-06T09:00"}, "has more than 500 due times"),
        ({"since": "soon", "until": "2026-01-06T09:00"}, 'since "soon": it is no time of ISO 8601'),
        ({"since": "0001-01-01T00:00", "until": "2026-01-06T09:00"}, "since"),
    ],
)
def test_a_range_that_cannot_be_made_up_for_is_refused_before_and_at_the_act(client, fields, said):
    schedule()
    page = page_of(client, f"/console/schedule/nightly?since={fields['since']}&until={fields['until']}")
    assert said in page
    assert 'id="backfill"' not in page
    assert said in press(client, "backfill", schedule="nightly", **fields)
    assert not Run.objects.exists()


def test_a_deleted_schedule_is_gone_and_who_comes_later_is_told(client):
    schedule()
    run(schedule="nightly")
    assert press(client, "delete", schedule="nightly") == "Schedule nightly is deleted. Its past runs stay."
    assert not Schedule.objects.exists()
    assert Run.objects.count() == 1
    for action in ("delete", "pause", "run"):
        said = press(client_of(person("operator", f"o-{action}")), action, schedule="nightly")
        assert re.search(r"it was deleted by ada at [\d: -]+ UTC", said)
    assert (
        client_of(person("viewer")).post("/console/actions/delete-schedule/", {"schedule": "nightly"}).status_code
        == 403
    )
    assert (
        client_of(person("nobody")).post("/console/actions/delete-schedule/", {"schedule": "nightly"}).status_code
        == 404
    )


# The form ------------------------------------------------------------------------------------------------------------

FILLED = {
    "name": "mails",
    "task": work.name,
    "timing": "30 9 * * mon-fri",
    "zone": BERLIN,
    "args": "[7]",
    "kwargs": '{"note": "x"}',
    "options": '{"queue": "low"}',
    "overlap": "allow",
    "catch_up_seconds": "600",
    "jitter_minutes": "2",
    "ends_at": "2099-07-01T12:00",
    "pause_after_failures": "4",
}


def test_a_schedule_is_made_on_the_page(client):
    answer = client.post("/console/schedules/new/", FILLED)
    assert answer.headers["location"] == "/console/schedule/mails"
    made = Schedule.objects.get()
    assert (made.args, made.kwargs, made.options) == ([7], {"note": "x"}, {"queue": "low"})
    assert (made.timing, made.zone, made.overlap) == ("30 9 * * mon-fri", BERLIN, "allow")
    assert (made.catch_up_seconds, made.jitter_minutes, made.pause_after_failures) == (600, 2, 4)
    assert made.ends_at == datetime.datetime(2099, 7, 1, 10, tzinfo=datetime.UTC)
    assert (made.source, made.requested_by, made.tenant) == ("people", "ada", "")
    assert AuditEntry.objects.get().action == "create-schedule"


def test_a_preview_says_in_words_and_times_what_is_typed_and_saves_nothing(client):
    for headers in ({}, {"HX-Request": "true"}):
        answer = client.post("/console/schedules/new/", {**FILLED, "preview": "on"}, headers=headers)
        page = html.unescape(answer.content.decode())
        assert answer.status_code == 200
        assert "on weekdays at 09:30" in page
        assert page.partition('<ol class="due">')[2].count("09:30 CE") == 5
        assert ("<html" in page) is not headers
        assert 'value="30 9 * * mon-fri"' in page
        assert not Schedule.objects.exists()
        assert not AuditEntry.objects.exists()


def test_a_preview_shows_the_times_though_something_else_is_wrong(client):
    answer = client.post("/console/schedules/new/", {**FILLED, "preview": "on", "task": "no.such", "args": "[1"})
    page = html.unescape(answer.content.decode())
    assert "on weekdays at 09:30" in page
    assert re.search(r'id="fault-task"><bdi>task "no.such" is none of this release', page)
    assert re.search(r'id="fault-args"><bdi>args "\[1": it is not JSON', page)


WRONG = [
    ("name", "a@b", "it may hold no @"),
    ("name", "", "it is needed"),
    ("name", "x" * 151, "it has 151 characters, and 150 are allowed"),
    ("task", "tests.schedules.wrok", "is none of this release"),
    ("task", "", "it is needed"),
    ("timing", "99 8 * * mon", "99"),
    ("timing", "0 0 31 2 *", ""),
    ("timing", "every 30 seconds", ""),
    ("timing", "", "it is needed"),
    ("zone", "Europe/Berlni", 'Did you mean "Europe/Berlin"?'),
    ("args", "[1", "it is not JSON: line 1"),
    ("args", "{}", "it is no list"),
    ("kwargs", "[]", "it is no object"),
    ("kwargs", '{"nonsense": 1}', "cannot be called with"),
    ("kwargs", '{"note": NaN}', "NaN is no number of JSON"),
    ("options", '{"eta": "now"}', 'option "eta" cannot be given'),
    ("options", '{"queue": "nowhere"}', "nowhere"),
    ("overlap", "maybe", "it is not one of those known"),
    ("catch_up_seconds", "soon", "it is no whole number"),
    ("catch_up_seconds", "", "it is needed"),
    ("catch_up_seconds", "5", "60"),
    ("jitter_minutes", "-1", "it is no whole number"),
    ("jitter_minutes", "5000", "1440"),
    ("ends_at", "tomorrow", "it is no time of ISO 8601"),
    ("pause_after_failures", "1000", "100"),
    ("pause_after_failures", "9" * 30, "it is no whole number"),
]


@pytest.mark.parametrize(("field", "text", "said"), WRONG)
def test_what_is_wrong_is_said_beside_its_field_and_nothing_that_was_typed_is_lost(client, field, text, said):
    typed = {**FILLED, field: text}
    for extra, status in (({}, 400), ({"preview": "on"}, 200)):
        answer = client.post("/console/schedules/new/", {**typed, **extra})
        page = html.unescape(answer.content.decode())
        assert answer.status_code == status
        fault = re.search(rf'id="fault-{field}"><bdi>(.*?)</bdi>', page)
        assert fault is not None, page
        assert said in fault[1]
        assert f'aria-describedby="fault-{field}"' in page or field == "overlap"
        for name, value in typed.items():
            if name in ("args", "kwargs", "options"):
                assert f">{value}</textarea>" in page
            elif name != "overlap":
                assert f'name="{name}" value="{value}"' in page, name
    assert not Schedule.objects.exists()


def test_arguments_that_the_task_does_not_take_are_refused_beside_their_field(client):
    answer = client.post("/console/schedules/new/", {**FILLED, "task": other.name, "kwargs": "{}", "args": "[1]"})
    fault = re.search(r'id="fault-args"><bdi>(.*?)</bdi>', html.unescape(answer.content.decode()))[1]
    assert "task tests.schedules.other cannot be called with 1 positional arguments" in fault


def test_what_is_said_of_arguments_quotes_no_secret_to_anybody(client):
    User.objects.update(is_staff=True)
    made = schedule(kwargs={"password": "hunter2"})
    typed = {"kwargs": '{"password": "[redacted]", "nonsense": 1}', "timing": "every hour"}
    form = edit_form(client)
    for path, data in (
        ("/console/edit-schedule/nightly", {**form, **typed}),
        ("/console/edit-schedule/nightly", {**form, **typed, "preview": "on"}),
        (f"{ADMIN}{made.pk}/change/", {**ADMIN_FORM, **typed}),
    ):
        page = client.post(path, data).content.decode()
        assert "cannot be called with" in page
        assert "hunter2" not in page
    client.post("/console/schedules/new/", {**FILLED, "kwargs": '{"password": "typed", "nonsense": 1}'})
    entries = AuditEntry.objects.all()
    assert len(entries) == 2
    assert "nonsense" in json.dumps(entries[1].detail)
    for secret in ("hunter2", "typed"):
        assert secret not in json.dumps([entry.detail for entry in entries])


def test_a_name_that_is_taken_is_said_beside_it_with_whom(client):
    client.post("/console/schedules/new/", FILLED)
    answer = client_of(person("operator")).post("/console/schedules/new/", FILLED)
    assert answer.status_code == 409
    fault = re.search(r'id="fault-name"><bdi>(.*?)</bdi>', html.unescape(answer.content.decode()))[1]
    assert re.search(r"a schedule of that name is there already, made by ada at [\d: -]+ UTC", fault)


def edit_form(client: Client, name: str = "nightly") -> dict[str, str]:
    """What the page's form would send."""
    page = client.get(f"/console/edit-schedule/{name}").content.decode().partition('id="schedule-form"')[2]
    typed = dict(re.findall(r'<input[^>]*name="(\w+)" value="([^"]*)"', page))
    typed |= dict(re.findall(r'<textarea[^>]*name="(\w+)"[^>]*>(.*?)</textarea>', page, re.DOTALL))
    typed |= {"overlap": re.search(r'<option value="(\w+)" selected>', page)[1]}
    return {field: html.unescape(text) for field, text in typed.items()}


def test_a_schedule_is_changed_on_the_page_and_its_secrets_stay_where_they_are_not_typed_anew(client):
    schedule(kwargs={"password": "hunter2", "note": "x"}, ends_at=MONDAY + datetime.timedelta(days=20_000, seconds=7))
    form = edit_form(client)
    assert json.loads(form["kwargs"]) == {"password": "[redacted]", "note": "x"}
    assert client.post("/console/edit-schedule/nightly", form).status_code == 302
    assert not AuditEntry.objects.exclude(detail={}).exists()
    form["kwargs"], form["timing"] = '{"password": "[redacted]", "note": "y"}', "0 9 * * mon"
    assert client.post("/console/edit-schedule/nightly", form).headers["location"] == "/console/schedule/nightly"
    made = Schedule.objects.get()
    assert (made.kwargs, made.timing) == ({"password": "hunter2", "note": "y"}, "0 9 * * mon")
    assert made.requested_by == "bob"
    assert "hunter2" not in json.dumps([entry.detail for entry in AuditEntry.objects.all()])
    form = edit_form(client)
    form["kwargs"] = '{"password": "new"}'
    client.post("/console/edit-schedule/nightly", form)
    assert Schedule.objects.get().kwargs == {"password": "new"}


def test_redacted_where_nothing_was_redacted_is_refused_beside_its_field(client):
    schedule(kwargs={"note": "x"})
    for preview in ({}, {"preview": "on"}):
        answer = client.post(
            "/console/edit-schedule/nightly", {**edit_form(client), "kwargs": '{"note": "[redacted]"}', **preview}
        )
        assert (
            "stands where nothing was redacted"
            in re.search(r'id="fault-kwargs"><bdi>(.*?)</bdi>', html.unescape(answer.content.decode()))[1]
        )
    assert Schedule.objects.get().kwargs == {"note": "x"}


def test_who_saves_what_another_has_changed_meanwhile_is_told_and_keeps_what_was_typed(client):
    schedule()
    form = edit_form(client)
    eve = client_of(person("operator", "eve"))
    eve.post("/console/edit-schedule/nightly", {**edit_form(eve), "overlap": "cancel"})
    answer = client.post("/console/edit-schedule/nightly", {**form, "timing": "0 10 * * *"})
    page = html.unescape(answer.content.decode())
    assert answer.status_code == 409
    assert re.search(r"it was changed by eve at [\d: -]+ UTC after you looked at it", page)
    assert 'value="0 10 * * *"' in page
    assert Schedule.objects.get().overlap == "cancel"
    assert Schedule.objects.get().timing == "0 8 * * mon"


def test_a_form_with_empty_boxes_for_never_sets_never(client):
    schedule(ends_at=MONDAY + datetime.timedelta(days=20_000), pause_after_failures=3)
    client.post("/console/edit-schedule/nightly", {**edit_form(client), "ends_at": "", "pause_after_failures": ""})
    made = Schedule.objects.get()
    assert (made.ends_at, made.pause_after_failures) == (None, None)


def test_whoever_works_for_a_tenant_changes_when_but_not_what():
    schedule(tenant="acme")
    client = client_of(person("tenant operator"))
    client.post("/console/edit-schedule/nightly", {**edit_form(client), "timing": "0 9 * * mon"})
    assert Schedule.objects.get().timing == "0 9 * * mon"
    answer = client.post("/console/edit-schedule/nightly", {**edit_form(client), "task": other.name})
    assert answer.status_code == 403
    assert "may not choose the task" in answer.content.decode()
    assert Schedule.objects.get().task == work.name


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    note=VALUES,
    password=TEXTS,
    timing=st.sampled_from(["0 8 * * mon", "*/15 8-17 * * mon-fri", "every 90 minutes", "30 2 1 * *"]),
    zone=st.sampled_from(["UTC", BERLIN, "America/New_York", "Asia/Kolkata"]),
    ends_at=st.none() | st.integers(1_900_000_000, 3_700_000_000),
    failures=st.none() | st.integers(1, 100),
    overlap=st.sampled_from(["skip", "queue", "allow", "cancel"]),
)
def test_a_form_that_is_sent_back_as_it_was_shown_changes_nothing(  # noqa: PLR0917 - given by name
    note, password, timing, zone, ends_at, failures, overlap
):
    name = uuid.uuid4().hex
    made = schedule(
        name,
        kwargs={"note": note, "password": password},
        timing=timing,
        zone=zone,
        # Local times in the hour that a zone's clock repeats mean the first of the two.
        ends_at=datetime.datetime.fromtimestamp(ends_at, datetime.UTC).replace(hour=12)
        if ends_at is not None
        else None,
        pause_after_failures=failures,
        overlap=overlap,
    )
    shown = schedule_forms.of(made)
    form = schedule_forms.read(actions.ACTIONS["change-schedule"], shown.typed)
    assert form.faults == {}
    assert act("change", schedule=name, seen=schedules.version(made), **form.values).message.startswith(
        "Nothing is changed"
    )


# Two at once ---------------------------------------------------------------------------------------------------------


def both_do(action: str, /, **fields: object) -> tuple[list[str], list[str]]:
    """Two operators do the same at the same moment; what is told to the one who did it, and to the other."""
    accesses = [access_of(person("operator", f"operator-{number}")) for number in range(2)]

    def do(number: int) -> tuple[bool, str]:
        try:
            return True, act(action, accesses[number], **fields).message
        except RefusalError as refusal:
            return False, str(refusal)

    told = at_once(2, do)
    return [text for done, text in told if done], [text for done, text in told if not done]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("action", "fields"),
    [
        ("pause", {"schedule": "nightly", "reason": "both"}),
        ("resume", {"schedule": "idle"}),
        ("delete", {"schedule": "nightly"}),
        ("run", {"schedule": "nightly", "token": "abc"}),
        ("backfill", {"schedule": "nightly", "since": "2026-01-05T00:00", "until": "2026-01-06T00:00", "token": "abc"}),
        ("create", {"name": "new", "task": work.name, "timing": "every hour"}),
        ("change", {"schedule": "nightly", "timing": "every hour", "seen": "..."}),
    ],
)
def test_two_who_do_the_same_at_once_have_one_effect_and_one_explanation(action, fields):
    made = schedule()
    schedule("idle", paused_at=timezone.now())
    if "seen" in fields:
        fields = {**fields, "seen": schedules.version(made)}
    done, refused = both_do(action, **fields)
    assert (len(done), len(refused)) == (1, 1), (done, refused)
    entries = AuditEntry.objects.filter(action=f"{action}-schedule")
    assert f" by {entries.get(outcome='done').actor} " in refused[0]
    assert entries.get(outcome="refused").actor != entries.get(outcome="done").actor
    assert Run.objects.count() == (1 if action in ("run", "backfill") else 0)


# The API -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def program() -> Program:
    return Program("superuser")


def test_schedules_are_read_by_programs_with_all_that_pages_show(program):
    schedule(paused_at=MONDAY, paused_by="eve", pause_reason="flood")
    schedule("other", kwargs={"password": "hunter2"})
    history_of("other")
    listed = program.get("/schedules?limit=1")
    assert [(each["name"], each["words"], each["next_due"]) for each in listed["schedules"]] == [
        ("nightly", "every Monday at 08:00", None)
    ]
    assert listed["schedules"][0]["pause"] == {"by": "eve", "reason": "flood", "since": MONDAY.isoformat()}
    further = program.get(f"/schedules?cursor={listed['next']}")
    assert [each["name"] for each in further["schedules"]] == ["other"]
    assert further["next"] is None
    detail = program.get("/schedules/other", described="/schedules/{name}")
    assert len(detail["next"]) == 5
    assert detail["next"][0] == detail["next_due"]
    assert detail["kwargs"] == {"password": "[redacted]"}
    assert {each["kind"]: each["run"]["state"] for each in detail["history"]} == {
        "now": "failed",
        "backfill": "queued",
        "retry": "running",
        "due": "succeeded",
    }
    due = next(each for each in detail["history"] if each["run"]["state"] == "succeeded")
    assert (due["seconds"], due["began_late_seconds"]) == (60.0, 120.0)
    program.get("/schedules/none", 404, "/schedules/{name}")
    assert [each["id"] for each in program.get("/runs?schedule=other&state=skipped")["runs"]] == [
        "other@2026-01-12T07:00:00Z"
    ]


def test_a_timing_is_previewed_by_programs(program):
    told = program.get("/schedule-preview?timing=0+8+*+*+mon&zone=Europe/Berlin&ends_at=2030-01-01T00:00")
    assert (told["words"], told["zone"], len(told["next"])) == ("every Monday at 08:00", BERLIN, 5)
    wrong = program.get("/schedule-preview?timing=0+8+*+*+mno", 400)["error"]
    assert list(wrong["fields"]) == ["timing"]
    program.get("/schedule-preview?zone=Europe/Berlni&timing=every+hour", 400)
    program.get("/schedule-preview?timing=every+hour&ends_at=never-ever", 400)
    program.get("/schedule-preview", 400)


def test_a_program_makes_changes_and_deletes_a_schedule(program):
    made = program.act("create-schedule", name="p", task=work.name, timing="every hour", kwargs={"note": "x"})
    assert made["data"] == {"schedule": "p"}
    wrong = program.act("create-schedule", 400, name="q", task="no.such", timing="61 * * * *")["error"]
    assert set(wrong["fields"]) == {"task", "timing"}
    seen = program.get("/schedules/p", described="/schedules/{name}")["version"]
    program.act("change-schedule", schedule="p", pause_after_failures=2, ends_at="2099-01-01T00:00", seen=seen)
    detail = program.get("/schedules/p", described="/schedules/{name}")
    assert (detail["pause_after_failures"], detail["ends_at"]) == (2, "2099-01-01T00:00:00+00:00")
    assert (detail["timing"], detail["kwargs"]) == ("every 1 hour", {"note": "x"})
    program.act("change-schedule", 409, schedule="p", timing="every 2 hours", seen=seen)
    program.act("change-schedule", schedule="p", pause_after_failures=0, ends_at="never")
    detail = program.get("/schedules/p", described="/schedules/{name}")
    assert (detail["pause_after_failures"], detail["ends_at"]) == (None, None)
    assert program.act("change-schedule", 400, schedule="p", jitter_minutes=True)["error"]["thing"] == "jitter_minutes"
    program.act("pause-schedule", schedule="p", reason="x")
    program.act("resume-schedule", schedule="p")
    ran = program.act("run-schedule", schedule="p")["data"]["run"]
    assert ids.kind_of(ran, "p") == "now"
    filled = program.act("backfill-schedule", schedule="p", since="2026-01-05T00:00", until="2026-01-05T02:30Z")
    assert len(filled["data"]["runs"]) == 3
    program.act("delete-schedule", schedule="p")
    program.act("delete-schedule", 409, schedule="p")


# The admin -----------------------------------------------------------------------------------------------------------

ADMIN = "/admin/ledger/schedule/"
ADMIN_FORM = {**FILLED, "ends_at_0": "2099-07-01", "ends_at_1": "12:00:00"}


def test_the_admin_makes_and_changes_schedules_by_the_same_rules(client):
    User.objects.update(is_staff=True)
    answer = client.post(f"{ADMIN}add/", {**ADMIN_FORM, "task": "no.such", "args": "[1]"})
    assert 'task "no.such" is none of this release' in html.unescape(answer.content.decode())
    assert client.post(f"{ADMIN}add/", ADMIN_FORM).status_code == 302
    made = Schedule.objects.get()
    assert (made.requested_by, made.kwargs) == ("ada", {"note": "x"})
    Schedule.objects.update(kwargs={"password": "hunter2"})
    page = page_of(client, f"{ADMIN}{made.pk}/change/")
    assert "hunter2" not in page
    changed = {**ADMIN_FORM, "kwargs": '{"password": "[redacted]", "note": "y"}', "timing": "every 2 hours"}
    assert client.post(f"{ADMIN}{made.pk}/change/", changed).status_code == 302
    made.refresh_from_db()
    assert (made.kwargs, made.timing, made.name) == ({"password": "hunter2", "note": "y"}, "every 2 hours", "mails")
    wrong = client.post(f"{ADMIN}{made.pk}/change/", {**changed, "kwargs": '{"note": "[redacted]"}'})
    assert "stands where nothing was redacted" in wrong.content.decode()
    assert list(AuditEntry.objects.order_by("pk").values_list("action", flat=True)) == [
        "create-schedule",
        "change-schedule",
    ]


def test_the_admin_shows_those_of_the_code_and_changes_none(client):
    User.objects.update(is_staff=True)
    made = schedule(source="code", kwargs={"password": "hunter2"})
    page = page_of(client, f"{ADMIN}{made.pk}/change/")
    assert 'name="_save"' not in page
    assert "hunter2" not in page
    assert client.post(f"{ADMIN}{made.pk}/change/", ADMIN_FORM).status_code == 403
    assert client.post(f"{ADMIN}{made.pk}/delete/", {"post": "yes"}).status_code == 403
    client.post(ADMIN, {"action": "delete_selected", "_selected_action": made.pk, "post": "yes"})
    assert Schedule.objects.get().timing == "0 8 * * mon"


def test_the_admins_list_is_filtered_by_state_and_takes_the_permission(client):
    User.objects.update(is_staff=True)
    schedule("paused-one", paused_at=timezone.now())
    schedule("on-one")
    page = page_of(client, f"{ADMIN}?standing=paused")
    assert "paused-one" in page
    assert "on-one" not in page
    staff = User.objects.create_user("staff", is_staff=True)
    assert client_of(staff).get(ADMIN).status_code == 403
    staff.user_permissions.add(Permission.objects.get(codename="view_schedule"))
    staff = client_of(User.objects.get(pk=staff.pk))
    assert "hunter2" not in page_of(staff, ADMIN)
    assert staff.get(f"{ADMIN}add/").status_code == 403


# EventBridge ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def eventbridge(cloud, settings):
    """The local EventBridge; gives the names that it has of one schedule."""
    told = environment(cloud)
    for name in ("SCHEDULE_GROUP", "SCHEDULE_ROLE_ARN", "SCHEDULE_DEAD_LETTER_ARN", "QUEUE_URL_PREFIX"):
        setattr(settings, name, told[name])

    def known(name: str) -> list[str]:
        found = boto3.client("scheduler").list_schedules(GroupName=settings.SCHEDULE_GROUP, NamePrefix=prefix(name))
        return [each["Name"] for each in found["Schedules"]]

    return known


@pytest.mark.django_db(transaction=True)
def test_what_is_done_on_pages_is_done_at_eventbridge(client, eventbridge):
    client.post("/console/schedules/new/", FILLED)
    assert len(eventbridge("mails")) == 1
    assert Schedule.objects.get().synced_at is not None
    before = eventbridge("mails")
    client.post("/console/edit-schedule/mails", {**edit_form(client, "mails"), "timing": "0 9 * * *"})
    assert len(eventbridge("mails")) == 1
    assert eventbridge("mails") != before
    press(client, "pause", schedule="mails")
    assert eventbridge("mails") == []
    press(client, "resume", schedule="mails")
    assert len(eventbridge("mails")) == 1
    press(client, "delete", schedule="mails")
    assert eventbridge("mails") == []


@pytest.mark.django_db(transaction=True)
def test_a_sync_that_failed_is_shown_and_tried_again(client, eventbridge, settings):
    prefix_of_queues, settings.QUEUE_URL_PREFIX = settings.QUEUE_URL_PREFIX, "https://elsewhere.example/"
    client.post("/console/schedules/new/", FILLED)
    page = page_of(client, "/console/schedule/mails")
    assert "not in step with EventBridge" in page
    assert Schedule.objects.get().sync_error in page
    assert "EventBridge does not have it" in press(client, "sync", schedule="mails")
    settings.QUEUE_URL_PREFIX = prefix_of_queues
    assert press(client, "sync", schedule="mails") == "EventBridge has schedule mails as it stands here."
    assert len(eventbridge("mails")) == 1
    assert "not in step" not in page_of(client, "/console/schedule/mails")
    outcomes = AuditEntry.objects.filter(action="sync-schedule").order_by("pk").values_list("outcome", flat=True)
    assert list(outcomes) == ["begun", "refused", "begun", "done"]
    press(client, "delete", schedule="mails")


@pytest.mark.django_db(transaction=True)
def test_the_admins_bulk_delete_reaches_eventbridge(client, eventbridge):
    User.objects.update(is_staff=True)
    made = [schedule(f"bulk-{number}") for number in range(3)]
    assert all(eventbridge(each.name) for each in made)
    client.post(ADMIN, {"action": "delete_selected", "_selected_action": [each.pk for each in made], "post": "yes"})
    assert not Schedule.objects.exists()
    assert not any(eventbridge(each.name) for each in made)
    assert AuditEntry.objects.filter(action="delete-schedule").count() == 3


# Services that pages do not reach ------------------------------------------------------------------------------------


def test_a_time_beyond_the_calendar_is_refused():
    with pytest.raises(InvalidError, match="UTC has no such year"):
        time_of("ends_at", "0001-01-01T00:00", "Asia/Kolkata")


def test_a_check_says_all_faults_at_once():
    made = schedules.made_of({"name": "a@b", "task": "no.such", "timing": "nonsense"}, "ada", None)
    with pytest.raises(FieldsError) as refused:
        schedules.check(made)
    assert set(refused.value.faults) == {"name", "task", "timing"}
