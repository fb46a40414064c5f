"""Leases: kept for as long as a worker lives and works, given up by one that hangs, and lost without harm."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from serverless.broker import leases
from serverless.broker.holdings import Delivery, Holdings
from serverless.broker.options import Options, QueueOptions
from tests.faults.messages import NAP, envelope, put
from tests.faults.plant import Plant
from tests.waiting import wait_for

LINGER, BLOCK = "tests.faults.app.linger", "tests.faults.app.block"
LEASE = 2


@pytest.fixture
def works(works: Plant) -> Plant:
    works.add_queue("work", prefetch=1)
    works.options["lease_seconds"] = LEASE
    return works


def await_began(works: Plant, count: int = 1) -> None:
    wait_for(lambda: len(works.traces("began")) >= count, "the beginning of the work", 20)


def test_tasks_of_three_leases_run_once_in_each_pool_while_others_would_take_them(works):
    pools = {works.start_worker(pool, concurrency=1).process.pid for pool in ("threads", "solo", "prefork")}
    put(works, [envelope(task=NAP, args=[3 * LEASE, number]) for number in range(3)])
    await_began(works, 3)
    assert len({trace.pid for trace in works.traces("began")}) == len(pools)
    works.start_worker("threads", concurrency=2)
    works.await_empty(seconds=20)
    assert sorted(trace.argument for trace in works.traces("ran")) == ["0", "1", "2"]
    assert len(works.traces("began")) == 3


def test_a_frozen_worker_is_replaced_after_one_lease_and_goes_on_when_it_thaws(works):
    frozen = works.start_worker("threads", concurrency=1, FAULT_LINGER="2")
    put(works, [envelope(task=LINGER)])
    await_began(works)
    frozen.tell(signal.SIGSTOP)
    stopped_at = time.time()
    other = works.start_worker("threads", concurrency=1)
    wait_for(lambda: works.traces("ran"), "the run elsewhere", LEASE + 5)
    works.await_empty(seconds=5)
    (ran,) = works.traces("ran")
    assert ran.pid == other.process.pid
    assert ran.at - stopped_at < LEASE + 1.5
    frozen.tell(signal.SIGCONT)
    wait_for(lambda: len(works.traces("ran")) == 2, "the late end of the first run", 10)
    other.kill()
    put(works, [envelope(args=["after"])])
    works.await_empty(seconds=10)
    assert works.traces("ran")[-1].pid == frozen.process.pid
    assert not frozen.ended()
    assert works.dead_letters() == []


def test_a_worker_whose_loop_is_blocked_gives_up_what_it_holds(works):
    hung = works.start_worker("threads", concurrency=1, FAULT_BLOCK="6.5")
    put(works, [envelope(task=BLOCK)])
    wait_for(lambda: works.traces("blocked"), "the block", 10)
    other = works.start_worker("threads", concurrency=1)
    wait_for(lambda: works.traces("ran"), "the run elsewhere", 4 * LEASE)
    (blocked,), (ran,) = works.traces("blocked"), works.traces("ran")
    assert ran.pid == other.process.pid
    # One lease until it counts as hung, and the one that was renewed last.
    assert LEASE < ran.at - blocked.at < 2 * LEASE + 1.5
    assert "event loop has not turned for" in hung.text()
    assert "CRITICAL" in hung.text()
    works.await_empty(seconds=5)
    other.kill()
    put(works, [envelope(args=["after"])])
    works.await_empty(seconds=15)
    # What it held is somebody else's by then: it is not begun a second time, and costs no slot.
    assert [trace.pid for trace in works.traces("ran")] == [other.process.pid, hung.process.pid]
    assert not hung.ended()


@pytest.mark.faults
@pytest.mark.broker
def test_a_thread_past_its_hard_time_limit_no_longer_keeps_its_message(works):
    works.config["task_time_limit"] = 1
    stuck = works.start_worker("threads", concurrency=1, FAULT_LINGER="7")
    put(works, [envelope(task=LINGER)])
    await_began(works)
    other = works.start_worker("threads", concurrency=1)
    wait_for(lambda: works.traces("ran"), "the run elsewhere", 6)
    assert works.traces("ran")[0].pid == other.process.pid
    assert "runs past its hard time limit" in stuck.text()
    works.await_empty(seconds=5)
    wait_for(lambda: len(works.traces("ran")) == 2, "the late end of the first run", 10)
    other.kill()
    put(works, [envelope(args=["after"])])
    works.await_empty(seconds=10)
    assert works.traces("ran")[-1].pid == stuck.process.pid


@pytest.mark.faults
@pytest.mark.broker
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_lost_lease_is_told_and_the_late_acknowledgement_tolerated(works, pool):
    loser = works.start_worker(pool, concurrency=1, FAULT_LINGER="3")
    put(works, [envelope(task=LINGER)])
    await_began(works)
    other = works.start_worker("threads", concurrency=1)
    queue = works.server.sqs.queues["work"]
    works.server.sqs.change_visibility(queue, next(iter(queue.hidden)), 0, time.monotonic())
    wait_for(lambda: works.traces("ran"), "the run elsewhere", 5)
    works.await_empty(seconds=5)
    assert works.traces("ran")[0].pid == other.process.pid
    wait_for(lambda: "is lost, another worker may run it as well" in loser.text(), "word of the lost lease", 5)
    wait_for(lambda: len(works.traces("ran")) == 2, "the late end of the first run", 10)
    other.kill()
    put(works, [envelope(args=["after"])])
    works.await_empty(seconds=10)
    assert not loser.ended()
    assert works.dead_letters() == []


def test_the_lease_hook_hears_of_every_renewed_task(works):
    works.add_queue("work", prefetch=10)
    works.options["lease_hook"] = "tests.faults.app:on_renewal"
    put(works, [envelope(task=NAP, args=[3, number]) for number in range(2)])
    works.start_worker(concurrency=1)
    works.await_empty(seconds=15)
    renewed = {trace.task_id for trace in works.traces("renewed")}
    assert renewed == {trace.task_id for trace in works.traces("ran")}
    assert len(renewed) == 2


def test_the_dead_letter_hook_hears_of_each_message_that_cannot_be_worked_on(works):
    works.options["dead_letter_hook"] = "tests.faults.app:on_dead_letter"
    put(works, [envelope(task="tests.faults.app.refuse"), {"no": "envelope"}])
    works.start_worker(concurrency=1)
    wait_for(lambda: len(works.dead_letters()) == 2, "the dead letters", 15)
    told = works.traces("dead")
    assert len(told) == 2
    assert {each.task_id == "None" for each in told} == {True, False}
    assert all(each.argument for each in told)


def test_a_message_long_before_its_eta_is_hidden_until_then_and_not_held(works):
    works.start_worker(concurrency=1)
    eta = datetime.now(UTC) + timedelta(seconds=5)
    put(works, [envelope(args=["later"], eta=eta.isoformat())])
    queue = works.server.sqs.queues["work"]
    wait_for(lambda: any(each.receives for _, each in queue.hidden.values()), "the first receive", 5)
    wait_for(lambda: _hidden_for(queue) > 2.2, "the message to be hidden for longer than a lease", 2)
    # The worker's one slot is free meanwhile, and more than a lease goes by.
    put(works, [envelope(args=["now"])])
    wait_for(works.traces, "what was sent later", 2)
    _, message = max(queue.hidden.values(), key=lambda held: held[0])
    works.await_empty(seconds=15)
    assert [trace.argument for trace in works.traces()] == ["now", "later"]
    assert 0 <= works.traces()[-1].at - eta.timestamp() < 2
    assert message.receives == 2


def _hidden_for(queue: Any) -> float:
    return max((until - time.monotonic() for until, _ in list(queue.hidden.values())), default=0.0)


@pytest.mark.faults
@pytest.mark.broker
def test_no_task_starts_before_its_eta_though_the_clock_was_set_back(works, tmp_path):
    works.options["lease_seconds"] = 20
    clock = tmp_path / "clock"
    clock.write_text("0")
    works.start_worker("threads", concurrency=1, FAULT_CLOCK=str(clock))
    eta = datetime.now(UTC) + timedelta(seconds=3)
    put(works, [envelope(args=["later"], eta=eta.isoformat())])
    wait_for(works.in_flight, "the message at the worker", 5)
    clock.write_text("-3")
    works.await_empty(seconds=15)
    (ran,) = works.traces()
    # By the worker's own clock, which goes after the world's by three seconds.
    assert 0 <= ran.at - eta.timestamp() < 2


# Without processes -----------------------------------------------------------------------------------------------------


@dataclass
class RecordingSqs:
    """Renewals by time, all of them granted."""

    options: Options
    renewals: list[int] = field(default_factory=list)

    def batch(self, operation: str, url: str, entries: list[dict[str, Any]]) -> tuple[dict[int, Any], None]:
        assert operation == "change_message_visibility_batch"
        self.renewals.append(len(entries))
        return {}, None


@pytest.mark.parametrize("jump", [-86_400.0, -30.0, 0.0, 30.0, 86_400.0])
def test_leases_are_renewed_at_a_third_whatever_the_wall_clock_does(monkeypatch, jump):
    now = SimpleNamespace(monotonic=1000.0, wall=1_700_000_000.0)
    clock = SimpleNamespace(monotonic=lambda: now.monotonic, time=lambda: now.wall)
    monkeypatch.setattr(leases, "time", clock)
    sqs = RecordingSqs(Options(lease_seconds=60))
    holdings = Holdings()
    keeper = leases.LeaseKeeper(sqs, holdings)
    holdings.add([Delivery("receipt", QueueOptions("work", url="url"), "id", "{}", 1, {}, None, now.monotonic)])
    keeper.look()
    now.wall += jump
    now.monotonic += 19
    keeper.look()
    assert sqs.renewals == []
    now.monotonic += 2
    keeper.look()
    assert sqs.renewals == [1]
    now.wall -= 2 * jump
    keeper.look()
    assert sqs.renewals == [1]
