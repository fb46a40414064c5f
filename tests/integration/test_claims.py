"""The right to run a run now: claimed, renewed, lost and taken over by several at once, on a real database."""

from __future__ import annotations

import datetime
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import shared_task
from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from django_app.ledger import claims, outcomes, parking
from django_app.ledger.claiming import Verdict
from django_app.ledger.claims import Claim, Claimant, RunMissingError
from django_app.ledger.models import Attempt, Pause, Revocation, Run
from django_app.ledger.outcomes import Ended
from django_app.ledger.parking import Limit
from django_app.ledger.states import Outcome, Report, State
from tasks.celery import app
from tasks.runtime import limits, publishing
from tests.threads import at_once
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
MINUTE = datetime.timedelta(minutes=1)
HELD, RUN, PARK = Verdict.HELD, Verdict.RUN, Verdict.PARK


@shared_task(name="tests.claims.note")
def note(*arguments: object) -> None:
    """Enqueued, never run."""


@shared_task(name="tests.claims.limited", concurrency=3, concurrency_key=lambda key="": key)
def limited(key: str = "") -> None:
    """As above, at most three at once."""


@pytest.fixture(autouse=True)
def empty_queues():
    yield
    with app.connection_for_write() as broker:
        for each in app.amqp.queues.values():
            each(broker.default_channel).purge()


def enqueue(task=note, **options: object) -> str:
    run_id = uuid4().hex
    task.apply_async(task_id=run_id, **options)
    return run_id


def claim(run_id: str, *, worker: str = "w", lease_seconds: float = 60, **options: object) -> Claim:
    return claims.claim(run_id, Claimant(uuid4().hex, worker, lease_seconds, **options))


def verdict(run_id: str, **options: object) -> Verdict:
    return claim(run_id, **options).decision.verdict


def succeed(claimed: Claim) -> list[Run] | None:
    with transaction.atomic():
        return outcomes.finish(claimed.run_id, Report.SUCCEEDED, Ended(Outcome.SUCCEEDED, claim=claimed))


def row(run_id: str) -> Run:
    return Run.objects.get(pk=run_id)


def story(run_id: str) -> list[tuple[int, str]]:
    return list(Attempt.objects.filter(run_id=run_id).order_by("number", "id").values_list("number", "outcome"))


def database_now() -> datetime.datetime:
    if connection.vendor == "sqlite":
        return timezone.now()  # the same clock
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        return cursor.fetchone()[0]


def make_overdue(run_id: str, seconds: float = 1) -> None:
    Run.objects.filter(pk=run_id).update(lease_until=Now() - datetime.timedelta(seconds=seconds))


# One at a time ------------------------------------------------------------------------------------------------------


def nothing(run_id: str) -> None:
    """It is queued."""


def held_and_overdue(run_id: str) -> None:
    claim(run_id)
    make_overdue(run_id)


def lost(run_id: str) -> None:
    claim(run_id)
    assert claims.lose(run_id, "w", "its process died")


@pytest.mark.parametrize("before", [nothing, held_and_overdue, lost])
def test_of_eight_claimants_of_one_run_exactly_one_runs_it(before):
    run_id = enqueue()
    before(run_id)
    attempts = row(run_id).attempts
    claimed = at_once(8, lambda number: claim(run_id, worker=f"w{number}"))
    assert Counter(each.decision.verdict for each in claimed) == {RUN: 1, HELD: 7}
    (winner,) = (each for each in claimed if each.decision.verdict is RUN)
    run = row(run_id)
    assert (run.state, run.holder, run.worker) == (State.RUNNING, winner.holder, winner.worker)
    assert run.attempts == winner.number == attempts + 1
    assert story(run_id) == [(number + 1, Outcome.LOST) for number in range(attempts)]


def test_a_claim_knows_its_attempt():
    run_id = enqueue()
    claimed = claim(run_id, worker="general@a", receives=3)
    run = row(run_id)
    assert (claimed.run_id, claimed.number, claimed.worker, claimed.receives) == (run_id, 1, "general@a", 3)
    assert claimed.started_at == run.started_at
    assert run.lease_until == run.started_at + MINUTE
    assert run.receives == 3


def test_a_run_that_is_held_is_handed_back_for_as_long_as_its_lease_lasts():
    run_id = enqueue()
    claim(run_id, lease_seconds=60)
    decision = claim(run_id).decision
    assert decision.verdict is HELD
    assert 50 < decision.seconds <= 60


def test_a_run_is_taken_over_when_its_lease_is_over_and_not_before():
    run_id = enqueue()
    first = claim(run_id, lease_seconds=0.5)
    lease_until = row(run_id).lease_until
    found: list[Claim] = []

    def is_taken_over() -> bool:
        found.append(claim(run_id, worker="other"))
        return found[-1].decision.verdict is RUN

    wait_for(is_taken_over, "the end of the lease", 10)
    assert found[0].decision.verdict is HELD
    assert found[-1].number == 2
    assert found[-1].started_at >= lease_until
    attempt = Attempt.objects.get(run_id=run_id)
    assert (attempt.number, attempt.outcome, attempt.holder) == (1, Outcome.LOST, first.holder)
    assert attempt.error == "its lease was over, and another attempt took it"
    assert row(run_id).crashes == 1


def test_an_unknown_run_is_told_from_one_that_may_not_run():
    with pytest.raises(RunMissingError, match="never"):
        claim("never")


def test_a_run_that_has_ended_or_was_sent_again_is_not_claimed():
    run_id = enqueue()
    claimed = claim(run_id)
    succeed(claimed)
    assert verdict(run_id) is Verdict.DONE
    run_id = enqueue()
    Run.objects.filter(pk=run_id).update(retries=1)
    assert verdict(run_id) is Verdict.MOVED
    assert verdict(run_id, retries=1) is RUN


def test_a_run_whose_message_came_before_the_mark_that_it_was_published_is_claimed(monkeypatch):
    monkeypatch.setattr(publishing, "publish", lambda runs: 0)
    run_id = enqueue()
    assert row(run_id).state == State.PENDING
    assert verdict(run_id) is RUN


# Renewing -----------------------------------------------------------------------------------------------------------


def test_a_claim_that_is_renewed_is_not_taken_over():
    run_id = enqueue()
    claim(run_id, lease_seconds=0.3)
    lease_until = row(run_id).lease_until
    assert claims.renew("w", [run_id], 60) == 1
    wait_for(lambda: database_now() > lease_until, "the end of the first lease", 10)
    assert verdict(run_id) is HELD


def test_a_worker_renews_its_own_claims_and_no_others():
    mine, anothers, ended, queued = (enqueue() for _ in range(4))
    claim(mine)
    claim(anothers, worker="other")
    succeed(claim(ended))
    assert claims.renew("w", [mine, anothers, ended, queued, "unknown"], 600) == 1
    assert row(mine).lease_until > row(anothers).lease_until + MINUTE
    assert row(ended).lease_until is None
    assert claims.renew("w", [], 60) == 0


def test_a_thousand_claims_are_renewed():
    now = timezone.now()
    Run.objects.bulk_create(
        Run(id=f"r{n}", state=State.RUNNING, worker="w", lease_until=now, created_at=now, publish_claimed_until=now)
        for n in range(1100)
    )
    assert claims.renew("w", [f"r{number}" for number in range(1100)], 60) == 1100
    assert not Run.objects.filter(lease_until__lte=now).exists()


# Losing -------------------------------------------------------------------------------------------------------------


def test_an_attempt_whose_process_died_is_lost_and_another_may_take_the_run_at_once():
    run_id = enqueue()
    claimed = claim(run_id, receives=2)
    assert claims.lose(run_id, "w", "killed by signal 9")
    run = row(run_id)
    assert (run.state, run.crashes, run.holder, run.lease_until) == (State.LOST, 1, "", None)
    attempt = Attempt.objects.get(run_id=run_id)
    assert (attempt.number, attempt.outcome, attempt.error) == (1, Outcome.LOST, "killed by signal 9")
    assert (attempt.worker, attempt.receives, attempt.holder) == ("w", 2, claimed.holder)
    assert attempt.started_at == claimed.started_at <= attempt.ended_at
    assert verdict(run_id, worker="other") is RUN


def test_an_attempt_is_lost_once():
    run_id = enqueue()
    claim(run_id)
    assert sorted(at_once(4, lambda _: claims.lose(run_id, "w", "died"))) == [False, False, False, True]
    assert row(run_id).crashes == 1
    assert story(run_id) == [(1, Outcome.LOST)]


def test_only_the_attempt_that_holds_it_is_lost():
    run_id = enqueue()
    assert not claims.lose(run_id, "w", "died")
    claimed = claim(run_id)
    assert not claims.lose(run_id, "other", "died")
    assert not claims.lose(run_id, "w", "died", holder="earlier")
    assert not claims.lose("unknown", "w", "died")
    assert row(run_id).state == State.RUNNING
    assert claims.lose(run_id, "w", "died", holder=claimed.holder)


def test_the_sweep_loses_what_is_overdue_for_long_enough_oldest_first_and_at_most_so_many():
    ids = [enqueue() for _ in range(4)]
    for seconds, run_id in zip([40, 50, 10, 0], ids, strict=True):
        claim(run_id)
        if seconds:
            make_overdue(run_id, seconds)
    assert claims.lose_overdue(1, grace_seconds=30) == [ids[1]]
    assert claims.lose_overdue(9, grace_seconds=30) == [ids[0]]
    assert claims.lose_overdue(9, grace_seconds=30) == []
    assert claims.lose_overdue(9, grace_seconds=0) == [ids[2]]
    assert [row(run_id).state for run_id in ids] == [State.LOST] * 3 + [State.RUNNING]


def test_two_sweeps_and_a_claimant_at_once_lose_an_attempt_once():
    run_id = enqueue()
    claim(run_id)
    make_overdue(run_id)
    at_once(6, lambda number: claims.lose_overdue(9, 0) if number % 2 else claim(run_id, worker=f"w{number}"))
    assert story(run_id) == [(1, Outcome.LOST)]
    assert row(run_id).crashes == 1


def test_a_claim_that_is_renewed_between_look_and_take_is_left_alone(monkeypatch):
    run_id = enqueue()
    claim(run_id, worker="frozen")
    make_overdue(run_id)
    look = claims._look

    def look_and_be_slow(*arguments: object) -> object:
        seen = look(*arguments)
        claims.renew("frozen", [run_id], 60)
        return seen

    monkeypatch.setattr(claims, "_look", look_and_be_slow)
    assert verdict(run_id) is HELD
    assert (row(run_id).worker, story(run_id)) == ("frozen", [])


def test_a_claim_that_is_renewed_while_the_sweep_is_at_it_is_left_alone(monkeypatch):
    run_id = enqueue()
    claim(run_id)
    make_overdue(run_id)
    lose = claims.lose

    def lose_slowly(*arguments: object, **options: object) -> bool:
        claims.renew("w", [run_id], 60)
        return lose(*arguments, **options)

    monkeypatch.setattr(claims, "lose", lose_slowly)
    assert claims.lose_overdue(9, 0) == []
    assert (row(run_id).state, story(run_id)) == (State.RUNNING, [])


def test_the_attempts_tell_the_story_of_a_run():
    run_id = enqueue()
    claim(run_id, worker="a")
    claims.lose(run_id, "a", "killed")
    claim(run_id, worker="b")
    make_overdue(run_id)
    third = claim(run_id, worker="c")
    outcomes.hand_back(third, Ended(Outcome.HANDED_BACK, claim=third))
    succeed(claim(run_id, worker="d"))
    attempts = Attempt.objects.filter(run_id=run_id).order_by("number")
    assert list(attempts.values_list("number", "worker", "outcome")) == [
        (1, "a", Outcome.LOST),
        (2, "b", Outcome.LOST),
        (3, "c", Outcome.HANDED_BACK),
        (4, "d", Outcome.SUCCEEDED),
    ]
    assert all(each.started_at <= each.ended_at for each in attempts)
    assert (row(run_id).attempts, row(run_id).crashes) == (4, 2)


@pytest.mark.parametrize("crash", [lost, held_and_overdue])
def test_a_run_that_crashed_too_often_is_dead_with_all_of_its_story(crash, settings):
    settings.RUN_MOST_CRASHES = 3
    run_id = enqueue()
    for _ in range(3):
        crash(run_id)
    decision = claim(run_id).decision
    assert (decision.verdict, decision.reason) == (Verdict.DEAD, "its process or worker died at it 3 times")
    assert story(run_id) == [(number, Outcome.LOST) for number in (1, 2, 3)]
    assert row(run_id).crashes == 3


def test_time_is_the_databases_and_not_the_workers(monkeypatch):
    """A worker whose clock is a day ahead takes over nothing, and one that is a day behind holds nothing too long."""
    run_id, other = enqueue(), enqueue(expires=3600)
    claim(run_id)
    make_overdue(other)
    for days in (1, -1):
        off = timezone.now() + datetime.timedelta(days=days)
        with monkeypatch.context() as patched:
            patched.setattr(timezone, "now", lambda off=off: off)
            assert verdict(run_id) is HELD
            assert claims.renew("w", [run_id], 60) == 1
            assert claims.lose_overdue(9, 0) == []
            assert verdict(other) is (RUN if days == 1 else HELD)
        assert abs((row(run_id).lease_until - timezone.now()).total_seconds() - 60) < 10


# Revoked, expired, paused -------------------------------------------------------------------------------------------


def revoke(value: str, header: str = "") -> None:
    now = timezone.now()
    Revocation.objects.create(header=header, value=value, created_at=now, expires_at=now + MINUTE)


def test_a_run_that_was_revoked_by_its_id_is_not_begun():
    run_id, other = enqueue(), enqueue()
    revoke(run_id)
    revoke(other, header="customer")
    assert verdict(run_id) is Verdict.REVOKED
    assert verdict(other) is RUN


def test_a_run_that_was_revoked_by_one_of_its_stamps_is_not_begun():
    revoke("7", header="customer")
    assert verdict(enqueue(), stamps={"order": ["1"], "customer": ["6", "7"]}) is Verdict.REVOKED
    assert verdict(enqueue(), stamps={"customer": [7]}) is Verdict.REVOKED
    assert verdict(enqueue(), stamps={"customer": ["8"]}) is RUN
    assert verdict(enqueue(), stamps={"order": ["7"]}) is RUN
    assert verdict(enqueue()) is RUN


def test_a_run_that_has_expired_is_not_begun_and_one_that_has_begun_does_not_expire():
    run_id, begun = enqueue(expires=3600), enqueue(expires=3600)
    claim(begun)
    assert Run.objects.update(expires_at=Now()) == 2
    assert verdict(run_id) is Verdict.EXPIRED
    assert verdict(begun) is HELD


@pytest.mark.parametrize("key", ["queue:low", "task:tests.claims.note"])
def test_what_is_paused_waits_until_the_pause_is_over(key):
    run_id, other = enqueue(queue="low"), enqueue(limited, queue="default")
    assert parking.pause(key, "ada", "too many")
    assert not parking.pause(key, "bob")
    assert (Pause.objects.get().by, Pause.objects.get().reason) == ("ada", "too many")
    assert verdict(run_id) is PARK
    assert (row(run_id).state, row(run_id).parked_for) == (State.WAITING, parking.PAUSED)
    assert verdict(run_id) is Verdict.MOVED, "a duplicate of its message"
    assert verdict(other) is RUN
    assert parking.release_due(9) == []
    assert parking.resume(key)
    assert not parking.resume(key)
    (released,) = parking.release_due(9)
    assert (released.pk, released.state) == (run_id, State.PENDING)
    assert parking.release_due(9) == []
    assert publishing.publish([released]) == 1
    assert row(run_id).state == State.QUEUED
    assert verdict(run_id) is RUN


def test_what_another_pause_still_holds_is_not_released():
    run_id = enqueue(queue="low")
    parking.pause("queue:low", "ada")
    parking.pause("task:tests.claims.note", "ada")
    assert verdict(run_id) is PARK
    parking.resume("queue:low")
    assert parking.release_due(9) == []
    parking.resume("task:tests.claims.note")
    assert len(parking.release_due(9)) == 1


def test_a_pause_releases_in_the_order_in_which_runs_were_enqueued_and_at_most_so_many():
    parking.pause("queue:default", "ada")
    ids = [enqueue() for _ in range(5)]
    for run_id in reversed(ids):
        claim(run_id)
    parking.resume("queue:default")
    assert [run.pk for run in parking.release_due(3)] == ids[:3]
    assert [run.pk for run in parking.release_due(3)] == ids[3:]


def test_two_sweeps_at_once_release_each_run_once():
    parking.pause("queue:default", "ada")
    ids = [enqueue() for _ in range(10)]
    for run_id in ids:
        claim(run_id)
    parking.resume("queue:default")
    released = at_once(3, lambda _: parking.release_due(100))
    assert sorted(run.pk for runs in released for run in runs) == sorted(ids)


def test_a_paused_run_whose_holder_was_lost_has_lost_an_attempt():
    run_id = enqueue()
    held_and_overdue(run_id)
    parking.pause("queue:default", "ada")
    assert verdict(run_id) is PARK
    assert story(run_id) == [(1, Outcome.LOST)]
    assert row(run_id).crashes == 1


# Limits -------------------------------------------------------------------------------------------------------------

THREE = Limit(at_once=3)


def work_through(ids: list[str], limit: Limit, *, threads: int) -> int:
    """Have threads claim and end these runs, and those that are released, as workers would; the most at work at once."""
    todo: queue.Queue[str | None] = queue.Queue()
    for run_id in ids:
        todo.put(run_id)
    left = iter(range(len(ids) - 1, -1, -1))
    most = []

    def work(_: int) -> None:
        while (run_id := todo.get(timeout=10)) is not None:
            claimed = claim(run_id, limit=limit)
            if claimed.decision.verdict is not RUN:
                assert claimed.decision.verdict is PARK
                continue
            most.append(Run.objects.filter(state=State.RUNNING).count())
            for run in succeed(claimed) or ():
                todo.put(run.pk)
            if next(left) == 0:
                for _ in range(threads):
                    todo.put(None)

    at_once(threads, work)
    return max(most)


def test_twenty_claimants_at_once_never_exceed_a_limit_of_three():
    ids = [enqueue(limited) for _ in range(20)]
    found = at_once(20, lambda number: verdict(ids[number], limit=THREE))
    assert Counter(found) == {RUN: 3, PARK: 17}
    states = Counter(Run.objects.values_list("state", "parked_for"))
    assert states == {(State.RUNNING, ""): 3, (State.WAITING, parking.LIMIT): 17}


def test_runs_through_a_limit_all_end_and_nobody_needs_the_sweep():
    ids = [enqueue(limited) for _ in range(40)]
    assert work_through(ids, THREE, threads=8) <= 3
    assert Counter(Run.objects.values_list("state", flat=True)) == {State.SUCCEEDED: 40}
    assert Attempt.objects.count() == 40


def test_each_key_has_a_limit_of_its_own():
    ids = [enqueue(limited, args=[key]) for key in "ab" for _ in range(4)]
    assert [verdict(run_id, limit=THREE) for run_id in ids] == [RUN, RUN, RUN, PARK] * 2


def test_a_run_that_ends_releases_the_one_that_has_waited_longest():
    ids = [enqueue(limited) for _ in range(6)]
    claimed = [claim(run_id, limit=THREE) for run_id in reversed(ids)]
    (released,) = succeed(claimed[0])
    assert (released.pk, released.state, released.parked_for) == (ids[0], State.PENDING, "")
    assert verdict(ids[0], limit=THREE) is RUN
    assert succeed(claimed[1])[0].pk == ids[1]


def test_three_that_end_at_once_release_three():
    ids = [enqueue(limited) for _ in range(6)]
    claimed = [claim(run_id, limit=THREE) for run_id in ids]
    released = at_once(3, lambda number: succeed(claimed[number]))
    assert sorted(run.pk for runs in released for run in runs) == sorted(ids[3:])


def test_a_waiting_run_that_another_changes_at_this_moment_is_passed_over():
    """Somebody revokes it, say, and waits for the limit that is being decided on: each would wait for the other."""
    if connection.vendor == "sqlite":
        pytest.skip("SQLite's writers queue; Postgres runs this")
    ids = [enqueue(limited) for _ in range(5)]
    claimed = [claim(run_id, limit=THREE) for run_id in ids]
    is_locked, is_released = threading.Event(), threading.Event()

    def work(number: int) -> list[Run]:
        if number:
            with transaction.atomic():
                Run.objects.select_for_update().get(pk=ids[3])
                is_locked.set()
                assert is_released.wait(10)
            return []
        assert is_locked.wait(10)
        released = succeed(claimed[0])
        is_released.set()
        return released

    assert [run.pk for run in at_once(2, work)[0]] == [ids[4]]


def test_a_run_that_is_being_parked_while_the_last_holder_ends_is_not_forgotten(monkeypatch):
    """Else nobody would release it before the sweep."""
    first, second = enqueue(limited), enqueue(limited)
    holder = claim(first, limit=Limit(at_once=1))
    has_counted, has_ended = threading.Event(), threading.Event()
    wait = parking.wait_for

    def wait_slowly(*arguments: object) -> object:
        found = wait(*arguments)
        has_counted.set()
        # The holder's end has to wait for this transaction; were it not to, it would be over by now.
        has_ended.wait(0.5)
        return found

    monkeypatch.setattr(parking, "wait_for", wait_slowly)

    def work(number: int) -> list[Run]:
        if number:
            assert verdict(second, limit=Limit(at_once=1)) is PARK
            return []
        assert has_counted.wait(10)
        released = succeed(holder)
        has_ended.set()
        return released

    assert [run.pk for run in at_once(2, work)[0]] == [second]


def test_a_dead_holders_slot_is_free_when_its_lease_is_over():
    one = Limit(at_once=1)
    first, second, third = (enqueue(limited) for _ in range(3))
    claim(first, limit=one)
    assert verdict(second, limit=one) is PARK
    make_overdue(first)
    assert verdict(third, limit=one) is RUN


def test_what_waits_for_a_dead_holder_is_released_by_the_sweep():
    ids = [enqueue(limited) for _ in range(5)]
    for run_id in ids:
        claim(run_id, limit=THREE)
    assert parking.release_due(9) == [], "all slots are taken"
    for run_id in ids[:3]:
        make_overdue(run_id)
    assert sorted(claims.lose_overdue(9, 0)) == sorted(ids[:3])
    assert [run.pk for run in parking.release_due(9)] == ids[3:]
    assert parking.release_due(9) == []


def test_the_sweep_releases_only_as_many_as_there_are_slots():
    ids = [enqueue(limited) for _ in range(8)]
    for run_id in ids:
        claim(run_id, limit=THREE)
    claims.lose(ids[0], "w", "died")
    # Lost, it comes back by its own message; until then its slot is another's.
    assert [run.pk for run in parking.release_due(9)] == [ids[3]]
    assert parking.release_due(9) == []


def test_the_sweep_leaves_waiting_what_is_paused():
    first, second = enqueue(limited), enqueue(limited)
    claimed = claim(first, limit=Limit(at_once=1))
    claim(second, limit=Limit(at_once=1))
    parking.pause("task:tests.claims.limited", "ada")
    claims.lose(first, "w", "died")
    assert parking.release_due(9) == []
    parking.resume("task:tests.claims.limited")
    assert [run.pk for run in parking.release_due(9)] == [second]
    assert claimed.decision.verdict is RUN


@pytest.mark.parametrize("limit", [Limit(at_once=1), Limit(begun=1, period_seconds=60)], ids=["at once", "rate"])
def test_a_run_over_its_limit_whose_holder_was_lost_has_lost_an_attempt(limit):
    run_id, other = enqueue(limited), enqueue(limited)
    held_and_overdue(run_id)
    claim(other)
    assert verdict(run_id, limit=limit) is (PARK if limit.at_once else HELD)
    assert (row(run_id).state, row(run_id).crashes) == (State.WAITING, 1)
    assert story(run_id) == [(1, Outcome.LOST)]


# Rates --------------------------------------------------------------------------------------------------------------

FIVE_A_MINUTE = Limit(begun=5, period_seconds=60)


def test_twenty_claimants_at_once_never_begin_more_than_a_rate_allows_and_are_told_when_to_come_back():
    ids = [enqueue(limited) for _ in range(20)]
    found = at_once(20, lambda number: claim(ids[number], limit=FIVE_A_MINUTE).decision)
    assert Counter(each.verdict for each in found) == {RUN: 5, HELD: 15}
    # SQS keeps them, five for each of the next three minutes.
    minutes = Counter(round(each.seconds / 60) for each in found if each.verdict is HELD)
    assert minutes == {1: 5, 2: 5, 3: 5}
    assert {each.reason for each in found if each.verdict is HELD} == {parking.RATE}
    assert Run.objects.filter(state=State.WAITING, parked_for=parking.RATE).count() == 15


def test_a_run_that_waits_for_a_rate_begins_in_its_own_message_when_it_comes_back():
    first, second = enqueue(limited), enqueue(limited)
    one = Limit(begun=1, period_seconds=60)
    claim(first, limit=one)
    told = claim(second, limit=one).decision
    assert told.verdict is HELD
    assert 50 < told.seconds <= 60
    assert parking.release_due(9) == [], "SQS has it"
    Run.objects.filter(pk=first).update(started_at=Now() - datetime.timedelta(seconds=59))
    told = claim(second, limit=one).decision
    assert told.verdict is HELD
    assert 0 < told.seconds <= 1
    Run.objects.filter(pk=first).update(started_at=Now() - datetime.timedelta(seconds=60.1))
    assert verdict(second, limit=one) is RUN
    assert row(second).parked_for == ""


def test_a_rate_waits_for_the_oldest_of_those_that_fill_it():
    two = Limit(begun=2, period_seconds=60)
    for seconds in (50, 10):
        run_id = enqueue(limited)
        claim(run_id, limit=two)
        Run.objects.filter(pk=run_id).update(started_at=Now() - datetime.timedelta(seconds=seconds))
    assert 9 < claim(enqueue(limited), limit=two).decision.seconds <= 10


def test_a_rate_counts_what_has_ended_and_each_try_of_a_run_that_is_tried_again():
    limit = Limit(begun=3, period_seconds=60)
    again, other = enqueue(limited), enqueue(limited)
    claim(again, limit=limit)
    claims.lose(again, "w", "died")
    claim(again, limit=limit)
    claims.lose(again, "w", "died")
    succeed(claim(other, limit=limit))
    assert verdict(again, limit=limit) is HELD
    assert verdict(enqueue(limited), limit=limit) is HELD
    Attempt.objects.filter(run_id=again).update(started_at=Now() - MINUTE)
    assert verdict(again, limit=limit) is RUN


def test_a_rate_and_a_limit_together_both_hold():
    both = Limit(at_once=1, begun=2, period_seconds=60)
    ids = [enqueue(limited) for _ in range(3)]
    first = claim(ids[0], limit=both)
    assert verdict(ids[1], limit=both) is PARK
    succeed(first)
    succeed(claim(ids[1], limit=both))
    assert verdict(ids[2], limit=both) is HELD
    assert row(ids[2]).parked_for == parking.RATE


# What tasks declare -------------------------------------------------------------------------------------------------


@pytest.fixture
def declare() -> Iterator[Callable[..., Any]]:
    """Declares a task with these options, for as long as the test lasts."""
    names = []

    def declare(**options: object) -> Any:
        def work(*arguments: object, **named: object) -> None:
            """Enqueued, never run."""

        names.append(f"tests.claims.{uuid4().hex}")
        return app.task(work, name=names[-1], **options)

    yield declare
    for name in names:
        app.tasks.pop(name)


def test_a_limit_stands_in_its_run_under_its_tasks_name_and_key(declare):
    by_function = declare(concurrency=2, concurrency_key=lambda tenant, **_: f"tenant {tenant}")
    for task, options, key in (
        (declare(concurrency=2), {}, ""),
        (declare(rate="3/m", concurrency_key="all"), {}, "all"),
        (by_function, {"args": ("a",)}, "tenant a"),
        (by_function, {"kwargs": {"tenant": "b", "more": 1}}, "tenant b"),
        (by_function, {"args": ("a",), "concurrency_key": "asked"}, "asked"),
    ):
        run = row(enqueue(task, **options))
        assert run.limit_key == f"{task.name} {key}"
        assert run.limit_at_once == getattr(task, "concurrency", None)


def test_what_a_task_declares_is_what_its_runs_share(declare):
    assert limits.of(declare()) is None
    assert limits.of(declare(concurrency=2)) == Limit(at_once=2)
    assert limits.of(declare(rate="100/m")) == Limit(begun=100, period_seconds=60)
    assert limits.of(declare(concurrency=1, rate=" 2 / h ")) == Limit(1, 2, 3600)
    assert [limits.of(declare(rate=f"1/{unit}")).period_seconds for unit in "smhd"] == [1, 60, 3600, 86400]


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, "2", True])
def test_a_concurrency_that_is_none_fails_at_the_call(declare, concurrency):
    task = declare(concurrency=concurrency)
    with pytest.raises(limits.LimitError, match=r"concurrency=.* must be a whole number from 1 on, or None"):
        task.delay()
    assert not Run.objects.exists()


@pytest.mark.parametrize("rate", ["", "100", "0/m", "-1/s", "1/w", "1.5/s", "m/1", 5, "1/m 2/m"])
def test_a_rate_that_is_none_fails_at_the_call(declare, rate):
    task = declare(rate=rate)
    with pytest.raises(
        limits.LimitError, match=r'rate=.* must be a number from 1 on, a slash and s, m, h or d: "100/m"'
    ):
        task.delay()
    assert not Run.objects.exists()


def test_a_key_without_a_limit_or_of_too_many_characters_fails_at_the_call():
    with pytest.raises(limits.LimitError, match="declares no concurrency and no rate. Declare one: @shared_task"):
        note.apply_async(concurrency_key="a")
    with pytest.raises(limits.LimitError, match="concurrency_key of 151 characters exceeds 150"):
        limited.apply_async(concurrency_key="x" * 151)
    assert not Run.objects.exists()
