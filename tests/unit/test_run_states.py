"""Where a run may move, whatever is reported of it and in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from django_app.ledger.states import FINAL, Report, State, after, sources, target

#: How far along a run is; a report never leads back, but for those that begin a new round.
RANK = {State.PENDING: 0, State.WAITING: 0, State.QUEUED: 1, State.LOST: 2, State.RUNNING: 2} | dict.fromkeys(FINAL, 3)


@pytest.mark.parametrize("state", sorted(FINAL))
@pytest.mark.parametrize("report", Report)
def test_what_has_ended_stays_as_it_ended(state, report):
    assert after(state, report) is state


def test_a_published_mark_that_comes_late_changes_nothing():
    assert after(State.RUNNING, Report.PUBLISHED) is State.RUNNING
    assert after(State.SUCCEEDED, Report.PUBLISHED) is State.SUCCEEDED


def test_an_attempt_that_was_taken_over_may_end_the_run_but_not_lose_it():
    assert after(State.RUNNING, Report.LOST, attempt=1, newest=2) is State.RUNNING
    assert after(State.RUNNING, Report.RELEASED, attempt=1, newest=2) is State.RUNNING
    assert after(State.RUNNING, Report.SUCCEEDED, attempt=1, newest=2) is State.SUCCEEDED
    assert after(State.RUNNING, Report.LOST, attempt=2, newest=2) is State.LOST


@given(st.sampled_from(State), st.sampled_from(Report))
def test_a_report_that_counts_once_changes_nothing_when_it_is_repeated(state, report):
    once = after(state, report)
    assert after(once, report) is once


def test_every_state_is_reached_and_every_open_one_can_end():
    assert {target(report) for report in Report} == set(State)
    for state in set(State) - FINAL:
        assert any(state in sources(report) and target(report) in FINAL for report in Report)


class Life(RuleBasedStateMachine):
    """A run whose reports are duplicated, delayed and reordered."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State.PENDING
        self.attempts = 0
        self.ended: State | None = None
        self.said: list[tuple[Report, int | None]] = []

    def hear(self, report: Report, attempt: int | None) -> None:
        before = self.state
        self.state = after(before, report, attempt=attempt, newest=self.attempts)
        if self.state is not before and report not in (Report.RELEASED, Report.HANDED_BACK):
            assert RANK[self.state] >= RANK[before] or self.state is State.WAITING
        if self.state in FINAL and self.ended is None:
            self.ended = self.state

    @rule(report=st.sampled_from([each for each in Report if each is not Report.CLAIMED]), data=st.data())
    def report(self, report: Report, data: st.DataObject) -> None:
        attempt = data.draw(st.none() | st.integers(1, self.attempts)) if self.attempts else None
        self.said.append((report, attempt))
        self.hear(report, attempt)

    @rule()
    def claim(self) -> None:
        if self.state not in FINAL:
            self.attempts += 1
            self.hear(Report.CLAIMED, self.attempts)
            assert self.state is State.RUNNING

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        if self.said:
            self.hear(*data.draw(st.sampled_from(self.said)))

    @invariant()
    def it_ends_once(self) -> None:
        assert self.ended is None or self.state is self.ended


TestLife = Life.TestCase
