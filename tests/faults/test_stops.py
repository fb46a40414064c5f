"""Workers that stop, are stopped or are killed: all work goes on elsewhere, at once where that is possible."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter

import pytest

from tests.faults.messages import envelope, put
from tests.faults.plant import Plant, Trace, Worker
from tests.waiting import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.broker]

LINGER, CRASH = "tests.faults.app.linger", "tests.faults.app.crash"
#: Prefork in every run, the others in CI.
PREFORK_FIRST = [
    "prefork",
    pytest.param("threads", marks=pytest.mark.slow),
    pytest.param("solo", marks=pytest.mark.slow),
]
#: A lease so long that nothing that is back soon has waited for its end.
LONG_LEASE = 30
#: Until an answer to a signal counts as immediate: the thread that looks for stops does so once a second.
AT_ONCE = 2.5


def put_work(works: Plant, count: int, task: str = LINGER) -> None:
    put(works, [envelope(task=task, args=[number]) for number in range(count)])


def arguments(traces: list[Trace]) -> list[int]:
    return sorted(int(trace.argument) for trace in traces)


def assert_each_ran_once(works: Plant, count: int) -> None:
    assert arguments(works.traces("ran")) == list(range(count))
    assert works.dead_letters() == []
    assert works.depth() == 0


def await_began(works: Plant, count: int = 1) -> None:
    wait_for(lambda: len(works.traces("began")) >= count, "the beginning of the work", 20)


def await_poll(works: Plant) -> None:
    wait_for(lambda: works.server.counts["ReceiveMessage"] > 0, "the first poll", 5)


def full_worker(works: Plant, pool: str, lingers: float, **variables: str) -> Worker:
    """A worker of one slot that is at work on one of twelve tasks and has prefetched all that it may."""
    put_work(works, 12)
    worker = works.start_worker(pool, concurrency=1, FAULT_LINGER=str(lingers), **variables)
    await_began(works)
    assert works.in_flight() == 10
    return worker


@pytest.mark.parametrize("pool", PREFORK_FIRST)
def test_what_a_killed_worker_held_runs_elsewhere_within_one_lease(works, pool):
    killed = full_worker(works, pool, 60)
    works.start_worker("threads", concurrency=2)
    killed.kill()
    killed_at = time.time()
    works.await_empty(seconds=20)
    assert_each_ran_once(works, 12)
    assert max(trace.at for trace in works.traces()) - killed_at < works.lease_seconds + AT_ONCE


@pytest.mark.slow
def test_a_killed_pool_process_costs_its_own_task_a_pause_that_grows_and_nothing_else(works):
    worker = works.start_worker(concurrency=2)
    put(works, [envelope(task=CRASH, args=[2, "crash"])])
    put_work(works, 10)
    works.await_empty(seconds=30)
    at = [trace.at for trace in works.traces("began") if trace.argument == "crash"]
    # Celery's own look for processes that are gone comes every five seconds.
    assert 0.9 < at[1] - at[0] < 2 + 5 + AT_ONCE
    assert 1.9 < at[2] - at[1] < 4 + 5 + AT_ONCE
    first, second = (int(pause) for pause in re.findall("shows again in ([0-9]+) s", worker.text()))
    assert 1 <= first <= 2 <= second <= 4
    assert Counter(trace.argument for trace in works.traces()) == Counter(["crash", *map(str, range(10))])
    assert not worker.ended()
    assert works.dead_letters() == []


def test_a_pool_process_killed_from_outside_loses_no_task(works):
    worker = works.start_worker(concurrency=2, FAULT_LINGER="1")
    put_work(works, 4)
    await_began(works, 2)
    victim = works.traces("began")[0]
    os.kill(victim.pid, signal.SIGKILL)
    works.await_empty(seconds=30)
    assert_each_ran_once(works, 4)
    assert Counter(trace.task_id for trace in works.traces("began"))[victim.task_id] == 2
    assert not worker.ended()


def test_a_task_that_always_kills_its_process_is_dead_lettered_and_its_worker_lives(works):
    works.add_queue("work", prefetch=10, max_receives=2)
    worker = works.start_worker(concurrency=1)
    put(works, [envelope(task=CRASH, args=[99])])
    wait_for(lambda: len(works.dead_letters()) == 1, "the dead letter", 30)
    assert len(works.traces("began")) == 2
    put_work(works, 3)
    wait_for(lambda: len(works.traces()) == 3, "healthy tasks", 10)
    assert not worker.ended()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
@pytest.mark.parametrize("pool", ["prefork", "threads", pytest.param("solo", marks=pytest.mark.slow)])
def test_a_warm_stop_finishes_what_runs_and_gives_the_rest_back_at_once(works, pool, number):
    works.options["lease_seconds"] = LONG_LEASE
    worker = full_worker(works, pool, 3)
    worker.tell(number)
    wait_for(lambda: works.visible() == 11, "what was not started, at once", AT_ONCE)
    assert len(works.traces()) == 0, "the running task is still at work"
    works.start_worker("threads", concurrency=2)
    works.await_empty(seconds=20)
    assert worker.process.wait(10) == (1 if number == signal.SIGINT else 0)
    assert_each_ran_once(works, 12)
    assert arguments(works.traces("began")) == list(range(12))


@pytest.mark.parametrize("pool", PREFORK_FIRST)
def test_a_cold_stop_gives_back_what_it_cut_off_as_well(works, pool):
    works.options["lease_seconds"] = LONG_LEASE
    worker = full_worker(works, pool, 60 if pool == "prefork" else 3)
    (cut,) = works.traces("began")
    worker.tell(signal.SIGQUIT)
    wait_for(lambda: works.visible() >= 11, "what was not started, at once", AT_ONCE)
    # Threads, and solo, cannot be cut off: what runs there is finished.
    wait_for(lambda: works.depth() == works.visible(), "what was cut off", 20)
    worker.process.wait(20)
    works.start_worker("threads", concurrency=2)
    works.await_empty(seconds=20)
    assert_each_ran_once(works, 12)
    begun = Counter(trace.task_id for trace in works.traces("began"))
    assert [task for task, times in begun.items() if times > 1] == ([cut.task_id] if pool == "prefork" else [])


@pytest.mark.parametrize("pool", PREFORK_FIRST)
def test_a_soft_stop_gives_the_rest_back_at_once_and_lets_what_is_short_finish(works, pool):
    works.options["lease_seconds"] = LONG_LEASE
    works.config["worker_soft_shutdown_timeout"] = 3
    worker = full_worker(works, pool, 1.5, REMAP_SIGTERM="SIGQUIT")
    told_at = time.monotonic()
    worker.tell(signal.SIGTERM)
    wait_for(lambda: works.visible() == 11, "what was not started, at once", AT_ONCE)
    works.start_worker("threads", concurrency=2)
    worker.process.wait(30)
    works.await_empty(seconds=20)
    assert time.monotonic() - told_at < LONG_LEASE / 2
    assert_each_ran_once(works, 12)
    assert arguments(works.traces("began")) == list(range(12))


@pytest.mark.slow
def test_a_soft_stop_keeps_the_lease_of_what_runs_and_gives_back_what_is_too_long(works):
    works.options["lease_seconds"] = 2
    works.config["worker_soft_shutdown_timeout"] = 5
    worker = full_worker(works, "prefork", 60, REMAP_SIGTERM="SIGQUIT")
    (cut,) = works.traces("began")
    works.start_worker("threads", concurrency=2)
    told_at = time.time()
    worker.tell(signal.SIGTERM)
    worker.process.wait(30)
    works.await_empty(seconds=20)
    assert_each_ran_once(works, 12)
    (again,) = (trace for trace in works.traces("began") if trace.task_id == cut.task_id and trace.pid != cut.pid)
    assert 4.5 < again.at - told_at < 5 + AT_ONCE


@pytest.mark.parametrize("pool", PREFORK_FIRST)
def test_a_long_task_runs_once_through_a_drain_of_several_leases(works, pool):
    works.options["lease_seconds"] = 2
    worker = full_worker(works, pool, 4.5)
    worker.tell(signal.SIGTERM)
    told_at = time.monotonic()
    wait_for(lambda: works.visible() == 11, "what was not started, at once", AT_ONCE)
    works.start_worker("threads", concurrency=2)
    wait_for(lambda: len(works.traces()) == 11, "the rest of the work", 5)
    works.await_empty(seconds=20)
    assert time.monotonic() - told_at > 3, "the drain took longer than a lease"
    assert worker.process.wait(10) == 0
    assert_each_ran_once(works, 12)
    assert arguments(works.traces("began")) == list(range(12))


@pytest.mark.parametrize("pool", PREFORK_FIRST)
def test_what_a_late_poll_brings_to_a_stopping_worker_is_visible_at_once(works, pool):
    works.options |= {"lease_seconds": LONG_LEASE, "wait_time_seconds": 6}
    worker = works.start_worker(pool)
    await_poll(works)
    worker.tell(signal.SIGTERM)
    wait_for(lambda: "waiting for long polls to end (1)" in worker.text(), "the end of all but the poll", 5)
    put_work(works, 1)
    queue = works.server.sqs.queues["work"]
    wait_for(lambda: len(queue.ready) == 1 and queue.ready[0].receives == 1, "the message, received and back", AT_ONCE)
    assert worker.process.wait(10) == 0
    works.start_worker("threads")
    works.await_empty(seconds=10)
    assert_each_ran_once(works, 1)


@pytest.mark.parametrize("drains", [4, pytest.param(10, marks=pytest.mark.slow)])
def test_drains_in_a_row_dead_letter_nothing_and_lose_nothing(works, drains):
    works.add_queue("work", prefetch=10, max_receives=3)
    works.options["lease_seconds"] = LONG_LEASE
    put_work(works, 15)
    for drain in range(drains):
        worker = works.start_worker("prefork" if drain % 2 else "threads", concurrency=1, FAULT_LINGER="0.3")
        await_began(works, drain + 1)
        wait_for(lambda: works.in_flight() > 1 or works.depth() < 3, "a prefetch", 10)
        assert worker.stop() == 0
        assert works.in_flight() == 0
    assert len(works.traces()) < 15, "there is work left after the last drain"
    works.start_worker("threads", concurrency=2)
    works.await_empty(seconds=20)
    assert_each_ran_once(works, 15)


@pytest.mark.slow
def test_processes_that_are_replaced_after_a_few_tasks_lose_nothing(works):
    works.start_worker(concurrency=2, arguments=("--max-tasks-per-child=3",))
    put_work(works, 40)
    works.await_empty(seconds=40)
    assert_each_ran_once(works, 40)
    assert len({trace.pid for trace in works.traces()}) > 6


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGQUIT), (signal.SIGINT, signal.SIGINT)])
def test_a_second_signal_cuts_off_what_runs_and_gives_it_back(works, numbers):
    works.options["lease_seconds"] = LONG_LEASE
    worker = full_worker(works, "prefork", 60)
    worker.tell(numbers[0])
    wait_for(lambda: works.visible() == 11, "what was not started, at once", AT_ONCE)
    worker.tell(numbers[1])
    worker.process.wait(8)
    assert works.visible() == 12
    works.start_worker("threads")
    works.await_empty(seconds=20)
    assert_each_ran_once(works, 12)


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGTERM, signal.SIGQUIT),
        pytest.param((signal.SIGINT, signal.SIGINT), marks=pytest.mark.slow),
    ],
)
def test_a_second_signal_does_not_wait_for_long_polls(works, numbers):
    works.options["wait_time_seconds"] = 20
    worker = works.start_worker()
    await_poll(works)
    worker.tell(numbers[0])
    wait_for(lambda: "waiting for long polls to end (1)" in worker.text(), "the end of all but the poll", 5)
    worker.tell(numbers[1])
    worker.process.wait(5)
