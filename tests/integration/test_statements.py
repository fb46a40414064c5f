"""The ledger's written-out statements: that they do what the rules and Django would, and when they are prepared."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery.app.task import Context
from django.conf import settings as django_settings
from django.db import OperationalError, ProgrammingError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_app.ledger import claims, outcomes, services, statements
from django_app.ledger.claiming import Verdict, decide
from django_app.ledger.claims import Claim, Claimant
from django_app.ledger.models import Attempt, Pause, Revocation, Run
from django_app.ledger.outcomes import Ended
from django_app.ledger.statements import Statement
from django_app.ledger.states import Outcome, Report, State
from tasks.runtime import endings
from tasks.runtime.attempts import Current
from tests.threads import at_once

pytestmark = pytest.mark.django_db(transaction=True)
on_postgres = pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite's driver prepares by itself")
HOUR = datetime.timedelta(hours=1)
COUNT = Statement("SELECT count(*), %s || '5%%' FROM ledger_run WHERE id <> %s AND task LIKE 'no%%'")


@pytest.fixture(autouse=True)
def own_connection(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One that has prepared nothing, of a process that prepares."""
    monkeypatch.setattr(statements, "_is_pooled", False)
    connection.close()
    yield
    connection.close()


def run_of(**fields: Any) -> Run:
    return Run(**{"id": uuid4().hex, "task": "note", "queue": "default", "message": "{}", **fields})


def recorded(**fields: Any) -> Run:
    """A run that is queued."""
    run = run_of()
    services.record([run])
    Run.objects.filter(pk=run.pk).update(**{"state": State.QUEUED, **fields})
    return run


def asked(work: Callable[[], object]) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        work()
    return [each["sql"] for each in captured.captured_queries]


# Preparing -----------------------------------------------------------------------------------------------------------


@on_postgres
def test_a_statement_is_prepared_at_its_fifth_use_on_a_connection():
    words = [asked(lambda: COUNT.rows(["a", "b"]))[0].split()[0] for _ in range(4)]
    assert words == ["SELECT"] * 4
    assert [each.split()[0] for each in asked(lambda: COUNT.rows(["a", "b"]))] == ["PREPARE", "EXECUTE"]
    assert [each.split()[0] for each in asked(lambda: COUNT.rows(["a", "b"]))] == ["EXECUTE"]
    connection.close()
    assert asked(lambda: COUNT.rows(["a", "b"]))[0].split()[0] == "SELECT"


def test_a_prepared_statement_answers_as_one_that_is_not():
    run = recorded()
    answers = [
        COUNT.rows([value, run.pk[:-1]]) for value in ("a", "it's", '"%s" 100%', "é", "\\", "") for _ in range(7)
    ]
    assert [tuple(row) for [row] in answers] == [
        (1, f"{value}5%") for value in ("a", "it's", '"%s" 100%', "é", "\\", "") for _ in range(7)
    ]


@on_postgres
@pytest.mark.parametrize(
    "change", [{"DISABLE_SERVER_SIDE_CURSORS": True}, {"OPTIONS": {"server_side_binding": True}}], ids=str
)
def test_nothing_is_prepared_where_it_could_not_be_used(monkeypatch, change):
    for key, value in change.items():
        monkeypatch.setitem(connection.settings_dict, key, value)
    queries = asked(lambda: [COUNT.rows(["a", "b"]) for _ in range(9)])
    assert [each.split()[0] for each in queries] == ["SELECT"] * 9


def prepare() -> None:
    for _ in range(6):
        COUNT.rows(["a", "b"])


def lose_statements() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")


@on_postgres
def test_where_a_pooler_changes_connections_statements_work_and_are_prepared_no_more():
    prepare()
    lose_statements()
    assert COUNT.rows(["a", "b"]) == [(0, "a5%")]
    queries = asked(lambda: [COUNT.rows(["a", "b"]) for _ in range(9)])
    assert [each.split()[0] for each in queries] == ["SELECT"] * 9


@on_postgres
def test_a_transaction_that_is_lost_by_it_is_tried_again():
    prepare()
    lose_statements()

    def once() -> list[Any]:
        with transaction.atomic():
            return COUNT.rows(["a", "b"])

    with pytest.raises(OperationalError, match="try again"):
        once()
    assert endings.persistently(once) == [(0, "a5%")]


@on_postgres
def test_another_fault_of_a_statement_is_raised():
    wrong = Statement("SELECT nothing FROM nowhere WHERE id = %s")
    for _ in range(7):
        with pytest.raises(ProgrammingError, match="nowhere"):
            wrong.rows(["a"])
    assert not statements._is_pooled


# Recording -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 1100])
def test_runs_are_inserted_as_django_would(number):
    now = timezone.now()
    odd: dict[str, Any] = {
        "arguments": '{"args": ["it\'s 100%% \\\\ é"]}',
        "priority": 3,
        "not_before": now + HOUR,
        "expires_at": datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone(HOUR)),
        "is_chord_part": True,
        "stamps": {"batch": ["a", "it's"]},
        "limit_at_once": 4,
    }
    ours, theirs = [run_of(**odd) for _ in range(number)], [run_of(**odd) for _ in range(number)]
    services.record(ours)
    for run in theirs:
        run.created_at, run.publish_claimed_until = ours[0].created_at, ours[0].publish_claimed_until
    Run.objects.bulk_create(theirs, batch_size=500)
    columns = [field.attname for field in Run._meta.concrete_fields if field.attname != "id"]
    assert Run.objects.count() == 2 * number
    assert len({str(sorted(row.items())) for row in Run.objects.values(*columns)}) == 1
    assert Run.objects.first().stamps == odd["stamps"]
    assert Run.objects.filter(expires_at=odd["expires_at"], not_before=odd["not_before"]).count() == 2 * number


@pytest.mark.parametrize("number", [1, 3])
def test_an_id_that_is_there_already_keeps_its_row(number):
    first = recorded(result="=1")
    services.record([run_of(id=first.pk, task="other"), *(run_of() for _ in range(number - 1))])
    run = Run.objects.get(pk=first.pk)
    assert (run.task, run.result, run.state) == ("note", "=1", State.QUEUED)
    assert Run.objects.count() == number


def test_a_run_whose_time_is_far_is_looked_at_when_it_comes_and_not_each_minute_until_then():
    now = timezone.now()
    soon, far = run_of(not_before=now + services.PUBLISH_AHEAD / 2), run_of(not_before=now + 24 * HOUR)
    services.record([soon, far])
    claim = begun()
    again = run_of(id=claim.run_id, not_before=now + 24 * HOUR)
    assert outcomes.release(claim, Ended(Outcome.RETRIED), again) is not None
    comes = far.not_before - services.PUBLISH_AHEAD
    looked_at = list(Run.objects.filter(state=State.PENDING).order_by("publish_claimed_until"))
    assert looked_at[0].pk == soon.pk
    assert [run.publish_claimed_until for run in looked_at[1:]] == [comes, comes]
    claimed = services.claim_unpublished(now + 10 * services.PUBLISH_CLAIM, 9)
    assert [run.pk for run in claimed] == [soon.pk]
    assert {run.pk for run in services.claim_unpublished(comes, 9)} == {soon.pk, far.pk, again.pk}


# Claiming ------------------------------------------------------------------------------------------------------------

CONDITIONS = list(
    itertools.product(
        list(State),
        (
            *({}, {"retries": 1}, {"replacements": 1}, {"limit_key": "k"}, {"expires_at": "past"}),
            *({"expires_at": "future"}, {"crashes": 99}, {"crashes": 1, "attempts": 1}),
        ),
        ("", "paused queue", "paused task", "revoked"),
    )
)


def test_what_is_claimed_at_once_is_exactly_what_the_rule_lets_run_and_nobody_holds():
    now = timezone.now()
    times = {"past": now - HOUR, "future": now + HOUR}
    Pause.objects.create(key="queue:slow", created_at=now)
    Pause.objects.create(key="task:heavy", created_at=now)
    taken = 0
    for state, fields, circumstance in CONDITIONS:
        values = {name: times.get(str(value), value) for name, value in fields.items()}
        values["queue"] = "slow" if circumstance == "paused queue" else "default"
        values["task"] = "heavy" if circumstance == "paused task" else "note"
        run = recorded(state=state, lease_until=now - HOUR if state is State.RUNNING else None, **values)
        if circumstance == "revoked":
            Revocation.objects.create(header="", value=run.pk, created_at=now, expires_at=now + HOUR)
        claimant = Claimant("me", "w", 60)
        row, seen_at = claims._look(run.pk, claimant)
        verdict = decide(claims._facts(row, claimant), seen_at).verdict
        is_plain = state in (State.PENDING, State.QUEUED) and "limit_key" not in fields
        # A message that is ahead of its row is left to the rule: it cannot be here, since the row is written first.
        claim = claims._take_fresh(run.pk, claimant)
        assert (claim is not None) == (verdict is Verdict.RUN and is_plain), (state, fields, circumstance)
        taken += claim is not None
        assert Run.objects.filter(pk=run.pk, holder="me").exists() == (claim is not None)
    assert taken == 2 * 3


def test_a_claim_at_once_leaves_what_a_claim_after_a_look_leaves(monkeypatch):
    first, second = recorded(attempts=2, crashes=1, unique_key="u"), recorded(attempts=2, crashes=1, unique_key="u")
    claimant = Claimant("me", "w", 60)
    at_first = claims.claim(first.pk, claimant)
    monkeypatch.setattr(claims, "_take_fresh", lambda *_: None)
    after = claims.claim(second.pk, claimant)
    assert [(each.number, each.holder, each.unique_key) for each in (at_first, after)] == [(3, "me", "u")] * 2
    rows = list(Run.objects.all())
    columns = ("state", "attempts", "crashes", "holder", "worker", "receives", "parked_for", "celery_state", "lease")
    for row, claim in zip(sorted(rows, key=lambda row: row.pk != first.pk), (at_first, after), strict=True):
        assert row.started_at == claim.started_at
        assert row.lease_until - row.started_at == datetime.timedelta(minutes=1)
    assert len({tuple(getattr(row, name, "") for name in columns) for row in rows}) == 1


@pytest.mark.parametrize("claimant", [{"receives": 2}, {"stamps": {"batch": ["a"]}}], ids=str)
def test_what_is_likely_a_duplicate_or_needs_a_closer_look_is_not_tried_at_once(claimant):
    run = recorded()
    assert claims._take_fresh(run.pk, Claimant("me", "w", 60, **claimant)) is None
    assert claims.claim(run.pk, Claimant("me", "w", 60, **claimant)).number == 1


def test_a_run_that_crashed_too_often_is_not_claimed_at_once():
    most = django_settings.RUN_MOST_CRASHES
    allowed, doomed = recorded(crashes=most - 1), recorded(crashes=most)
    assert claims._take_fresh(allowed.pk, Claimant("me", "w", 60)) is not None
    assert claims._take_fresh(doomed.pk, Claimant("me", "w", 60)) is None


# Ending --------------------------------------------------------------------------------------------------------------


def end(claim: Claim, ended: Ended, report: Report = Report.SUCCEEDED) -> Current:
    attempt = Current(claim, None)
    endings.end(claim.run_id, report, ended, None, attempt=attempt, request=Context(id=claim.run_id))
    assert attempt.is_over
    return attempt


def begun(**options: Any) -> Claim:
    return claims.claim(options.pop("run_id", None) or recorded().pk, Claimant(uuid4().hex, "w", 60, **options))


def left(run_id: str) -> tuple[Any, ...]:
    """What is recorded of a run that has ended, without ids and times."""
    run = Run.objects.filter(pk=run_id).values(
        *("state", "result", "children", "celery_state", "error", "fingerprint", "lease_until", "holder", "parked_for")
    )
    attempt = (
        Attempt.objects.filter(run_id=run_id)
        .order_by("id")
        .values(*("number", "worker", "receives", "outcome", "error", "traceback", "log_tail"))
    )
    return list(run), list(attempt)


@pytest.mark.parametrize(
    ("report", "ended"),
    [
        (Report.SUCCEEDED, Ended(Outcome.SUCCEEDED, result='={"it\'s": "100%"}')),
        (Report.FAILED, Ended(Outcome.FAILED, error="E: " + "e" * 999, traceback='File "a.py", line 1, in work')),
    ],
    ids=str,
)
def test_an_end_in_one_statement_leaves_what_one_in_a_transaction_leaves(monkeypatch, report, ended):
    first, second = begun(), begun()
    queries = asked(lambda: end(first, ended, report))
    if connection.vendor == "postgresql":
        assert len(queries) == 1, queries
    monkeypatch.setattr(outcomes, "is_one_statement", lambda claim: False)
    assert len(asked(lambda: end(second, ended, report))) >= 3
    assert left(first.run_id) == left(second.run_id)
    run, attempt = Run.objects.get(pk=first.run_id), Attempt.objects.get(run_id=first.run_id)
    assert (run.state, run.result, run.error) == (report.value, ended.result, ended.error[:500])
    assert (attempt.outcome, attempt.error, attempt.traceback) == (ended.outcome, ended.error[:500], ended.traceback)
    assert (attempt.holder, attempt.started_at, attempt.ended_at) == (first.holder, first.started_at, run.finished_at)


def test_of_eight_that_end_one_run_at_once_one_does_and_its_attempt_is_recorded_once():
    claim = begun()
    at_once(8, lambda number: end(claim, Ended(Outcome.SUCCEEDED, result=f"={number}")))
    assert [each.outcome for each in Attempt.objects.filter(run_id=claim.run_id)] == [Outcome.SUCCEEDED]
    assert Run.objects.get(pk=claim.run_id).state == State.SUCCEEDED


def test_an_attempt_that_was_taken_over_ends_the_run_with_nothing_to_follow_it_as_well():
    first = begun()
    Run.objects.filter(pk=first.run_id).update(lease_until=timezone.now() - HOUR)
    second = begun(run_id=first.run_id, receives=2)
    end(first, Ended(Outcome.SUCCEEDED, result="=1"))
    end(second, Ended(Outcome.SUCCEEDED, result="=2"))
    run = Run.objects.get(pk=first.run_id)
    assert (run.state, run.result, run.holder) == (State.SUCCEEDED, "=1", "")
    story = Attempt.objects.filter(run_id=run.pk).order_by("number").values_list("number", "outcome")
    assert list(story) == [(1, Outcome.SUCCEEDED), (2, Outcome.LOST)]


@pytest.mark.parametrize("key", ["unique_key", "limit_key"])
def test_a_run_whose_end_frees_something_ends_in_a_transaction(key):
    assert not outcomes.is_one_statement(Claim(decide, run_id="a", **{key: "k"}))
    assert outcomes.is_one_statement(Claim(decide, run_id="a")) == (connection.vendor == "postgresql")
