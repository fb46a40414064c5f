"""The thread that pushes: nobody waits for it, whatever a push does."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from django_app.realtime.pushing.pusher import Pusher
from django_app.realtime.pushing.waiting import Waiting
from tests.waiting import wait_for

MOMENT = 0.05


class Pushes:
    """A pusher and what it has done. gate: pushes named "hang" wait for it."""

    def __init__(self, **options: Any) -> None:
        self.done: list[Any] = []
        self.threads: set[int] = set()
        self.released: list[int] = []
        self.gate = threading.Event()
        self.pusher = Pusher(lambda: self.released.append(threading.get_ident()), **options)

    def push(self, name: Any) -> None:
        self.threads.add(threading.get_ident())
        self.done.append(name)
        if name == "hang":
            self.gate.wait(60)
        if str(name).startswith("bad"):
            raise RuntimeError(f"{name}, as asked")

    def soon(self, key: Any, name: Any = None, **options: Any) -> None:
        called = key if name is None else name
        self.pusher.soon(key, lambda: self.push(called), **{"every_seconds": 0.0, **options})

    def await_done(self, *names: Any) -> None:
        wait_for(lambda: self.done == list(names), f"pushes {names}, now {self.done}")


@pytest.fixture
def pushes() -> Iterator[Pushes]:
    made = Pushes()
    yield made
    made.gate.set()
    with made.pusher._changed:
        # No thread of this one is left to the tests that come after.
        made.pusher._waiting, made.pusher._idle_seconds = Waiting(1), 0.0
        made.pusher._changed.notify_all()


def test_what_is_pushed_runs_in_one_thread_that_is_not_the_callers(pushes):
    for key in "abc":
        pushes.soon(key)
    pushes.await_done(*"abc")
    assert len(pushes.threads) == 1
    assert threading.get_ident() not in pushes.threads


def test_a_push_that_hangs_keeps_nobody_waiting_and_what_comes_meanwhile_is_coalesced(pushes):
    pushes.soon("hang")
    pushes.await_done("hang")
    began = time.monotonic()
    for number in range(1000):
        pushes.soon("a", number)
    # Far below the minute that the push may hang.
    assert time.monotonic() - began < 20
    assert pushes.pusher.flush(MOMENT) is False
    pushes.gate.set()
    pushes.await_done("hang", 999)


def test_what_raises_is_tried_again_and_stops_no_other(pushes):
    pushes.soon("bad")
    pushes.soon("good")
    wait_for(lambda: pushes.done.count("bad") >= 2, "another try")
    assert pushes.done.count("good") == 1


def test_the_thread_outlives_whatever_is_raised(pushes):
    def cancel() -> None:
        pushes.done.append("cancelled")
        raise asyncio.CancelledError

    pushes.pusher.soon("cancelled", cancel, every_seconds=0.0)
    pushes.soon("good")
    wait_for(lambda: "good" in pushes.done and pushes.done.count("cancelled") >= 2, "both")


def test_failures_are_told_once_a_minute_and_not_each(pushes):
    with structlog.testing.capture_logs() as lines:
        for number in range(20):
            pushes.soon(f"bad {number}")
        wait_for(lambda: len(pushes.done) >= 20, "all of them")
    assert [line["event"] for line in lines] == ["pushes_not_made"]
    assert "as asked" in lines[0]["error"]


def test_flush_pushes_at_once_what_would_have_waited_and_gives_back_what_was_held(pushes):
    pushes.soon("a", 1, every_seconds=1000)
    pushes.await_done(1)
    pushes.soon("a", 2, every_seconds=1000)
    assert pushes.pusher.flush(60) is True
    assert pushes.done == [1, 2]
    assert pushes.released
    assert set(pushes.released) == pushes.threads


def test_flush_waits_for_nothing_where_there_is_nothing(pushes):
    assert pushes.pusher.flush(0) is True
    pushes.soon("a")
    assert pushes.pusher.flush(60) is True
    assert pushes.pusher.flush(0) is True


def test_flush_waits_for_no_patient_push(pushes):
    pushes.soon("debt", after_seconds=1000, is_patient=True)
    pushes.soon("a")
    assert pushes.pusher.flush(60) is True
    pushes.soon("hang", is_patient=True)
    pushes.await_done("a", "hang")
    assert pushes.pusher.flush(60) is True


def test_the_thread_ends_when_it_is_idle_and_begins_anew():
    pushes = Pushes(idle_seconds=0.0)
    for number in range(3):
        pushes.soon("a", number)
        wait_for(lambda: pushes.pusher._thread is None, "the end of the thread")
        assert len(pushes.released) == number + 1
    assert pushes.done == [0, 1, 2]


def test_one_that_holds_nothing_yet_is_not_asked_to_give_it_back(pushes):
    pushes.soon("later", after_seconds=1000)
    assert pushes.pusher.flush(0) is False
    wait_for(lambda: pushes.done == ["later"], "the push")


def test_where_too_many_wait_some_are_dropped_and_it_is_told():
    pushes = Pushes(most=5)
    with structlog.testing.capture_logs() as lines:
        pushes.soon("hang")
        pushes.await_done("hang")
        for number in range(50):
            pushes.soon(number, may_drop=True)
        pushes.gate.set()
        assert pushes.pusher.flush(60)
    assert pushes.done == ["hang", *range(45, 50)]
    assert [(line["event"], line["dropped"]) for line in lines] == [("pushes_not_made", 45)]


def test_many_threads_may_push_at_once_and_the_last_of_each_key_comes(pushes):
    def ask(key: int) -> None:
        for number in range(200):
            pushes.soon(key, (key, number))

    threads = [threading.Thread(target=ask, args=(key,)) for key in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pushes.pusher.flush(60)
    assert {(key, 199) for key in range(8)} <= set(pushes.done)


def test_a_forked_child_has_a_thread_of_its_own_and_nothing_of_its_parents(pushes):
    pushes.soon("hang")
    pushes.await_done("hang")
    pushes.soon("parent's")
    read, write = os.pipe()
    # While another thread holds the lock.
    with pushes.pusher._changed:
        pid = os.fork()
        if pid == 0:
            pushes.done.clear()
            pushes.soon("child's")
            pushes.pusher.flush(30)
            os.write(write, repr(pushes.done).encode())
            os._exit(0)
    os.close(write)
    answered, _, _ = select.select([read], [], [], 60)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert answered, "the child waits for a lock that nobody gives back"
    assert os.read(read, 100) == b'["child\'s"]'
    os.close(read)
    pushes.gate.set()
    pushes.await_done("hang", "parent's")
