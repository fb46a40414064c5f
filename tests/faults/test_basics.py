"""The broker with real workers and nothing wrong: what all else builds on."""

from __future__ import annotations

import pytest

POOLS = ["prefork", "threads", "solo"]


@pytest.mark.parametrize("pool", POOLS)
def test_every_task_runs_once_and_nothing_is_left(works, pool):
    works.start_worker(pool)
    works.send("from celery import group\ngroup(note.s(n) for n in range(95)).apply_async()\nnote.delay(95)")
    works.await_empty()
    assert sorted(int(trace.argument) for trace in works.traces()) == list(range(96))
    assert works.dead_letters() == []
