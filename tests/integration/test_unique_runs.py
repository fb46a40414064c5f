"""Unique runs: one at a time of a key, whoever asks for it at the same moment; on a real database."""

from __future__ import annotations

import datetime
import math
import threading
from uuid import uuid4

import pytest
from celery import chain, chord, group, shared_task
from django.db import transaction
from django.utils import timezone

from django_app.ledger import claims, outcomes, services, uniqueness
from django_app.ledger.claims import Claimant
from django_app.ledger.models import Run, UniqueRun
from django_app.ledger.outcomes import Ended
from django_app.ledger.states import Outcome, Report, State
from serverless.broker import bulk
from tasks.celery import app
from tasks.runtime.testing import captured_runs
from tasks.runtime.unique import UniqueKeyError
from tests.threads import at_once

pytestmark = pytest.mark.django_db(transaction=True)
HOUR = 3600


@shared_task(name="tests.unique.note")
def note(*arguments: object) -> None:
    """Enqueued, and run only where a test says so."""


@shared_task(name="tests.unique.other")
def other(*arguments: object) -> None:
    """As above."""


@shared_task(name="tests.unique.unrecorded", recorded=False)
def unrecorded(*arguments: object) -> None:
    """Never recorded."""


@pytest.fixture(autouse=True)
def empty_queues():
    messages()
    yield
    messages()


def messages() -> list[str]:
    """The ids of the messages in the queues of the in-memory broker, which are taken out."""
    found = []
    with app.connection_for_read() as broker:
        for queue in app.amqp.queues.values():
            bound = queue(broker.default_channel)
            while (message := bound.get(no_ack=True)) is not None:
                found.append(message.headers["id"])
    return found


def ask(key: str = "k", **options: object) -> str:
    return note.apply_async((1,), unique_key=key, **options).id


def end(run_id: str, report: Report = Report.SUCCEEDED) -> None:
    claimed = claims.claim(run_id, Claimant(uuid4().hex, "w", 60))
    with transaction.atomic():
        assert outcomes.finish(run_id, report, Ended(Outcome.SUCCEEDED, claim=claimed)) == []


@pytest.mark.parametrize("unique_for", [None, HOUR])
def test_eight_that_ask_at_once_get_one_run(unique_for):
    ids = at_once(8, lambda _: ask(unique_for=unique_for))
    assert len(set(ids)) == 1
    assert messages() == [ids[0]]
    run = Run.objects.get()
    assert (run.pk, run.unique_key, run.state) == (ids[0], "tests.unique.note k", State.QUEUED)


def test_eight_that_ask_at_once_for_a_key_that_has_become_free_get_one_run():
    first = ask(unique_for=HOUR)
    end(first)
    assert UniqueRun.objects.update(until=timezone.now()) == 1
    messages()
    ids = at_once(8, lambda _: ask())
    assert len(set(ids)) == 1
    assert ids[0] != first
    assert messages() == [ids[0]]


def test_a_key_belongs_to_its_task():
    assert len({ask("a"), ask("b"), other.apply_async(unique_key="a").id}) == 3
    assert len(messages()) == 3


@pytest.mark.parametrize("report", [Report.SUCCEEDED, Report.FAILED, Report.REVOKED, Report.EXPIRED, Report.DEAD])
def test_a_key_is_free_again_when_its_run_has_ended(report):
    first = ask()
    assert ask() == first
    claims.claim(first, Claimant("h", "w", 60))
    assert ask() == first, "it is at work"
    with transaction.atomic():
        outcomes.finish(first, report, Ended(Outcome.SUCCEEDED))
    second = ask()
    assert second != first
    assert ask() == second


def test_a_key_that_is_kept_for_a_time_gives_the_run_that_has_ended_until_then():
    first = ask(unique_for=HOUR)
    end(first)
    assert ask() == first
    assert ask(unique_for=1) == first, "who asked first has said for how long"
    UniqueRun.objects.update(until=timezone.now())
    assert ask() != first


def test_who_takes_a_free_key_says_for_how_long_it_is_kept():
    for first_for, second_for, is_kept in ((HOUR, None, False), (HOUR, HOUR, True)):
        key = f"{first_for} {second_for}"
        end(ask(key, unique_for=first_for))
        UniqueRun.objects.update(until=timezone.now())
        second = ask(key, unique_for=second_for)
        end(second)
        assert (ask(key) == second) is is_kept


def test_a_key_whose_time_is_over_is_kept_until_its_run_has_ended():
    first = ask(unique_for=HOUR)
    UniqueRun.objects.update(until=timezone.now())
    assert ask() == first
    end(first)
    assert ask() != first


def test_a_key_is_kept_while_its_run_is_tried_again_or_waits():
    first = ask()
    for state in (State.PENDING, State.QUEUED, State.WAITING, State.RUNNING, State.LOST):
        Run.objects.update(state=state)
        assert ask() == first


def test_a_key_is_free_when_its_run_is_forgotten():
    first = ask(unique_for=HOUR)
    end(first)
    UniqueRun.objects.update(until=timezone.now())
    assert services.forget(timezone.now() + datetime.timedelta(days=1), 9) == 1
    assert ask() != first


def test_who_asks_again_waits_for_the_others_transaction_and_gets_its_run():
    is_asked, is_answered = threading.Event(), threading.Event()

    def work(number: int) -> str:
        if number:
            assert is_asked.wait(10)
            found = ask()
            is_answered.set()
            return found
        with transaction.atomic():
            found = ask()
            is_asked.set()
            assert not is_answered.wait(0.3)
        return found

    first, second = at_once(2, work)
    assert first == second
    assert messages() == [first]


def test_who_asks_again_makes_a_run_when_the_others_transaction_is_rolled_back():
    is_asked, is_answered = threading.Event(), threading.Event()

    def work(number: int) -> str:
        if number:
            assert is_asked.wait(10)
            found = ask()
            is_answered.set()
            return found
        with transaction.atomic():
            found = ask()
            is_asked.set()
            assert not is_answered.wait(0.3)
            transaction.set_rollback(True)
        return found

    first, second = at_once(2, work)
    assert first != second
    assert messages() == [second]
    assert [run.pk for run in Run.objects.all()] == [second]


def test_a_rollback_frees_the_key_and_so_does_a_savepoints():
    with transaction.atomic():
        first = ask()
        assert ask() == first
        transaction.set_rollback(True)
    assert not UniqueRun.objects.exists()
    with transaction.atomic():
        with transaction.atomic():
            second = ask()
            transaction.set_rollback(True)
        third = ask()
    assert len({first, second, third}) == 3
    assert messages() == [third]


def test_inside_a_bulk_block_a_unique_run_is_recorded_at_once_and_shared():
    with bulk(app):
        first = ask()
        note.delay(2)
        assert Run.objects.count() == 1, "it does not wait for the block's end: its key would stand for no run"
        assert ask() == first
    assert Run.objects.count() == 2
    assert len(messages()) == 2


def test_a_bulk_block_that_raises_in_a_transaction_takes_its_unique_runs_along():
    def enqueue() -> None:
        with transaction.atomic(), bulk(app):
            ask()
            note.delay(2)
            raise LookupError

    with pytest.raises(LookupError):
        enqueue()
    assert (Run.objects.count(), UniqueRun.objects.count(), messages()) == (0, 0, [])


def test_an_argument_that_is_not_json_takes_no_key():
    with pytest.raises(Exception, match="not JSON serializable"):
        note.apply_async((object(),), unique_key="k")
    assert not UniqueRun.objects.exists()


def test_what_is_asked_for_under_the_holders_own_id_is_sent_again():
    first = ask(task_id="same")
    assert ask(task_id="same") == first == "same"
    assert messages() == ["same", "same"]
    assert Run.objects.count() == 1


# In a canvas --------------------------------------------------------------------------------------------------------

HELD = r"task tests.unique.note: unique_key=\'k\' is held by run {run}, and this call must have the id \S+: a member of a canvas cannot be another run\. Enqueue it by itself\."


@pytest.mark.parametrize(
    "canvas",
    [
        lambda unique: chain(unique, other.si()),
        lambda unique: group(other.si(), unique),
        lambda unique: chord([other.si(), unique], other.si()),
    ],
    ids=["chain", "group", "chord"],
)
def test_a_member_of_a_canvas_whose_key_is_held_is_refused_and_nothing_is_enqueued(canvas):
    first = ask()
    messages()
    with pytest.raises(UniqueKeyError, match=HELD.format(run=first)):
        canvas(note.si().set(unique_key="k")).apply_async()
    assert messages() == []
    assert Run.objects.count() == 1


def test_a_member_of_a_canvas_whose_key_is_free_takes_it():
    result = chain(note.si().set(unique_key="k"), other.si()).apply_async()
    assert UniqueRun.objects.get().run_id == result.parent.id
    assert ask() == result.parent.id


def test_a_later_step_whose_key_is_held_fails_the_workflow_and_says_why():
    first = ask()
    with pytest.warns(RuntimeWarning, match="Exception raised outside body"), captured_runs(execute=True) as runs:
        result = chain(other.si(), note.si().set(unique_key="k")).apply_async()
    assert [run.state for run in runs] == [State.FAILED]
    assert f"is held by run {first}" in runs[0].error
    assert Run.objects.get(pk=result.id).state == State.FAILED


# Refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", 7, None, b"k", ["k"], "x" * 151])
def test_a_key_that_is_none_is_refused(key):
    with pytest.raises(UniqueKeyError) as raised:
        note.apply_async(unique_key=key, unique_for=1)
    assert str(raised.value) == (
        f"task tests.unique.note: unique_key={key!r} must be a text of 1 to 150 characters; "
        "make one of the arguments that make the run what it is."
    )
    assert not Run.objects.exists()


@pytest.mark.parametrize("key", ["a\x00b", "half \ud800 a pair"])
def test_a_key_that_no_database_can_keep_is_refused(key):
    with pytest.raises(UniqueKeyError) as raised:
        ask(key)
    assert str(raised.value) == (
        f"task tests.unique.note: unique_key={key!r} holds characters that the database cannot keep."
    )


@pytest.mark.parametrize("seconds", [0, -1, "60", True, math.nan, math.inf, 1e12, datetime.timedelta(seconds=1)])
def test_a_time_that_is_none_is_refused(seconds):
    with pytest.raises(UniqueKeyError) as raised:
        ask(unique_for=seconds)
    assert str(raised.value) == (
        f"task tests.unique.note: unique_for={seconds!r} must be seconds above 0 and up to ten years, "
        "or None: until the run ends."
    )
    assert not UniqueRun.objects.exists()


def test_what_is_not_recorded_cannot_be_unique(settings):
    message = "unique_key needs a recorded run, and this one is not recorded"
    with pytest.raises(UniqueKeyError, match=f"task tests.unique.note: {message}"):
        ask(recorded=False)
    with pytest.raises(UniqueKeyError, match=f"task tests.unique.unrecorded: {message}"):
        unrecorded.apply_async(unique_key="k")
    assert unrecorded.apply_async(unique_key="k", recorded=True).id == UniqueRun.objects.get().run_id
    settings.RECORD_RUNS = False
    with pytest.raises(UniqueKeyError, match=message):
        ask("other")


@pytest.mark.parametrize("key", ["x", "x" * 150, "Straße 7 🚲", " ", "a'b\"c%s"])
def test_any_other_text_is_a_key(key):
    assert ask(key) == ask(key)


def test_long_task_names_leave_room_for_the_key():
    name = f"tests.unique.{'x' * 200}"
    task = app.task(named_at_length, name=name)
    try:
        first = task.apply_async(unique_key="k" * 150).id
        assert task.apply_async(unique_key="k" * 150).id == first
    finally:
        app.tasks.pop(name)


def named_at_length() -> None:
    """The task of the long name."""


# Housekeeping -------------------------------------------------------------------------------------------------------


def test_keys_whose_time_is_over_are_deleted_when_their_run_has_ended_or_is_forgotten():
    ended, forgotten, open_, kept = (ask(key, unique_for=HOUR) for key in ("ended", "forgotten", "open", "kept"))
    for run_id in (ended, forgotten, kept):
        end(run_id)
    Run.objects.filter(pk=forgotten).delete()
    UniqueRun.objects.exclude(run_id=kept).update(until=timezone.now() - datetime.timedelta(hours=1))
    assert uniqueness.forget(timezone.now(), 1) == 1
    assert uniqueness.forget(timezone.now(), 9) == 1
    assert uniqueness.forget(timezone.now(), 9) == 0
    assert set(UniqueRun.objects.values_list("run_id", flat=True)) == {open_, kept}
