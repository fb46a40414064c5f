"""Schedules in the ledger: one run a due time, or a row that says why not."""

from __future__ import annotations

import datetime
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import shared_task
from celery.app.trace import build_tracer
from celery.schedules import crontab, solar
from django.core.exceptions import ValidationError
from django.db import connection
from django.utils import timezone

from django_app.ledger import housekeeping, services
from django_app.ledger.models import Run, Schedule, ScheduleSource
from django_app.ledger.schedules import admission, due, ids
from django_app.ledger.schedules.services import pause, resume
from django_app.ledger.states import State
from serverless.broker import envelope
from tasks.celery import app
from tasks.runtime import publishing
from tasks.runtime.once import ending_when_done
from tasks.runtime.schedules import BackfillError, backfill, declared, messages, run_now
from tasks.runtime.tracing import Claiming
from tasks.runtime.verdicts import HandBack
from tests.threads import at_once
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
MINUTE, HOUR, DAY = datetime.timedelta(minutes=1), datetime.timedelta(hours=1), datetime.timedelta(days=1)
SECRET_TEXT = "<aws.scheduler.execution-id>"

begun: list[Any] = []
#: What the tracers gave back.
answers: list[Any] = []
#: Called with the task's arguments while it is at work.
meanwhile: list[Any] = []


@shared_task(name="tests.schedules.note")
def note(*args: Any, **kwargs: Any) -> Any:
    begun.append((args, kwargs))
    if meanwhile:
        meanwhile.pop()()
    return "noted"


@shared_task(name="tests.schedules.fail")
def fail() -> None:
    raise LookupError("as asked")


@shared_task(name="tests.schedules.of_two")
def of_two(first: int, second: int = 0) -> None:
    """Takes one or two."""


@shared_task(name="tests.schedules.when", bind=True)
def when(self: Any) -> None:
    begun.append(self.request.get("scheduled_for"))


@shared_task(name="tests.schedules.unrecorded", recorded=False)
def unrecorded() -> None:
    begun.append("unrecorded")


@pytest.fixture(autouse=True)
def clean_slate(settings) -> Iterator[None]:
    settings.QUEUE_URL_PREFIX = "https://sqs.eu-central-1.amazonaws.com/111122223333/cloudqueue-test-"
    begun.clear()
    meanwhile.clear()
    yield
    with app.connection_for_write() as broker:
        for each in app.amqp.queues.values():
            each(broker.default_channel).purge()


def sunset() -> solar:
    """Without the library that computes it."""
    made = object.__new__(solar)
    made.event, made.lat, made.lon = "sunset", 52, 13
    return made


def a_schedule(name: str = "nightly", *, created: datetime.timedelta = DAY, **fields: Any) -> Schedule:
    """A schedule that has been there for so long, and whose due times are accounted for up to now."""
    made = {"task": "tests.schedules.note", "timing": "*/10 * * * *", **fields}
    schedule = Schedule(name=name, **made)
    schedule.save()
    Schedule.objects.filter(pk=schedule.pk).update(
        created_at=timezone.now() - created, changed_at=timezone.now() - created
    )
    schedule.refresh_from_db()
    return schedule


def checked_since(schedule: Schedule, since: datetime.timedelta) -> None:
    """As if its due times of the last while had not been looked at."""
    schedule.checked_until = timezone.now() - since
    schedule.save()
    Schedule.objects.filter(pk=schedule.pk).update(changed_at=timezone.now() - since)


def last_due(schedule: Schedule, ago: datetime.timedelta = datetime.timedelta()) -> datetime.datetime:
    now = timezone.now() - ago
    return list(schedule.when.times(now - DAY, now))[-1]


def fire(schedule: Schedule, time: datetime.datetime | None = None) -> str:
    """What a worker does with the message that EventBridge sends; the run's id."""
    time = time or last_due(schedule)
    return deliver(messages.input_of(schedule).replace(messages.SCHEDULED_TIME, time.strftime(ids.FORMAT)))


def deliver(text: str) -> str:
    message = envelope.decode(text)
    body = json.loads(message["body"])
    return _work(message["headers"], body, message["properties"]["delivery_info"]["routing_key"])


def deliver_run(run_id: str) -> str:
    """The same with the message of a run that was enqueued here."""
    body, options = publishing.unpack(Run.objects.get(pk=run_id).message)
    services.mark_published([Run.objects.get(pk=run_id)])
    return _work(options["headers"], json.loads(body), options["routing_key"])


def _work(headers: dict[str, Any], body: Any, queue: str) -> str:
    args, kwargs, embed = body
    task = app.tasks[headers["task"]]
    unwrapped, task.run = task.run, ending_when_done(task.run)
    try:
        tracer = Claiming(app, task, build_tracer(task.name, task, app.loader, "test", app=app))
        told = {**headers, **embed, "delivery_info": {"routing_key": queue}, "hostname": "w"}
        answers.append(tracer(headers["id"], args, kwargs, told))
    finally:
        task.run = unwrapped
    return headers["id"]


def row(run_id: str) -> Run:
    return Run.objects.get(pk=run_id)


def story(run_id: str) -> tuple[str, str]:
    run = row(run_id)
    return run.state, run.error


# What EventBridge sends ----------------------------------------------------------------------------------------------


def test_a_due_time_is_a_run_named_after_it():
    schedule = a_schedule(args=[1], kwargs={"b": 2}, requested_by="ada", tenant="acme")
    time = last_due(schedule)
    run_id = fire(schedule, time)
    assert run_id == f"nightly@{time:%Y-%m-%dT%H:%M:%SZ}"
    run = row(run_id)
    assert (run.state, run.schedule, run.scheduled_for) == (State.SUCCEEDED, "nightly", time)
    assert (run.requested_by, run.tenant) == ("ada", "acme")
    assert begun == [((1,), {"b": 2})]


def test_a_task_may_ask_for_its_due_time():
    schedule = a_schedule(task="tests.schedules.when")
    time = last_due(schedule)
    fire(schedule, time)
    deliver_run(run_now(schedule, "ada", "f00d"))
    assert begun == [time.strftime(ids.FORMAT), None]


def test_a_due_time_that_fires_twice_is_one_run():
    schedule = a_schedule()
    assert fire(schedule) == fire(schedule)
    assert len(begun) == 1
    assert Run.objects.count() == 1


def test_a_due_time_that_fires_in_many_threads_at_once_is_one_run():
    schedule = a_schedule()
    text = messages.input_of(schedule).replace(messages.SCHEDULED_TIME, last_due(schedule).strftime(ids.FORMAT))
    at_once(4, lambda _: deliver(text))
    assert len(begun) == 1
    assert Run.objects.count() == 1


def test_arguments_that_look_like_eventbridges_words_arrive_as_they_are():
    schedule = a_schedule(args=[SECRET_TEXT, messages.SCHEDULED_TIME, "<b> & \\u003c ü"])
    fire(schedule)
    assert begun == [((SECRET_TEXT, messages.SCHEDULED_TIME, "<b> & \\u003c ü"), {})]


def test_the_input_is_the_same_as_long_as_the_schedule_is():
    schedule = a_schedule(kwargs={"b": 1, "a": 2}, options={"headers": {"z": 1, "a": 2}})
    assert messages.input_of(schedule) == messages.input_of(Schedule.objects.get(pk=schedule.pk))


def test_options_of_the_entry_reach_the_run():
    schedule = a_schedule(options={"priority": 9, "expires": 1200, "headers": {"colour": "red"}, "time_limit": 30})
    sent = envelope.decode(messages.input_of(schedule))
    assert sent["properties"]["delivery_info"]["routing_key"] == "high"
    assert sent["headers"]["colour"] == "red"
    assert sent["headers"]["timelimit"][0] == 30
    time = last_due(schedule)
    assert row(fire(schedule, time)).expires_at == time + 20 * MINUTE


def test_a_run_that_has_expired_does_not_begin():
    schedule = a_schedule(options={"expires": 60})
    run_id = fire(schedule, last_due(schedule, 2 * MINUTE))
    assert row(run_id).state == State.EXPIRED
    assert begun == []


def test_a_task_that_records_nothing_is_recorded_where_a_schedule_runs_it():
    schedule = a_schedule(task="tests.schedules.unrecorded")
    assert fire(schedule) == fire(schedule)
    assert begun == ["unrecorded"]


# Rules ---------------------------------------------------------------------------------------------------------------


def test_what_comes_later_than_the_catch_up_window_is_skipped_and_says_so():
    schedule = a_schedule(catch_up_seconds=600)
    run_id = fire(schedule, last_due(schedule, HOUR))
    state, error = story(run_id)
    assert state == State.SKIPPED
    assert error.startswith("it came ")
    assert error.endswith(" late, and the catch-up window is 10 minutes")
    assert row(run_id).finished_at is not None
    assert begun == []


def test_what_fires_after_its_schedule_was_deleted_is_skipped():
    schedule = a_schedule()
    text = messages.input_of(schedule).replace(messages.SCHEDULED_TIME, last_due(schedule).strftime(ids.FORMAT))
    schedule.delete()
    assert story(deliver(text)) == (State.SKIPPED, "its schedule has been deleted")


def test_what_is_due_by_an_older_timing_is_skipped():
    schedule = a_schedule()
    schedule.timing = "5 * * * *"
    schedule.save()
    Schedule.objects.filter(pk=schedule.pk).update(changed_at=timezone.now() - HOUR)
    schedule.refresh_from_db()
    time = timezone.now().replace(minute=0, second=0, microsecond=0)
    state, error = story(fire(schedule, time))
    assert state == State.SKIPPED
    assert error.endswith("is not due at this time any more")


@pytest.mark.parametrize(
    ("overlap", "state", "error", "old_state"),
    [
        ("skip", State.SKIPPED, "an earlier run has not ended", State.SUCCEEDED),
        ("allow", State.SUCCEEDED, "", State.SUCCEEDED),
        ("queue", State.WAITING, "an earlier run has not ended", State.SUCCEEDED),
    ],
)
def test_a_run_that_comes_while_an_earlier_one_is_at_work(overlap, state, error, old_state):
    schedule = a_schedule(overlap=overlap)
    first, second = last_due(schedule, 10 * MINUTE), last_due(schedule)
    seen: list[Any] = []
    meanwhile.append(lambda: seen.append(story(fire(schedule, second))))
    old = fire(schedule, first)
    assert seen == [(state, error)]
    assert row(old).state == old_state


def test_a_run_that_waits_for_an_earlier_one_is_published_when_that_ends_and_only_one_waits():
    schedule = a_schedule(overlap="queue")
    times = [last_due(schedule, ago * MINUTE) for ago in (20, 10, 0)]
    seen: list[Any] = []

    def others() -> None:
        seen.extend(story(fire(schedule, time)) for time in times[1:])

    meanwhile.append(others)
    fire(schedule, times[0])
    assert seen == [
        (State.WAITING, "an earlier run has not ended"),
        (State.SKIPPED, "an earlier run has not ended, and another waits for its end"),
    ]
    waited = ids.due("nightly", times[1])
    assert row(waited).state == State.QUEUED
    assert deliver_run(waited) == waited
    assert row(waited).state == State.SUCCEEDED
    assert len(begun) == 2


def test_a_run_that_waits_may_begin_after_its_catch_up_window():
    schedule = a_schedule(overlap="queue", catch_up_seconds=3600)
    first, second = last_due(schedule, 20 * MINUTE), last_due(schedule, 10 * MINUTE)
    meanwhile.append(lambda: fire(schedule, second))
    fire(schedule, first)
    schedule.catch_up_seconds = 60
    schedule.save()
    deliver_run(ids.due("nightly", second))
    assert row(ids.due("nightly", second)).state == State.SUCCEEDED


def test_cancelling_overlap_ends_the_run_at_work_and_the_newest_runs_next(monkeypatch):
    schedule = a_schedule(overlap="cancel")
    times = [last_due(schedule, ago * MINUTE) for ago in (20, 10, 0)]
    told: list[Any] = []
    real = app.control.revoke
    monkeypatch.setattr(
        app.control, "revoke", lambda ids, **options: (told.append((ids, options)), real(ids, **options))
    )

    def others() -> None:
        fire(schedule, times[1])
        fire(schedule, times[2])

    meanwhile.append(others)
    first = fire(schedule, times[0])
    assert told == [([first], {"terminate": True})] * 2
    assert story(ids.due("nightly", times[1])) == (State.SKIPPED, "a newer run takes its place")
    # Nothing could terminate it here, so it has ended by itself, and the newest was published.
    newest = ids.due("nightly", times[2])
    assert row(newest).state == State.QUEUED
    deliver_run(newest)
    assert row(newest).state == State.SUCCEEDED


def test_what_waits_for_a_run_that_died_is_released_by_the_housekeeping():
    schedule = a_schedule(overlap="queue")
    first, second = last_due(schedule, 10 * MINUTE), last_due(schedule)
    meanwhile.append(lambda: fire(schedule, second))
    old = fire(schedule, first)
    waiting = ids.due("nightly", second)
    # As if the end of the first had released nothing: its worker died, and an operator revoked it by hand.
    Run.objects.filter(pk=waiting).update(state=State.WAITING, parked_for="overlap")
    assert row(old).is_final
    housekeeping.run(timezone.now())
    assert row(waiting).state == State.QUEUED


def test_many_due_times_at_once_never_overlap():
    schedule = a_schedule(overlap="queue")
    times = [last_due(schedule, ago * MINUTE) for ago in (30, 20, 10, 0)]
    at_work: list[int] = []
    most: list[int] = []

    def stay() -> None:
        at_work.append(1)
        # Until the others have been ruled on, or are at work as well.
        wait_for(lambda: len(at_work) > 1 or Run.objects.exclude(admitted_at=None).count() == 4, "the others")
        most.append(len(at_work))
        at_work.pop()

    meanwhile.extend([stay] * 4)
    at_once(4, lambda number: fire(schedule, times[number]))
    assert most == [1]
    # One waited, and was published when the first had ended; the others were skipped.
    assert sorted(Run.objects.values_list("state", flat=True)) == ["queued", "skipped", "skipped", "succeeded"]


def test_what_waits_is_not_released_before_the_last_earlier_run_has_ended():
    schedule = a_schedule(overlap="allow")
    times = [last_due(schedule, ago * MINUTE) for ago in (20, 10, 0)]
    seen: list[str] = []

    def third() -> None:
        Schedule.objects.update(overlap="queue")
        fire(schedule, times[2])

    def second() -> None:
        meanwhile.append(third)
        fire(schedule, times[1])
        seen.append(row(ids.due("nightly", times[2])).state)

    meanwhile.append(second)
    fire(schedule, times[0])
    assert seen == [State.WAITING]
    assert row(ids.due("nightly", times[2])).state == State.QUEUED


def test_a_message_that_comes_again_while_its_run_is_at_work_is_handed_back_whatever_the_rules_say():
    schedule = a_schedule(overlap="allow")
    first, second = last_due(schedule, 10 * MINUTE), last_due(schedule)
    told: list[Any] = []

    def again() -> None:
        Schedule.objects.update(overlap="queue")
        run_id = fire(schedule, first)
        told.append((answers[-1].info.retval, row(run_id).state))

    def another() -> None:
        meanwhile.append(again)
        fire(schedule, second)

    meanwhile.append(another)
    run_id = fire(schedule, first)
    [(verdict, state)] = told
    assert isinstance(verdict, HandBack)
    assert state == State.RUNNING
    assert row(run_id).state == State.SUCCEEDED


def test_a_run_whose_worker_died_runs_again_though_its_schedule_was_paused_meanwhile():
    schedule = a_schedule()
    time = last_due(schedule)
    run_id = fire(schedule, time)
    pause(schedule, "ada", "")
    Run.objects.filter(pk=run_id).update(state=State.LOST, crashes=1, finished_at=None)
    fire(schedule, time)
    assert (row(run_id).state, row(run_id).attempts) == (State.SUCCEEDED, 2)


def test_so_many_failures_in_a_row_pause_the_schedule():
    schedule = a_schedule(task="tests.schedules.fail", pause_after_failures=2)
    fire(schedule, last_due(schedule, 20 * MINUTE))
    schedule.refresh_from_db()
    assert not schedule.is_paused
    fire(schedule, last_due(schedule, 10 * MINUTE))
    schedule.refresh_from_db()
    assert schedule.is_paused
    assert schedule.pause_reason == "2 runs in a row failed, the last with LookupError: as asked"
    state, error = story(fire(schedule))
    assert (state, error) == (State.SKIPPED, f"the schedule is paused: {schedule.pause_reason}")
    # Whoever resumes it begins to count anew.
    assert resume(schedule, "ada")
    fire(schedule, last_due(schedule, 30 * MINUTE))
    schedule.refresh_from_db()
    assert not schedule.is_paused


def test_a_schedule_that_has_become_faulty_can_be_paused_and_its_runs_still_end():
    schedule = a_schedule(task="tests.schedules.fail", pause_after_failures=1, kwargs={})
    # As after a release in which the task takes other arguments.
    Schedule.objects.update(options={"queue": "gone"})
    time = last_due(schedule)
    assert row(fire(schedule, time)).state == State.FAILED
    schedule.refresh_from_db()
    assert schedule.is_paused
    assert resume(schedule)
    assert pause(schedule, "ada", "it is broken")


# Asked for -----------------------------------------------------------------------------------------------------------


def test_run_now_runs_a_paused_schedule_once_for_one_token():
    schedule = a_schedule()
    assert pause(schedule, "ada", "stocktaking")
    run_id = run_now(schedule, "ada", "f00d")
    assert run_now(schedule, "ada", "f00d") == run_id == "nightly@now-f00d"
    deliver_run(run_id)
    run = row(run_id)
    assert (run.state, run.requested_by, run.scheduled_for) == (State.SUCCEEDED, "ada", None)
    assert len(begun) == 1


def test_a_backfill_runs_each_due_time_of_a_past_range_one_after_another():
    schedule = a_schedule()
    now = timezone.now()
    made = backfill(schedule, now - 30 * MINUTE, now, "ada", "f00d")
    assert len(made) == 3
    assert backfill(schedule, now - 30 * MINUTE, now, "ada", "f00d") == made
    assert Run.objects.count() == 3
    meanwhile.append(lambda: [deliver_run(run_id) for run_id in made[1:]])
    deliver_run(made[0])
    assert [row(run_id).state for run_id in made] == [State.SUCCEEDED, State.QUEUED, State.WAITING]
    deliver_run(made[1])
    deliver_run(made[2])
    assert [row(run_id).state for run_id in made] == [State.SUCCEEDED] * 3
    assert [row(run_id).scheduled_for for run_id in made] == sorted(row(run_id).scheduled_for for run_id in made)


def test_a_backfill_leaves_the_runs_of_the_due_times_alone():
    schedule = a_schedule()
    time = last_due(schedule)
    own = fire(schedule, time)
    (made,) = backfill(schedule, time, time, "ada", "f00d")
    assert made != own
    deliver_run(made)
    assert len(begun) == 2


@pytest.mark.parametrize(
    ("since", "until", "told"),
    [
        (-10, -20, "ends before it begins"),
        (-10, 10, "is not over yet"),
        (-9 * 24 * 60, -1, "has more than 500 due times"),
        (-0.001, 0, "has no due time"),
    ],
)
def test_a_range_that_cannot_be_backfilled_is_refused(since, until, told):
    schedule = a_schedule(timing="* * * * *" if until == -1 else "0 3 29 2 *")
    now = timezone.now()
    with pytest.raises(BackfillError, match=told):
        backfill(schedule, now + since * MINUTE, now + until * MINUTE, "ada", "f00d")
    assert not Run.objects.exists()


def test_a_token_that_is_none_is_refused():
    with pytest.raises(ValueError, match="must be 1 to 32 letters and digits"):
        run_now(a_schedule(), "ada", "../x")


# Due times that nobody heard of --------------------------------------------------------------------------------------


def test_a_due_time_that_eventbridge_missed_is_run_late_under_its_own_id():
    schedule = a_schedule()
    checked_since(schedule, 41 * MINUTE)
    fired = fire(schedule, last_due(schedule, 20 * MINUTE))
    now = timezone.now()
    past = list(schedule.when.times(schedule.checked_until, now - 5 * MINUTE))
    assert housekeeping.run(now).due_times_caught_up == len(past) - 1
    late = [run for run in Run.objects.exclude(pk=fired) if run.scheduled_for < timezone.now() - 5 * MINUTE]
    assert {run.state for run in late} == {State.QUEUED}
    assert {run.pk for run in late} == {ids.due("nightly", run.scheduled_for) for run in late}
    # EventBridge speaks up after all.
    again = late[0]
    assert fire(schedule, again.scheduled_for) == again.pk
    deliver_run(again.pk)
    assert row(again.pk).state == State.SUCCEEDED
    assert len(begun) == 2


def test_each_due_time_has_one_run_however_often_the_housekeeping_looks():
    schedule = a_schedule(timing="* * * * *", catch_up_seconds=1800)
    checked_since(schedule, 2 * HOUR)
    now = timezone.now()
    at_once(3, lambda _: due.account("nightly", now))
    due.account("nightly", now)
    rows = list(Run.objects.order_by("scheduled_for").values_list("scheduled_for", "state", "error"))
    schedule.refresh_from_db()
    assert len(rows) in {114, 115, 116}
    assert {after[0] - before[0] for before, after in itertools.pairwise(rows)} == {MINUTE}
    skipped = [error for _, state, error in rows if state == State.SKIPPED]
    assert set(skipped) == {"nothing was heard of it, and its catch-up window of 30 minutes is over"}
    assert 88 <= len(skipped) <= 91
    assert schedule.next_check_at > now - 5 * MINUTE


def test_due_times_of_a_pause_are_rows_that_name_who_paused_it():
    schedule = a_schedule()
    checked_since(schedule, 61 * MINUTE)
    pause(schedule, "ada", "stocktaking")
    Schedule.objects.update(paused_at=timezone.now() - 2 * HOUR)
    assert resume(schedule, "bob")
    told = set(Run.objects.values_list("state", "error"))
    assert told == {(State.SKIPPED, "the schedule is paused by ada: stocktaking")}
    assert Run.objects.count() in {6, 7}
    assert not resume(schedule, "bob")
    assert pause(schedule, "bob", "")
    assert not pause(schedule, "eve", "")
    schedule.refresh_from_db()
    assert schedule.paused_by == "bob"


def test_a_schedule_is_due_no_more_after_its_end():
    schedule = a_schedule(ends_at=timezone.now() - 20 * MINUTE, catch_up_seconds=DAY.total_seconds())
    checked_since(schedule, HOUR)
    due.account("nightly", timezone.now())
    assert Run.objects.count() in {4, 5}
    assert max(Run.objects.values_list("scheduled_for", flat=True)) <= schedule.ends_at
    schedule.refresh_from_db()
    assert schedule.next_check_at is None
    assert schedule.next_due(timezone.now(), 5) == []


def test_a_due_time_of_a_task_that_this_release_does_not_know_is_a_row_that_says_so():
    schedule = a_schedule()
    checked_since(schedule, 15 * MINUTE)
    Schedule.objects.update(options={"queue": "gone"})
    due.account("nightly", timezone.now())
    run = Run.objects.get()
    assert run.state == State.SKIPPED
    assert run.error.startswith("it cannot be run: ")
    assert "gone" in run.error


def test_a_long_neglected_schedule_is_accounted_for_in_bounded_rounds():
    schedule = a_schedule(timing="* * * * *")
    checked_since(schedule, 3 * DAY)
    due.account("nightly", timezone.now())
    assert Run.objects.count() == 2000
    due.account("nightly", timezone.now())
    due.account("nightly", timezone.now())
    assert Run.objects.count() in {4314, 4315, 4316}


def test_a_skipped_run_can_be_run_all_the_same():
    from tasks.runtime import retrying

    schedule = a_schedule(catch_up_seconds=60)
    skipped = fire(schedule, last_due(schedule, HOUR))
    again = retrying.retry(row(skipped), "ada")
    deliver_run(again.pk)
    assert row(again.pk).state == State.SUCCEEDED
    assert row(again.pk).retry_of == skipped


# Refused at save -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "field", "told"),
    [
        ({"task": "tests.schedules.nota"}, "task", 'is none of this release. Did you mean "tests.schedules.note"?'),
        ({"task": "tests.schedules.of_two"}, "args", "cannot be called with 0 positional arguments: "),
        (
            {"task": "tests.schedules.of_two", "args": [1], "kwargs": {"third": 3}},
            "kwargs",
            "1 positional arguments and third",
        ),
        ({"args": {"a": 1}}, "args", "is no list"),
        ({"kwargs": [1]}, "kwargs", "is no object"),
        ({"zone": "Europe/Berlni"}, "zone", "Europe/Berlin"),
        ({"timing": "0 0 31 2 *"}, "timing", "never comes"),
        ({"timing": "every 30 seconds"}, "timing", "minute"),
        ({"timing": "61 * * * *"}, "timing", "61"),
        ({"name": "n" * 151}, "name", "150"),
        ({"name": "a@b"}, "name", "may hold no @"),
        ({"overlap": "maybe"}, "overlap", "maybe"),
        ({"catch_up_seconds": 1}, "catch_up_seconds", "60"),
        ({"jitter_minutes": 2000}, "jitter_minutes", "1440"),
        ({"options": {"eta": "2026-01-01"}}, "options", "Its time is the schedule's timing"),
        ({"options": {"qeue": "low"}}, "options", 'Did you mean "queue"?'),
        ({"options": {"queue": "hihg"}}, "options", "hihg"),
        ({"options": {"expires": -1}}, "options", "must be seconds above 0"),
        ({"options": {"time_limit": 99_999}}, "options", "time_limit=99999 exceeds"),
        ({"args": ["x" * 300_000]}, "args", "exceeds 204800"),
    ],
)
def test_what_could_never_run_is_refused_at_save_and_loses_nothing(fields, field, told):
    with pytest.raises(ValidationError) as refused:
        a_schedule(**fields)
    assert told in " ".join(refused.value.message_dict[field])
    assert not Schedule.objects.exists()


def test_a_refusal_tells_no_argument_that_may_be_secret():
    with pytest.raises(ValidationError) as refused:
        a_schedule(task="tests.schedules.of_two", args=["hunter2"], kwargs={"password": "hunter3"})
    assert "hunter" not in str(refused.value.message_dict)


def test_the_rules_find_a_schedules_runs_by_an_index():
    a_schedule()
    if connection.vendor == "postgresql":
        Run.objects.bulk_create(
            Run(
                id=f"r{n}",
                task="t",
                queue="q",
                state="queued",
                created_at=timezone.now(),
                publish_claimed_until=timezone.now(),
            )
            for n in range(3000)
        )
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE ledger_run")
    assert "run_by_schedule" in admission._open("nightly").explain()


def test_a_change_that_is_refused_leaves_the_schedule_as_it_was():
    schedule = a_schedule()
    schedule.timing = "every 5 seconds"
    with pytest.raises(ValidationError):
        schedule.save()
    schedule.refresh_from_db()
    assert schedule.timing == "*/10 * * * *"


# Code's own ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_code(settings):
    """Sets what stands in code, as (entries, rules)."""
    before = app.conf.beat_schedule

    def put(entries: dict[str, Any], rules: dict[str, Any] | None = None) -> None:
        app.conf.beat_schedule = entries
        settings.SCHEDULE_RULES = rules or {}

    yield put
    app.conf.beat_schedule = before


def test_what_stands_in_code_becomes_rows_and_goes_with_its_entry(in_code):
    entry = {
        "task": "tests.schedules.of_two",
        "schedule": crontab(minute=0, hour=3),
        "args": (1,),
        "kwargs": {"second": 2},
    }
    in_code(
        {"clean": entry, "each": {"task": "tests.schedules.note", "schedule": datetime.timedelta(minutes=30)}},
        {"clean": {"timezone": "Europe/Berlin", "overlap": "queue", "pause_after_failures": 3}},
    )
    assert declared.load(is_rehearsal=True).created == ["clean", "each"]
    assert not Schedule.objects.exists()
    assert declared.load().created == ["clean", "each"]
    clean = Schedule.objects.get(name="clean")
    assert (clean.timing, clean.zone, clean.args, clean.kwargs) == ("0 3 * * *", "Europe/Berlin", [1], {"second": 2})
    assert (clean.overlap, clean.pause_after_failures, clean.source) == ("queue", 3, ScheduleSource.CODE)
    assert Schedule.objects.get(name="each").timing == "every 30 minutes"
    again = declared.load()
    assert (again.unchanged, again.created, again.changed, again.deleted) == (2, [], [], [])
    # A pause is people's, and stays.
    pause(clean, "ada", "")
    in_code({"clean": {**entry, "schedule": crontab(minute=0, hour=4)}})
    changed = declared.load()
    assert (changed.changed, changed.deleted) == (["clean"], ["each"])
    clean.refresh_from_db()
    assert (clean.timing, clean.overlap, clean.zone, clean.is_paused) == ("0 4 * * *", "skip", "UTC", True)


def test_people_keep_their_schedules_whatever_stands_in_code(in_code):
    a_schedule("theirs")
    in_code({})
    assert declared.load().deleted == []
    assert Schedule.objects.get().name == "theirs"
    in_code({"theirs": {"task": "tests.schedules.note", "schedule": 60}})
    with pytest.raises(declared.DeclaredError, match="theirs"):
        declared.load()


@pytest.mark.parametrize(
    ("entry", "rules", "told"),
    [
        ({"task": "tests.schedules.nope", "schedule": 60}, {}, "is none of this release"),
        ({"task": "tests.schedules.note", "schedule": sunset()}, {}, "knows no sun"),
        ({"task": "tests.schedules.note", "schedule": 20}, {}, "minute"),
        ({"task": "tests.schedules.note", "shedule": 60}, {}, 'Did you mean "schedule"?'),
        ({"task": "tests.schedules.note"}, {}, 'has no "schedule"'),
        ({"task": "tests.schedules.note", "schedule": 60}, {"a": {"timezome": "UTC"}}, 'Did you mean "timezone"?'),
        ({"task": "tests.schedules.note", "schedule": 60}, {"a": {"ends_at": "soon"}}, "is no datetime"),
        ({"task": "tests.schedules.note", "schedule": 60}, {"aa": {}}, 'Did you mean "a"?'),
        ({"task": "tests.schedules.note", "schedule": 60, "args": [object()]}, {}, "not JSON serializable"),
    ],
)
def test_one_bad_entry_in_code_changes_nothing_and_is_told(in_code, entry, rules, told):
    in_code(
        {"a": {"task": "tests.schedules.note", "schedule": 60}, "b": {"task": "tests.schedules.note", "schedule": 60}}
    )
    declared.load()
    good = {"task": "tests.schedules.note", "schedule": 120}
    in_code({"a": entry, "b": good}, rules)
    with pytest.raises(declared.DeclaredError, match="nothing was changed") as refused:
        declared.load()
    assert told in str(refused.value)
    assert set(Schedule.objects.values_list("timing", flat=True)) == {"every 1 minute"}


def test_entries_of_add_periodic_task_are_found(in_code):
    in_code({})
    app.add_periodic_task(600.0, note.s(1), name="added in code")
    try:
        assert "added in code" in declared.load().created
        assert Schedule.objects.get(name="added in code").args == [1]
    finally:
        app.conf.beat_schedule = {}


def test_due_times_are_asked_for_by_an_index():
    if connection.vendor != "postgresql":
        pytest.skip("plans are looked at on Postgres")
    Schedule.objects.bulk_create(
        Schedule(
            name=f"s{number}",
            task="t",
            timing="0 3 * * *",
            created_at=timezone.now(),
            changed_at=timezone.now(),
            checked_until=timezone.now(),
            next_check_at=timezone.now() + number * MINUTE,
        )
        for number in range(5000)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE ledger_schedule")
    waiting = Schedule.objects.filter(next_check_at__lte=timezone.now()).order_by("next_check_at")
    assert "schedule_check" in waiting.values_list("name", flat=True)[:100].explain()
