"""The outbox: committed means published at least once, rolled back means never; on a real database."""

from __future__ import annotations

import datetime
import json
import math
import threading

import pytest
from celery import group, shared_task, signals
from django.db import connection, transaction
from django.utils import timezone

from django_app.ledger import housekeeping, services
from django_app.ledger.models import Run
from django_app.ledger.states import State
from serverless.broker import bulk
from tasks.celery import app
from tasks.runtime import publishing

pytestmark = pytest.mark.django_db(transaction=True)
LATER = datetime.timedelta(minutes=2)


@shared_task(name="tests.recording.note")
def note(*arguments: object) -> None:
    """Enqueued, never run."""


@shared_task(name="tests.recording.unrecorded", recorded=False)
def unrecorded(*arguments: object) -> None:
    """As above, and not recorded."""


@pytest.fixture(autouse=True)
def empty_queues():
    with app.connection_for_write() as broker:
        for queue in app.amqp.queues.values():
            queue(broker.default_channel).purge()


def published(queue: str = "default") -> list:
    """First arguments of the messages in a queue of the in-memory broker, which are taken out."""
    found = []
    with app.connection_for_read() as broker:
        bound = app.amqp.queues[queue](broker.default_channel)
        while (message := bound.get(no_ack=True)) is not None:
            found.append(message.decode()[0][0])
    return found


def states() -> dict[str, int]:
    return {
        state: Run.objects.filter(state=state).count() for state in set(Run.objects.values_list("state", flat=True))
    }


def test_a_task_is_recorded_with_the_transaction_and_published_after_its_commit():
    with transaction.atomic():
        result = note.apply_async((1,), priority=9)
        run = Run.objects.get()
        assert (run.pk, run.task, run.queue, run.state, run.priority) == (
            result.id,
            note.name,
            "high",
            State.PENDING,
            9,
        )
        assert published("high") == []
    assert published("high") == [1]
    run.refresh_from_db()
    assert run.state == State.QUEUED
    # Kept: for a retry, or should SQS lose it.
    assert publishing.unpack(run.message)[1]["headers"]["id"] == result.id
    assert run.published_at is not None


def test_without_a_transaction_a_task_is_published_at_once():
    note.delay(1)
    assert published() == [1]
    assert states() == {State.QUEUED: 1}


def test_a_rollback_takes_the_run_and_its_message_along():
    with transaction.atomic():
        note.delay(1)
        transaction.set_rollback(True)
    assert published() == []
    assert not Run.objects.exists()


def test_a_savepoint_that_rolls_back_takes_its_own_runs_along_and_no_others():
    with transaction.atomic():
        note.delay("before")
        with transaction.atomic():
            note.delay("inside")
            transaction.set_rollback(True)
        with transaction.atomic():
            note.delay("kept")
        note.delay("after")
    assert sorted(published()) == ["after", "before", "kept"]
    assert states() == {State.QUEUED: 3}


def test_a_savepoint_alone_that_rolls_back_leaves_nothing():
    with transaction.atomic():
        with transaction.atomic():
            note.delay("inside")
            transaction.set_rollback(True)
        Run.objects.count()
    assert published() == []


def inserts(rows: int) -> int:
    """Statements for so many rows: SQLite takes 999 parameters in one."""
    if connection.vendor != "sqlite":
        return 1
    return math.ceil(rows / (999 // len(Run._meta.concrete_fields)))


def test_a_group_is_one_insert_and_leaves_after_the_commit(django_assert_num_queries):
    with transaction.atomic():
        with django_assert_num_queries(inserts(50)):
            group(note.s(number) for number in range(50)).apply_async()
        assert published() == []
    assert sorted(published()) == list(range(50))
    assert states() == {State.QUEUED: 50}


def test_a_bulk_block_is_one_insert(django_assert_num_queries):
    with transaction.atomic(), django_assert_num_queries(inserts(30)), bulk(app):
        for number in range(30):
            note.delay(number)
    assert sorted(published()) == list(range(30))


def test_a_bulk_block_that_raises_records_nothing():
    def enqueue() -> None:
        with bulk(app):
            note.delay(1)
            raise LookupError

    with pytest.raises(LookupError):
        enqueue()
    assert not Run.objects.exists()


def test_a_groups_runs_know_their_group():
    result = group(note.s(number) for number in range(3)).apply_async()
    assert set(Run.objects.values_list("group_id", flat=True)) == {result.id}


def test_the_signals_fire_once_and_in_order_at_the_call():
    heard = []
    before = signals.before_task_publish.connect(lambda **_: heard.append("before"), weak=False)
    after = signals.after_task_publish.connect(lambda **_: heard.append("after"), weak=False)
    try:
        with transaction.atomic():
            note.delay(1)
            assert heard == ["before", "after"]
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after)
    assert heard == ["before", "after"]


def test_an_argument_that_is_not_json_fails_at_the_call_and_records_nothing():
    with pytest.raises(Exception, match="not JSON serializable"):
        note.delay(object())
    assert not Run.objects.exists()


@pytest.mark.parametrize("enqueue", [lambda: unrecorded.delay(1), lambda: note.apply_async((1,), recorded=False)])
def test_what_is_not_recorded_is_sent_at_once(enqueue):
    with transaction.atomic():
        enqueue()
        assert published() == [1]
        transaction.set_rollback(True)
    assert not Run.objects.exists()


def test_delay_on_commit_and_eager_mode_work_as_ever():
    with transaction.atomic():
        note.delay_on_commit(1)
    assert published() == [1]
    app.conf.task_always_eager = True
    try:
        note.delay(2)
    finally:
        app.conf.task_always_eager = False
    assert published() == []
    assert Run.objects.count() == 1


def test_what_a_dead_process_committed_is_published_by_the_housekeeping(monkeypatch):
    """As if the process had ended between its commit and the sending."""
    monkeypatch.setattr(publishing, "publish", lambda runs: 0)
    note.delay(1)
    assert states() == {State.PENDING: 1}
    monkeypatch.undo()
    # Not while whoever recorded it may still be at it.
    assert housekeeping.run(timezone.now()).runs_published == 0
    assert housekeeping.run(timezone.now() + LATER).runs_published == 1
    assert housekeeping.run(timezone.now() + LATER).runs_published == 0
    assert published() == [1]
    assert states() == {State.QUEUED: 1}


def test_a_broker_that_fails_after_the_commit_fails_no_caller_and_loses_nothing(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("as asked")

    monkeypatch.setattr("kombu.messaging.Producer.publish", refuse)
    note.delay(1)
    monkeypatch.undo()
    assert published() == []
    housekeeping.run(timezone.now() + LATER)
    assert published() == [1]


@pytest.mark.parametrize("ahead", [datetime.timedelta(minutes=20), datetime.timedelta(days=400)])
def test_a_delay_at_any_distance_waits_in_the_ledger_and_is_published_in_its_last_minutes(ahead):
    eta = timezone.now() + ahead
    note.apply_async((1,), eta=eta)
    assert published() == []
    assert Run.objects.get().not_before == eta
    assert housekeeping.run(eta - datetime.timedelta(minutes=15)).runs_published == 0
    assert housekeeping.run(eta - datetime.timedelta(minutes=13)).runs_published == 1
    assert published() == [1]


def test_two_housekeepings_at_once_publish_each_run_once():
    runs = [
        Run(
            id=str(number),
            task=note.name,
            queue="default",
            message=publishing.pack(
                json.dumps([[number], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]),
                {
                    "routing_key": "default",
                    "content_type": "application/json",
                    "content_encoding": "utf-8",
                    "headers": {"id": str(number), "task": note.name},
                },
            ),
        )
        for number in range(300)
    ]
    services.record(runs)
    barrier = threading.Barrier(3)

    def work() -> None:
        barrier.wait()
        housekeeping.run(timezone.now() + LATER)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(published()) == list(range(300))
    assert states() == {State.QUEUED: 300}


def test_a_task_that_is_sent_again_under_its_id_is_the_same_run():
    note.apply_async((1,), task_id="same")
    with transaction.atomic():
        note.apply_async((2,), task_id="same")
    assert published() == [1, 2]
    assert Run.objects.count() == 1


def test_what_ended_long_ago_is_forgotten_and_what_has_not_ended_is_not(settings):
    settings.RUN_RETENTION_DAYS = 7
    for number in range(3):
        note.delay(number)
    old = timezone.now() - datetime.timedelta(days=8)
    ended, open_, _ = Run.objects.all()
    Run.objects.filter(pk=ended.pk).update(state=State.SUCCEEDED, finished_at=old, created_at=old)
    Run.objects.filter(pk=open_.pk).update(created_at=old)
    assert housekeeping.run(timezone.now()).runs_forgotten == 1
    assert Run.objects.count() == 2


@pytest.mark.parametrize("body", ["text", b"bytes", b"\xff\xfe\x00"])
def test_a_packed_message_comes_out_as_it_went_in(body):
    options = {"routing_key": "q", "headers": {"id": "i", "eta": None}, "priority": 3}
    text, found = publishing.unpack(publishing.pack(body, options))
    assert (text.encode() if isinstance(text, str) else text) == (body.encode() if isinstance(body, str) else body)
    assert found == options
