"""The console's pages and what can be done on them, on a real database; and the sign-in that is throttled."""

from __future__ import annotations

import datetime
import html
import json
import re
import uuid
from itertools import product

import boto3
import pytest
from celery import shared_task
from django.contrib.auth.models import User
from django.core.cache import cache
from django.db import DatabaseError, connection, transaction
from django.test import Client
from django.utils import timezone

from django_app.console import actions, audit, filters, queries, schedule_queries, shown, throttle
from django_app.console.access import Access, access_of
from django_app.console.errors import InvalidError, NotVisibleError, RefusalError
from django_app.console.filters import Cursor, Filters
from django_app.console.models import AuditEntry, AuditError, SignInCount
from django_app.console.roles import Role
from django_app.console.services import runs as run_services
from django_app.console.services.acting import Actor
from django_app.ledger.models import Attempt, Command, Pause, QueueSample, Revocation, Run, Schedule
from django_app.ledger.states import State
from serverless import aws, fakesqs
from serverless.broker import sweep
from serverless.local.cloud import environment
from tasks.celery import app
from tasks.runtime import retrying
from tests.integration.test_console_access import client_of, message, person, run, worker
from tests.threads import at_once

pytestmark = pytest.mark.django_db

NOW = datetime.datetime(2026, 3, 1, 12, 0, 30, tzinfo=datetime.UTC)
ADMIN = Access("ada", Role.ADMIN)
SCRIPT = "<script>document.title='pwned'</script>"
HOSTILE = SCRIPT + "\u202egnp.exe\x1b[31m\u200b'\"&{{ 7|add:7 }}{% now 'Y' %}"


@shared_task(name="tests.console.work")
def work(*arguments: object, **named: object) -> None:
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


def page_of(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, path
    return answer.content.decode()


def enqueued(state: State = State.FAILED, **fields) -> Run:
    """A run with a message that can be sent again."""
    result = work.delay(1)
    changes = {"state": state, **({"finished_at": timezone.now()} if state in retrying.RETRYABLE else {}), **fields}
    Run.objects.filter(pk=result.id).update(**changes)
    return Run.objects.get(pk=result.id)


def press(client: Client, action: str, **fields: object) -> str:
    """Press a button; what the next page says."""
    answer = client.post(f"/console/actions/{action}/", fields, follow=True)
    assert answer.status_code == 200
    return " ".join(re.findall(r'<p class="notice [^"]*" role="status">(.*?)</p>', answer.content.decode()))


# Lists of runs -------------------------------------------------------------------------------------------------------


def ids(access: Access = ADMIN, after: Cursor | None = None, most: int = 50, **asked: str) -> list[str]:
    return [each.pk for each in queries.find_runs(access, filters.read(asked), after, most).runs]


def test_each_filter_finds_what_has_that_value():
    now = timezone.now()
    special = {
        "state": State.RUNNING,
        "task": "shop.tasks.pay",
        "queue": "high",
        "schedule": "nightly",
        "worker": "w1",
        "tenant": "acme",
        "fingerprint": "a" * 16,
    }
    run(started_at=now)
    for name, value in special.items():
        made = run(**{name: value}, started_at=now)
        assert ids(**{name: value}) == [made.pk], name


def test_filters_hold_together():
    both = run(state=State.DEAD, task="shop.tasks.pay")
    run(state=State.DEAD)
    run(task="shop.tasks.pay")
    assert ids(state="dead", task="shop.tasks.pay") == [both.pk]


def test_age_and_search_narrow_the_list():
    now = timezone.now()
    old = run(created_at=now - datetime.timedelta(hours=30), arguments='{"args": ["blue"]}')
    new = run(created_at=now - datetime.timedelta(hours=2), arguments='{"args": ["Blue"]}')
    other = run(created_at=now, arguments='{"args": ["red_%"]}')
    assert ids() == [other.pk, new.pk, old.pk]
    assert ids(since="24h") == [other.pk, new.pk]
    assert ids(since="90m") == [other.pk]
    # A day, if nothing is said.
    assert ids(q="blue") == [new.pk]
    assert ids(q="blue", since="7d") == [new.pk, old.pk]
    # No pattern of anything.
    assert ids(q="_%") == [other.pk]
    assert ids(q="%") == [other.pk]


def test_a_workers_runs_are_listed_by_their_start():
    now = timezone.now()
    minutes = [now - datetime.timedelta(minutes=each) for each in range(4)]
    first = run(worker="w1", created_at=minutes[3], started_at=minutes[0])
    second = run(worker="w1", created_at=minutes[2], started_at=minutes[1])
    run(worker="w1", created_at=minutes[2])
    assert ids(worker="w1") == [first.pk, second.pk]
    assert ids(worker="w1", state="failed", since="1h") == [first.pk, second.pk]


@pytest.mark.parametrize("asked", [{}, {"state": "failed"}, {"state": "failed", "queue": "default"}, {"worker": "w1"}])
def test_pages_show_each_run_once_though_many_were_made_at_the_same_moment(asked):
    moments = [NOW - datetime.timedelta(seconds=each // 7) for each in range(40)]
    made = {run(created_at=moment, started_at=moment, worker="w1").pk for moment in moments}
    seen: list[str] = []
    after: Cursor | None = None
    for _ in range(20):
        page = queries.find_runs(ADMIN, filters.read(asked), after, most=3)
        seen += [each.pk for each in page.runs]
        after = Cursor.decode(page.after.encode()) if page.after is not None else None
        if after is None:
            break
    assert len(seen) == len(set(seen)) == 40
    assert set(seen) == made


def test_a_page_looks_through_a_bounded_number_and_says_up_to_when(monkeypatch):
    monkeypatch.setattr(queries, "WINDOW", 10)
    for age in range(35):
        run(created_at=NOW - datetime.timedelta(minutes=age), task="common", state=State.SUCCEEDED)
    rare = run(
        created_at=NOW - datetime.timedelta(minutes=33, seconds=30), task="common", state=State.DEAD, queue="low"
    )
    asked = Filters({"task": "common", "queue": "low"})
    # Few runs of that queue: they are found at once.
    assert [each.pk for each in queries.find_runs(ADMIN, asked).runs] == [rare.pk]
    for age in range(40):
        run(created_at=NOW - datetime.timedelta(seconds=10 * age), task="other", queue="low", state=State.SUCCEEDED)
    first = queries.find_runs(ADMIN, asked)
    assert first.runs == []
    # As far as the rarer of the two leads.
    assert first.looked_back_to == NOW - datetime.timedelta(minutes=9)
    found, pages, after = [], 0, first.after
    while after is not None:
        page = queries.find_runs(ADMIN, asked, after)
        found += [each.pk for each in page.runs]
        after, pages = page.after, pages + 1
    assert found == [rare.pk]
    assert pages <= 5


def test_a_page_says_how_far_it_looked(client, monkeypatch):
    monkeypatch.setattr(queries, "WINDOW", 2)
    for task in ("common", "other"):
        for state in (State.DEAD, State.FAILED):
            run(task=task, state=State.FAILED if task == "common" else state, queue="default")
            run(task="other", state=State.DEAD, queue="low")
    page = page_of(client, "/console/runs/?task=common&queue=default&state=dead")
    assert "No run among those that were looked through." in page
    assert "Looked back to" in page
    assert 'rel="next"' in page


def test_counts_end_at_their_bound(monkeypatch, client):
    monkeypatch.setattr(queries, "MOST_COUNTED", 3)
    for _ in range(5):
        run(state=State.QUEUED, requested_by="bob")
    run(state=State.DEAD)
    assert queries.count_states(ADMIN)["queued"] == 3
    assert queries.count_states(ADMIN)["dead"] == 1
    assert queries.count_states(Access("bob", Role.NOBODY))["queued"] == 3
    assert queries.count_states(Access("", Role.NOBODY)) == {}
    page = page_of(client, "/console/runs/")
    assert ">3+</a>" in page
    assert ">1</a>" in page


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"state": "faild"}, 'state "faild": no run has such a state. Did you mean "failed"?'),
        ({"fingerprint": "xyz"}, "it is not 16 hexadecimal digits"),
        ({"since": "yesterday"}, "Write 15m, 24h, 7d or 2026-01-31T12:00:00Z."),
        ({"since": "99999d"}, None),
        ({"q": "x" * 101}, "it has 101 characters, and 100 are allowed"),
        ({"task": "x" * 256}, "255 are allowed"),
        ({"task": "\x00"}, "it holds a NUL character"),
    ],
)
def test_what_makes_no_sense_is_answered_with_the_rule_and_the_remedy(client, asked, said):
    if said is None:
        assert filters.read(asked).since < timezone.now() - datetime.timedelta(days=365)
        return
    with pytest.raises(InvalidError, match=re.escape(said)):
        filters.read(asked)
    answer = client.get("/console/runs/", asked)
    assert answer.status_code == 200
    assert 'id="problem"' in answer.content.decode()


@pytest.mark.parametrize("cursor", ["x", "ä", "e30", "MjAyNi0wMS0wMXxh", "=" * 9, "A" * 9000])
def test_a_cursor_that_no_list_gave_is_refused(client, cursor):
    with pytest.raises(InvalidError, match="Begin at the list's first page"):
        Cursor.decode(cursor)
    assert 'id="problem"' in page_of(client, f"/console/runs/?cursor={cursor}")


def test_times_can_be_given_in_full():
    then = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
    for text in (
        "2026-01-31T12:00:00Z",
        "2026-01-31T12:00:00",
        "2026-01-31T13:00:00+01:00",
        "2026-01-31T13:00:00 01:00",
    ):
        assert filters.time_of(text, NOW) == then, text


def test_htmx_gets_the_part_that_changes_and_a_browser_the_page(client):
    run()
    part = client.get("/console/runs/", headers={"HX-Request": "true"}).content.decode()
    assert part.startswith('<div id="live" data-live hx-get="/console/runs/" hx-trigger="every 5s, seen"')
    assert "<html" not in part
    page = page_of(client, "/console/runs/")
    assert "<html" in page
    assert part.strip() in page


def test_only_the_newest_page_renews_itself(client):
    for _ in range(queries.PAGE + 1):
        run()
    page = page_of(client, "/console/runs/")
    older = re.search(r'rel="next" href="([^"]+)"', page)[1]
    assert "data-live" in page
    assert "data-live" not in page_of(client, f"/console/runs/{older}")


# One run -------------------------------------------------------------------------------------------------------------


def test_a_runs_page_tells_its_story(client):
    parent = run(id="parent", task="shop.tasks.order")
    made = run(
        id="child",
        state=State.FAILED,
        requested_by="bob",
        parent_id=parent.pk,
        root_id="root",
        published_at=NOW,
        finished_at=NOW,
        error="ValueError: wrong",
        fingerprint="b" * 16,
        arguments='{"args": [1], "kwargs": {"size": 3}}',
        progress_done=30,
        progress_total=120,
        progress_note="packing",
    )
    run(id="sibling", root_id="root", task="shop.tasks.label")
    for number, outcome in ((1, "lost"), (2, "failed")):
        Attempt.objects.create(
            run=made,
            number=number,
            worker=f"worker-{number}",
            receives=number,
            started_at=NOW,
            ended_at=NOW,
            outcome=outcome,
            error="ValueError: wrong",
            traceback="Traceback: line 1",
            log_tail="INFO about to fail",
        )
    page = page_of(client, f"/console/run/{made.pk}")
    for told in (
        "created for <bdi>bob</bdi>",
        "</time> published",
        "attempt 1 on <bdi>worker-1</bdi>",
        "attempt 2 on <bdi>worker-2</bdi>",
        "Traceback: line 1",
        "INFO about to fail",
        "?fingerprint=bbbbbbbbbbbbbbbb",
        '<progress max="120" value="30"',
        "packing",
        "&quot;size&quot;: 3",
        "Enqueued by",
        "shop.tasks.label",
    ):
        assert told in page, told


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        ('={"total": 3, "token": "hunter2"}', "&quot;total&quot;: 3"),
        ("=" + json.dumps("x" * 9000), "9000 characters"),
        ("s3:results/x/y", "lies in S3"),
        ("=not JSON", "cannot be read"),
        ("=" + "[" * 100_000, "cannot be read"),
        ('={"__type__": "bytes", "__value__": "c2VjcmV0"}', "bytes"),
        ('={"__type__": "unknown", "__value__": "c2VjcmV0"}', "cannot be read"),
    ],
)
def test_a_result_is_shown_redacted_and_cut(client, kept, told):
    made = run(state=State.SUCCEEDED, result=kept)
    page = page_of(client, f"/console/run/{made.pk}")
    assert told in page
    assert "hunter2" not in page
    assert "c2VjcmV0" not in page
    assert len(page) < 20_000


def test_a_large_workflow_is_shown_in_part(client):
    for number in range(130):
        run(id=f"part-{number}", root_id="root", group_id="group")
    answer = client.get("/console/run/part-0")
    page = answer.content.decode()
    assert "There are more; these are 100 of them." in page
    assert page.count("/console/run/part-") < 320


def test_a_retry_and_its_original_lead_to_each_other(client):
    original = enqueued()
    again = retrying.retry(original, "bob")
    assert f"/console/run/{again.pk}" in page_of(client, f"/console/run/{original.pk}")
    page = page_of(client, f"/console/run/{again.pk}")
    assert f"/console/run/{original.pk}" in page
    assert "A retry by <bdi>bob</bdi>" in page


def test_buttons_are_there_for_those_who_may_use_them_where_they_can_be_used(client):
    failed, running = enqueued(), run(state=State.RUNNING, started_at=timezone.now())
    assert ">Retry</button>" in page_of(client, f"/console/run/{failed.pk}")
    assert ">Revoke</button>" not in page_of(client, f"/console/run/{failed.pk}")
    assert ">Terminate</button>" in page_of(client, f"/console/run/{running.pk}")
    viewer = client_of(person("viewer"))
    for each in (failed, running):
        page = page_of(viewer, f"/console/run/{each.pk}")
        assert "<button" not in page.partition('<main id="main">')[2]


@pytest.mark.parametrize(
    "pk",
    ["with/slash", "what?is=this", "line\nend", "ümläut", "%2F", "a b+c", SCRIPT, "nightly@2026-01-01T00:00:00+00:00"],
)
def test_a_run_may_have_any_id(client, pk):
    made = run(id=pk, state=State.QUEUED)
    listed = page_of(client, "/console/runs/")
    link = html.unescape(re.search(r'href="(/console/run/[^"]+)"', listed)[1])
    assert "<h1><bdi>shop.tasks.ship</bdi></h1>" in page_of(client, link)
    assert "revoked" in press(client, "revoke", run=pk)
    made.refresh_from_db()
    assert made.state == State.REVOKED
    assert client.get(f"/console/api/v1/runs/{link.partition('/run/')[2]}").json()["id"] == pk


def test_an_id_with_nul_is_not_found(client):
    assert client.get("/console/run/a%00b").status_code == 404
    assert client.get("/console/api/v1/runs/a%00b").status_code == 404
    assert press(client, "revoke", run="a\x00b").startswith("run")


# Hostile data --------------------------------------------------------------------------------------------------------


def hostile_run() -> Run:
    made = run(
        id="hostile",
        task=HOSTILE[:255],
        queue=SCRIPT,
        worker=SCRIPT,
        tenant=SCRIPT,
        requested_by=SCRIPT,
        state=State.FAILED,
        started_at=timezone.now(),
        error=HOSTILE[:500],
        fingerprint="c" * 16,
        arguments=json.dumps({"args": [HOSTILE], "kwargs": {HOSTILE: HOSTILE}}),
        message=message(HOSTILE, a=HOSTILE),
        progress_done=1,
        progress_total=2,
        progress_note=SCRIPT,
        celery_state=SCRIPT,
        schedule=SCRIPT,
        limit_key=SCRIPT,
        unique_key=SCRIPT,
        root_id="root",
        group_id="group",
        parent_id="hostile",
    )
    run(id="other", root_id="root", group_id="group", task=HOSTILE[:255])
    Attempt.objects.create(
        run=made,
        number=1,
        worker=SCRIPT,
        started_at=NOW,
        ended_at=NOW,
        outcome="failed",
        error=HOSTILE[:500],
        traceback=HOSTILE * 2000,
        log_tail=HOSTILE,
    )
    worker(name=SCRIPT, queues=SCRIPT, release=SCRIPT, pool=SCRIPT)
    Pause.objects.create(key="queue:default", by=SCRIPT, reason=HOSTILE, created_at=NOW)
    Pause.objects.create(key=f"task:{SCRIPT}", by=SCRIPT, reason=SCRIPT, created_at=NOW)
    audit.write(SCRIPT, "retry", f"run {SCRIPT}", {SCRIPT: HOSTILE})
    # As no save would let it through.
    paused = Schedule(name="hostile-paused", task=HOSTILE, timing="every hour", zone=SCRIPT, paused_at=NOW)
    paused.paused_by, paused.pause_reason, paused.sync_error = SCRIPT, HOSTILE, HOSTILE
    schedule = Schedule(name="hostile", task=HOSTILE, timing=HOSTILE, zone=SCRIPT, requested_by=SCRIPT, tenant=SCRIPT)
    schedule.args, schedule.kwargs, schedule.overlap = [HOSTILE], {HOSTILE: HOSTILE}, "<b>"
    for each in (paused, schedule):
        each.created_at = each.changed_at = each.checked_until = NOW
    Schedule.objects.bulk_create([paused, schedule])
    Run.objects.filter(pk="other").update(schedule="hostile", error=HOSTILE[:500], requested_by=SCRIPT)
    return made


EVERY_PAGE = (
    "/console/runs/",
    "/console/runs/?q=%3Cscript%3E&task=%22%3E%3Cscript%3E",
    "/console/runs/?state=%3Cscript%3E",
    "/console/run/hostile",
    "/console/edit/hostile",
    "/console/schedules/",
    "/console/schedules/?q=%3Cscript%3E&state=%3Cscript%3E",
    "/console/schedules/new/",
    "/console/schedule/hostile",
    "/console/schedule/hostile?since=%3Cscript%3E&until=%3Cscript%3E",
    "/console/schedule/hostile-paused",
    "/console/edit-schedule/hostile",
    "/console/queues/",
    "/console/workers/",
    "/console/failures/",
    "/console/dead-letters/",
    "/console/dead-letters/default/",
    "/console/audit/",
    "/console/tokens/",
)


@pytest.mark.parametrize("path", EVERY_PAGE)
def test_no_page_lets_data_run_or_turn_round(client, path):
    hostile_run()
    client.post("/console/tokens/", {"name": HOSTILE[:100]})
    page = page_of(client, path)
    assert "<script>" not in page
    assert "pwned'</script>" not in page
    # In an editor the text must stay as it is; there it is no markup, and turns nothing but itself round.
    outside = re.sub(r"<textarea.*?</textarea>|<input[^>]*>", "", page, flags=re.DOTALL)
    for unseen in ("\u202e", "\x1b", "\u200b"):
        assert unseen not in outside, unseen
    assert "14}" not in page
    assert len(page) < 150_000


@pytest.mark.parametrize("path", EVERY_PAGE)
def test_no_page_has_scripts_or_styles_of_its_own_and_the_policy_forbids_them(client, path):
    hostile_run()
    answer = client.get(path)
    page = answer.content.decode()
    assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
    assert not re.search(r"<[^>]*\s(style|on\w+)=", page)
    assert "<style" not in page
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy


def test_arguments_that_are_no_json_are_shown_as_they_are(client):
    made = run(arguments="{not json" + HOSTILE)
    page = page_of(client, f"/console/run/{made.pk}")
    assert "{not json&lt;script&gt;" in page
    assert "\\u202e" in page


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("plain", "plain"),
        ("naïve 日本", "naïve 日本"),
        ("a\nb\tc", "a\\u000ab\\u0009c"),
        ("\u202eabc", "\\u202eabc"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
        ("x" * 300, "x" * 200 + "… 300 characters"),
        (None, "None"),
    ],
)
def test_what_cannot_be_seen_is_written_as_its_number(text, told):
    assert shown.plain(text) == told


def test_of_a_long_text_of_lines_the_end_is_kept():
    assert shown.lines("a\n" * 100 + "end", 7) == "… 196 characters before\na\na\nend"


def test_a_fingerprint_that_is_none_leads_nowhere_else(client):
    made = run(fingerprint='"><b>&x=1', error="E: e")
    assert "?fingerprint=%22%3E%3Cb%3E%26x%3D1" in page_of(client, f"/console/run/{made.pk}")


# Queues, workers, failures -------------------------------------------------------------------------------------------


def test_queues_show_their_newest_sample_and_their_curve(client):
    now = timezone.now()
    for age, depth in ((2, 11), (1, 4321)):
        at = now - datetime.timedelta(minutes=age)
        QueueSample.objects.create(queue="default", at=at, depth=depth, in_flight=5, dead=77, oldest_age_seconds=90)
    QueueSample.objects.create(queue="low", at=now - datetime.timedelta(hours=1), depth=999)
    page = page_of(client, "/console/queues/")
    assert ">4321</td>" in page
    assert ">77</a>" in page
    assert "90.0 s" in page
    assert "999" not in page
    assert page.count("<polyline") == 4


def test_the_curve_counts_what_ended_and_estimates_what_is_too_much_to_count(monkeypatch):
    monkeypatch.setattr(queries, "_SAMPLED", 10)
    minute = NOW.replace(second=0)
    for number in range(4):
        run(
            state=State.SUCCEEDED,
            finished_at=minute - datetime.timedelta(minutes=6) + datetime.timedelta(seconds=number),
        )
    # Twice a second: of 240, ten are looked at.
    for number in range(240):
        at = minute - datetime.timedelta(minutes=4) + datetime.timedelta(seconds=number / 2)
        run(state=State.FAILED, finished_at=at, queue="low")
    run(state=State.RUNNING)
    curves = queries.throughput(NOW)
    assert curves["default"][-3] == 2
    assert sum(curves["default"]) == 2
    assert curves["low"][-2] == pytest.approx(120, rel=0.15)
    assert len(curves["low"]) == queries.POINTS == 30


def test_minutes_that_are_over_are_counted_once(django_assert_max_num_queries):
    run(state=State.SUCCEEDED, finished_at=NOW - datetime.timedelta(minutes=5))
    first = queries.throughput(NOW)
    with django_assert_max_num_queries(1):
        assert queries.throughput(NOW) == first


def test_workers_show_how_they_are(client):
    worker(busy=1, held=7, memory_bytes=300 << 20, load=1.5, release="v42", pool="general", processed=12345)
    page = page_of(client, "/console/workers/")
    for told in ("1 of 2", ">7</td>", "300.0", "1.50", "v42", "12,345", "Drain and stop"):
        assert told in page, told


def test_failures_are_grouped_by_what_failed(client):
    now = timezone.now()
    for age in (1, 5, 3):
        at = now - datetime.timedelta(hours=age)
        run(state=State.FAILED, fingerprint="a" * 16, error=f"KeyError: {age}", created_at=at)
    run(state=State.DEAD, fingerprint="b" * 16, error="WorkerLostError: x")
    run(state=State.FAILED, fingerprint="a" * 16, created_at=now - datetime.timedelta(days=2))
    run(state=State.SUCCEEDED)
    groups = queries.failures(ADMIN, now - datetime.timedelta(days=1)).groups
    assert [(each.fingerprint, each.runs, each.error) for each in groups] == [
        ("a" * 16, 3, "KeyError: 1"),
        ("b" * 16, 1, "WorkerLostError: x"),
    ]
    assert groups[0].first_at == now - datetime.timedelta(hours=5)
    page = page_of(client, "/console/failures/?since=7d")
    assert ">4</td>" in page
    assert 'id="problem"' in page_of(client, "/console/failures/?since=never")


def test_failures_are_those_of_a_bounded_number(monkeypatch, client):
    monkeypatch.setattr(queries, "MOST_FAILURES", 2)
    for _ in range(4):
        run(state=State.FAILED, fingerprint="a" * 16)
    found = queries.failures(ADMIN, timezone.now() - datetime.timedelta(days=1))
    assert (found.groups[0].runs, found.most_looked_at) == (2, 2)
    assert "Only the newest 2 were looked at." in page_of(client, "/console/failures/")


# What is done --------------------------------------------------------------------------------------------------------


def test_a_run_that_has_not_begun_is_revoked_at_once_and_written_down(client):
    made = run(state=State.QUEUED)
    assert "The run is revoked." in press(client, "revoke", run=made.pk, seen="queued")
    made.refresh_from_db()
    assert (made.state, made.error) == (State.REVOKED, "revoked: revoked by ada")
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.action, entry.target, entry.outcome) == ("ada", "revoke", f"run {made.pk}", "done")


def test_revoking_twice_is_explained_by_who_did_it_before(client):
    made = run(state=State.QUEUED)
    press(client, "revoke", run=made.pk)
    told = press(client_of(person("operator")), "revoke", run=made.pk)
    assert re.search(r"it was already revoked by ada at [\d: -]+ UTC. Nothing is left to revoke.", told)
    assert [entry.outcome for entry in AuditEntry.objects.order_by("id")] == ["done", "refused"]


def test_a_run_at_work_is_marked_or_terminated_and_each_once(client):
    made = run(state=State.RUNNING, started_at=timezone.now(), worker="w1")
    assert "goes on to its end" in press(client, "revoke", run=made.pk)
    assert Revocation.objects.get(value=made.pk).by == "ada"
    assert "already revoked by ada" in press(client, "revoke", run=made.pk)
    assert "told to end it" in press(client, "revoke", run=made.pk, terminate="on")
    bodies = [json.loads(command.body) for command in Command.objects.order_by("id")]
    assert [(body["method"], body["arguments"]["terminate"]) for body in bodies] == [
        ("revoke", False),
        ("revoke", True),
    ]
    assert "its worker was already told to end it by ada" in press(client, "revoke", run=made.pk, terminate="on")
    assert Command.objects.count() == 2


def test_what_has_begun_since_it_was_looked_at_is_left_alone(client):
    made = run(state=State.RUNNING, started_at=timezone.now())
    told = press(client, "revoke", run=made.pk, seen="queued")
    assert "it was queued when you looked, and is running by now" in told
    assert not Revocation.objects.exists()


def test_what_has_ended_is_not_revoked(client):
    made = run(state=State.SUCCEEDED, finished_at=NOW)
    assert "it has ended already: succeeded at 2026-03-01 12:00:30 UTC" in press(client, "revoke", run=made.pk)


def test_a_retry_leads_to_the_new_run_and_a_second_one_is_told_of_it(client):
    made = enqueued()
    answer = client.post("/console/actions/retry/", {"run": made.pk})
    again = Run.objects.get(retry_of=made.pk)
    assert answer.headers["location"] == f"/console/run/{again.pk}"
    told = press(client_of(person("operator")), "retry", run=made.pk, next=f"/console/run/{made.pk}")
    assert re.search(rf"it was already retried by ada at [\d: -]+ UTC as run {again.pk}", told)
    assert Run.objects.count() == 2


def test_edited_arguments_are_retried_and_what_is_written_down_holds_no_secret(client):
    result = work.delay(1, password="hunter2", size=3)
    Run.objects.update(state=State.FAILED, finished_at=timezone.now())
    page = page_of(client, f"/console/edit/{result.id}")
    assert "hunter2" not in page
    assert "[redacted]" in page
    press(
        client, "retry", run=result.id, args="[2]", kwargs='{"password": "[redacted]", "size": 4, "api_key": "typed"}'
    )
    again = Run.objects.get(retry_of=result.id)
    assert json.loads(again.arguments)["kwargs"] == {"password": "[redacted]", "size": 4, "api_key": "[redacted]"}
    assert json.loads(json.loads(again.message)["body"])[1]["password"] == "hunter2"
    entry = AuditEntry.objects.get(action="retry")
    assert entry.detail["edited"] is True
    assert entry.detail["arguments"]["args"] == [2]
    assert "typed" not in json.dumps(entry.detail)
    assert "hunter2" not in json.dumps(entry.detail)


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ("[1", "{}", "it is not JSON: line 1"),
        ("{}", "{}", "it is no list"),
        ("[1]", "[]", "it is no object"),
        ("[NaN]", "{}", "NaN is no number of JSON"),
        ("[" * 50_000, "{}", "it is not JSON"),
        ("[1]", '{"note": "[redacted]"}', "stands where nothing was redacted"),
    ],
)
def test_what_was_typed_is_shown_again_with_what_is_wrong_with_it(client, args, kwargs, said):
    made = enqueued()
    answer = client.post("/console/actions/retry/", {"run": made.pk, "args": args, "kwargs": kwargs})
    page = answer.content.decode()
    assert answer.status_code == 400
    assert said in page
    assert kwargs.replace('"', "&quot;") in page
    assert Run.objects.count() == 1


def test_all_of_one_failure_are_retried_once(client):
    made = [enqueued(fingerprint="a" * 16) for _ in range(3)]
    other = enqueued(fingerprint="b" * 16)
    retrying.retry(made[0], "bob")
    assert "2 runs run again." in press(client, "retry-failures", fingerprint="a" * 16)
    assert Run.objects.exclude(retry_of="").count() == 3
    assert not Run.objects.filter(retry_of=other.pk).exists()
    entry = AuditEntry.objects.get()
    assert set(entry.detail["retried"]) == {made[1].pk, made[2].pk}
    told = press(client, "retry-failures", fingerprint="a" * 16)
    assert re.search(r"all 3 were already retried by ada at [\d: -]+ UTC", told)
    assert "no run has it" in press(client, "retry-failures", fingerprint="d" * 16)


def test_retrying_all_is_bounded_and_goes_on_where_it_stopped(client, monkeypatch):
    monkeypatch.setattr(run_services, "MOST_AT_ONCE", 2)
    for _ in range(5):
        enqueued(fingerprint="a" * 16)
    told = [press(client, "retry-failures", fingerprint="a" * 16) for _ in range(4)]
    assert "There are more: retry the group again." in told[0]
    assert [each.split()[0] for each in told[:3]] == ["2", "2", "1"]
    assert "all 5 were already retried" in told[3]


def test_one_that_cannot_be_retried_does_not_keep_the_others(client):
    enqueued(fingerprint="a" * 16)
    enqueued(fingerprint="a" * 16, message="")
    told = press(client, "retry-failures", fingerprint="a" * 16)
    assert "1 runs run again. 1 cannot:" in told


def test_a_tenants_operator_retries_that_tenants_failures_only():
    mine = enqueued(fingerprint="a" * 16, tenant="acme")
    enqueued(fingerprint="a" * 16, tenant="other")
    press(client_of(person("tenant operator")), "retry-failures", fingerprint="a" * 16)
    assert [each.retry_of for each in Run.objects.exclude(retry_of="")] == [mine.pk]


def test_a_queue_is_paused_and_resumed_with_a_reason(client):
    assert "until it is resumed" in press(client, "pause", kind="queue", name="low", reason="SES is down")
    page = page_of(client, "/console/queues/")
    assert "SES is down" in page
    told = press(client, "pause", kind="queue", name="low", reason="another")
    assert re.search(r"it is already paused by ada since [\d: -]+ UTC \(SES is down\)", told)
    seen = re.search(r'name="seen" value="([^"]+)"', page)[1]
    assert "is resumed" in press(client, "resume", kind="queue", name="low", seen=seen)
    assert re.search(r"it was already resumed by ada at", press(client, "resume", kind="queue", name="low", seen=seen))
    assert not Pause.objects.exists()


def test_a_pause_that_is_not_the_one_that_was_seen_stays(client):
    press(client, "pause", kind="queue", name="low", reason="first")
    seen = Pause.objects.get().created_at.isoformat()
    press(client, "resume", kind="queue", name="low")
    press(client, "pause", kind="queue", name="low", reason="second")
    told = press(client, "resume", kind="queue", name="low", seen=seen)
    assert "the pause that you looked at is over, and it is paused anew by ada" in told
    assert Pause.objects.get().reason == "second"


def test_a_task_can_be_paused_and_what_is_unknown_cannot(client):
    press(client, "pause", kind="task", name="tests.console.work")
    assert "tests.console.work" in page_of(client, "/console/queues/")
    assert "Did you mean" in press(client, "pause", kind="task", name="tests.console.wrok")
    assert "it is not declared" in press(client, "pause", kind="queue", name="lwo")
    assert "it is not one of those known" in press(client, "pause", kind="worker", name="x")


def test_a_worker_is_told_to_stop_once(client):
    made = worker(busy=2)
    assert "finish its work" in press(client, "stop-worker", worker=made.name)
    body = json.loads(Command.objects.get().body)
    assert (body["method"], body["destination"]) == ("shutdown", [made.name])
    assert "it was already told to stop by ada" in press(client, "stop-worker", worker=made.name)
    assert Command.objects.count() == 1


def test_a_worker_of_that_name_that_started_later_can_be_stopped_again(client):
    made = worker()
    press(client, "stop-worker", worker=made.name)
    made.started_at = timezone.now()
    made.save()
    assert "finish its work" in press(client, "stop-worker", worker=made.name)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"state": "stopped"}, "it is stopped"),
        ({"state": "lost"}, "it is lost"),
        ({"state": "draining"}, "it was already told to stop"),
        ({"lease_until": NOW, "seen_at": NOW}, "nothing was heard of it since 2026-03-01 12:00:30 UTC"),
    ],
)
def test_a_worker_that_is_not_at_work_is_not_stopped(client, fields, told):
    made = worker(**fields)
    assert told in press(client, "stop-worker", worker=made.name)
    assert not Command.objects.exists()


def test_what_has_no_message_has_no_button_to_retry_it(client):
    made = enqueued(message="")
    assert ">Retry</button>" not in page_of(client, f"/console/run/{made.pk}")
    assert "no message of it is kept" in press(client, "retry", run=made.pk)


def test_a_time_that_stands_in_the_address_stays_chosen(client):
    page = page_of(client, "/console/runs/?since=3h")
    assert '<option value="3h" selected>3h</option>' in page
    assert "Searched are the last 24h" not in page
    assert "Searched are the last 24h" in page_of(client, "/console/runs/?q=x")


def test_a_pause_that_another_ends_between_is_ended_once(client, monkeypatch):
    press(client, "pause", kind="queue", name="low")
    monkeypatch.setattr("django_app.ledger.parking.resume", lambda key: False)
    assert "it is not paused" in press(client, "resume", kind="queue", name="low")


def test_after_an_action_one_is_back_where_the_button_was_and_nowhere_else(client):
    run(id="x", state=State.SUCCEEDED)
    asked = {"run": "x", "next": "/console/runs/?state=failed"}
    assert client.post("/console/actions/revoke/", asked).headers["location"] == "/console/runs/?state=failed"
    for elsewhere in ("https://evil.example/", "//evil.example/", "javascript:alert(1)", "/\\evil.example"):
        answer = client.post("/console/actions/revoke/", {**asked, "next": elsewhere})
        assert answer.headers["location"] == "/console/runs/", elsewhere


# Two at once ---------------------------------------------------------------------------------------------------------


def both_do(action: str, fields: dict[str, object], count: int = 2) -> tuple[list[str], list[str]]:
    """Several operators do the same at the same moment; what those were told who did it, and those who did not."""
    make = [person("operator", f"operator-{number}") for number in range(count)]
    accesses = [access_of(each) for each in make]

    def do(number: int) -> tuple[bool, str]:
        try:
            return True, actions.perform(actions.ACTIONS[action], Actor(accesses[number]), fields).message
        except RefusalError as refusal:
            return False, str(refusal)

    told = at_once(count, do)
    return [text for done, text in told if done], [text for done, text in told if not done]


def each_is_told_who(done: list[str], refused: list[str], action: str) -> None:
    assert (len(done), len(refused)) == (1, 1), (done, refused)
    entries = AuditEntry.objects.filter(action=action)
    who = entries.get(outcome="done").actor
    assert f" by {who} " in refused[0]
    assert entries.get(outcome="refused").actor != who


@pytest.mark.django_db(transaction=True)
def test_two_who_retry_at_once_make_one_run():
    made = enqueued()
    each_is_told_who(*both_do("retry", {"run": made.pk}), "retry")
    assert Run.objects.filter(retry_of=made.pk).count() == 1


@pytest.mark.django_db(transaction=True)
def test_two_who_revoke_at_once_revoke_once():
    made = run(state=State.QUEUED)
    each_is_told_who(*both_do("revoke", {"run": made.pk}), "revoke")
    made.refresh_from_db()
    assert made.state == State.REVOKED


@pytest.mark.django_db(transaction=True)
def test_two_who_terminate_at_once_send_one_command():
    made = run(state=State.RUNNING, started_at=timezone.now())
    each_is_told_who(*both_do("revoke", {"run": made.pk, "terminate": True}), "revoke")
    assert Command.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_two_who_pause_at_once_make_one_pause():
    each_is_told_who(*both_do("pause", {"kind": "queue", "name": "low", "reason": "both"}), "pause")
    assert Pause.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_two_who_resume_at_once_end_one_pause():
    Pause.objects.create(key="queue:low", by="x", created_at=NOW)
    each_is_told_who(*both_do("resume", {"kind": "queue", "name": "low"}), "resume")
    assert not Pause.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_two_who_stop_a_worker_at_once_tell_it_once():
    made = worker()
    each_is_told_who(*both_do("stop-worker", {"worker": made.name}), "stop-worker")
    assert Command.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_two_who_retry_all_at_once_retry_each_run_once():
    for _ in range(6):
        enqueued(fingerprint="a" * 16)
    each_is_told_who(*both_do("retry-failures", {"fingerprint": "a" * 16}), "retry-failures")
    assert Run.objects.exclude(retry_of="").count() == 6


# Dead letters --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fake_sqs():
    with fakesqs.running() as server:
        yield server


@pytest.fixture
def letters(fake_sqs, monkeypatch, settings):
    """Puts messages into the dead-letter queue of `default`, and gives the client of SQS."""
    for name, value in environment(fake_sqs.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sweep, "_WAIT_SECONDS", 0)
    aws.forget_clients()
    sqs = boto3.client(
        "sqs", endpoint_url=fake_sqs.url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    prefix = f"c{uuid.uuid4().hex[:8]}-"
    urls = {name: sqs.create_queue(QueueName=prefix + name)["QueueUrl"] for name in ("default", "default-dead")}
    settings.QUEUE_URL_PREFIX = urls["default"].removesuffix("default")
    settings.BROKER_URL = "sqs://"

    def put(task_id: str, *args: object, reason: str = "as asked", task: str = "tests.console.work") -> str:
        body = {
            "body": json.dumps([args, {"password": "hunter2"}, {}]),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {"lang": "py", "task": task, "id": task_id, "root_id": task_id, "retries": 0},
            "properties": {
                "correlation_id": task_id,
                "delivery_mode": 2,
                "body_encoding": "utf-8",
                "delivery_info": {"exchange": "", "routing_key": "default"},
            },
        }
        story = {"DeadLetterReason": {"DataType": "String", "StringValue": reason}}
        sent = sqs.send_message(QueueUrl=urls["default-dead"], MessageBody=json.dumps(body), MessageAttributes=story)
        return sent["MessageId"]

    put.sqs, put.urls = sqs, urls
    yield put
    aws.forget_clients()


def count(letters, queue: str = "default-dead") -> int:
    asked = letters.sqs.get_queue_attributes(
        QueueUrl=letters.urls[queue], AttributeNames=["ApproximateNumberOfMessages"]
    )
    return int(asked["Attributes"]["ApproximateNumberOfMessages"])


def test_dead_letters_are_shown_with_their_reason_and_without_secrets(client, letters):
    letters("one", SCRIPT, reason="it crashed \u202etoo often" + SCRIPT)
    page = page_of(client, "/console/dead-letters/default/")
    for told in ("tests.console.work", "it crashed \\u202etoo often", "&lt;script&gt;", "[redacted]"):
        assert told in page, told
    assert "hunter2" not in page
    assert "<script>" not in page
    assert count(letters) == 1


def test_a_chosen_dead_letter_is_sent_to_work_again_and_no_other(client, letters):
    first = letters("one")
    letters("two")
    told = press(client, "redrive", queue="default", messages=["", first], next="/console/dead-letters/default/")
    assert "1 sent to work again." in told
    assert (count(letters), count(letters, "default")) == (1, 1)
    assert [entry.outcome for entry in AuditEntry.objects.order_by("id")] == ["begun", "done"]


def test_choosing_none_does_not_mean_all(client, letters):
    letters("one")
    assert "none is chosen" in press(client, "redrive", queue="default", messages=[""])
    assert count(letters) == 1


def test_a_dead_letter_of_a_run_that_has_ended_is_retried_as_a_new_run(client, letters):
    made = enqueued(State.DEAD)
    letters(made.pk)
    assert "1 sent to work again." in press(client, "redrive", queue="default")
    assert retrying.retried_by(Run.objects.get(retry_of=made.pk)) == "ada"
    assert count(letters) == 0


def test_what_is_there_no_more_is_explained(client, letters):
    first = letters("one")
    press(client, "redrive", queue="default", messages=[first])
    told = press(client_of(person("operator")), "redrive", queue="default", messages=[first])
    assert re.search(r"none of them is there any more; the last redrive was by ada at [\d: -]+ UTC", told)
    assert count(letters, "default") == 1


def test_dead_letters_are_discarded_for_good_and_their_runs_end(client, letters):
    made = run(state=State.QUEUED)
    letters(made.pk)
    letters("unknown")
    assert "2 discarded." in press(client, "discard", queue="default")
    made.refresh_from_db()
    assert (made.state, "discarded by ada" in made.error) == (State.DEAD, True)
    assert count(letters) == 0


def test_what_sqs_refuses_is_said(client, letters, settings):
    settings.QUEUE_URL_PREFIX += "gone-"
    assert "SQS did not do it" in page_of(client, "/console/dead-letters/default/")
    assert "SQS did not do it" in press(client, "redrive", queue="default")
    assert [entry.outcome for entry in AuditEntry.objects.order_by("id")] == ["begun", "refused"]


def test_without_sqs_there_are_no_dead_letters(client):
    assert "its broker is not SQS" in page_of(client, "/console/dead-letters/default/")
    assert client.get("/console/dead-letters/nowhere/").status_code == 404


# The audit log -------------------------------------------------------------------------------------------------------


def test_an_entry_is_neither_changed_nor_deleted():
    entry = audit.write("ada", "retry", "run 1")
    entry.actor = "bob"
    entries = AuditEntry.objects
    for change in (
        entry.save,
        entry.delete,
        lambda: entries.update(actor="bob"),
        lambda: entries.all().delete(),
        lambda: entries.filter(pk=entry.pk).update(actor="bob"),
        lambda: entries.bulk_update([entry], ["actor"]),
        lambda: entries.bulk_create([AuditEntry(pk=entry.pk)], update_conflicts=True),
        lambda: entries.update_or_create(pk=entry.pk, defaults={"actor": "bob"}),
        AuditEntry(pk=entry.pk, at=NOW, actor="bob", action="x", target="y", outcome="done").save,
    ):
        with pytest.raises(AuditError, match="written once"):
            change()
    assert AuditEntry.objects.get().actor == "ada"


def test_the_database_itself_changes_no_entry():
    audit.write("ada", "retry", "run 1")
    statements = ["UPDATE console_auditentry SET actor = 'bob'"]
    if connection.vendor == "postgresql":
        statements.append("DELETE FROM console_auditentry")
    for statement in statements:
        with (
            pytest.raises(DatabaseError, match="neither changed nor deleted"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
    assert AuditEntry.objects.get().actor == "ada"


def test_what_is_taken_back_is_not_written_down_as_done(monkeypatch):
    made = run(state=State.QUEUED)

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(run_services, "Done", fail)
    with pytest.raises(RuntimeError):
        actions.perform(actions.ACTIONS["revoke"], Actor(ADMIN), {"run": made.pk})
    made.refresh_from_db()
    assert made.state == State.QUEUED
    entry = AuditEntry.objects.get()
    assert (entry.outcome, entry.detail) == ("failed", {"why": "RuntimeError"})


def test_what_cannot_be_written_down_is_not_done(monkeypatch):
    made = run(state=State.QUEUED)

    def fail(*args: object, **kwargs: object) -> None:
        raise DatabaseError("no entry")

    monkeypatch.setattr(audit, "write", fail)
    with pytest.raises(DatabaseError):
        actions.perform(actions.ACTIONS["revoke"], Actor(ADMIN), {"run": made.pk})
    made.refresh_from_db()
    assert made.state == State.QUEUED


def test_the_log_is_searched_by_one_thing_at_a_time(client):
    for number in range(60):
        audit.write("bob" if number % 2 else "ada", "pause", f"queue {number}")
    page = page_of(client, "/console/audit/")
    assert page.count("<tr>") == queries.PAGE + 1
    older = re.search(r'rel="next" href="([^"]+)"', page)[1]
    assert page_of(client, f"/console/audit/{older}").count("<tr>") == 11
    assert page_of(client, "/console/audit/?actor=bob").count("<bdi>bob</bdi>") == 30
    assert page_of(client, "/console/audit/?target=queue+7").count("<tr>") == 2
    assert "one at a time" in page_of(client, "/console/audit/?target=queue+7&actor=bob")
    assert 'id="problem"' in page_of(client, "/console/audit/?cursor=x")


def test_entries_hold_what_every_database_can_keep():
    entry = audit.write("ada", "retry", "run \x00\ud800", {"a\x00": ["\x00b", {"c": "\ud800"}]})
    entry.refresh_from_db()
    assert (entry.target, entry.detail) == ("run ?", {"a": ["b", {"c": "?"}]})


# Signing in ----------------------------------------------------------------------------------------------------------


WRONG = "wrong"


def sign_in(name: str = "ada", password: str = WRONG, address: str = "203.0.113.7", path: str = "/sign-in/"):
    return Client().post(path, {"username": name, "password": password}, REMOTE_ADDR=address)


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password="right-password")


@pytest.fixture(autouse=True)
def _fast_passwords(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


def statuses(count: int, **asked: str) -> list[int]:
    return [sign_in(**asked).status_code for _ in range(count)]


def test_after_five_failures_even_the_right_password_waits(ada):
    assert statuses(5) == [200] * 5
    answer = sign_in(password="right-password")
    assert answer.status_code == 429
    assert 25 <= int(answer.headers["Retry-After"]) <= 30
    assert "Signing in has failed too often. Try again in" in answer.content.decode()


def test_the_admins_door_is_the_same_one(ada):
    assert statuses(5, path="/admin/login/") == [200] * 5
    assert sign_in(path="/admin/login/").status_code == 429
    assert sign_in().status_code == 429
    assert Client().get("/admin/login/").status_code == 200


def test_names_that_look_alike_and_unknown_ones_are_counted_as_well(ada):
    assert [sign_in(name=name).status_code for name in ("ada", "ADA", " ada", "Ada ", "\uff41da")] == [200] * 5
    assert sign_in().status_code == 429
    assert statuses(6, name="nobody-of-that-name", address="203.0.113.8") == [200] * 5 + [429]


def test_pauses_grow_and_a_try_during_one_lengthens_nothing(ada, monkeypatch):
    now = timezone.now()
    clock = [now]
    monkeypatch.setattr(throttle.timezone, "now", lambda: clock[0])
    pauses = []
    for _ in range(5):
        sign_in()
    for _ in range(8):
        waits = [int(sign_in().headers["Retry-After"]) for _ in range(3)]
        assert len(set(waits)) == 1
        pauses.append(waits[0])
        clock[0] += datetime.timedelta(seconds=waits[0])
        assert sign_in().status_code == 200
    assert pauses == [30, 60, 120, 240, 480, 900, 900, 900]


def test_failures_are_forgotten_after_a_while(ada, monkeypatch):
    clock = [timezone.now()]
    monkeypatch.setattr(throttle.timezone, "now", lambda: clock[0])
    assert statuses(4) == [200] * 4
    clock[0] += datetime.timedelta(minutes=16)
    assert statuses(4) == [200] * 4
    assert sign_in(password="right-password").status_code == 302


def test_signing_in_forgets_what_failed_before(ada):
    assert statuses(4) == [200] * 4
    assert sign_in(password="right-password").status_code == 302
    assert statuses(5) == [200] * 5
    assert sign_in().status_code == 429


def test_others_failures_keep_nobody_out_from_another_address(ada):
    assert statuses(6) == [200] * 5 + [429]
    assert sign_in(password="right-password", address="198.51.100.1").status_code == 302


def test_one_address_is_slowed_down_whatever_names_it_tries(ada):
    limit = throttle.LIMITS["address"].free
    assert [sign_in(name=f"name-{number}").status_code for number in range(limit)] == [200] * limit
    assert sign_in(name="another").status_code == 429
    assert sign_in(name="another", address="203.0.113.9").status_code == 200


def test_a_name_tried_from_everywhere_waits_a_minute_at_most_and_not_where_it_is_known(ada):
    assert sign_in(password="right-password", address="192.0.2.1").status_code == 302
    limit = throttle.LIMITS["name"].free
    for number in range(limit):
        sign_in(address=f"198.51.100.{number}")
    stranger = sign_in(password="right-password", address="192.0.2.99")
    assert stranger.status_code == 429
    assert int(stranger.headers["Retry-After"]) <= 60
    assert sign_in(password="right-password", address="192.0.2.1").status_code == 302


def test_addresses_are_those_that_the_server_saw_and_networks_of_ipv6(ada):
    for number in range(5):
        Client().post(
            "/sign-in/",
            {"username": "ada", "password": "wrong"},
            REMOTE_ADDR=f"2001:db8:1:2::{number}",
            headers={"X-Forwarded-For": f"10.0.0.{number}"},
        )
    assert sign_in(address="2001:db8:1:2:ffff::1").status_code == 429
    assert sign_in(address="2001:db8:1:3::1").status_code == 200
    assert throttle._network("::ffff:203.0.113.7") == throttle._network("203.0.113.7") == "203.0.113.7"
    assert throttle._network("") == throttle._network("not an address") == "unknown"


def test_there_are_so_many_rows_and_no_more(monkeypatch):
    monkeypatch.setattr(throttle, "BUCKETS", 4)
    for number in range(60):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(throttle, "LIMITS", {kind: throttle.Limit(10**6, 1, 1) for kind in throttle.LIMITS})
            throttle.admit(f"name {number}", f"203.0.113.{number}")
    assert SignInCount.objects.count() <= 4 * 4


@pytest.mark.parametrize("name", ["", "%00", "x" * 100_000, "%3Cscript%3E", "%ED%A0%80", "%FF", "a&username=b"])
def test_no_name_breaks_the_door(name):
    form = "application/x-www-form-urlencoded"
    answer = Client().post("/sign-in/", f"username={name}&password=wrong", content_type=form)
    assert answer.status_code == 200
    assert "<script>" not in answer.content.decode()


@pytest.mark.django_db(transaction=True)
def test_many_tries_at_once_are_counted_one_by_one():
    told = at_once(12, lambda _: _admitted())
    assert sum(told) == 5


def _admitted() -> bool:
    try:
        throttle.admit("ada", "203.0.113.7")
    except throttle.ThrottledError:
        return False
    return True


# On Postgres: each list by way of an index ---------------------------------------------------------------------------

CONDITIONS = [
    {},
    {"state": "failed"},
    {"task": "shop.tasks.ship"},
    {"queue": "default"},
    {"schedule": "nightly"},
    {"worker": "w1"},
    {"tenant": "acme"},
    {"fingerprint": "a" * 16},
    {"state": "failed", "task": "shop.tasks.ship", "since": "24h"},
    {"tenant": "acme", "state": "failed"},
    {"worker": "w1", "state": "failed", "since": "1h"},
    {"fingerprint": "a" * 16, "queue": "default"},
    {"q": "blue"},
    {"q": "blue", "task": "shop.tasks.ship", "since": "7d"},
]
PEOPLE = [ADMIN, Access("bob", Role.NOBODY), Access("eve", Role.OPERATOR, "acme")]


@pytest.fixture
def plans(django_assert_max_num_queries):
    """The plans of all queries in a block; Postgres may read a table only where nothing else is possible."""
    if connection.vendor != "postgresql":
        pytest.skip("plans are looked at on Postgres")

    def explain(work, *, freely: bool = False) -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL enable_seqscan = {'on' if freely else 'off'}")
        with django_assert_max_num_queries(20) as captured:
            work()
        found = []
        for query in captured.captured_queries:
            if query["sql"].startswith("SELECT"):
                with connection.cursor() as cursor:
                    cursor.execute("EXPLAIN " + query["sql"].replace("%", "%%"))
                    found.append("\n".join(row[0] for row in cursor.fetchall()))
        return found

    return explain


def test_every_list_of_runs_is_read_by_way_of_an_index(plans):
    for access, asked, after in product(PEOPLE, CONDITIONS, (None, Cursor(NOW, "x"), Cursor(NOW))):
        for plan in plans(lambda: queries.find_runs(access, filters.read(asked), after)):  # noqa: B023 - called at once
            assert "Seq Scan" not in plan, (access, asked, plan)
            assert "Index" in plan, (access, asked, plan)


def test_every_other_list_is_read_by_way_of_an_index(plans):
    made = run(root_id="root", group_id="group", parent_id="p", retry_of="r")
    now = timezone.now()
    for access in PEOPLE:
        for work_ in (
            lambda access=access: queries.count_states(access),
            lambda access=access: queries.failures(access, now - datetime.timedelta(days=1)),
            lambda access=access: queries.related(access, made, "x"),
            lambda access=access: queries.failed_ids(access, "a" * 16, None, 10),
            *(
                lambda access=access, asked=asked: schedule_queries.find(access, schedule_queries.read(asked), now)
                for asked in ({}, {"state": "paused", "q": "x", "cursor": "a"}, {"state": "unsynced"})
            ),
            lambda access=access: schedule_queries.history(access, Schedule(name="nightly")),
        ):
            for plan in plans(work_):
                assert "Seq Scan" not in plan, plan
    for work_ in (
        lambda: queries._rates(now),
        lambda: queries.latest_samples(now),
        lambda: queries.attempts(made),
        lambda: queries.audit_entries({"actor": "ada"}, 5),
        lambda: queries.audit_entries({}),
        lambda: audit.last("retry", "run x"),
    ):
        for plan in plans(work_):
            assert "Seq Scan" not in plan, plan


def test_a_root_that_most_runs_have_is_looked_up_in_its_index_all_the_same(plans):
    """Else Postgres would read the table until it has seen enough of them."""
    made = run(root_id="root", group_id="group")
    fields = {"task": "t", "queue": "q", "created_at": NOW, "publish_claimed_until": NOW}
    many = [Run(id=f"{number}", root_id="root", group_id="group", **fields) for number in range(3000)]
    Run.objects.bulk_create(many)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE ledger_run")
    root, group = plans(lambda: queries.related(ADMIN, made, ""), freely=True)[-2:]
    for plan, index in ((root, "run_root"), (group, "run_group")):
        assert f"Index Scan using {index}" in plan, plan
        assert "Sort" not in plan, plan


# Services that pages do not reach ------------------------------------------------------------------------------------


def test_a_run_that_is_not_theirs_is_locked_for_nobody():
    made = run(tenant="other")
    with pytest.raises(NotVisibleError):
        run_services.revoke(Actor(Access("eve", Role.ADMIN, "acme")), made.pk)
