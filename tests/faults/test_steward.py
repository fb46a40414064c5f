"""The steward with real processes: what a worker's main process must have in the database, it has there, whatever dies."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from django.utils import timezone

from django_app.ledger import fleet
from django_app.ledger.fleet import Sign
from django_app.ledger.models import Command, Reply, Revocation, Worker
from tasks.runtime.steward import protocol
from tests.conftest import ROOT
from tests.faults.clerk import Clerk, clerk_of
from tests.faults.plant import Worker as WorkerProcess
from tests.faults.shop import _PRELUDE, Shop, open_shop
from tests.waiting import wait_for

pytestmark = pytest.mark.faults

LEASE_SECONDS = 6

TASKS = """
import os, time
from billiard.exceptions import SoftTimeLimitExceeded
from celery import shared_task
from django.contrib.auth.models import Group


@shared_task
def sell(number):
    Group.objects.create(name=f"sold {number} by {os.getpid()}")


@shared_task
def nap(seconds):
    Group.objects.create(name=f"nap begun {time.time()}")
    time.sleep(seconds)


@shared_task(time_limit=4)
def oversleep():
    while True:
        try:
            time.sleep(60)
        except SoftTimeLimitExceeded:
            pass


@shared_task(bind=True)
def die_once(self):
    if not Group.objects.filter(name="died").exists():
        Group.objects.create(name="died")
        time.sleep(1)
        os._exit(9)
    Group.objects.create(name="lived")
"""

#: In place, so that it does not matter who has imported it before.
SHORT_LEASES = f"from tasks import topology\nobject.__setattr__(topology.TOPOLOGY, 'lease_seconds', {LEASE_SECONDS})\n"


@pytest.fixture
def shop(tmp_path: Path, stack_database_url: str) -> Iterator[Shop]:
    with open_shop(tmp_path, stack_database_url, TASKS, SHORT_LEASES) as made:
        yield made


@pytest.fixture
def clerk(shop: Shop) -> Iterator[Clerk]:
    with clerk_of(shop) as made:
        yield made


def steward_of(worker: WorkerProcess) -> psutil.Process | None:
    for child in worker.children():
        with contextlib.suppress(psutil.Error):
            if "tasks.runtime.steward" in child.cmdline():
                return child
    return None


def await_steward(worker: WorkerProcess, other_than: int = 0) -> psutil.Process:
    def found() -> bool:
        steward = steward_of(worker)
        return steward is not None and steward.pid != other_than

    wait_for(found, "a steward", 20)
    steward = steward_of(worker)
    assert steward is not None
    return steward


def database_handles(pid: int, database_url: str) -> list[str]:
    """Of a process: what it has open of the database, its file or its server."""
    target = urlsplit(database_url)
    process = psutil.Process(pid)
    if target.scheme == "sqlite":
        file = "/" + target.path.lstrip("/")
        return [each.path for each in process.open_files() if each.path.startswith(file)]
    return [str(each.raddr) for each in process.net_connections() if each.raddr and each.raddr.port == target.port]


def lease_left(clerk: Clerk) -> list[float]:
    """Seconds that the runs at work are still held for."""
    found = clerk.do("list(Run.objects.filter(state='running').annotate(now=Now()).values_list('lease_until', 'now'))")
    return [seconds_between(now, until) for until, now in found]


def seconds_between(one: str, other: str) -> float:
    return (datetime.fromisoformat(other) - datetime.fromisoformat(one)).total_seconds()


def row(clerk: Clerk, name: str = "") -> dict[str, Any]:
    return clerk.do(f"Worker.objects.filter(name__startswith={name!r}).values().first()") or {}


# The database and forks ----------------------------------------------------------------------------------------------


def test_the_main_process_has_no_database_open_while_its_pool_forks_under_a_load_of_writes(shop, clerk):
    worker = shop.start_worker("--max-tasks-per-child=1", concurrency=2)
    clerk.do("group(sell.s(number) for number in range(110)).apply_async()")
    open_in_main: list[str] = []

    def all_sold() -> bool:
        open_in_main.extend(database_handles(worker.process.pid, shop.environment["DATABASE_URL"]))
        return clerk.do("Group.objects.filter(name__startswith='sold').count()") >= 110

    wait_for(all_sold, "110 sales", 300)
    sold = clerk.do("list(Group.objects.filter(name__startswith='sold').values_list('name', flat=True))")
    assert len(sold) == 110
    assert len({name.rpartition(" ")[2] for name in sold}) > 100, "children were not replaced"
    assert open_in_main == []
    assert "database is locked" not in worker.text()
    steward = steward_of(worker)
    assert steward is not None
    assert database_handles(steward.pid, shop.environment["DATABASE_URL"]), "the steward has none either: a blind test"


# Whoever dies --------------------------------------------------------------------------------------------------------


def test_a_steward_that_is_killed_comes_back_and_renewals_go_on(shop, clerk):
    worker = shop.start_worker()
    clerk.do("nap.delay(3 * 6)")
    wait_for(lambda: lease_left(clerk), "the nap")
    first = await_steward(worker)
    first.kill()
    second = await_steward(worker, other_than=first.pid)
    shortest = float(LEASE_SECONDS)
    while left := lease_left(clerk):
        shortest = min([shortest, *left])
        time.sleep(0.2)
    assert shortest > 0, "the run was up for others meanwhile"
    assert clerk.do("Run.objects.get().state") == "succeeded"
    assert clerk.do("Run.objects.get().attempts") == 1
    assert steward_of(worker).pid == second.pid
    assert worker.text().count("steward_died") == 1


def test_a_steward_that_is_spawned_while_the_worker_forks_is_heard_and_its_death_noticed(shop):
    """A forked child that kept an end of its pipes, or of those that spawn it, would keep the worker from both."""
    shop.run(
        """
import signal
from tasks.celery import app
from tasks.runtime import steward

def fork_for(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)

os.setpgrp()
facts = {"pid": os.getpid(), "kind": "prefork", "concurrency": 1, "is_draining": False}
try:
    for _ in range(5):
        made = steward.start(app, "forks@here", lambda: facts)
        fork_for(0.2)
        assert made.ready.wait(15), "it is not heard"
        made.ready.clear()
        made._child._process.kill()
        assert made.ready.wait(15), "its death is not noticed"
        steward.stop()
finally:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
"""
    )


def test_a_steward_that_dies_again_and_again_is_started_with_growing_pauses(shop):
    worker = shop.start_worker()
    killed = 0
    for _ in range(4):
        killed = await_steward(worker, other_than=killed).pid
        os.kill(killed, signal.SIGKILL)
    await_steward(worker, other_than=killed)
    pauses = [float(each) for each in re.findall(r"again_in_seconds=([\d.]+)", worker.text())]
    assert pauses == sorted(pauses)
    assert pauses[0] < 1 < pauses[-1]


def test_a_steward_ends_when_its_worker_is_killed(shop, clerk):
    worker = shop.start_worker(concurrency=2)
    clerk.do("nap.delay(60)")
    wait_for(lambda: lease_left(clerk), "the nap")
    steward = await_steward(worker)
    worker.tell(signal.SIGKILL)
    wait_for(lambda: not steward.is_running(), "the steward's end", 10)
    assert row(clerk)["state"] == "running", "whether it is lost shows when its lease is over"


def test_a_steward_ends_with_its_worker_also_while_the_database_is_away(shop, clerk, line):
    worker = shop.start_worker(DATABASE_URL=line.url)
    clerk.do("die_once.delay()")
    wait_for(lambda: clerk.do("Group.objects.filter(name='died').exists()"), "the child's last words")
    line.cut()
    wait_for(lambda: "WorkerLostError" in worker.text() or "goes back and shows again" in worker.text(), "the loss")
    steward = await_steward(worker)
    worker.tell(signal.SIGKILL)
    wait_for(lambda: not steward.is_running(), "the steward's end", 15)


def test_the_signals_of_a_stop_are_not_meant_for_the_steward(shop, clerk):
    worker = shop.start_worker()
    steward = await_steward(worker)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        steward.send_signal(number)
    seen = row(clerk)["seen_at"]
    wait_for(lambda: row(clerk)["seen_at"] > seen, "the next sign of life", 15)
    assert steward.is_running()
    assert worker.stop() == 0
    assert row(clerk)["state"] == "stopped"
    assert not steward.is_running()


def test_a_child_that_dies_is_recorded_as_lost_and_its_run_begins_again_before_its_lease_is_over(shop, clerk):
    shop.start_worker()
    clerk.do("die_once.delay()")
    wait_for(lambda: clerk.do("Run.objects.get().state") == "succeeded", "the second try", 30)
    lost, done = clerk.do("list(Attempt.objects.order_by('number').values('outcome', 'error'))")
    assert lost["outcome"] == "lost"
    assert "exitcode 9" in lost["error"] or "signal" in lost["error"] or "exited" in lost["error"].lower(), lost
    assert done["outcome"] == "succeeded"


# Outages of the database ---------------------------------------------------------------------------------------------


def test_an_outage_of_three_leases_costs_no_lease_and_duplicates_nothing(shop, clerk, line):
    worker = shop.start_worker(DATABASE_URL=line.url)
    clerk.do(f"nap.delay({LEASE_SECONDS * 6})")
    wait_for(lambda: lease_left(clerk), "the nap")
    line.cut()
    began = time.monotonic()
    wait_for(lambda: max(lease_left(clerk)) < -2 * LEASE_SECONDS, "three leases", 60)
    assert time.monotonic() - began > 2 * LEASE_SECONDS
    line.mend()
    back = time.monotonic()
    wait_for(lambda: min(lease_left(clerk)) > 0, "the renewal", 10)
    assert time.monotonic() - back < 5
    # Its message comes a second time, to a worker that has time for it.
    other = shop.start_worker("--queues=datasets")
    message = next(message for _, message in shop.queue().hidden.values())
    shop.server.sqs.send(shop.queue("datasets"), {"MessageBody": message.body}, time.monotonic())
    wait_for(lambda: "verdict=held" in other.text(), "its refusal", 20)
    wait_for(lambda: clerk.do("Run.objects.get().state") == "succeeded", "the end of the nap", 60)
    assert clerk.do("Run.objects.get().attempts") == 1
    assert clerk.do("Group.objects.filter(name__startswith='nap').count()") == 1
    assert "database_fails" in worker.text()
    assert "database_works_again" in worker.text()


LONELY = """
from tasks.celery import app
from tasks.runtime import steward
facts = {"pid": os.getpid(), "kind": "prefork", "concurrency": 1, "is_draining": False}
made = steward.start(app, "w@x", lambda: facts)
assert made.ready.wait(20)
print(made._child._process.pid, flush=True)
for line in sys.stdin:
    exec(line)
"""


@contextlib.contextmanager
def lonely_steward(
    shop: Shop, clerk: Clerk, **variables: str
) -> Iterator[tuple[psutil.Process, Callable[[str], None]]]:
    """A steward without a worker, the run "held" that a worker of that name holds; and how to say something to it."""
    clerk.do(
        "now = timezone.now(); Run.objects.create(id='held', task='t', queue='default', state='running', worker='w@x', holder='first',"
        " created_at=now, publish_claimed_until=now, started_at=now, lease_until=now)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", _PRELUDE + LONELY],
        cwd=ROOT,
        env={**shop.environment, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield (
                psutil.Process(int(process.stdout.readline())),
                lambda code: print(code, file=process.stdin, flush=True),
            )
        finally:
            process.kill()


def test_what_was_held_during_an_outage_is_renewed_though_it_was_said_only_once(shop, clerk, line):
    with lonely_steward(shop, clerk, DATABASE_URL=line.url) as (_, say):
        line.cut()
        say("made.renew(['held', 'unheard of'])")
        time.sleep(2)
        assert lease_left(clerk)[0] < 0
        line.mend()
        wait_for(lambda: lease_left(clerk)[0] > 0, "the renewal", 5)


@pytest.mark.parametrize("has_begun_again", [True, False])
def test_a_loss_that_is_heard_late_is_not_that_of_an_attempt_which_began_since(shop, clerk, has_begun_again):
    with lonely_steward(shop, clerk) as (steward, say):
        steward.suspend()
        say("made.lost('held', 'it died', 'first')")
        if has_begun_again:
            clerk.do("Run.objects.filter(pk='held').update(holder='second')")
        steward.resume()
        say("steward.stop(); os._exit(0)")
        wait_for(lambda: not steward.is_running(), "its end, and so all that was said", 20)
    assert clerk.do("Run.objects.get(pk='held').state") == ("running" if has_begun_again else "lost")


def test_a_child_that_dies_while_the_database_is_away_is_recorded_as_lost_once_it_is_back(shop, clerk, line):
    worker = shop.start_worker(DATABASE_URL=line.url)
    clerk.do("die_once.delay()")
    wait_for(lambda: clerk.do("Group.objects.filter(name='died').exists()"), "the child's last words")
    line.cut()
    wait_for(lambda: "goes back and shows again" in worker.text(), "the loss")
    line.mend()
    wait_for(lambda: clerk.do("Attempt.objects.filter(outcome='lost').count()") == 1, "the record of it", 20)
    assert "lease" not in clerk.do("Attempt.objects.get(outcome='lost').error"), "only noticed when its lease was over"
    wait_for(lambda: clerk.do("Run.objects.get().state") == "succeeded", "the second try", 60)


# Outcomes that only the main process sees ----------------------------------------------------------------------------


def test_an_outcome_of_the_main_process_is_acknowledged_when_it_is_durable_though_the_steward_dies(shop, clerk):
    worker = shop.start_worker()
    steward = await_steward(worker)
    clerk.do("oversleep.delay()")
    wait_for(lambda: lease_left(clerk), "the task")
    steward.suspend()
    wait_for(lambda: "Hard time limit" in worker.text(), "the hard time limit", 20)
    # It is the steward's turn, and it stands still: SQS keeps the message, though Celery is done with it.
    before = shop.server.counts["ReceiveMessage"]
    wait_for(lambda: shop.server.counts["ReceiveMessage"] > before + 3, "a while", 20)
    assert shop.depth() == 1
    assert clerk.do("Run.objects.get().state") == "running"
    steward.kill()
    shop.await_empty(20)
    assert clerk.do("Run.objects.get().state") == "failed"
    assert clerk.do("oversleep.AsyncResult(Run.objects.get().pk).state") == "FAILURE"


def test_an_outcome_of_the_main_process_is_recorded_by_a_worker_that_stops(shop, clerk):
    worker = shop.start_worker()
    steward = await_steward(worker)
    clerk.do("oversleep.delay()")
    wait_for(lambda: lease_left(clerk), "the task")
    steward.suspend()
    wait_for(lambda: "Hard time limit" in worker.text(), "the hard time limit", 20)
    worker.tell(signal.SIGTERM)
    wait_for(lambda: "Warm shutdown" in worker.text(), "the stop")
    steward.resume()
    assert worker.process.wait(40) == 0
    assert clerk.do("Run.objects.get().state") == "failed"
    assert shop.depth() == 0


# Signs of life -------------------------------------------------------------------------------------------------------


def test_a_worker_says_how_it_is_while_it_works_drains_and_stops(shop, clerk):
    worker = shop.start_worker(concurrency=2, RELEASE="v7")
    wait_for(lambda: row(clerk).get("state") == "running", "the first sign of life")
    clerk.do("nap.delay(0.1); nap.delay(8)")
    wait_for(lambda: row(clerk)["busy"] == 1 and row(clerk)["processed"] == 1, "one nap over, one under way", 20)
    found = row(clerk)
    assert found["pid"] == worker.process.pid
    assert (found["kind"], found["concurrency"], found["pool"]) == ("prefork", 2, "general")
    assert found["queues"] == "default,high,low"
    assert found["release"] == "v7"
    assert found["held"] == 1
    assert found["load"] > 0
    assert 50e6 < found["memory_bytes"] < 1e9
    assert seconds_between(found["seen_at"], found["lease_until"]) == pytest.approx(LEASE_SECONDS, abs=0.1)
    worker.tell(signal.SIGTERM)
    wait_for(lambda: row(clerk)["state"] == "draining", "the drain", 5)
    assert row(clerk)["busy"] == 1
    assert worker.process.wait(30) == 0
    found = row(clerk)
    assert (found["state"], found["busy"], found["held"]) == ("stopped", 0, 0)


def test_a_worker_that_stands_still_is_lost_after_a_lease_and_a_busy_or_draining_one_is_not(shop, clerk):
    still, busy, draining = (shop.start_worker(f"--queues={queue}") for queue in ("high", "default", "low"))
    clerk.do(f"[nap.apply_async(({3 * LEASE_SECONDS},), priority=priority) for priority in (9, 5, 0)]")
    wait_for(lambda: clerk.do("Run.objects.filter(state='running').count()") == 3, "all at work", 20)
    draining.tell(signal.SIGTERM)
    wait_for(lambda: row(clerk, "w2")["state"] == "draining", "the drain")
    still.tell(signal.SIGSTOP)
    wait_for(
        lambda: (
            seconds_between(
                *clerk.do(
                    "Worker.objects.filter(name__startswith='w0').annotate(now=Now())"
                    ".values_list('lease_until', 'now').first()"
                )
            )
            > 0
        ),
        "its lease",
        30,
    )
    assert [name.partition("@")[0] for name in clerk.do("fleet.lose_overdue(100)")] == ["w0"]
    assert [row(clerk, name)["state"] for name in ("w0", "w1", "w2")] == ["lost", "running", "draining"]
    still.tell(signal.SIGCONT)
    wait_for(lambda: row(clerk, "w0")["state"] == "running", "its next sign of life", 15)
    assert not busy.ended()


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_worker_of_another_pool_lives_while_it_is_busy_and_stops_as_it_should(shop, clerk, pool):
    worker = shop.start_worker(f"--pool={pool}")
    clerk.do(f"nap.delay({2 * LEASE_SECONDS})")
    wait_for(lambda: row(clerk).get("busy") == 1, "the nap", 20)
    assert row(clerk)["kind"] == pool
    while clerk.do("Run.objects.get().state") == "running":
        assert min(lease_left(clerk), default=1) > 0
        assert clerk.do("fleet.lose_overdue(100)") == []
        time.sleep(0.3)
    assert worker.stop() == 0
    assert row(clerk)["state"] == "stopped"


# The services --------------------------------------------------------------------------------------------------------


def sign(**fields: Any) -> Sign:
    return Sign(**{"kind": "prefork", "concurrency": 2, "pid": 1, **fields})


def test_a_row_of_a_worker_of_the_same_name_is_taken_over(db):
    fleet.beat("w@x", sign(pid=1, age_seconds=3600), 60, is_first=True)
    before = Worker.objects.get()
    fleet.beat("w@x", sign(pid=1, busy=2), 60)
    assert Worker.objects.get().started_at == before.started_at
    fleet.stop("w@x")
    fleet.beat("w@x", sign(pid=2, age_seconds=1), 60, is_first=True)
    found = Worker.objects.get()
    assert (found.pid, found.state) == (2, "running")
    assert (found.started_at - before.started_at).total_seconds() > 3000


def test_a_worker_whose_row_was_deleted_comes_back_with_its_next_sign_of_life(db):
    fleet.beat("w@x", sign(age_seconds=100), 60)
    assert [worker.name for worker in fleet.workers()] == ["w@x"]


def test_a_worker_is_lost_when_its_lease_is_over_and_not_before(db):
    fleet.beat("alive@x", sign(), 60)
    fleet.beat("overdue@x", sign(is_draining=True), -1)
    fleet.beat("stopped@x", sign(), -1)
    fleet.stop("stopped@x")
    assert fleet.lose_overdue(10, grace_seconds=30) == []
    assert fleet.lose_overdue(10) == ["overdue@x"]
    assert fleet.lose_overdue(10) == []
    fleet.beat("overdue@x", sign(), 60)
    assert {worker.name: worker.state for worker in fleet.workers()} == {
        "alive@x": "running",
        "overdue@x": "running",
        "stopped@x": "stopped",
    }


def test_only_workers_that_ended_long_ago_are_forgotten(db):
    for name in ("alive@x", "stopped@x", "lost@x", "new@x"):
        fleet.beat(name, sign(), -1 if name == "lost@x" else 60)
    fleet.stop("stopped@x")
    fleet.stop("new@x")
    fleet.lose_overdue(10)
    before = timezone.now() - timedelta(days=1)
    Worker.objects.exclude(name="new@x").update(seen_at=before - timedelta(hours=1))
    assert fleet.forget(before, 1) == 1
    assert fleet.forget(before, 10) == 1
    assert fleet.forget(before, 10) == 0
    assert {worker.name for worker in fleet.workers()} == {"alive@x", "new@x"}


def test_a_command_that_is_committed_late_is_heard_and_none_is_heard_twice(db):
    first, late, third = (fleet.send(f"{number}", 300) for number in range(3))
    body = Command.objects.get(pk=late).body
    Command.objects.filter(pk=late).delete()
    known = dict(fleet.commands(first - 1, (), 10))
    assert list(known) == [first, third]
    Command.objects.create(pk=late, body=body, created_at=timezone.now(), expires_at=timezone.now() + timedelta(days=1))
    assert fleet.commands(first - 1, known, 10) == [(late, body)]


def test_a_command_that_is_over_is_not_heard(db):
    fleet.send("{}", -1)
    assert fleet.commands(0, (), 10) == []


def test_commands_answers_and_revocations_are_forgotten_when_they_are_over(db):
    now = timezone.now()
    fleet.send("{}", 300)
    over = fleet.send("{}", -10)
    fleet.answer("ticket", "{}")
    fleet.answer("ticket", "{}")
    Reply.objects.filter(pk=Reply.objects.first().pk).update(created_at=now - timedelta(hours=1))
    fleet.revoke_stamped("customer", ["a", "b"])
    Revocation.objects.filter(value="a").update(expires_at=now - timedelta(days=1))
    assert fleet.forget_commands(timezone.now(), 100) == 3
    assert not Command.objects.filter(pk=over).exists()
    assert (Command.objects.count(), Reply.objects.count(), Revocation.objects.count()) == (1, 1, 1)


def test_what_is_revoked_again_holds_longer(db):
    fleet.revoke_stamped("customer", ["a", "a"])
    Revocation.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert fleet.revocations(10) == ([], {})
    fleet.revoke_stamped("customer", ["a", "b"])
    assert fleet.revocations(10) == ([], {"customer": ["a", "b"]})


def test_a_name_that_is_too_long_to_be_recorded_is_refused(db):
    with pytest.raises(fleet.RevocationError, match="has 300 characters, and nothing of more than 255 is recorded"):
        fleet.revoke_stamped("customer", ["x" * 300])


# What they say to each other -----------------------------------------------------------------------------------------


def test_what_json_cannot_say_is_said_by_its_repr():
    thing = object()
    said = protocol.decode(protocol.encode("finish", number=1, request={"odd": thing, "at": timezone.now(), (1,): 2}))
    assert said is not None
    assert said["request"]["odd"] == repr(thing)
    assert said["request"]["at"].tzinfo


@pytest.mark.parametrize(
    "line", [b"", b"hello", b"[]", b'{"do": 1}', b"\xff\xfe", b'{"__type__": "no", "__value__": 1}']
)
def test_a_line_that_is_none_of_theirs_says_nothing(line):
    assert protocol.decode(line) is None


def test_lines_are_whole_however_they_are_cut():
    lines, whole = protocol.Lines(), b"".join(b"line %d\n" % number for number in range(20)) + b"rest"
    found = [line for start in range(0, len(whole), 3) for line in lines.take(whole[start : start + 3])]
    assert found == [b"line %d" % number for number in range(20)]
    assert lines.take(b"\n") == [b"rest"]
