"""The ledger's minute: samples, what is lost, what waits, what SQS no longer has, what is forgotten; on a real database."""

from __future__ import annotations

import datetime
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from celery import shared_task
from django.core.management import call_command
from django.db import OperationalError, connections
from django.utils import timezone

from django_app.ledger import figures, fleet, housekeeping, parking, samples, services
from django_app.ledger.models import (
    Attempt,
    Chord,
    ChordPart,
    Command,
    OnceMark,
    Pause,
    QueueSample,
    Run,
    SavedGroup,
    UniqueRun,
    Worker,
)
from django_app.ledger.samples import Stats
from django_app.ledger.states import Outcome, State
from serverless import aws, fakesqs
from serverless.fakesqs.queues import ACCOUNT_ID
from tasks.celery import app
from tasks.runtime import queue_stats
from tasks.topology import TOPOLOGY
from tests.unit.test_metrics import faults

pytestmark = pytest.mark.django_db(transaction=True)

MINUTE, HOUR, DAY = (datetime.timedelta(**{unit: 1}) for unit in ("minutes", "hours", "days"))
SECOND = datetime.timedelta(seconds=1)
FAR = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)
told: list[str] = []


@shared_task(name="tests.housekeeping.note")
def note(*arguments: object) -> None:
    """Enqueued, never run."""


@pytest.fixture(autouse=True)
def empty_queues(settings):
    with app.connection_for_write() as broker:
        for queue in app.amqp.queues.values():
            queue(broker.default_channel).purge()
    told.clear()


@pytest.fixture
def now() -> datetime.datetime:
    return timezone.now()


def make(run_id: str, state: State, now: datetime.datetime, **fields: Any) -> Run:
    """A run as it might stand in the ledger. fields: what differs."""
    since = fields.pop("since", datetime.timedelta())
    defaults: dict[str, Any] = {
        "task": note.name,
        "queue": "default",
        "created_at": now - since,
        "publish_claimed_until": now - since,
        "published_at": None if state is State.PENDING else now - since,
    }
    return Run.objects.create(id=run_id, state=state, **{**defaults, **fields})


def state_of(run_id: str) -> str:
    return Run.objects.values_list("state", flat=True).get(pk=run_id)


def take_samples(*times: datetime.datetime) -> None:
    """As rounds at those times would have."""
    for at in times:
        samples.sample(at, {"default": Stats()})


def one(**fields: object) -> Callable[[], dict[str, Stats]]:
    return lambda: {"default": Stats(**fields)}  # type: ignore[arg-type]


# Samples -------------------------------------------------------------------------------------------------------------


def test_each_minute_every_queue_has_one_sample(now):
    housekeeping.run(now)
    housekeeping.run(now)
    housekeeping.run(now.replace(second=0) + MINUTE)
    minute = now.replace(second=0, microsecond=0)
    assert sorted(QueueSample.objects.values_list("queue", "at")) == sorted(
        (queue, at) for queue in TOPOLOGY.queues for at in (minute, minute + MINUTE)
    )


def test_a_sample_has_what_sqs_says_and_how_long_the_oldest_waits(now):
    make("waits", State.QUEUED, now, since=90 * SECOND)
    samples.sample(now, {"default": Stats(depth=3, in_flight=2, delayed=1, dead=4), "high": Stats()})
    fields = ("depth", "in_flight", "delayed", "dead", "oldest_age_seconds")
    assert QueueSample.objects.values_list(*fields).get(queue="default") == (3, 2, 1, 4, 90.0)
    assert QueueSample.objects.values_list(*fields).get(queue="high") == (None, None, None, None, 0.0)


def test_two_rounds_that_sample_at_the_same_moment_write_one(now):
    in_parallel(lambda: samples.sample(now, {queue: Stats(depth=1) for queue in TOPOLOGY.queues}))
    assert QueueSample.objects.count() == len(TOPOLOGY.queues)


def test_the_oldest_is_the_one_that_nobody_has_begun_and_whose_time_has_come(now):
    make("begun", State.RUNNING, now, since=HOUR)
    make("pending", State.PENDING, now, since=HOUR)
    make("parked", State.WAITING, now, since=HOUR)
    make("done", State.SUCCEEDED, now, since=HOUR)
    make("later", State.QUEUED, now, since=HOUR, not_before=now + MINUTE)
    assert figures.oldest_ages(["default"], now) == {"default": 0.0}
    make("delayed", State.QUEUED, now, since=HOUR, not_before=now - 5 * SECOND)
    assert figures.oldest_ages(["default"], now) == {"default": 5.0}
    make("plain", State.QUEUED, now, since=20 * SECOND)
    make("redelivered", State.QUEUED, now, since=HOUR, published_at=now - 30 * SECOND)
    make("elsewhere", State.QUEUED, now, since=HOUR, queue="low")
    assert figures.oldest_ages(["default", "high"], now) == {"default": 30.0, "high": 0.0, "low": 3600.0}


def test_behind_a_long_queue_another_ones_oldest_is_still_found(now, monkeypatch):
    monkeypatch.setattr(figures, "MOST_COUNTED", 5)
    for number in range(20):
        make(f"low {number}", State.QUEUED, now, since=HOUR - number * SECOND, queue="low")
    for number in range(3):
        make(f"high {number}", State.QUEUED, now, since=(10 + number) * SECOND, queue="high")
    assert figures.oldest_ages(["low", "high", "default"], now) == {"low": 3600.0, "high": 12.0, "default": 0.0}


def test_where_sqs_does_not_answer_the_ledgers_half_is_written(now, settings, monkeypatch):
    def refuse() -> None:
        raise RuntimeError("no credentials")

    monkeypatch.setattr(queue_stats, "stats", refuse)
    make("waits", State.QUEUED, now, since=90 * SECOND)
    done = housekeeping.run(now)
    assert QueueSample.objects.values_list("depth", "oldest_age_seconds").get(queue="default") == (None, 90.0)
    assert done.steps_failed == 0


@pytest.fixture
def sqs(monkeypatch, settings):
    """A fake SQS with the topology's queues, which the settings name."""
    with fakesqs.running() as server:
        for queue in TOPOLOGY.queues.values():
            dead = server.sqs.create_queue(f"t-{queue.dead_letter_name}")
            policy = {"deadLetterTargetArn": dead.arn, "maxReceiveCount": 5}
            server.sqs.create_queue(f"t-{queue.name}", {"RedrivePolicy": json.dumps(policy)})
        for name, value in {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        settings.BROKER_URL = "sqs://"
        settings.QUEUE_URL_PREFIX = f"{server.url}/{ACCOUNT_ID}/t-"
        aws.forget_clients()
        yield server
    aws.forget_clients()


def test_the_figures_of_every_queue_and_its_dead_letters_are_asked_of_sqs(sqs, settings):
    client = aws.client("sqs")
    for name, count in (("default", 3), ("default-dead", 2), ("low", 1)):
        for _ in range(count):
            client.send_message(QueueUrl=f"{settings.QUEUE_URL_PREFIX}{name}", MessageBody="x")
    client.send_message(QueueUrl=f"{settings.QUEUE_URL_PREFIX}low", MessageBody="x", DelaySeconds=60)
    client.receive_message(QueueUrl=f"{settings.QUEUE_URL_PREFIX}default", MaxNumberOfMessages=1)
    found = queue_stats.stats()
    assert set(found) == set(TOPOLOGY.queues)
    assert found["default"] == Stats(depth=2, in_flight=1, delayed=0, dead=2)
    assert found["low"] == Stats(depth=1, in_flight=0, delayed=1, dead=0)


def test_a_queue_that_sqs_refuses_spoils_no_others_figures(sqs):
    sqs.sqs.queues.pop("t-low")
    found = queue_stats.stats()
    assert found["low"] == Stats(dead=0)
    assert found["high"] == Stats(0, 0, 0, 0)


def test_samples_are_kept_as_long_as_runs(now, settings):
    old = now - settings.RUN_RETENTION_DAYS * DAY - HOUR
    take_samples(old, old + 2 * HOUR)
    housekeeping.run(now)
    assert QueueSample.objects.filter(at__lt=now - HOUR).count() == 1


# What is lost --------------------------------------------------------------------------------------------------------


def lapse(run_id: str, now: datetime.datetime) -> None:
    make(
        run_id, State.RUNNING, now, holder="h", worker="w@x", attempts=1, started_at=now, lease_until=now - 10 * MINUTE
    )


def test_an_attempt_whose_lease_is_long_over_is_marked_as_lost(now):
    lapse("lapsed", now)
    take_samples(now - 2 * MINUTE, now - MINUTE)
    make("held", State.RUNNING, now, holder="h", worker="w@x", lease_until=now + MINUTE)
    assert housekeeping.run(now).attempts_lost == 1
    assert (state_of("lapsed"), state_of("held")) == (State.LOST, State.RUNNING)
    assert Attempt.objects.get().outcome == Outcome.LOST
    assert housekeeping.run(now).attempts_lost == 0


@pytest.mark.parametrize("minutes_ago", [(), (1,), (4, 5, 6), (1, 4), (0, 1)])
def test_after_an_outage_workers_renew_their_leases_first(now, minutes_ago):
    lapse("lapsed", now)
    take_samples(*(now - each * MINUTE for each in minutes_ago))
    housekeeping.run(now)
    assert state_of("lapsed") == State.RUNNING


def test_a_minute_that_was_left_out_does_not_keep_what_is_lost(now):
    lapse("lapsed", now)
    take_samples(now - 3 * MINUTE, now - MINUTE)
    housekeeping.run(now)
    assert state_of("lapsed") == State.LOST


def test_a_worker_that_was_not_heard_of_for_a_lease_is_marked_as_lost(now):
    fleet.beat("w@x", fleet.Sign(kind="prefork", concurrency=2, pid=1), lease_seconds=60)
    Worker.objects.update(lease_until=now - MINUTE)
    take_samples(now - 2 * MINUTE, now - MINUTE)
    assert housekeeping.run(now).workers_lost == 1
    assert Worker.objects.get().state == fleet.LOST


# What waits ----------------------------------------------------------------------------------------------------------


def published() -> int:
    """Messages in the default queue, which are taken out."""
    count = 0
    with app.connection_for_read() as broker:
        bound = app.amqp.queues["default"](broker.default_channel)
        while bound.get(no_ack=True) is not None:
            count += 1
    return count


def parked() -> str:
    """A run that waits for the end of a pause of its queue."""
    run_id = note.delay().id
    assert published() == 1
    Run.objects.filter(pk=run_id).update(state=State.WAITING, parked_for=parking.PAUSED)
    return run_id


def test_what_a_pause_held_back_is_published_when_it_is_over(now):
    run_id = parked()
    parking.pause("queue:default", "ada")
    assert housekeeping.run(now).runs_released == 0
    assert (state_of(run_id), published()) == (State.WAITING, 0)
    parking.resume("queue:default")
    assert housekeeping.run(now).runs_released == 1
    assert (state_of(run_id), published()) == (State.QUEUED, 1)


def test_two_rounds_at_once_publish_what_waited_once(now):
    for _ in range(10):
        parked()
    in_parallel(lambda: housekeeping.run(now))
    assert published() == 10


# What SQS no longer has ----------------------------------------------------------------------------------------------


def kept(queue: str) -> datetime.timedelta:
    return TOPOLOGY.queues[queue].retention_days * DAY


def test_a_run_whose_message_sqs_no_longer_has_ends_as_dead(now):
    make("gone", State.QUEUED, now, since=kept("default") + 2 * HOUR)
    make("there", State.QUEUED, now, since=kept("default") - HOUR)
    make("published late", State.QUEUED, now, since=kept("default") + 2 * HOUR, published_at=now - HOUR)
    make("in another", State.QUEUED, now, since=kept("default") + 2 * HOUR, queue="low")
    done = housekeeping.run(now)
    assert done.runs_orphaned == 1
    gone = Run.objects.get(pk="gone")
    assert gone.state == State.DEAD
    assert 'from queue "default" in the 4 days that SQS keeps it. See to it that a worker consumes' in gone.error
    assert Run.objects.filter(state=State.QUEUED).count() == 3
    assert housekeeping.run(now).runs_orphaned == 0


@pytest.mark.parametrize(
    ("state", "fields", "ends"),
    [
        (State.LOST, {}, True),
        (State.WAITING, {"parked_for": parking.RATE}, True),
        (State.WAITING, {"parked_for": parking.LIMIT, "limit_key": "k"}, False),
        (State.WAITING, {"parked_for": services.REPLACED}, False),
        (State.PENDING, {"not_before": FAR, "published_at": None}, False),
        (State.SUCCEEDED, {}, False),
        (State.QUEUED, {"queue": "gone"}, False),
    ],
)
def test_only_a_run_that_stands_or_falls_with_its_message_ends_with_it(now, state, fields, ends):
    make("one", state, now, since=kept("default") + 2 * HOUR, **fields)
    parking.pause("queue:default", "ada")
    done = housekeeping.run(now)
    assert (done.runs_orphaned, done.steps_failed) == (ends, 0)


def test_a_queue_that_is_no_longer_declared_is_given_the_longest_that_sqs_keeps_anything(now):
    make("one", State.QUEUED, now, since=14 * DAY + 2 * HOUR, queue="gone")
    housekeeping.run(now)
    assert state_of("one") == State.DEAD


def test_what_was_to_follow_an_orphan_fails_with_it(now):
    chain = (note.s(1) | note.s(2)).apply_async()
    first = chain.parent.id
    Run.objects.filter(pk=first).update(
        created_at=now - kept("default") - 2 * HOUR, published_at=now - kept("default") - 2 * HOUR
    )
    housekeeping.run(now)
    assert (state_of(first), state_of(chain.id)) == (State.DEAD, State.FAILED)


def test_an_orphan_that_cannot_be_ended_stops_no_other(now, settings):
    settings.RUN_ENDER = f"{__name__}.end_some"
    for name in ("bad", "good"):
        make(name, State.QUEUED, now, since=kept("default") + 2 * HOUR)
    done = housekeeping.run(now)
    assert (told, done.runs_orphaned, done.steps_failed) == (["good"], 1, 0)


def end_some(run: Run, why: str) -> None:
    if run.pk == "bad":
        raise LookupError(why)
    told.append(run.pk)


# What is forgotten ---------------------------------------------------------------------------------------------------


def test_what_is_older_than_the_retention_is_forgotten_and_nothing_else(now, settings):
    old, young = now - settings.RUN_RETENTION_DAYS * DAY - HOUR, now - settings.RUN_RETENTION_DAYS * DAY + HOUR
    for name, at in (("old", old), ("young", young)):
        make(name, State.SUCCEEDED, at, finished_at=at)
        UniqueRun.objects.create(key=name, run_id=name, until=at)
        OnceMark.objects.create(key=name, run_id=name, created_at=at)
        SavedGroup.objects.create(group_id=name, result="[]", created_at=at)
        chord = Chord.objects.create(group_id=name, size=1, done=1, created_at=at, finished_at=at)
        ChordPart.objects.create(chord=chord, part_id="p", result="")
        fleet.beat(name, fleet.Sign(kind="prefork", concurrency=2, pid=1), lease_seconds=60)
        Worker.objects.filter(pk=name).update(state=fleet.STOPPED, seen_at=at)
        Command.objects.create(body="{}", created_at=at, expires_at=now + (MINUTE if name == "young" else -MINUTE))
    done = housekeeping.run(now)
    assert done.runs_forgotten == 1
    assert done.others_forgotten == 6
    for model in (Run, UniqueRun, OnceMark, SavedGroup, Chord, Worker):
        assert list(model.objects.values_list("pk", flat=True)) == ["young"], model
    assert (ChordPart.objects.count(), Command.objects.count()) == (1, 1)


def test_a_mark_stays_for_a_run_that_has_not_ended(now, settings):
    old = now - settings.RUN_RETENTION_DAYS * DAY - HOUR
    make("parked", State.WAITING, old, parked_for=services.REPLACED)
    make("ended", State.FAILED, old, finished_at=now)
    for run_id in ("parked", "ended", "forgotten"):
        OnceMark.objects.create(key=f"run {run_id}", run_id=run_id, created_at=old)
    housekeeping.run(now)
    assert list(OnceMark.objects.values_list("run_id", flat=True)) == ["parked"]


def test_a_chord_that_has_not_finished_stays(now, settings):
    old = now - settings.RUN_RETENTION_DAYS * DAY - HOUR
    chord = Chord.objects.create(group_id="waits", size=2, done=1, created_at=old)
    ChordPart.objects.create(chord=chord, part_id="p", result="")
    housekeeping.run(now)
    assert (Chord.objects.count(), ChordPart.objects.count()) == (1, 1)


# A round -------------------------------------------------------------------------------------------------------------


def in_parallel(work: Callable[[], object], times: int = 2) -> None:
    """Do it in several threads that start at the same moment; raises what any raised."""
    start = threading.Barrier(times)
    errors: list[BaseException] = []

    def one_of_them() -> None:
        try:
            start.wait(10)
            work()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=one_of_them) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


def test_two_rounds_at_once_do_everything_once(now, settings):
    old = now - settings.RUN_RETENTION_DAYS * DAY - HOUR
    for number in range(20):
        make(f"old {number}", State.SUCCEEDED, old, finished_at=old)
        make(f"gone {number}", State.QUEUED, now, since=kept("default") + 2 * HOUR)
        OnceMark.objects.create(key=f"old {number}", run_id="x", created_at=old)
    runs = [note.delay(number).id for number in range(5)]
    assert published() == 5
    Run.objects.filter(pk__in=runs).update(state=State.PENDING, publish_claimed_until=now)
    in_parallel(lambda: housekeeping.run(now))
    assert published() == 5
    assert not Run.objects.filter(pk__startswith="old").exists()
    assert Run.objects.filter(pk__startswith="gone", state=State.DEAD).count() == 20
    assert not OnceMark.objects.exists()


def test_a_second_round_finds_nothing_to_do(now):
    make("gone", State.QUEUED, now, since=kept("default") + 2 * HOUR)
    housekeeping.run(now)
    assert housekeeping.run(now) == housekeeping.Done()


def test_without_time_no_step_begins_and_the_round_says_so(now):
    make("gone", State.QUEUED, now, since=kept("default") + 2 * HOUR)
    done = housekeeping.run(now, budget_seconds=0)
    assert done == housekeeping.Done(steps_skipped=10)
    assert not QueueSample.objects.exists()


def test_a_round_that_has_much_to_forget_stops_when_its_time_is_over(now, settings, monkeypatch):
    old = now - settings.RUN_RETENTION_DAYS * DAY - HOUR
    monkeypatch.setattr(housekeeping, "_AT_ONCE", 1)
    SavedGroup.objects.bulk_create(
        SavedGroup(group_id=f"old {number}", result="[]", created_at=old) for number in range(2000)
    )
    began = time.monotonic()
    housekeeping.run(now, budget_seconds=0.5)
    assert time.monotonic() - began < 10
    assert 0 < SavedGroup.objects.count() < 2000


def test_a_round_does_a_bounded_number_of_everything(now, settings, monkeypatch):
    old = now - settings.RUN_RETENTION_DAYS * DAY - HOUR
    for name in ("_AT_ONCE", "_MOST_FORGOTTEN", "_MOST_ORPHANS"):
        monkeypatch.setattr(housekeeping, name, 3)
    for number in range(10):
        make(f"gone {number}", State.QUEUED, now, since=kept("default") + 2 * HOUR)
        make(f"old {number}", State.SUCCEEDED, old, finished_at=old)
        OnceMark.objects.create(key=f"old {number}", run_id="x", created_at=old)
    done = housekeeping.run(now)
    assert (done.runs_orphaned, done.runs_forgotten, done.others_forgotten) == (3, 3, 3)


def test_a_step_that_fails_stops_no_other(now, monkeypatch):
    def fail(most: int) -> None:
        raise LookupError("a fault of ours")

    monkeypatch.setattr(parking, "release_due", fail)
    make("gone", State.QUEUED, now, since=kept("default") + 2 * HOUR)
    done = housekeeping.run(now)
    assert (done.steps_failed, done.runs_orphaned) == (1, 1)
    assert QueueSample.objects.exists()


def test_one_step_that_the_database_refuses_stops_no_other_and_two_on_end_stop_the_round(now, monkeypatch):
    def refuse(*_: object) -> None:
        raise OperationalError("deadlock detected")

    monkeypatch.setattr(parking, "release_due", refuse)
    done = housekeeping.run(now)
    assert (done.steps_failed, QueueSample.objects.count()) == (1, len(TOPOLOGY.queues))
    QueueSample.objects.all().delete()
    monkeypatch.setattr(samples, "is_taken", refuse)
    with pytest.raises(OperationalError):
        housekeeping.run(now)


def test_the_command_says_in_one_line_what_was_done(now):
    make("gone", State.QUEUED, now, since=kept("default") + 2 * HOUR)
    with structlog.testing.capture_logs() as logs:
        call_command("housekeeping")
    (line,) = [line for line in logs if line["event"] == "housekeeping"]
    assert line["runs_orphaned"] == 1
    assert {"runs_published", "runs_released", "attempts_lost", "runs_forgotten", "steps_skipped"} <= set(line)


def test_a_round_tells_cloudwatch_of_the_queues_and_of_itself(now, settings, capsys, monkeypatch):
    settings.METRICS = "emf"
    monkeypatch.setattr(queue_stats, "stats", one(depth=3, in_flight=2, dead=4))
    make("waits", State.QUEUED, now, since=90 * SECOND)
    make("stuck", State.PENDING, now, since=5 * MINUTE, publish_claimed_until=now + services.PUBLISH_CLAIM)
    housekeeping.run(now)
    lines = capsys.readouterr().out.splitlines()
    assert [faults(line) for line in lines] == [[], []]
    queue, round_ = map(json.loads, lines)
    values = {key: value for key, value in queue.items() if key != "_aws"}
    assert values == {"Queue": "default", "Backlog": 3, "InFlight": 2, "DeadLetters": 4, "OldestAge": 90.0}
    assert queue["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["Queue"]]
    assert round_["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [[]]
    assert (round_["HousekeepingRounds"], round_["HousekeepingFailures"], round_["PublishLag"]) == (1, 0, 300.0)
    # The queues are told of once a minute, the round each time.
    housekeeping.run(now)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_round_prints_nothing_for_cloudwatch_unless_it_is_told_to(now, capsys, monkeypatch):
    monkeypatch.setattr(queue_stats, "stats", one(depth=3))
    housekeeping.run(now)
    assert capsys.readouterr().out == ""


def test_how_late_publishing_is_counts_from_when_a_run_was_due(now):
    make("far", State.PENDING, now, since=HOUR, not_before=now + DAY)
    assert figures.publish_lag_seconds(now) == 0.0
    make("soon", State.PENDING, now, since=10 * SECOND, not_before=now + MINUTE)
    assert figures.publish_lag_seconds(now) == 10.0
    make("due", State.PENDING, now, since=HOUR, not_before=now + services.PUBLISH_AHEAD - 2 * MINUTE)
    assert figures.publish_lag_seconds(now) == 120.0
    make("at once", State.PENDING, now, since=3 * MINUTE)
    assert figures.publish_lag_seconds(now) == 180.0


def test_runs_of_a_far_time_hide_none_that_is_due(now, monkeypatch):
    monkeypatch.setattr(figures, "_MOST_DUE", 2)
    for number in range(3):
        claimed = now + DAY - services.PUBLISH_AHEAD
        make(f"far {number}", State.PENDING, now, since=HOUR, not_before=now + DAY, publish_claimed_until=claimed)
    make("at once", State.PENDING, now, since=3 * MINUTE, publish_claimed_until=now + services.PUBLISH_CLAIM)
    assert figures.publish_lag_seconds(now) == 180.0


def test_the_backlog_of_a_pause_is_not_an_orphan_of_its_queue(now):
    Pause.objects.create(key="queue:default", created_at=now)
    make("parked", State.WAITING, now, since=kept("default") + 2 * HOUR, parked_for=parking.PAUSED)
    housekeeping.run(now)
    assert state_of("parked") == State.WAITING
