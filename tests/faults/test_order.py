"""What runs when, and where: levels, room, FIFO groups, delays, and how often an idle worker asks."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from datetime import datetime

import pytest

from tests.faults.messages import FAIL, NAP, client, envelope, put
from tests.faults.plant import Plant, Trace
from tests.waiting import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.broker]

CRASH = "tests.faults.app.crash"
LEVELS = ("high", "middle", "low")


@pytest.fixture
def bare(works: Plant) -> Plant:
    """The plant with the queues that the test will add and no others."""
    works.queues.clear()
    return works


def add_levels(bare: Plant, prefetch: int, names: tuple[str, ...] = LEVELS) -> None:
    for level, name in enumerate(names):
        bare.add_queue(name, prefetch=prefetch, level=level)


def put_naps(works: Plant, queue: str, count: int, seconds: float) -> None:
    put(works, [envelope(task=NAP, args=[seconds, f"{queue} {number}"]) for number in range(count)], queue)


def ran_queues(works: Plant) -> list[str]:
    """The queues of what ran, in order."""
    return [trace.argument.split()[0] for trace in sorted(works.traces(), key=lambda trace: trace.at)]


def await_all_empty(works: Plant, seconds: float = 60) -> None:
    for name in works.queues:
        works.await_empty(name, seconds)


def most_at_once(works: Plant) -> int:
    """How many naps were under way at the same time, at most."""
    changes = [(trace.at, 1) for trace in works.traces("began")] + [(trace.at, -1) for trace in works.traces("ran")]
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


@pytest.mark.parametrize("prefetch", [1, 10])
def test_queues_are_emptied_in_the_order_of_their_levels(bare, prefetch):
    bare.options["starvation_guard"] = 1000
    add_levels(bare, prefetch)
    for name in reversed(LEVELS):
        put_naps(bare, name, 14, 0.01)
    # Named in the wrong order, which must not matter.
    bare.start_worker("threads", concurrency=1, queues="low,middle,high")
    await_all_empty(bare)
    assert ran_queues(bare) == [name for name in LEVELS for _ in range(14)]


@pytest.mark.parametrize(("prefetch", "fewest", "most"), [(1, 5, 9), (10, 2, 5)])
def test_a_less_urgent_queue_gets_its_turn_and_no_more_while_a_more_urgent_one_is_busy(bare, prefetch, fewest, most):
    bare.options["starvation_guard"] = 5
    add_levels(bare, prefetch, ("high", "low"))
    put_naps(bare, "low", 30, 0.01)
    put_naps(bare, "high", 40, 0.01)
    bare.start_worker("threads", concurrency=1)
    await_all_empty(bare)
    order = ran_queues(bare)
    last_high = max(place for place, name in enumerate(order) if name == "high")
    # With prefetch 10 a level's turn is a batch: one in ten, or so.
    assert fewest <= order[:last_high].count("low") <= most


@pytest.mark.parametrize(("prefetch", "overtaken"), [(1, 2), (10, 13)])
def test_an_urgent_message_overtakes_all_of_a_backlog_that_is_not_yet_held(bare, prefetch, overtaken):
    add_levels(bare, prefetch, ("high", "low"))
    put_naps(bare, "low", 40, 0.1)
    bare.start_worker("threads", concurrency=1)
    wait_for(lambda: len(bare.traces()) > 2, "the work", 10)
    put_naps(bare, "high", 1, 0.01)
    before = ran_queues(bare).count("low")
    wait_for(lambda: "high" in ran_queues(bare), "the urgent message", 10)
    order = ran_queues(bare)
    assert order.index("high") - before <= overtaken + 1


def test_many_queues_together_hold_no_more_than_the_slots_and_leave_the_rest_to_others(bare):
    bare.options["ack_linger_seconds"] = 0
    names = [f"queue{number}" for number in range(4)]
    for name in names:
        bare.add_queue(name, prefetch=1)
        put_naps(bare, name, 8, 0.15)
    bare.start_worker("threads", concurrency=2)
    surplus_since: float | None = None
    longest_surplus = 0.0
    samples = over = 0
    deadline = time.monotonic() + 30
    while any(bare.depth(name) for name in names):
        assert time.monotonic() < deadline, "the work does not end"
        held, now = sum(bare.in_flight(name) for name in names), time.monotonic()
        surplus_since = (surplus_since or now) if held > 2 else None
        longest_surplus = max(longest_surplus, now - (surplus_since or now))
        samples, over = samples + 1, over + (held > 2)
        time.sleep(0.005)
    assert longest_surplus < 0.3
    assert over < samples / 10
    assert most_at_once(bare) == 2
    assert len(bare.traces()) == 32
    # Each queue had its share throughout: none was left for last.
    assert set(ran_queues(bare)[:16]) == set(names)


@pytest.mark.parametrize("prefetch", [pytest.param(1, marks=pytest.mark.slow), 10])
def test_short_tasks_never_wait_behind_a_long_one_that_runs(bare, prefetch):
    bare.add_queue("long", prefetch=1)
    bare.add_queue("short", prefetch=prefetch)
    put_naps(bare, "long", 1, 3)
    put_naps(bare, "short", 9, 0.01)
    workers = [bare.start_worker("prefork", concurrency=1) for _ in range(2)]
    await_all_empty(bare)
    (long,) = (trace for trace in bare.traces("ran") if trace.argument.startswith("long"))
    (began,) = (trace for trace in bare.traces("began") if trace.argument.startswith("long"))
    shorts = [trace for trace in bare.traces("ran") if trace.argument.startswith("short")]
    assert len(shorts) == 9
    assert max(trace.at for trace in shorts) < max(began.at + 2.5, min(trace.at for trace in shorts) + 2)
    assert max(trace.at for trace in shorts) < long.at
    assert not any(worker.ended() for worker in workers)


@pytest.mark.slow
@pytest.mark.parametrize("prefetch", [1, 10])
def test_short_tasks_that_come_later_go_past_a_busy_worker(bare, prefetch):
    bare.add_queue("long", prefetch=1)
    bare.add_queue("short", prefetch=prefetch)
    for _ in range(2):
        bare.start_worker("threads", concurrency=1)
    put_naps(bare, "long", 1, 3)
    wait_for(lambda: bare.traces("began"), "the long task", 10)
    put_naps(bare, "short", 9, 0.01)
    sent_at = time.time()
    await_all_empty(bare)
    shorts = [trace for trace in bare.traces("ran") if trace.argument.startswith("short")]
    assert max(trace.at for trace in shorts) - sent_at < 1.5


@pytest.mark.parametrize(("wait", "seconds"), [(1, 4), pytest.param(20, 61, marks=pytest.mark.slow)])
def test_an_idle_worker_asks_once_a_long_poll(bare, wait, seconds):
    bare.options["wait_time_seconds"] = wait
    names = [f"queue{number}" for number in range(3)]
    for name in names:
        bare.add_queue(name, prefetch=10)
    bare.start_worker("threads", concurrency=2)
    wait_for(lambda: bare.server.counts["ReceiveMessage"] >= 3, "the first polls", 5)
    before = bare.server.counts.copy()
    time.sleep(seconds)  # what is measured
    asked = bare.server.counts["ReceiveMessage"] - before["ReceiveMessage"]
    assert asked <= len(names) * (seconds / wait + 1)
    assert asked >= len(names) * (seconds // wait - 1), "it does ask"
    assert bare.server.counts["requests"] - before["requests"] == asked, "and nothing else"


# FIFO queues -----------------------------------------------------------------------------------------------------------


def put_groups(bare: Plant, bodies: dict[str, list[dict]]) -> None:
    """The groups' messages, interleaved."""
    sqs, url = client(bare.server.url), bare.queues["work.fifo"]["url"]
    for number in range(max(map(len, bodies.values()))):
        for group, listed in bodies.items():
            if number < len(listed):
                sqs.send_message(
                    QueueUrl=url,
                    MessageBody=json.dumps(listed[number]),
                    MessageGroupId=group,
                    MessageDeduplicationId=f"{group} {number}",
                )


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.slow)])
def test_a_fifo_group_runs_in_order_and_groups_run_side_by_side(bare, pool):
    bare.add_queue("work.fifo", prefetch=10)
    groups = {group: [envelope(task=NAP, args=[0.1, f"{group} {number}"]) for number in range(8)] for group in "abcd"}
    groups["b"][3] = envelope(task=FAIL, args=["b 3"])
    put_groups(bare, groups)
    bare.start_worker(pool, concurrency=4)
    bare.await_empty("work.fifo", 30)
    assert_in_order(bare.traces(), dict.fromkeys(groups, 8))
    assert most_at_once(bare) > 2


@pytest.mark.slow
def test_a_fifo_group_stays_in_order_when_one_of_it_kills_its_process_and_comes_back(bare):
    bare.options["lease_seconds"] = 10
    bare.add_queue("work.fifo", prefetch=10)
    groups = {group: [envelope(args=[f"{group} {number}"]) for number in range(8)] for group in "ab"}
    groups["a"][2] = envelope(task=CRASH, args=[1, "a 2"])
    put_groups(bare, groups)
    bare.start_worker(concurrency=4)
    bare.await_empty("work.fifo", 30)
    assert_in_order(bare.traces(), {"a": 8, "b": 8})
    ran = {trace.argument: trace.at for trace in bare.traces()}
    assert ran["b 7"] < ran["a 2"], "the other group does not wait"


def assert_in_order(traces: list[Trace], counts: dict[str, int]) -> None:
    order = defaultdict(list)
    for trace in sorted(traces, key=lambda trace: trace.at):
        group, number = trace.argument.split()
        order[group].append(int(number))
    assert order == {group: list(range(count)) for group, count in counts.items()}


# What producers say ----------------------------------------------------------------------------------------------------


def test_the_group_header_becomes_the_message_group_of_a_standard_queue(works):
    works.options["group_header"] = "tenant"
    works.send("note.apply_async(headers={'tenant': 'acme'})\nnote.delay()")
    assert [message.group for message in works.server.sqs.queues["work"].ready] == ["acme", None]


def test_a_countdown_up_to_a_quarter_of_an_hour_is_the_delay_of_sqs(works):
    works.send("note.apply_async(countdown=2)\nnote.apply_async(countdown=900)")
    queue = works.server.sqs.queues["work"]
    assert works.server.sqs.counts(queue) == {"visible": 0, "in_flight": 0, "delayed": 2}
    seconds = sorted(until - time.monotonic() for until, _, _ in queue.delayed)
    assert seconds[0] <= 2
    assert 890 < seconds[1] <= 900
    eta = min(json.loads(message.body)["headers"]["eta"] for _, _, message in queue.delayed)
    works.start_worker()
    wait_for(works.traces, "the delayed task", 10)
    late = works.traces()[0].at - datetime.fromisoformat(eta).timestamp()
    assert 0 <= late < 1.5


def test_a_longer_countdown_is_refused_with_a_remedy_unless_a_hook_keeps_it(works):
    code = """
from serverless.broker import DelayError
try:
    note.apply_async(countdown=1000)
except DelayError as error:
    print(error)
"""
    said = works.send(code)
    assert 'task tests.faults.app.note to queue "work" is delayed by 1000 s; SQS delays by 900 at most' in said
    assert "delay_hook" in said
    works.options["delay_hook"] = "tests.faults.app:keep"
    assert works.send(code) == ""
    (kept,) = works.traces("kept")
    assert kept.argument == "work 1000"
    assert works.depth() == 0


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_an_idle_queue_takes_no_slot_from_a_busy_one(bare, pool):
    """One slot, and an idle poll of short messages that could fill it: long ones follow one another all the same."""
    bare.options["wait_time_seconds"] = 20
    bare.add_queue("idle", prefetch=10)
    bare.add_queue("busy", prefetch=1)
    bare.start_worker(pool, concurrency=1, queues="idle,busy")
    began = time.monotonic()
    put_naps(bare, "busy", 8, 0.2)
    bare.await_empty("busy", 15)
    assert time.monotonic() - began < 6
