"""How runs end and go on: once, with all that follows from it, whoever reports it and whatever breaks meanwhile."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError
from celery import chord, group, shared_task
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.exceptions import ChordError, Reject
from celery.result import AsyncResult
from django.db import OperationalError, connection, connections, transaction
from django.utils import timezone

from django_app.ledger import claims, outcomes, payloads, services, workflows
from django_app.ledger.claims import Claim, Claimant
from django_app.ledger.models import Attempt, Chord, ChordPart, Run, UniqueRun
from django_app.ledger.outcomes import Ended
from django_app.ledger.services import REPLACED
from django_app.ledger.states import FINAL, Outcome, Report, State
from serverless.objects import Bucket
from tasks.celery import app
from tasks.runtime import attempts, endings, publishing
from tasks.runtime.attempts import Current
from tasks.runtime.once import ending_when_done
from tasks.runtime.results import ResultMissingError
from tasks.runtime.tracing import Claiming, replacing
from tests.threads import at_once

pytestmark = pytest.mark.django_db(transaction=True)
SUCCEEDED = Report.SUCCEEDED


# Tasks --------------------------------------------------------------------------------------------------------------


@shared_task(name="tests.outcomes.give")
def give(value: Any = None) -> Any:
    return value


@shared_task(name="tests.outcomes.add")
def add(x: Any, y: Any) -> Any:
    return x + y


@shared_task(name="tests.outcomes.fail")
def fail(*_: Any) -> None:
    raise LookupError("as asked")


@shared_task(name="tests.outcomes.again", bind=True)
def again(self: Any, times: int) -> int:
    if self.request.retries < times:
        raise self.retry(exc=LookupError("not yet"), countdown=0, max_retries=times)
    return self.request.retries


@shared_task(name="tests.outcomes.replaced", bind=True)
def replaced(self: Any, by: str) -> Any:
    return self.replace(add.s(1, 2) if by == "task" else group(give.s(1), give.s(2)))


@shared_task(name="tests.outcomes.rejected", bind=True)
def rejected(self: Any, requeue: bool) -> None:
    raise Reject("as asked", requeue=requeue)


@shared_task(name="tests.outcomes.extend", bind=True)
def extend(self: Any, value: int) -> int:
    self.add_to_chord(give.s(value * 10))
    return value


# A worker in this process -------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def tracers() -> Iterator[dict[str, Claiming]]:
    """What runs these tasks, as in a worker that is equipped, and empty queues."""
    purge()
    undo = []
    for task in app.tasks.values():
        if task.name.startswith("tests.outcomes.") or task.name == "celery.accumulate":
            undo.append((task, task.run, task.on_replace))
            task.run, task.on_replace = ending_when_done(task.run), replacing(task.on_replace)
            TRACERS[task.name] = Claiming(app, task, build_tracer(task.name, task, app.loader, "w", app=app))
    yield TRACERS
    for task, run, on_replace in undo:
        task.run, task.on_replace = run, on_replace
    TRACERS.clear()
    purge()


TRACERS: dict[str, Claiming] = {}


def purge() -> None:
    with app.connection_for_write() as broker:
        for queue in app.amqp.queues.values():
            queue(broker.default_channel).purge()


def messages() -> list[Any]:
    """What is in the queues of the in-memory broker, which is taken out."""
    found = []
    with app.connection_for_read() as broker:
        for queue in app.amqp.queues.values():
            bound = queue(broker.default_channel)
            while (message := bound.get(no_ack=True)) is not None:
                found.append(message)
    return found


def deliver(message: Any) -> Any:
    """Have the message's task run here, as a worker's process does."""
    args, kwargs, embed = message.decode()
    headers = message.headers
    request = {**headers, **embed, "delivery_info": message.delivery_info, "hostname": "w", "is_eager": False}
    return TRACERS[headers["task"]](headers["id"], args, kwargs, request)


def work_off() -> None:
    """Deliver messages until there are none."""
    while found := messages():
        for message in found:
            deliver(message)


def enqueue(task: Any = give, *args: Any, **options: Any) -> str:
    run_id = uuid4().hex
    task.apply_async(args, task_id=run_id, **options)
    return run_id


def claim(run_id: str, **options: Any) -> Claim:
    claimed = claims.claim(run_id, Claimant(uuid4().hex, "w", options.pop("lease_seconds", 60), **options))
    assert claimed.number
    return claimed


def finish(run_id: str, report: Report, ended: Ended) -> list[Run] | None:
    with transaction.atomic():
        return outcomes.finish(run_id, report, ended)


def succeed(claimed: Claim) -> list[Run] | None:
    return finish(claimed.run_id, SUCCEEDED, Ended(Outcome.SUCCEEDED, claim=claimed))


def row(run_id: str) -> Run:
    return Run.objects.get(pk=run_id)


def story(run_id: str) -> list[tuple[int, str]]:
    return list(Attempt.objects.filter(run_id=run_id).order_by("number", "id").values_list("number", "outcome"))


def value(run_id: str) -> Any:
    return AsyncResult(run_id).get(timeout=0.1)


# Ending once --------------------------------------------------------------------------------------------------------

REPORTS = {
    Report.SUCCEEDED: State.SUCCEEDED,
    Report.FAILED: State.FAILED,
    Report.REVOKED: State.REVOKED,
    Report.EXPIRED: State.EXPIRED,
    Report.DEAD: State.DEAD,
}


@pytest.mark.parametrize("report", REPORTS)
def test_a_run_ends_with_its_attempt_in_one_go(report):
    run_id = enqueue()
    claimed = claim(run_id, receives=4)
    told = Ended(
        Outcome.FAILED,
        claim=claimed,
        error="LookupError: as asked",
        traceback='  File "/a/b/c.py", line 1, in work\n',
        log_tail="one\ntwo",
        result="=1",
        children="[]",
        celery_state="SHAPED",
    )
    assert finish(run_id, report, told) == []
    run, attempt = row(run_id), Attempt.objects.get(run_id=run_id)
    assert run.state == REPORTS[report]
    assert (run.error, run.result, run.children, run.celery_state) == (told.error, "=1", "[]", "SHAPED")
    assert run.fingerprint == outcomes.fingerprint(told.error, told.traceback)
    assert (run.holder, run.lease_until) == ("", None)
    assert run.finished_at == attempt.ended_at
    assert (attempt.number, attempt.outcome, attempt.error) == (1, Outcome.FAILED, told.error)
    assert (attempt.traceback, attempt.log_tail, attempt.receives) == (told.traceback, "one\ntwo", 4)
    assert (attempt.worker, attempt.holder, attempt.started_at) == ("w", claimed.holder, claimed.started_at)


@pytest.mark.parametrize("first", REPORTS)
def test_a_second_end_changes_nothing(first):
    run_id = enqueue()
    claimed = claim(run_id)
    assert finish(run_id, first, Ended(Outcome.SUCCEEDED, claim=claimed, result="=1")) == []
    before = Run.objects.filter(pk=run_id).values().get()
    for second in REPORTS:
        assert finish(run_id, second, Ended(Outcome.FAILED, claim=claimed, error="late", result="=2")) is None
        assert finish(run_id, second, Ended(Outcome.FAILED, error="late", result="=2")) is None
    assert Run.objects.filter(pk=run_id).values().get() == before
    assert story(run_id) == [(1, Outcome.SUCCEEDED)]


def test_an_unknown_run_does_not_end():
    assert finish("never", SUCCEEDED, Ended(Outcome.SUCCEEDED)) is None


def test_a_run_that_nobody_has_begun_may_end():
    run_id = enqueue()
    assert finish(run_id, Report.REVOKED, Ended(Outcome.REVOKED, error="revoked: by ada")) == []
    assert (row(run_id).state, story(run_id)) == (State.REVOKED, [])


def test_long_errors_and_tracebacks_are_cut():
    run_id = enqueue()
    claimed = claim(run_id)
    finish(run_id, Report.FAILED, Ended(Outcome.FAILED, claim=claimed, error="e" * 9999, traceback="t" * 99_999 + "!"))
    attempt = Attempt.objects.get(run_id=run_id)
    assert len(row(run_id).error) == len(attempt.error) == 500
    assert (len(attempt.traceback), attempt.traceback[-1]) == (20_000, "!")


def test_of_eight_finishers_at_once_one_ends_the_run_and_what_follows_is_enqueued_once():
    """As when a message is delivered eight times and each attempt believes that it holds the run."""
    run_id = enqueue()
    claimed = claim(run_id)
    messages()
    followed = []

    def work(number: int) -> None:
        attempt = Current(claimed, give)
        attempt.successors.append(lambda: give.apply_async((number,)))
        token = attempts.current.set(attempt)
        try:
            told = Ended(Outcome.SUCCEEDED, result=f"={number}")
            request = Context(id=run_id)
            endings.end(run_id, SUCCEEDED, told, lambda: followed.append(number), attempt=attempt, request=request)
            assert attempt.is_over
        finally:
            attempts.current.reset(token)

    at_once(8, work)
    # What is followed up by the others is taken back with their transactions.
    (message,) = messages()
    winner = message.decode()[0][0]
    assert row(run_id).result == f"={winner}"
    assert Run.objects.exclude(pk=run_id).count() == 1
    assert story(run_id) == [(1, Outcome.SUCCEEDED)]
    assert winner in followed


def test_an_attempt_that_was_taken_over_may_end_the_run_and_the_other_is_too_late():
    run_id = enqueue()
    first = claim(run_id, lease_seconds=-1)
    second = claim(run_id)
    assert succeed(first) == []
    assert succeed(second) is None
    assert row(run_id).state == State.SUCCEEDED
    assert story(run_id) == [(1, Outcome.SUCCEEDED), (2, Outcome.LOST)]


def test_a_lost_attempt_that_finishes_after_all_ends_the_run():
    run_id = enqueue()
    claimed = claim(run_id)
    claims.lose(run_id, "w", "thought dead")
    assert succeed(claimed) == []
    assert row(run_id).state == State.SUCCEEDED
    assert story(run_id) == [(1, Outcome.SUCCEEDED)]


# Going on -----------------------------------------------------------------------------------------------------------


def test_a_retry_is_sent_again_under_its_id_and_ends_as_one_run():
    run_id = enqueue(again, 2)
    (message,) = messages()
    deliver(message)
    run = row(run_id)
    assert (run.state, run.retries, run.celery_state, run.error) == (State.QUEUED, 1, "RETRY", "LookupError: not yet")
    assert (run.holder, run.lease_until) == ("", None)
    assert AsyncResult(run_id).state == "RETRY"
    assert publishing.unpack(run.message)[1]["headers"]["retries"] == 1
    deliver(message)  # a duplicate of the first try
    assert row(run_id).attempts == 1
    work_off()
    assert (row(run_id).state, row(run_id).retries, value(run_id)) == (State.SUCCEEDED, 2, 2)
    assert story(run_id) == [(1, Outcome.RETRIED), (2, Outcome.RETRIED), (3, Outcome.SUCCEEDED)]


@pytest.mark.parametrize("way", ["release", "set aside", "hand back"])
def test_an_attempt_that_holds_the_run_no_more_sends_nothing(way):
    run_id = enqueue(again, 2)
    late = claim(run_id, lease_seconds=-1)
    claim(run_id)
    before = Run.objects.filter(pk=run_id).values().get()
    again_run = row(run_id)
    again_run.retries = 1
    told = Ended(Outcome.RETRIED, claim=late)
    match way:
        case "release":
            assert outcomes.release(late, told, again_run) is None
        case "set aside":
            assert not outcomes.set_aside(late, told)
        case "hand back":
            assert not outcomes.hand_back(late, told)
    assert Run.objects.filter(pk=run_id).values().get() == before
    assert story(run_id) == [(1, Outcome.LOST)]


def test_what_is_released_is_published_anew_with_its_new_message():
    run_id = enqueue()
    claimed = claim(run_id)
    new = Run(
        id=run_id, task="other", queue="low", message="new", arguments="{}", priority=1, retries=3, replacements=2
    )
    new.not_before = new.expires_at = timezone.now() + datetime.timedelta(days=1)
    released = outcomes.release(claimed, Ended(Outcome.RETRIED, claim=claimed, error="E: why", result="=9"), new)
    assert released is new
    assert released.state == State.PENDING
    run = row(run_id)
    for field in ("task", "queue", "message", "priority", "retries", "replacements", "not_before", "expires_at"):
        assert getattr(run, field) == getattr(new, field)
    assert (run.state, run.error, run.result, run.holder, run.lease_until) == (State.PENDING, "E: why", "=9", "", None)
    # Whoever released it publishes it, and the sweep only if that one died.
    assert services.claim_unpublished(timezone.now(), 9) == []
    assert story(run_id) == [(1, Outcome.RETRIED)]


def test_a_task_that_replaces_itself_by_another_is_one_run():
    run_id = enqueue(replaced, "task")
    work_off()
    run = row(run_id)
    assert (run.state, run.task, run.replacements, value(run_id)) == (State.SUCCEEDED, add.name, 1, 3)
    assert story(run_id) == [(1, Outcome.REPLACED), (2, Outcome.SUCCEEDED)]
    assert Run.objects.count() == 1


def test_a_task_that_replaces_itself_by_a_group_is_set_aside_until_all_of_it_is_done():
    run_id = enqueue(replaced, "group")
    (message,) = messages()
    deliver(message)
    run = row(run_id)
    assert (run.state, run.parked_for, run.holder) == (State.WAITING, REPLACED, "")
    assert story(run_id) == [(1, Outcome.REPLACED)]
    deliver(message)  # a duplicate
    assert row(run_id).attempts == 1
    work_off()
    assert (row(run_id).state, value(run_id)) == (State.SUCCEEDED, [1, 2])
    assert Run.objects.count() == 3


def test_a_message_that_is_given_back_is_queued_again():
    run_id = enqueue(rejected, True)
    work_off()
    run = row(run_id)
    assert (run.state, run.holder, run.lease_until, run.crashes) == (State.QUEUED, "", None, 0)
    assert story(run_id) == [(1, Outcome.HANDED_BACK)]
    assert claim(run_id).number == 2


def test_a_message_that_is_rejected_for_good_ends_its_run_as_dead():
    run_id = enqueue(rejected, False)
    work_off()
    assert (row(run_id).state, AsyncResult(run_id).state) == (State.DEAD, "FAILURE")
    assert story(run_id) == [(1, Outcome.DEAD)]


def test_a_run_that_was_never_enqueued_is_recorded_as_it_ended_once():
    """A chain's later steps, when an earlier one has failed."""
    ended = Ended(Outcome.FAILED, error="LookupError: before it", result='={"exc_type": "LookupError"}')
    assert outcomes.record_ended(Run(id="later", task="t"), Report.FAILED, ended)
    run = row("later")
    assert (run.state, run.error, run.attempts) == (State.FAILED, "LookupError: before it", 0)
    assert run.fingerprint == outcomes.fingerprint("LookupError: before it", "")
    assert run.finished_at == run.created_at
    assert not outcomes.record_ended(Run(id="later", task="t"), Report.REVOKED, Ended(Outcome.REVOKED))
    assert row("later").state == State.FAILED
    assert services.claim_unpublished(timezone.now() + datetime.timedelta(days=1), 9) == []


def test_a_run_that_two_record_as_ended_at_once_is_recorded_by_one():
    is_inserted, is_asked = threading.Event(), threading.Event()

    def tell(execute: Callable[..., Any], sql: str, *arguments: Any) -> Any:
        if sql.startswith(("INSERT", "BEGIN")):
            is_asked.set()
        return execute(sql, *arguments)

    def work(number: int) -> bool:
        run, ended = Run(id="later", task="t"), Ended(Outcome.FAILED, error=f"E: {number}")
        if number == 0:
            with transaction.atomic():
                told = outcomes.record_ended(run, Report.FAILED, ended)
                is_inserted.set()
                # The other has seen nothing yet, and inserts as well.
                is_asked.wait(5)
            return told
        assert is_inserted.wait(10)
        with connection.execute_wrapper(tell):
            return outcomes.record_ended(run, Report.FAILED, ended)

    assert at_once(2, work) == [True, False]
    assert row("later").error == "E: 0"


def test_a_task_tells_a_state_of_its_own_until_its_run_ends():
    run_id = enqueue()
    assert outcomes.set_state(run_id, "PROGRESS", "=1")
    assert (row(run_id).celery_state, row(run_id).result) == ("PROGRESS", "=1")
    succeed(claim(run_id))
    assert not outcomes.set_state(run_id, "PROGRESS", "=2")
    assert row(run_id).celery_state == ""
    assert not outcomes.set_state("never", "PROGRESS", "=1")


def test_the_key_of_a_unique_run_is_free_when_it_ends_and_kept_for_as_long_as_it_was_asked_for():
    for name, seconds, left in (("a", None, 0), ("b", 3600, 1), ("c", 0.001, 0)):
        result = give.apply_async(unique_key=name, unique_for=seconds)
        assert UniqueRun.objects.filter(key__endswith=f" {name}").count() == 1
        succeed(claim(result.id))
        assert UniqueRun.objects.filter(key__endswith=f" {name}").count() == left


# Chords -------------------------------------------------------------------------------------------------------------


def part(group_id: str, part_id: str, index: int | None, callback: Any) -> Context:
    return Context(id=part_id, group=group_id, group_index=index, chord=callback)


def begin(size: int | None, header: str = "") -> str:
    group_id = uuid4().hex
    workflows.begin_chord(group_id, header)
    if size is not None:
        workflows.set_chord_size(group_id, size)
    return group_id


def test_a_chords_parts_are_counted_by_identity_and_the_last_one_is_told():
    group_id = begin(2)
    with transaction.atomic():
        assert workflows.return_part(group_id, "b", 1, "B") is None
        assert workflows.return_part(group_id, "b", 1, "B") is None
        last = workflows.return_part(group_id, "a", 0, "A")
    assert last is not None
    assert workflows.part_results(last) == [("a", "A"), ("b", "B")]
    assert Chord.objects.get().finished_at is not None
    with transaction.atomic():
        assert workflows.return_part(group_id, "a", 0, "A") is None
        assert workflows.return_part(group_id, "c", 2, "C") is None
        assert workflows.return_part("never", "a", 0, "A") is None
    workflows.forget_parts(last)
    assert not ChordPart.objects.exists()


def test_a_chord_whose_parts_are_not_all_enqueued_yet_is_not_over():
    group_id = begin(None)
    with transaction.atomic():
        assert workflows.return_part(group_id, "a", 0, "A") is None
    assert Chord.objects.get().done == 1


def test_parts_without_a_place_come_last():
    group_id = begin(3)
    with transaction.atomic():
        workflows.return_part(group_id, "x", None, "X")
        workflows.return_part(group_id, "b", 1, "B")
        last = workflows.return_part(group_id, "a", 0, "A")
    assert [part_id for part_id, _ in workflows.part_results(last)] == ["a", "b", "x"]


def test_a_chord_that_is_applied_once_more_begins_anew():
    group_id = begin(1)
    with transaction.atomic():
        assert workflows.return_part(group_id, "a", 0, "A") is not None
    workflows.begin_chord(group_id, "[]")
    workflows.set_chord_size(group_id, 1)
    assert Chord.objects.get().header == "[]"
    with transaction.atomic():
        assert workflows.return_part(group_id, "a", 0, "A") is not None


def test_parts_are_added_to_a_chord():
    group_id = begin(1)
    assert workflows.add_to_chord(group_id)
    assert workflows.add_to_chord(group_id, more=2)
    assert Chord.objects.get().size == 4
    assert not workflows.add_to_chord("never")


def test_parts_that_are_added_at_once_are_all_counted():
    group_id = begin(1)
    at_once(8, lambda _: workflows.add_to_chord(group_id))
    assert Chord.objects.get().size == 9


def test_parts_that_return_at_once_and_twice_enqueue_the_callback_once_with_results_in_order():
    group_id = begin(8)
    callback = give.s().set(task_id="body")

    def work(number: int) -> None:
        index = number // 2
        app.backend.on_chord_part_return(part(group_id, f"part {index}", index, callback), "SUCCESS", index * 10)

    at_once(16, work)
    (message,) = messages()
    assert message.headers["id"] == "body"
    assert message.decode()[0] == [[0, 10, 20, 30, 40, 50, 60, 70]]
    assert not ChordPart.objects.exists()
    assert Run.objects.count() == 1


def test_chords_that_threads_work_off_hand_over_each_result_once_and_in_order():
    results = [chord([give.s(n) for n in range(6)], give.s()).delay() for _ in range(4)]
    found = messages()
    # Each message twice, as SQS may deliver it.
    todo = iter([*found, *reversed(found)])
    lock = threading.Lock()

    def work(_: int) -> None:
        while True:
            with lock:
                message = next(todo, None)
            if message is None:
                return
            deliver(message)

    at_once(6, work)
    bodies = messages()
    assert sorted(message.headers["id"] for message in bodies) == sorted(result.id for result in results)
    for message in bodies:
        deliver(message)
    assert [result.get(timeout=1) for result in results] == [list(range(6))] * 4
    assert Run.objects.exclude(state=State.SUCCEEDED).count() == 0
    assert set(Run.objects.values_list("attempts", flat=True)) == {1}


def test_a_part_that_failed_fails_the_body_once():
    result = chord([give.s(1), fail.s(), give.s(2)], give.s()).delay()
    work_off()
    run = row(result.id)
    assert (run.state, run.attempts) == (State.FAILED, 0)
    with pytest.raises(ChordError, match=r"Dependency \S+ raised LookupError\('as asked'\)"):
        value(result.id)
    assert Run.objects.count() == 4
    assert messages() == []


@pytest.mark.parametrize("report", [Report.REVOKED, Report.EXPIRED, Report.DEAD])
def test_a_part_that_never_ran_fails_the_body_instead_of_letting_it_wait(report):
    from tasks.runtime import reports

    result = chord([give.s(1), give.s(2)], give.s()).delay()
    first, second = messages()
    deliver(first)
    reports.end_unsent(row(second.headers["id"]), report, "as asked")
    assert row(second.headers["id"]).state == REPORTS[report]
    assert row(result.id).state == State.FAILED
    assert isinstance(result.get(timeout=1, propagate=False), ChordError)


def test_a_part_adds_another():
    result = chord([extend.s(1), give.s(2)], give.s()).delay()
    work_off()
    assert sorted(result.get(timeout=1)) == [1, 2, 10]
    assert Chord.objects.get().size == 3


def test_a_group_at_the_end_of_a_chain_keeps_its_place_in_what_the_body_gets():
    result = chord([give.s(1), give.s(2) | group(add.s(1), add.s(2)), give.s(5)], give.s()).delay()
    work_off()
    assert result.get(timeout=1) == [1, [3, 4], 5]


def test_a_body_that_cannot_be_enqueued_fails():
    result = chord([give.s(1)], give.s().set(queue="nowhere")).delay()
    work_off()
    assert row(result.id).state == State.FAILED
    with pytest.raises(ChordError, match='Callback error.*queue "nowhere" is not declared'):
        result.get(timeout=1)


# Large results ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_rows(settings, cloud) -> Bucket:
    """Whatever is longer than five hundred bytes goes to the bucket."""
    settings.RESULT_INLINE_BYTES = 500
    return Bucket(settings.FILES_BUCKET)


LARGE = "é" * 5000


def test_a_large_result_goes_to_the_bucket_and_comes_back(small_rows):
    run_id = enqueue(give, LARGE)
    work_off()
    kept = row(run_id).result
    assert kept.startswith(f"s3:results/{run_id}/")
    assert small_rows.keys(f"results/{run_id}/") == [kept.removeprefix("s3:")]
    assert value(run_id) == LARGE


def test_a_result_that_fits_stays_in_the_row_to_the_byte(settings, small_rows):
    for length, inline in ((498, True), (499, False)):
        run_id = enqueue(give, "x" * length)  # two quotes are added
        work_off()
        assert row(run_id).result.startswith("=") is inline
        assert value(run_id) == "x" * length
    assert payloads.keep("é" * 250, "i").startswith("=")
    assert payloads.keep("é" * 251, "i").startswith("s3:")
    assert payloads.read("") is None


def test_forgetting_a_result_deletes_its_object(small_rows):
    for forget in (
        lambda run_id: AsyncResult(run_id).forget(),
        lambda run_id: services.forget(timezone.now() + datetime.timedelta(days=1), 9),
    ):
        run_id = enqueue(give, LARGE)
        work_off()
        assert small_rows.keys(f"results/{run_id}/")
        forget(run_id)
        assert small_rows.keys(f"results/{run_id}/") == []
        assert AsyncResult(run_id).state == "PENDING"


def test_a_large_result_is_handed_on_to_callbacks_and_bodies(small_rows):
    result = chord([give.s(LARGE), give.s(1)], give.s()).delay()
    chained = (give.s(LARGE) | give.s()).delay()
    work_off()
    assert result.get(timeout=1) == [LARGE, 1]
    assert chained.get(timeout=1) == LARGE


def test_a_result_whose_object_is_gone_is_an_error_that_says_so(small_rows):
    run_id = enqueue(give, LARGE)
    work_off()
    small_rows.delete_prefix(f"results/{run_id}/")
    with pytest.raises(ResultMissingError, match=f'run {run_id}: bucket "[^"]+" holds no object "results/{run_id}/'):
        value(run_id)
    assert AsyncResult(run_id).state == "FAILURE"
    # The run itself has succeeded, and its record says so.
    assert row(run_id).state == State.SUCCEEDED


def test_a_part_whose_object_is_gone_fails_the_body(small_rows):
    result = chord([give.s(LARGE), give.s(1)], give.s()).delay()
    first, second = sorted(messages(), key=lambda message: message.headers["group_index"])
    deliver(first)
    small_rows.delete_prefix(f"results/{first.headers['id']}/")
    deliver(second)
    with pytest.raises(ChordError, match=r"Callback error: ObjectMissingError"):
        value(result.id)


def refusing_s3(code: str, status: int, times: int) -> Callable[..., None]:
    """In the place of Bucket.write: refuse so many times."""
    write = Bucket.write
    left = [times]

    def refuse(*arguments: Any, **options: Any) -> None:
        left[0] -= 1
        if left[0] >= 0:
            answer = {"Error": {"Code": code, "Message": "as asked"}, "ResponseMetadata": {"HTTPStatusCode": status}}
            raise ClientError(answer, "PutObject")
        write(*arguments, **options)

    return refuse


def test_a_large_result_is_written_again_while_s3_is_away(small_rows, monkeypatch):
    monkeypatch.setattr(Bucket, "write", refusing_s3("SlowDown", 503, times=2))
    run_id = enqueue(give, LARGE)
    work_off()
    assert value(run_id) == LARGE
    assert story(run_id) == [(1, Outcome.SUCCEEDED)]


def test_a_large_result_that_s3_refuses_for_good_fails_its_run(small_rows, monkeypatch):
    monkeypatch.setattr(Bucket, "write", refusing_s3("AccessDenied", 403, times=99))
    run_id = enqueue(give, LARGE)
    with pytest.warns(RuntimeWarning, match="Exception raised outside body"):
        work_off()
    run = row(run_id)
    assert (run.state, run.error) == (
        State.FAILED,
        "botocore.exceptions.ClientError: An error occurred (AccessDenied) when calling the PutObject operation: "
        "as asked",
    )


# When the database breaks in the middle -----------------------------------------------------------------------------


class Breaks:
    """Makes the database fail once, at the so-manyth statement of those that are told of."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.is_armed = False
        self.has_broken = False

    def __call__(self, execute: Callable[..., Any], sql: str, *arguments: Any) -> Any:
        if self.is_armed and not self.has_broken:
            self.left -= 1
            if self.left < 0:
                self.has_broken = True
                raise OperationalError(f"as asked, at {sql[:60]}")
        return execute(sql, *arguments)


@contextmanager
def breaking(breaks: Breaks) -> Iterator[None]:
    """Within the block it fails from the moment on at which a task's own code has begun."""

    def arm(*_: Any, **__: Any) -> None:
        breaks.is_armed = True

    from celery.signals import task_prerun

    task_prerun.connect(arm)
    try:
        with connection.execute_wrapper(breaks):
            yield
    finally:
        task_prerun.disconnect(arm)


def snapshot(ids: list[str]) -> list[Any]:
    """How runs stand. One whose message was sent may still be marked as pending: the sweep would send it twice."""
    found = []
    for run in Run.objects.filter(pk__in=ids).order_by("created_at", "pk"):
        state = State.QUEUED if run.state == State.PENDING else run.state
        found.append((state, run.result, len(json.loads(run.children or "[]")), run.attempts, story(run.pk)))
    return found


def a_step_of_a_chain() -> list[str]:
    last = (give.s(1) | add.s(2)).delay()
    return [last.parent.id, last.id]


def a_run_with_two_callbacks() -> list[str]:
    links = [give.s().set(task_id=uuid4().hex) for _ in range(2)]
    return [give.apply_async((1,), link=links).id, *(each.options["task_id"] for each in links)]


def the_last_part_of_a_chord() -> list[str]:
    result = chord([give.s(1)], give.s()).delay()
    return [result.parent[0].id, result.id]


def a_failed_step() -> list[str]:
    last = (fail.s() | give.s()).delay()
    return [last.parent.id, last.id]


def a_retry() -> list[str]:
    return [again.delay(1).id]


def a_replacement() -> list[str]:
    return [replaced.delay("group").id]


def a_run_given_back() -> list[str]:
    return [rejected.delay(True).id]


@pytest.mark.parametrize(
    "start",
    [
        a_step_of_a_chain,
        a_run_with_two_callbacks,
        the_last_part_of_a_chord,
        a_failed_step,
        a_retry,
        a_replacement,
        a_run_given_back,
    ],
)
def test_an_outcome_that_breaks_at_any_statement_is_taken_back_and_recorded_again(start, monkeypatch):
    monkeypatch.setattr(endings, "_LONGEST_PAUSE_SECONDS", 0)

    def end(breaks: Breaks) -> tuple[list[Any], int]:
        Run.objects.all().delete()
        Chord.objects.all().delete()
        purge()
        ids = start()
        (message,) = messages()
        with breaking(breaks):
            deliver(message)
        return snapshot(ids), len(messages())

    calm = end(Breaks(at=10_000))
    for at in range(100):
        breaks = Breaks(at)
        assert end(breaks) == calm, f"after a failure at statement {at}"
        if not breaks.has_broken:
            break
    assert at >= 2, "nothing was broken"


@pytest.mark.parametrize("is_committed", [False, True], ids=["before it", "after it"])
def test_a_commit_that_fails_is_repeated_and_nothing_follows_twice(is_committed, monkeypatch):
    """Whether the database has committed cannot be told when the connection breaks at that moment."""
    ids = a_step_of_a_chain()
    (message,) = messages()
    database = type(connections["default"])
    commit = database._commit
    failures = []

    def commit_and_fail(self: Any) -> None:
        if failures or row(ids[0]).state not in FINAL:
            commit(self)
            return
        failures.append(self)
        if is_committed:
            commit(self)
        raise OperationalError("as asked")

    monkeypatch.setattr(database, "_commit", commit_and_fail)
    deliver(message)
    monkeypatch.undo()
    assert failures
    assert snapshot(ids[:1]) == [(State.SUCCEEDED, "=1", 1, 1, [(1, Outcome.SUCCEEDED)])]
    assert Run.objects.count() == 2
    # What was committed and not sent is left to the sweep.
    later = timezone.now() + datetime.timedelta(minutes=2)
    publishing.publish(services.claim_unpublished(later, 9))
    work_off()
    assert value(ids[1]) == 3


def test_in_a_transaction_of_the_callers_an_outcome_is_tried_once():
    calls = []

    def work() -> None:
        calls.append(1)
        raise OperationalError("as asked")

    with pytest.raises(OperationalError), transaction.atomic():
        endings.persistently(work)
    assert calls == [1]


def test_an_error_that_does_not_pass_is_not_repeated():
    calls = []

    def work() -> None:
        calls.append(1)
        raise LookupError("as asked")

    with pytest.raises(LookupError):
        endings.persistently(work)
    assert calls == [1]
