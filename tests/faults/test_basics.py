"""The broker with real workers and nothing wrong: what all else builds on."""

from __future__ import annotations

import pytest

from tests.faults.messages import put

POOLS = ["prefork", "threads", "solo"]


@pytest.mark.parametrize("pool", POOLS)
def test_every_task_runs_once_and_nothing_is_left(works, pool):
    works.start_worker(pool)
    works.send("from celery import group\ngroup(note.s(n) for n in range(95)).apply_async()\nnote.delay(95)")
    works.await_empty()
    assert sorted(int(trace.argument) for trace in works.traces()) == list(range(96))
    assert works.dead_letters() == []


def test_a_worker_and_a_producer_need_no_permission_but_to_send_receive_delete_and_hide(works):
    """Queues are named in advance: nothing is listed, created or asked for its attributes, also not for poison."""
    works.server.counts.clear()
    works.start_worker()
    works.send(
        "from celery import group\ngroup(note.s(n) for n in range(12)).apply_async()\ncrash.delay(1)\nnap.delay(2)"
    )
    put(works, ["poison"])
    works.await_empty()
    # SendMessage is the test's own.
    operations = {name for name in works.server.counts if name[0].isupper()} - {"SendMessage"}
    assert operations == {
        "SendMessageBatch",
        "ReceiveMessage",
        "DeleteMessageBatch",
        "ChangeMessageVisibilityBatch",
    }
    assert len(works.dead_letters()) == 1


def test_a_task_of_a_pool_process_enqueues_further_tasks(works):
    """A forked process makes its own clients: it must not share a connection with its parent or its siblings."""
    works.start_worker(concurrency=4)
    works.send("from celery import group\ngroup(spread.s(10) for n in range(8)).apply_async()")
    works.await_empty()
    assert len(works.traces()) == 80
