"""What the ledger tells those who watch: each change, once and after its commit; and nothing where nobody watches."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth import get_user_model
from django.db import connection, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_app.datasets import services as datasets
from django_app.datasets.models import Chunk, Dataset
from django_app.datasets.signals import dataset_changed
from django_app.ledger import claims, housekeeping, outcomes, parking, services, signals, watching
from django_app.ledger.claims import Claim, Claimant
from django_app.ledger.models import Feed, Pause, Run
from django_app.ledger.outcomes import Ended
from django_app.ledger.schedules import admission
from django_app.ledger.states import FINAL, Outcome, Report, State
from tasks.runtime import progress, reports
from tests.threads import at_once
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
MINUTE = datetime.timedelta(minutes=1)


class Told:
    """What was told: of runs (id, state), of the console how often, of datasets their ids."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, str]] = []
        self.console = 0
        self.datasets: list[Any] = []

    def hear_runs(self, run_ids: list[str], state: str, **_: Any) -> None:
        assert not connection.in_atomic_block, "it is told after the commit"
        self.runs += [(run_id, state) for run_id in run_ids]

    def hear_console(self, topics: Any, **_: Any) -> None:
        assert not connection.in_atomic_block, "it is told after the commit"
        assert list(topics) == ["runs"]
        self.console += 1

    def hear_dataset(self, dataset_id: Any, **_: Any) -> None:
        assert not connection.in_atomic_block, "it is told after the commit"
        self.datasets.append(dataset_id)


@pytest.fixture
def told() -> Iterator[Told]:
    made = Told()
    signals.run_changed.connect(made.hear_runs)
    signals.console_changed.connect(made.hear_console)
    dataset_changed.connect(made.hear_dataset)
    yield made
    signals.run_changed.disconnect(made.hear_runs)
    signals.console_changed.disconnect(made.hear_console)
    dataset_changed.disconnect(made.hear_dataset)


def run_of(**fields: Any) -> Run:
    return Run(**{"id": uuid4().hex, "task": "note", "queue": "default", "message": "{}", **fields})


def recorded(**fields: Any) -> Run:
    run = run_of()
    services.record([run])
    Run.objects.filter(pk=run.pk).update(**fields)
    return run


def claimant(**fields: Any) -> Claimant:
    return Claimant(**{"holder": uuid4().hex, "worker": "w@here", "lease_seconds": 60, **fields})


def begun(**fields: Any) -> Claim:
    """An attempt that is at work."""
    return claims.claim(recorded(state=State.QUEUED, **fields).pk, claimant())


def finish(run_id: str, report: Report = Report.SUCCEEDED, claim: Claim | None = None) -> None:
    with transaction.atomic():
        outcomes.finish(run_id, report, Ended(Outcome.SUCCEEDED, claim=claim))


def sequence_of(run_id: str) -> int:
    return Run.objects.get(pk=run_id).sequence


# Each change ---------------------------------------------------------------------------------------------------------


def _publish() -> tuple[str, Callable[[], object]]:
    run = recorded()
    return run.pk, lambda: services.mark_published([run])


def _publish_many() -> tuple[str, Callable[[], object]]:
    runs = [run_of() for _ in range(3)]
    services.record(runs)
    return runs[1].pk, lambda: services.mark_published(runs)


def _claim() -> tuple[str, Callable[[], object]]:
    run = recorded(state=State.QUEUED)
    return run.pk, lambda: claims.claim(run.pk, claimant())


def _claim_what_came_again() -> tuple[str, Callable[[], object]]:
    run = recorded(state=State.QUEUED)
    return run.pk, lambda: claims.claim(run.pk, claimant(receives=2))


def _progress() -> tuple[str, Callable[[], object]]:
    run_id = begun().run_id
    return run_id, lambda: progress._save(run_id, progress.Progress(1, 2, "half"))


def _park() -> tuple[str, Callable[[], object]]:
    parking.pause("queue:default", "somebody")
    run = recorded(state=State.QUEUED)
    return run.pk, lambda: claims.claim(run.pk, claimant())


def _release_from_parking() -> tuple[str, Callable[[], object]]:
    run = recorded(state=State.WAITING, parked_for=parking.PAUSED)
    return run.pk, lambda: parking.release_due(10)


def _lose() -> tuple[str, Callable[[], object]]:
    claim = begun()
    return claim.run_id, lambda: claims.lose(claim.run_id, "w@here", "it died", claim.holder)


def _lose_overdue() -> tuple[str, Callable[[], object]]:
    claim = begun()
    Run.objects.update(lease_until=timezone.now() - MINUTE)
    return claim.run_id, lambda: claims.lose_overdue(10, 1)


def _finish() -> tuple[str, Callable[[], object]]:
    claim = begun()
    return claim.run_id, lambda: finish(claim.run_id, claim=claim)


def _finish_at_once() -> tuple[str, Callable[[], object]]:
    claim = begun()

    def work() -> None:
        with transaction.atomic():
            assert outcomes.finish_at_once(claim, Report.SUCCEEDED, Ended(Outcome.SUCCEEDED, claim=claim))

    return claim.run_id, work


def _finish_without_an_attempt() -> tuple[str, Callable[[], object]]:
    run = recorded()
    return run.pk, lambda: finish(run.pk, Report.REVOKED)


def _release() -> tuple[str, Callable[[], object]]:
    claim = begun()
    again = run_of(id=claim.run_id, retries=1)

    def work() -> None:
        with transaction.atomic():
            outcomes.release(claim, Ended(Outcome.RETRIED), again)

    return claim.run_id, work


def _set_aside() -> tuple[str, Callable[[], object]]:
    claim = begun()
    return claim.run_id, lambda: outcomes.set_aside(claim, Ended(Outcome.REPLACED))


def _replace() -> tuple[str, Callable[[], object]]:
    run = recorded(state=State.WAITING, parked_for=services.REPLACED)
    return run.pk, lambda: services.record([run_of(id=run.pk, replacements=1)])


def _hand_back() -> tuple[str, Callable[[], object]]:
    claim = begun()
    return claim.run_id, lambda: outcomes.hand_back(claim, Ended(Outcome.HANDED_BACK))


def _skip() -> tuple[str, Callable[[], object]]:
    run = recorded(schedule="nightly")
    return run.pk, lambda: admission.skip(Run.objects.filter(pk=run.pk), "not now", timezone.now())


def _report_of_the_steward() -> tuple[str, Callable[[], object]]:
    claim = begun()
    facts = {"id": claim.run_id, "task": "note", "holder": claim.holder}
    error = {"type": "WorkerLostError", "message": "its process was killed"}
    return claim.run_id, lambda: reports.finish_for_main("failed", facts, error)


def _orphan() -> tuple[str, Callable[[], object]]:
    run = recorded(state=State.QUEUED)
    return run.pk, lambda: reports.end_orphan(Run.objects.get(pk=run.pk), "nobody took it")


CHANGES = {
    "published": (_publish, State.QUEUED),
    "published with others": (_publish_many, State.QUEUED),
    "claimed": (_claim, State.RUNNING),
    "claimed, its message has come before": (_claim_what_came_again, State.RUNNING),
    "progress": (_progress, State.RUNNING),
    "parked": (_park, State.WAITING),
    "released from parking": (_release_from_parking, State.PENDING),
    "lost": (_lose, State.LOST),
    "found lost by the housekeeping": (_lose_overdue, State.LOST),
    "ended": (_finish, State.SUCCEEDED),
    "ended in one statement": (_finish_at_once, State.SUCCEEDED),
    "ended without an attempt": (_finish_without_an_attempt, State.REVOKED),
    "sent again": (_release, State.PENDING),
    "set aside": (_set_aside, State.WAITING),
    "replaced": (_replace, State.PENDING),
    "handed back": (_hand_back, State.QUEUED),
    "skipped": (_skip, State.SKIPPED),
    "ended by the steward": (_report_of_the_steward, State.FAILED),
    "ended as an orphan": (_orphan, State.DEAD),
}
each_change = pytest.mark.parametrize(("change", "state"), CHANGES.values(), ids=CHANGES)


@each_change
def test_a_change_is_one_further_and_told_after_its_commit(told, change, state):
    run_id, work = change()
    watching.watch(run_id)
    before = sequence_of(run_id)
    work()
    run = Run.objects.get(pk=run_id)
    assert (run.state, run.sequence) == (state, before + 1)
    assert told.runs == [(run_id, state)]
    assert told.console == 0


@each_change
def test_a_change_that_nobody_watches_is_not_told_and_asks_nothing_more_of_the_database(told, change, state):
    counts = []
    for is_watched in (False, True):
        Run.objects.all().delete()
        Pause.objects.all().delete()
        run_id, work = change()
        if is_watched:
            watching.watch(run_id)
            watching.watch_console()
        before = len(told.runs), told.console, sequence_of(run_id)
        with CaptureQueriesContext(connection) as asked:
            work()
        counts.append(len(asked))
        if not is_watched:
            assert (len(told.runs), told.console) == before[:2] == (0, 0)
            assert sequence_of(run_id) == before[2] + 1
    assert counts[0] == counts[1], "what is told is known from the statement that changes the run"


@each_change
def test_a_change_is_told_to_the_console_if_somebody_watches_it(told, change, state):
    _, work = change()
    watching.watch_console()
    work()
    assert told.console >= 1
    assert told.runs == []


def test_what_is_rolled_back_is_not_told(told):
    claim = begun()
    watching.watch(claim.run_id)
    watching.watch_console()

    def end_and_fail() -> None:
        with transaction.atomic():
            outcomes.finish(claim.run_id, Report.SUCCEEDED, Ended(Outcome.SUCCEEDED, claim=claim))
            raise RuntimeError("as asked")

    with pytest.raises(RuntimeError):
        end_and_fail()
    with transaction.atomic(), pytest.raises(RuntimeError):
        end_and_fail()
    assert (told.runs, told.console) == ([], 0)


def test_an_end_that_comes_too_late_is_not_told(told):
    claim = begun()
    watching.watch(claim.run_id)
    finish(claim.run_id, claim=claim)
    told.runs.clear()
    finish(claim.run_id, Report.FAILED)
    assert told.runs == []
    assert sequence_of(claim.run_id) == 2


def test_progress_that_would_go_backwards_is_neither_saved_nor_told(told):
    claim = begun()
    watching.watch(claim.run_id)
    progress._save(claim.run_id, progress.Progress(5, 10, ""))
    progress._save(claim.run_id, progress.Progress(4, 10, ""))
    assert told.runs == [(claim.run_id, State.RUNNING)]
    assert sequence_of(claim.run_id) == 2


def test_a_receiver_that_raises_harms_nobody():
    def hear(**_: Any) -> None:
        raise RuntimeError("as asked")

    claim = begun()
    watching.watch(claim.run_id)
    signals.run_changed.connect(hear)
    try:
        finish(claim.run_id, claim=claim)
    finally:
        signals.run_changed.disconnect(hear)
    assert Run.objects.get(pk=claim.run_id).state == State.SUCCEEDED


# Watching ------------------------------------------------------------------------------------------------------------


def test_a_watch_ends_after_some_time_and_outlasts_any_socket_that_opens_while_it_is_watched(told):
    claim = begun()

    def writes() -> int:
        before = Run.objects.get(pk=claim.run_id).watched_until
        watching.watch(claim.run_id)
        return Run.objects.get(pk=claim.run_id).watched_until != before

    assert [writes(), writes()] == [1, 0]
    left = watching._RENEWED - MINUTE
    Run.objects.update(watched_until=timezone.now() + left)
    assert writes()
    Run.objects.update(watched_until=timezone.now() - MINUTE)
    finish(claim.run_id, claim=claim)
    assert told.runs == []


@pytest.mark.parametrize("state", sorted(FINAL))
def test_what_has_ended_is_not_watched(state):
    run = recorded(state=state)
    watching.watch(run.pk)
    watching.watch("unknown")
    assert Run.objects.get(pk=run.pk).watched_until is None


def test_a_watch_that_begins_while_the_run_ends_sees_the_end_or_is_told_of_it(told):
    """The one who watches marks the run and reads it then; the one who ends it may be anywhere meanwhile."""
    missed = []
    for _ in range(60):
        claim = begun()

        def watch_or_end(number: int, claim: Claim = claim) -> str:
            if number == 0:
                finish(claim.run_id, claim=claim)
                return ""
            watching.watch(claim.run_id)
            return Run.objects.get(pk=claim.run_id).state

        _, seen = at_once(2, watch_or_end)
        if seen != State.SUCCEEDED and (claim.run_id, State.SUCCEEDED) not in told.runs:
            missed.append(claim.run_id)
    assert not missed


def is_somebody_waiting() -> bool:
    with connection.cursor() as cursor:
        # Within a transaction, who does what is looked up once.
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return bool(cursor.fetchone()[0])


def test_a_watch_waits_for_an_end_that_is_not_committed_yet():
    claim = begun()
    has_ended, seen = threading.Event(), []

    def work(number: int) -> None:
        if number == 0:
            with transaction.atomic():
                outcomes.finish(claim.run_id, Report.SUCCEEDED, Ended(Outcome.SUCCEEDED, claim=claim))
                has_ended.set()
                # On SQLite no other can write before this commit.
                if connection.vendor == "postgresql":
                    wait_for(lambda: seen or is_somebody_waiting(), "the watch")
            return
        has_ended.wait(30)
        watching.watch(claim.run_id)
        seen.append(Run.objects.get(pk=claim.run_id).state)

    at_once(2, work)
    assert seen == [State.SUCCEEDED]


# The console ---------------------------------------------------------------------------------------------------------


def pulsed(seconds_ago: float) -> None:
    Feed.objects.update(pulsed_at=timezone.now() - datetime.timedelta(seconds=seconds_ago))


def told_just_now() -> None:
    """The second has just begun, and lasts, however slow this machine is."""
    pulsed(-3600)


def test_where_nobody_watches_nothing_is_pulsed():
    assert watching.pulse() == (None, False)
    watching.watch_console()
    Feed.objects.update(watched_until=timezone.now() - MINUTE)
    pulsed(10)
    assert watching.pulse() == (None, False)
    assert watching.pay() is None


def test_of_changes_within_a_second_the_first_is_told_and_one_process_tells_when_it_is_over():
    watching.watch_console()
    pulsed(10)
    assert watching.pulse() == (1, False)
    told_just_now()
    assert [watching.pulse() for _ in range(3)] == [(None, True), (None, False), (None, False)]
    assert watching.pay() is None, "the second is not over"
    pulsed(watching.PULSE_SECONDS + 0.01)
    assert watching.pay() == 2
    assert watching.pay() is None
    assert Feed.objects.get().is_owed is False


def test_whoever_comes_after_the_second_pays_what_others_owe():
    watching.watch_console()
    pulsed(10)
    watching.pulse()
    told_just_now()
    assert watching.pulse() == (None, True)
    pulsed(5)
    assert watching.pulse() == (2, False)
    pulsed(5)
    assert watching.pay() is None


def test_of_many_at_once_one_tells_and_one_owes():
    watching.watch_console()
    for _ in range(10):
        Feed.objects.update(is_owed=False)
        pulsed(10)
        before, began = Feed.objects.get().sequence, time.monotonic()
        found = at_once(8, lambda _: watching.pulse())
        # On a machine that is slow the second may be over before the last has asked.
        if time.monotonic() - began < 0.9 * watching.PULSE_SECONDS:
            break
    assert sorted(found, key=str) == [(before + 1, False), *[(None, False)] * 6, (None, True)]
    pulsed(10)
    assert sorted(at_once(8, lambda _: watching.pay()), key=str) == [before + 2, *[None] * 7]


def test_what_a_process_owed_that_is_gone_is_told_by_the_housekeeping(told):
    watching.watch_console()
    pulsed(10)
    watching.pulse()
    told_just_now()
    watching.pulse()
    pulsed(10)
    housekeeping.run(timezone.now())
    assert told.console == 1
    Feed.objects.update(is_owed=False)
    housekeeping.run(timezone.now())
    assert told.console == 1


def test_the_first_change_after_the_beginning_of_a_watch_is_told_at_once():
    for _ in range(2):
        watching.watch_console()
        sequence, is_later = watching.pulse()
        assert sequence
        assert not is_later
        # It ended a moment after something was told.
        Feed.objects.update(watched_until=timezone.now() - MINUTE)


def test_the_beginning_of_a_watch_is_owed_since_a_change_may_have_missed_it(told):
    watching.watch_console()
    assert Feed.objects.get().is_owed
    Feed.objects.update(is_owed=False, watched_until=timezone.now() - MINUTE)
    watching.watch_console()
    assert Feed.objects.get().is_owed
    Feed.objects.update(
        is_owed=False, watched_until=F("watched_until") - (watching.WATCHED - watching._RENEWED) - MINUTE
    )
    watching.watch_console()
    assert not Feed.objects.get().is_owed, "it has not ended in between"
    assert Feed.objects.get().watched_until > timezone.now() + watching.WATCHED - MINUTE


def test_watching_the_console_again_and_again_writes_once():
    watching.watch_console()
    before = Feed.objects.values().get()
    watching.watch_console()
    assert Feed.objects.values().get() == before


# Datasets ------------------------------------------------------------------------------------------------------------


def dataset_in(state: Dataset.State) -> Dataset:
    owner = get_user_model().objects.create_user(f"owner {uuid4().hex}")
    dataset = datasets.create(owner)
    Dataset.objects.filter(pk=dataset.pk).update(state=state, generation=1, etag="e")
    dataset.refresh_from_db()
    return dataset


@pytest.mark.parametrize(
    ("state", "change"),
    [
        (Dataset.State.QUEUED, lambda it: datasets.advance(it, Dataset.State.SPLITTING, came_from=[it.state])),
        (Dataset.State.SPLITTING, lambda it: datasets.lay_out(it, {}, [(0, 1, 1)])),
        (Dataset.State.PROFILING, lambda it: datasets.fail(it, "broken")),
        (Dataset.State.PROFILING, lambda it: datasets.finish_profile(it, {})),
        (Dataset.State.FAILED, datasets.restart),
    ],
    ids=["advanced", "laid out", "failed", "profiled", "restarted"],
)
def test_a_dataset_that_changes_is_one_further_and_told(told, state, change):
    dataset = dataset_in(state)
    change(dataset)
    assert Dataset.objects.get(pk=dataset.pk).sequence == 1
    assert told.datasets == [dataset.pk]
    change(Dataset(pk=dataset.pk, generation=7, state=state, etag="e"))
    assert told.datasets == [dataset.pk], "what changes nothing is not told"


def test_a_chunk_that_changes_is_told(told):
    dataset = dataset_in(Dataset.State.PROFILING)
    chunk = Chunk.objects.create(dataset=dataset, index=0, start=0, stop=1, first_line=1)
    datasets.chunk_state(chunk, Chunk.State.DONE, 3)
    assert Dataset.objects.get(pk=dataset.pk).sequence == 1
    assert told.datasets == [dataset.pk]


def test_a_dataset_that_is_deleted_is_told(told):
    dataset = dataset_in(Dataset.State.READY)
    pk = dataset.pk
    datasets.delete(dataset)
    assert told.datasets == [pk]


# Releases ------------------------------------------------------------------------------------------------------------


def test_a_release_that_knows_nothing_of_it_goes_on_inserting_and_counting():
    run = recorded(state=State.RUNNING)
    owner = get_user_model().objects.create_user("owner")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE ledger_run SET progress_sequence = progress_sequence + 1 WHERE id = %s", [run.pk])
        columns = [field.column for field in Dataset._meta.concrete_fields if field.name != "sequence"]
        made = Dataset(
            owner=owner, upload_expires_at=timezone.now(), created_at=timezone.now(), touched_at=timezone.now()
        )
        values = [
            field.get_db_prep_save(getattr(made, field.attname), connection)
            for field in Dataset._meta.concrete_fields
            if field.name != "sequence"
        ]
        names, places = ", ".join(columns), ", ".join(["%s"] * len(columns))
        cursor.execute(f"INSERT INTO datasets_dataset ({names}) VALUES ({places})", values)  # noqa: S608
    assert sequence_of(run.pk) == 1
    assert Dataset.objects.get(pk=made.pk).sequence == 0
