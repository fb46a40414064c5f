"""Rare turns: what Celery drops, queues cancelled at work, connections made anew, leases over before work begins."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter

import pytest
from kombu import Connection, Consumer, Queue

from serverless import fakesqs
from tests.faults.messages import NAP, envelope, put
from tests.waiting import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.broker]


def put_naps(works, count: int, seconds: float = 1.0) -> None:
    put(works, [envelope(task=NAP, args=[seconds, number]) for number in range(count)])


def ran(works) -> Counter[str]:
    return Counter(trace.argument for trace in works.traces())


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_task_that_celery_drops_without_a_word_costs_no_slot_and_comes_back(works, pool):
    worker = works.start_worker(pool, concurrency=1, FAULT_BROKEN_BACKEND="yes")
    works.queues["work"]["prefetch"] = 1
    put(works, [envelope(task="tests.faults.app.refuse"), envelope(args=["behind it"])])
    wait_for(lambda: "Celery has dropped message" in worker.text(), "the notice", 20)
    wait_for(lambda: ran(works)["behind it"], "what was behind it", 20)
    assert not worker.ended()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_queue_that_is_cancelled_at_work_runs_nothing_twice(works, pool):
    put_naps(works, 5, 1.5)
    works.start_worker(pool, concurrency=1, FAULT_CANCEL_AFTER="1")
    works.start_worker(pool, concurrency=2)
    works.await_empty(seconds=30)
    assert ran(works) == Counter(map(str, range(5)))


def test_a_connection_that_celery_makes_anew_runs_nothing_twice(works):
    put_naps(works, 4, 3.0)
    worker = works.start_worker(concurrency=2, FAULT_RESTART_AFTER="1")
    works.await_empty(seconds=40)
    assert "Connection to broker lost" in worker.text()
    assert ran(works) == Counter(map(str, range(4)))


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_frozen_worker_begins_nothing_whose_lease_was_over_meanwhile(works, pool):
    put_naps(works, 6)
    frozen = works.start_worker(pool, concurrency=1)
    wait_for(lambda: works.traces("began"), "the first task", 20)
    frozen.tell(signal.SIGSTOP)
    other = works.start_worker(pool, concurrency=2)
    wait_for(lambda: len(ran(works)) >= 5, "the others", 40)
    frozen.tell(signal.SIGCONT)
    works.await_empty(seconds=20)
    put(works, [envelope(args=["after"])])
    works.await_empty(seconds=20)
    # The one that was cut in its middle cannot be called back.
    assert sum(count - 1 for count in ran(works).values()) <= 1
    assert not frozen.ended()
    assert not other.ended()


def test_a_countdown_hides_a_fifo_message_and_with_it_its_group(works):
    works.add_queue("ordered.fifo", prefetch=10)
    works.send(
        "for name, wait in (('first', 6), ('second', 0), ('third', 0)):\n"
        "    note.apply_async((name,), countdown=wait, queue='ordered.fifo', MessageGroupId='g')"
    )
    works.start_worker(concurrency=2)
    works.await_empty("ordered.fifo", 30)
    assert [trace.argument for trace in works.traces()] == ["first", "second", "third"]


@pytest.fixture
def connection(works, monkeypatch):
    for name, value in works.environment().items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    options = {
        "region": "us-east-1",
        "endpoint_url": works.server.url,
        "wait_time_seconds": 1,
        "predefined_queues": works.queues,
    }
    with Connection("sqs://", transport="serverless.broker:Transport", transport_options=options) as made:
        yield made


def test_two_channels_on_one_queue_do_not_disturb_each_other(works, connection):
    got: list[dict[str, int]] = []

    def take(message) -> None:
        got.append(message.payload)
        message.ack()

    consumers = [Consumer(connection.channel(), [Queue("work")], on_message=take, accept=["json"]) for _ in range(2)]
    for consumer in consumers:
        consumer.consume()
    consumers[0].cancel()
    connection.Producer().publish({"n": 1}, routing_key="work", exchange="")
    works.server.counts.clear()
    wait_for(lambda: (drained(connection), got)[1], "the message", 10)
    assert got == [{"n": 1}]
    assert works.server.counts["ReceiveMessage"] < 20


def drained(connection) -> bool:
    try:
        connection.drain_events(timeout=0.5)
    except TimeoutError:
        return False
    return True


def test_an_unanswered_deletion_holds_up_no_other_queue(works, connection):
    works.add_queue("other", prefetch=10)
    with connection.channel() as channel:
        put(works, [envelope()])
        put(works, [envelope() for _ in range(3)], queue="other")
        first = channel.basic_get("work")
        rest = [channel.basic_get("other") for _ in range(3)]
        works.server.faults = [fakesqs.Fault("DeleteMessageBatch", "black_hole", times=1)]
        first.ack()
        wait_for(lambda: works.server.faults[0].hits, "the black hole", 5)
        began = time.monotonic()
        for message in rest:
            message.ack()
        wait_for(lambda: works.depth("other") == 0, "the deletions of the other queue", 5)
        assert time.monotonic() - began < 2


def test_many_dead_letters_whose_queue_must_be_asked_for_take_one_thread(works, connection):
    works.server.faults = [fakesqs.Fault("GetQueueAttributes", "error", 503, "ServiceUnavailable", times=None)]
    works.add_queue("asked")
    works.queues["asked"] = {"url": works.queues["asked"]["url"]}
    connection.transport_options["predefined_queues"] = works.queues
    with connection.clone() as fresh, fresh.channel() as channel:
        put(works, ["poison"] * 30, queue="asked")
        before = threading.active_count()
        for _ in range(30):
            assert channel.basic_get("asked") is None
        assert threading.active_count() - before <= 8
        works.server.faults = []
        wait_for(lambda: len(works.dead_letters("asked")) == 30, "the dead letters", 30)


def test_a_fresh_copy_keeps_its_message_group(works):
    """Handed back at the policy's maximum: it is replaced, and stays its tenant's."""
    works.add_queue("fair", prefetch=1, max_receives=5)
    queue = works.server.sqs.queues["fair"]
    works.options["group_header"] = "tenant"
    works.send("nap.apply_async((30,), queue='fair')\nnote.apply_async(queue='fair', headers={'tenant': 'acme'})")
    # As if it had been handed out before, whatever came of it.
    queue.ready[1].receives = 3
    # One slot, so that the second is handed back: two slots' worth is received in the idle instant.
    worker = works.start_worker("solo", concurrency=1, queues="fair", arguments=("--prefetch-multiplier=2",))
    wait_for(lambda: works.traces("began"), "the first task", 10)
    wait_for(lambda: len(queue.hidden) == 2, "both held", 10)
    worker.tell(signal.SIGTERM)
    wait_for(lambda: queue.ready, "the second one back", 10)
    (back,) = queue.ready
    assert (back.group, back.receives) == ("acme", 0)
