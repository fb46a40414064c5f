"""Whether a message that has arrived may run: each verdict, and one run's life under everything that can befall it."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from django_app.ledger.claiming import Decision, Facts, Verdict, decide
from django_app.ledger.states import FINAL, Report, State, sources, target

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)
OPEN = sorted(set(State) - FINAL)
MOST_CRASHES = 5
QUEUED = Facts(
    state=State.QUEUED,
    holder="",
    lease_until=None,
    expires_at=None,
    crashes=0,
    sent=(0, 0),
    message_sent=(0, 0),
    is_revoked=False,
    reason_to_wait="",
    is_due_again=False,
    most_crashes=MOST_CRASHES,
)
HELD = replace(QUEUED, state=State.RUNNING, holder="another", lease_until=NOW + 30 * SECOND)
OVERDUE = replace(HELD, lease_until=NOW - SECOND)


def verdict(facts: Facts) -> Verdict:
    return decide(facts, NOW).verdict


# Verdicts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.PENDING, State.QUEUED, State.LOST])
def test_a_run_that_nobody_holds_may_run(state):
    """Pending as well: its message may arrive before the mark that it was published."""
    assert decide(replace(QUEUED, state=state), NOW) == Decision(Verdict.RUN)


@pytest.mark.parametrize("state", sorted(FINAL - {State.DEAD}))
def test_a_run_that_has_ended_is_done_whatever_else_is_true(state):
    facts = replace(HELD, state=state, is_revoked=True, expires_at=NOW, crashes=99, reason_to_wait="paused")
    assert decide(facts, NOW).verdict is Verdict.DONE


def test_the_message_with_which_a_run_became_dead_is_dead_lettered_again_and_an_earlier_one_is_done():
    """Its worker may have died between the record and the move."""
    dead = replace(QUEUED, state=State.DEAD, sent=(0, 1))
    assert verdict(replace(dead, message_sent=(0, 1))) is Verdict.DEAD_BEFORE
    assert verdict(replace(dead, message_sent=(0, 0))) is Verdict.DONE


def test_why_a_message_is_not_run_can_be_read():
    assert decide(replace(QUEUED, state=State.SUCCEEDED), NOW).reason == "it has ended: succeeded"
    assert decide(replace(QUEUED, state=State.DEAD), NOW).reason.startswith("it was dead-lettered before")
    assert decide(HELD, NOW).reason == "another attempt holds it"
    assert decide(replace(QUEUED, crashes=5), NOW).reason == "its process or worker died at it 5 times"
    assert decide(replace(QUEUED, reason_to_wait="paused"), NOW).reason == "paused"


def test_a_run_that_another_attempt_holds_is_handed_back_until_the_lease_is_over():
    assert decide(HELD, NOW) == Decision(Verdict.HELD, "another attempt holds it", 30.0)


def test_a_run_is_taken_over_from_the_moment_its_lease_is_over_and_not_before():
    assert verdict(replace(HELD, lease_until=NOW + datetime.timedelta(microseconds=1))) is Verdict.HELD
    assert verdict(replace(HELD, lease_until=NOW)) is Verdict.RUN


def test_a_message_of_an_earlier_try_has_moved_on():
    assert verdict(replace(QUEUED, sent=(0, 1))) is Verdict.MOVED
    assert verdict(replace(OVERDUE, sent=(0, 1))) is Verdict.MOVED


def test_a_replacement_counts_more_than_any_number_of_retries():
    assert verdict(replace(QUEUED, sent=(1, 0), message_sent=(0, 9))) is Verdict.MOVED
    assert verdict(replace(QUEUED, sent=(0, 9), message_sent=(1, 0))) is Verdict.RUN


def test_a_run_that_waits_takes_no_duplicate_of_the_message_that_it_keeps():
    assert verdict(replace(QUEUED, state=State.WAITING)) is Verdict.MOVED


def test_a_run_that_waits_for_a_rate_goes_on_in_the_message_that_sqs_keeps():
    assert verdict(replace(QUEUED, state=State.WAITING, is_due_again=True)) is Verdict.RUN


@pytest.mark.parametrize("state", OPEN)
def test_a_revoked_run_ends_as_revoked_before_it_begins(state):
    assert verdict(replace(QUEUED, state=state, is_revoked=True)) is Verdict.REVOKED
    assert verdict(replace(OVERDUE, is_revoked=True)) is Verdict.REVOKED


def test_a_revoked_run_that_is_at_work_is_left_to_its_attempt():
    """As with Celery, whose revoke() ends no task that has begun unless it is told to terminate it."""
    assert verdict(replace(HELD, is_revoked=True)) is Verdict.HELD


def test_an_expired_run_ends_as_expired_unless_it_has_begun():
    assert verdict(replace(QUEUED, expires_at=NOW)) is Verdict.EXPIRED
    assert verdict(replace(QUEUED, expires_at=NOW + SECOND)) is Verdict.RUN
    assert verdict(replace(HELD, expires_at=NOW)) is Verdict.HELD
    assert verdict(replace(OVERDUE, expires_at=NOW)) is Verdict.EXPIRED


def test_a_run_that_crashed_too_often_is_dead_and_a_holder_that_was_lost_counts():
    assert verdict(replace(QUEUED, crashes=MOST_CRASHES - 1)) is Verdict.RUN
    assert verdict(replace(QUEUED, crashes=MOST_CRASHES)) is Verdict.DEAD
    assert verdict(replace(OVERDUE, crashes=MOST_CRASHES - 1)) is Verdict.DEAD
    assert verdict(replace(OVERDUE, crashes=MOST_CRASHES - 2)) is Verdict.RUN


def test_a_paused_run_is_parked_and_one_that_is_past_its_time_does_not_wait():
    assert verdict(replace(QUEUED, reason_to_wait="paused")) is Verdict.PARK
    assert verdict(replace(QUEUED, reason_to_wait="paused", is_revoked=True)) is Verdict.REVOKED
    assert verdict(replace(QUEUED, reason_to_wait="paused", expires_at=NOW)) is Verdict.EXPIRED
    assert verdict(replace(QUEUED, reason_to_wait="paused", crashes=MOST_CRASHES)) is Verdict.DEAD


TIMES = st.none() | st.integers(-3, 3).map(lambda seconds: NOW + seconds * SECOND)
SENT = st.tuples(st.integers(0, 2), st.integers(0, 2))
FACTS = st.builds(
    Facts,
    state=st.sampled_from(State),
    holder=st.sampled_from(["", "another"]),
    lease_until=TIMES,
    expires_at=TIMES,
    crashes=st.integers(0, 7),
    sent=SENT,
    message_sent=SENT,
    is_revoked=st.booleans(),
    reason_to_wait=st.sampled_from(["", "paused"]),
    is_due_again=st.booleans(),
    most_crashes=st.integers(1, 6),
)


@given(FACTS)
def test_only_what_may_run_runs(facts):
    decision = decide(facts, NOW)
    if decision.verdict is not Verdict.RUN:
        assert decision.reason
        return
    assert facts.state not in FINAL
    assert facts.message_sent >= facts.sent
    assert not facts.is_revoked
    assert not facts.reason_to_wait
    assert facts.crashes < facts.most_crashes
    assert facts.expires_at is None or facts.expires_at > NOW
    assert facts.state is not State.RUNNING or facts.lease_until is None or facts.lease_until <= NOW


@given(FACTS)
def test_only_a_message_that_is_handed_back_is_told_when_to_show_again(facts):
    decision = decide(facts, NOW)
    assert (decision.seconds > 0) == (decision.verdict is Verdict.HELD)


# A run's life ------------------------------------------------------------------------------------------------------

LEASE = 60
MOST_CRASHES_OF_A_LIFE = 2
ENDED_OR_PARKED = (Verdict.REVOKED, Verdict.EXPIRED, Verdict.DEAD, Verdict.PARK)
#: One of the ways to go on.
HANDED_BACK = 2


@dataclass
class Row:
    """A run's row, as claims and outcomes change it. Times are in seconds."""

    state: State = State.PENDING
    holder: int = 0
    worker: str = ""
    lease_until: int | None = None
    expires_at: int | None = None
    crashes: int = 0
    retries: int = 0
    replacements: int = 0
    attempts: int = 0
    parked_for: str = ""
    is_revoked: bool = False

    @property
    def sent(self) -> tuple[int, int]:
        return self.replacements, self.retries

    def is_as(self, seen: Row) -> bool:
        """Whether nobody has changed it since: claims._unchanged, and the lease of one that is taken over."""
        return (self.state, self.attempts, self.holder, self.retries, self.lease_until) == (
            seen.state,
            seen.attempts,
            seen.holder,
            seen.retries,
            seen.lease_until,
        )


@dataclass
class Attempt:
    """One execution, as it sees itself: it holds the run until its lease is over or it has reported its end."""

    holder: int
    worker: str
    sent: tuple[int, int]
    lease_until: int
    is_over: bool = False


@dataclass
class Look:
    """A message in the hands of a worker that has read the row and has not written yet."""

    seen: Row
    message_sent: tuple[int, int]
    at: int
    wait: str
    worker: str


@dataclass
class Counts:
    ends: int = 0
    lost: int = 0
    begun: list[tuple[int, int]] = field(default_factory=list)


#: What may happen in a life, and how often in comparison.
HAPPENINGS = {
    "a_message_is_delivered": 9,
    "a_claim_is_written_late": 4,
    "time_passes": 6,
    "a_worker_renews_what_it_holds": 2,
    "a_process_dies": 3,
    "an_attempt_finishes": 1,
    "an_attempt_goes_on_in_another_message": 4,
    "the_sweep_comes": 1,
    "its_mark_as_published_comes": 1,
    "it_need_not_wait_any_longer": 2,
    "it_is_revoked": 1,
    "another_is_enqueued": 1,
}


class Life(RuleBasedStateMachine):
    """One run whose messages are duplicated, delayed and reordered, whose attempts are lost, taken over, finish late,
    retry and are replaced. A message stays deliverable for ever, and between look and write anything may happen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.begin_a_life(None)

    def begin_a_life(self, expires_at: int | None) -> None:
        self.row = Row(expires_at=expires_at)
        self.messages = [self.row.sent]
        self.looks: list[Look] = []
        self.attempts: list[Attempt] = []
        self.counts = Counts()

    # What is known of it

    def of(self, attempt: Attempt) -> bool:
        """Whether the row is that attempt's: outcomes._of."""
        return self.row.state is State.RUNNING and self.row.holder == attempt.holder

    def is_given_up(self, attempt: Attempt) -> bool:
        """Whether it was thought lost, and no other has taken the run: outcomes._of_or_given_up."""
        return self.row.state is State.LOST and self.row.attempts == attempt.holder

    def at_work(self) -> list[Attempt]:
        return [each for each in self.attempts if not each.is_over]

    def live(self) -> list[Attempt]:
        return [each for each in self.at_work() if each.lease_until > self.now]

    def move(self, report: Report, **changes: object) -> None:
        assert self.row.state in sources(report)
        self.row = replace(self.row, state=target(report), **changes)

    def finish(self, report: Report) -> None:
        """outcomes.finish: whoever ends it first has ended it."""
        if self.row.state in sources(report):
            self.move(report, lease_until=None, holder=0, parked_for="")
            self.counts.ends += 1

    def lose(self) -> None:
        self.move(Report.LOST, crashes=self.row.crashes + 1, lease_until=None, holder=0)
        self.counts.lost += 1

    # What happens

    @rule(
        what=st.sampled_from([name for name, often in HAPPENINGS.items() for _ in range(often)]),
        which=st.integers(0, 7),
        way=st.integers(0, 7),
    )
    def happen(self, what: str, which: int, way: int) -> None:
        """which: message, claim or attempt. way: of the several ways in which it may happen."""
        getattr(self, what)(which, way)

    def another_is_enqueued(self, which: int, way: int) -> None:
        if self.counts.ends or not self.counts.begun:
            self.begin_a_life([None, self.now + LEASE, self.now + 2 * LEASE][way % 3])

    def time_passes(self, which: int, way: int) -> None:
        self.now += [1, LEASE - 1, LEASE, LEASE + 1][way % 4]

    def its_mark_as_published_comes(self, which: int, way: int) -> None:
        if self.row.state in sources(Report.PUBLISHED):
            self.move(Report.PUBLISHED)

    def a_message_is_delivered(self, which: int, way: int) -> None:
        wait = {5: "paused", 6: "limit", 7: "rate"}.get(way, "")
        message_sent = self.messages[-1 - which % len(self.messages)]
        look = Look(replace(self.row), message_sent, self.now, wait, worker="ab"[which % 2])
        if way % 2:
            self.looks.append(look)
        else:
            self.write(look)

    def a_claim_is_written_late(self, which: int, way: int) -> None:
        if self.looks:
            self.write(self.looks.pop(which % len(self.looks)))

    def write(self, look: Look) -> None:
        """What claims.claim does with a row that it has read."""
        seen = look.seen
        facts = Facts(
            state=seen.state,
            holder=str(seen.holder),
            lease_until=None if seen.lease_until is None else NOW + seen.lease_until * SECOND,
            expires_at=None if seen.expires_at is None else NOW + seen.expires_at * SECOND,
            crashes=seen.crashes,
            sent=seen.sent,
            message_sent=look.message_sent,
            is_revoked=seen.is_revoked,
            reason_to_wait="paused" if look.wait == "paused" else "",
            is_due_again=seen.parked_for == "rate",
            most_crashes=MOST_CRASHES_OF_A_LIFE,
        )
        decided = decide(facts, NOW + look.at * SECOND).verdict
        if seen.state is State.RUNNING and (decided in ENDED_OR_PARKED or (decided is Verdict.RUN and look.wait)):
            # Its last attempt's lease is over: that comes first, and then it looks again.
            if self.row.holder == seen.holder and self.is_overdue():
                self.lose()
                self.write(replace(look, seen=replace(self.row), at=self.now))
            return
        match decided:
            case Verdict.RUN if look.wait and self.row.is_as(seen):
                self.park(look.wait)
            case Verdict.RUN if self.row.is_as(seen):
                self.begin(look)
            case Verdict.PARK if self.row.is_as(seen):
                self.park(look.wait)
            case Verdict.REVOKED:
                self.finish(Report.REVOKED)
            case Verdict.EXPIRED:
                self.finish(Report.EXPIRED)
            case Verdict.DEAD:
                self.finish(Report.DEAD)

    def park(self, wait: str) -> None:
        """claims._park. One that waits already may come to wait for something else."""
        assert self.row.state not in FINAL
        self.row = replace(self.row, state=target(Report.PARKED), parked_for=wait, holder=0)

    def begin(self, look: Look) -> None:
        """claims._take."""
        row = self.row
        assert not self.live(), "two attempts hold it"
        assert not row.is_revoked
        assert row.expires_at is None or row.expires_at > look.at
        assert look.message_sent >= row.sent, "a message of an earlier try runs after a later one was sent"
        assert look.message_sent >= max(self.counts.begun, default=(0, 0))
        taken_over = row.state is State.RUNNING
        self.counts.lost += taken_over
        holder = row.attempts + 1
        lease_until = look.at + LEASE
        self.move(
            Report.CLAIMED,
            attempts=holder,
            crashes=row.crashes + taken_over,
            holder=holder,
            worker=look.worker,
            lease_until=lease_until,
            parked_for="",
        )
        self.attempts.append(Attempt(holder, look.worker, look.message_sent, lease_until))
        self.counts.begun.append(look.message_sent)

    def a_worker_renews_what_it_holds(self, which: int, way: int) -> None:
        row = self.row
        if row.state is State.RUNNING and row.worker == "ab"[way % 2]:
            self.row = replace(row, lease_until=self.now + LEASE)
            for each in self.attempts:
                if each.holder == row.holder:
                    each.lease_until = self.now + LEASE

    def a_process_dies(self, which: int, way: int) -> None:
        """Its worker tells, or has died with it."""
        for attempt in self.at_work()[which:]:
            attempt.is_over = True
            if way % 2 and self.of(attempt):
                self.lose()
            return

    def is_overdue(self) -> bool:
        row = self.row
        return row.state is State.RUNNING and row.lease_until is not None and row.lease_until < self.now

    def the_sweep_comes(self, which: int, way: int) -> None:
        if self.is_overdue():
            self.lose()

    def an_attempt_finishes(self, which: int, way: int) -> None:
        """Late, where another has taken it over."""
        for attempt in self.at_work()[which:]:
            attempt.is_over = True
            self.finish([Report.SUCCEEDED, Report.FAILED][way % 2])
            return

    def an_attempt_goes_on_in_another_message(self, which: int, way: int) -> None:
        for attempt in self.at_work()[which:]:
            attempt.is_over = True
            if self.of(attempt) or (self.is_given_up(attempt) and way != HANDED_BACK):
                self.go_on(attempt.sent, way)
            return

    def go_on(self, sent: tuple[int, int], way: int) -> None:
        free = {"lease_until": None, "holder": 0}
        replacements, retries = sent
        if way == HANDED_BACK:
            self.move(Report.HANDED_BACK, **free)
            return
        match way:
            case 0 | 5:
                self.move(Report.PARKED, parked_for="replaced", **free)
            case 1 | 6:
                self.move(Report.RELEASED, replacements=replacements + 1, retries=0, **free)
            case _:
                self.move(Report.RELEASED, retries=retries + 1, **free)
        self.messages.append(self.row.sent)

    def it_need_not_wait_any_longer(self, which: int, way: int) -> None:
        """A slot is free, a pause is over, its replacement is recorded."""
        if self.row.parked_for == "replaced":
            self.move(Report.RELEASED, parked_for="", replacements=self.row.replacements + 1, retries=0)
            self.messages.append(self.row.sent)
        elif self.row.parked_for in ("paused", "limit"):
            self.move(Report.RELEASED, parked_for="")

    def it_is_revoked(self, which: int, way: int) -> None:
        """reports.revoke_runs: at once where nobody is at work. By stamp: when the next message comes."""
        if way % 2 or self.row.state is State.RUNNING:
            self.row = replace(self.row, is_revoked=True)
            # Who has read the row before begins as if a moment earlier.
            self.looks.clear()
        else:
            self.finish(Report.REVOKED)

    # What must hold

    @invariant()
    def at_most_one_attempt_holds_it(self) -> None:
        assert len(self.live()) <= 1

    @invariant()
    def it_ends_once(self) -> None:
        assert self.counts.ends == (self.row.state in FINAL)

    @invariant()
    def it_is_lost_at_most_so_often(self) -> None:
        assert self.counts.lost == self.row.crashes <= MOST_CRASHES_OF_A_LIFE

    @invariant()
    def only_a_run_at_work_has_a_holder(self) -> None:
        assert (self.row.state is State.RUNNING) == bool(self.row.holder)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=500, stateful_step_count=60, deadline=None)
