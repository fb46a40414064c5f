"""What may become of a run: its states, and which report moves it where. Pure.

Reports come late, twice and in any order: a message is delivered again, a worker that was thought dead speaks up, the
mark that a message was published arrives after its task has run. `after` answers what a report changes; a report that
would move a run backwards changes nothing.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a run stands."""

    PENDING = "pending"  # recorded, not yet published
    QUEUED = "queued"  # published: SQS has its message
    WAITING = "waiting"  # parked: paused, over a limit, or behind another run
    RUNNING = "running"  # a worker has claimed it
    LOST = "lost"  # its worker's lease is over; another will take it
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REVOKED = "revoked"
    EXPIRED = "expired"
    DEAD = "dead"  # dead-lettered
    SKIPPED = "skipped"  # its schedule's rules did not let it begin


class Report(StrEnum):
    """What is said about a run."""

    PUBLISHED = "published"
    CLAIMED = "claimed"
    LOST = "lost"
    PARKED = "parked"
    RELEASED = "released"  # from parking, or by a task that sends itself again
    HANDED_BACK = "handed back"  # by an attempt, to SQS
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REVOKED = "revoked"
    EXPIRED = "expired"
    DEAD = "dead"
    SKIPPED = "skipped"


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETRIED = "retried"  # it sent itself again
    REPLACED = "replaced"  # by another signature, under its id
    REVOKED = "revoked"  # terminated
    LOST = "lost"  # its process or its worker died, or its lease was over
    HANDED_BACK = "returned"  # by Reject(requeue=True), or a worker that stopped
    DEAD = "dead"  # dead-lettered


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.REVOKED, State.EXPIRED, State.DEAD, State.SKIPPED})

_OPEN = frozenset(State) - FINAL
_FROM: dict[Report, tuple[frozenset[State], State]] = {
    Report.PUBLISHED: (frozenset({State.PENDING}), State.QUEUED),
    Report.CLAIMED: (_OPEN, State.RUNNING),
    Report.LOST: (frozenset({State.RUNNING}), State.LOST),
    Report.PARKED: (frozenset({State.PENDING, State.QUEUED, State.LOST, State.RUNNING}), State.WAITING),
    Report.RELEASED: (frozenset({State.WAITING, State.RUNNING, State.LOST}), State.PENDING),
    Report.HANDED_BACK: (frozenset({State.RUNNING}), State.QUEUED),
    Report.SUCCEEDED: (_OPEN, State.SUCCEEDED),
    Report.FAILED: (_OPEN, State.FAILED),
    Report.REVOKED: (_OPEN, State.REVOKED),
    Report.EXPIRED: (_OPEN, State.EXPIRED),
    Report.DEAD: (_OPEN, State.DEAD),
    Report.SKIPPED: (frozenset({State.PENDING, State.QUEUED, State.WAITING}), State.SKIPPED),
}
#: Reports that an attempt makes of itself; those of an attempt that was taken over count only if they end the run.
_OF_AN_ATTEMPT = frozenset({Report.LOST, Report.PARKED, Report.RELEASED, Report.HANDED_BACK})


def sources(report: Report) -> frozenset[State]:
    """The states that the report moves on from."""
    return _FROM[report][0]


def target(report: Report) -> State:
    """The state that the report leads to."""
    return _FROM[report][1]


def after(state: State, report: Report, *, attempt: int | None = None, newest: int = 0) -> State:
    """The state after a report; the same state where the report comes too late.

    attempt: the number of the attempt that reports, counted from 1; None where no attempt does.
    newest: the number of the run's newest attempt, 0 if there was none.
    An attempt that was taken over may still end the run, since what it did is done; it may neither lose nor release it.
    """
    came_from, leads_to = _FROM[report]
    if state not in came_from:
        return state
    if report in _OF_AN_ATTEMPT and attempt is not None and attempt != newest:
        return state
    return leads_to
