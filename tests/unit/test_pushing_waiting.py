"""What waits to be pushed: one a key, spaced, the last always, and never too many."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_app.realtime.pushing.waiting import PAUSES, Waiter, Waiting

EVERY = 0.5


class Line:
    """What waits, and a clock that the test moves. ran: (time, key, what was added) of all that was taken."""

    def __init__(self, most: int = 100) -> None:
        self.waiting = Waiting(most)
        self.now = 1000.0
        self.ran: list[tuple[float, Any, Any]] = []

    def add(self, key: Any, name: Any = None, **options: Any) -> None:
        self.waiting.add(key, lambda: name, self.now, **{"every_seconds": EVERY, **options})

    def take(self) -> Waiter | None:
        waiter = self.waiting.take(self.now)
        if waiter is not None:
            self.ran.append((self.now, waiter.key, waiter.push()))
        return waiter

    def run_until(self, end: float) -> None:
        """Take each when it is due, as the thread does."""
        while (due := self.waiting.next_due()) is not None and due <= end:
            self.now = max(self.now, due)
            assert self.take() is not None, "what says that it is due is"
        self.now = max(self.now, end)


def test_the_first_of_a_key_is_due_at_once_and_the_next_when_its_time_has_come():
    line = Line()
    line.add("a", 1)
    assert line.take() is not None
    line.now += 0.1
    line.add("a", 2)
    assert line.take() is None
    assert line.waiting.next_due() == pytest.approx(1000.5)
    line.now = 1000.5
    assert line.take() is not None
    assert [name for *_, name in line.ran] == [1, 2]


def test_of_two_that_wait_with_one_key_the_later_one_is_left():
    line = Line()
    for name in (1, 2, 3):
        line.add("a", name)
    line.run_until(2000)
    assert [name for *_, name in line.ran] == [3]


def test_keys_do_not_wait_for_each_other():
    line = Line()
    for key in "abc":
        line.add(key)
    line.run_until(line.now)
    assert [key for _, key, _ in line.ran] == list("abc")


def test_one_that_is_to_come_later_comes_later():
    line = Line()
    line.add("a", after_seconds=1.05)
    assert line.waiting.next_due() == pytest.approx(1001.05)


def test_what_fails_is_tried_three_times_more_and_then_let_be():
    line = Line()
    line.add("a", every_seconds=0)
    waited = []
    while (due := line.waiting.next_due()) is not None:
        waited.append(due - line.now)
        line.now = due
        waiter = line.take()
        assert waiter is not None
        is_tried_again = line.waiting.put_back(waiter, line.now)
    assert not is_tried_again
    assert waited == pytest.approx([0, *PAUSES])


def test_what_fails_gives_way_to_a_newer_one_which_has_all_its_tries():
    line = Line()
    line.add("a", "old", every_seconds=0)
    old = line.take()
    assert old is not None
    line.add("a", "new", every_seconds=0)
    assert not line.waiting.put_back(old, line.now)
    assert line.waiting.put_back(line.take(), line.now)
    line.run_until(2000)
    assert [name for *_, name in line.ran] == ["old", "new", "new"]


def test_where_too_many_wait_the_oldest_that_may_be_dropped_goes_and_is_counted():
    line = Line(most=3)
    line.add("kept")
    for number in range(4):
        line.add(number, may_drop=True)
    line.run_until(line.now)
    assert [key for _, key, _ in line.ran] == ["kept", 2, 3]
    assert line.waiting.dropped == 2


def test_where_nothing_may_be_dropped_the_oldest_goes_all_the_same():
    line = Line(most=2)
    for key in "abc":
        line.add(key)
    line.run_until(line.now)
    assert [key for _, key, _ in line.ran] == ["b", "c"]


def test_when_the_process_ends_all_are_due_but_for_the_patient_ones():
    line = Line()
    line.add("a")
    line.take()
    line.add("a")
    line.add("debt", after_seconds=1, is_patient=True)
    assert line.waiting.is_awaited
    line.waiting.hurry(line.now)
    assert line.take() is not None
    assert line.take() is None
    assert not line.waiting.is_awaited
    assert len(line.waiting) == 1


def test_keys_that_were_pushed_long_ago_are_forgotten():
    line = Line(most=10)
    for number in range(10_000):
        line.add(number, every_seconds=0.001)
        line.run_until(line.now + 1)
    assert len(line.waiting._until) <= 21


steps = st.lists(
    st.tuples(st.sampled_from("abc"), st.floats(min_value=0, max_value=2, allow_nan=False)), min_size=1, max_size=60
)


@given(steps)
def test_whatever_comes_the_last_of_each_key_runs_and_never_two_within_its_time(coming):
    line = Line()
    last = {}
    for number, (key, pause) in enumerate(coming):
        line.add(key, number)
        last[key] = number
        line.run_until(line.now + pause)
    line.run_until(line.now + 10)
    for key, number in last.items():
        mine = [(time, name) for time, its, name in line.ran if its == key]
        assert mine[-1][1] == number
        assert [name for _, name in mine] == sorted({name for _, name in mine})
        assert all(later - earlier >= EVERY - 1e-9 for (earlier, _), (later, _) in itertools.pairwise(mine))


@given(steps)
def test_the_first_of_a_key_that_has_been_quiet_never_waits(coming):
    line = Line()
    for key, pause in coming:
        ran_at = max((time for time, its, _ in line.ran if its == key), default=0.0)
        is_quiet = line.now >= ran_at + EVERY and key not in line.waiting._waiters
        line.add(key)
        line.run_until(line.now)
        if is_quiet:
            assert line.ran[-1][:2] == (line.now, key)
        line.run_until(line.now + pause)


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=100), st.integers(1, 10))
def test_never_more_wait_than_may(coming, most):
    line = Line(most=most)
    for key, may_drop in coming:
        line.add(key, may_drop=may_drop)
        assert len(line.waiting) <= most
    kept = len(line.waiting)
    line.run_until(line.now + 10)
    assert len(line.ran) == kept
    assert line.waiting.next_due() is None
