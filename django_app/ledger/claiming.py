"""Whether a message that has arrived may run now. Pure: the facts in, a verdict out."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from enum import StrEnum

from django_app.ledger.states import FINAL, State


class Verdict(StrEnum):
    """What is to be done with the message."""

    RUN = "run"
    DONE = "done"  # the run has ended: acknowledge
    HELD = "held"  # another attempt is at work: hand back
    EARLY = "early"  # its time has not come: hand back
    MOVED = "moved"  # the run waits, or goes on in another message: acknowledge
    REVOKED = "revoked"  # end it as revoked: acknowledge
    EXPIRED = "expired"  # end it as expired: acknowledge
    PARK = "park"  # record that it waits: acknowledge
    DEAD = "dead"  # it crashed too often: dead-letter it
    DEAD_BEFORE = "dead before"  # and this is recorded: dead-letter it


@dataclass(frozen=True)
class Facts:
    """A run as it stands, and the message that has arrived for it.

    sent, message_sent: (replacements, retries) of the run and of the message. One that is behind comes late.
    reason_to_wait: "" or why it may not begin now. is_due_again: it waits in this very message.
    """

    state: State
    holder: str
    lease_until: datetime.datetime | None
    expires_at: datetime.datetime | None
    crashes: int
    sent: tuple[int, int]
    message_sent: tuple[int, int]
    is_revoked: bool
    reason_to_wait: str
    is_due_again: bool
    most_crashes: int


@dataclass(frozen=True)
class Decision:
    """seconds: for a message that is handed back, until it should show again."""

    verdict: Verdict
    reason: str = ""
    seconds: float = 0.0


def decide(facts: Facts, now: datetime.datetime) -> Decision:
    """The verdict on one message.

    A run that another attempt holds is handed back until that attempt's lease is over, and taken over after.
    """
    if facts.state is State.DEAD and facts.message_sent == facts.sent:
        # Its worker died between the record and the move, or somebody sent it back by hand.
        return Decision(Verdict.DEAD_BEFORE, "it was dead-lettered before; retry it to run it again")
    if facts.state in FINAL:
        return Decision(Verdict.DONE, f"it has ended: {facts.state}")
    if facts.message_sent < facts.sent:
        return Decision(Verdict.MOVED, "it was sent again since, and goes on in another message")
    is_held = facts.state is State.RUNNING and facts.lease_until is not None
    if is_held and facts.lease_until is not None and facts.lease_until > now:
        left = (facts.lease_until - now).total_seconds()
        return Decision(Verdict.HELD, "another attempt holds it", left)
    if facts.is_revoked:
        return Decision(Verdict.REVOKED, "revoked")
    if facts.state is State.WAITING and not facts.is_due_again:
        # Whoever parked it has acknowledged its message; this is a duplicate.
        return Decision(Verdict.MOVED, "it waits, and will be published again")
    if facts.expires_at is not None and facts.expires_at <= now:
        return Decision(Verdict.EXPIRED, "expired")
    crashes = facts.crashes + (1 if is_held else 0)
    if crashes >= facts.most_crashes:
        return Decision(Verdict.DEAD, f"its process or worker died at it {crashes} times")
    if facts.reason_to_wait:
        return Decision(Verdict.PARK, facts.reason_to_wait)
    return Decision(Verdict.RUN)
