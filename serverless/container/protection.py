"""When a worker asks ECS to protect its task, and when it gives that up, so that it can be replaced. Pure.

A protected task is not stopped by scale-in or a deploy. So protection is taken before anything is received, and renewed
for as long as something is held. But a worker that always has work would stay for ever, and a deploy would wait for it.
So after a while it stops receiving, finishes what runs, gives protection up and waits a little for ECS to stop it.
If ECS does not, it protects itself again and goes on.

    TAKING -> RECEIVING -> FINISHING -> LEAVING -> WAITING -> TAKING ...

How long it receives: five minutes, or as long as the longest message was held the time before, if that is longer. While
one task is finished, other slots idle; that way they never idle for longer than they have worked, and a worker of long
tasks is replaced within twice its longest. The time before, since within the present stretch nothing can have been held
for longer than it has lasted.

Agent and service may be away: then work goes on without protection. A stop is a drain all the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Phase(StrEnum):
    """What it is about."""

    TAKING = "taking"  # asks for protection, and receives nothing before the answer
    RECEIVING = "receiving"
    FINISHING = "finishing"  # receives nothing more, and is protected while something is left
    LEAVING = "leaving"  # asks to be unprotected
    WAITING = "waiting"  # is unprotected and idle: ECS may stop it now


@dataclass(frozen=True)
class Rules:
    """All in seconds, but for the number of waits.

    receiving: the shortest stretch. jitter: of a stretch, the part that is added to it, 0 to 1; each worker's own, so
        that the workers of a pool, started together, do not pause together.
    expires: until ECS lifts protection by itself, such as that of a worker that hangs. Renewed at half of it. Longer
        than a stretch and the longest task after it, see for_tasks_of, since ECS may refuse to renew.
    waiting: for ECS to stop the task. Its scheduler looks at a service every few seconds.
    again: until a refused question is asked again, doubling up to `again_at_most`.
    staying: until the next try to give protection up, if the agent did not answer.
    most_waits: how often in a row it waits where ECS says that it wants fewer tasks.
    """

    receiving: float = 300.0
    jitter: float = 0.0
    expires: float = 600.0
    waiting: float = 30.0
    again: float = 15.0
    again_at_most: float = 240.0
    staying: float = 60.0
    most_waits: int = 3


def for_tasks_of(rules: Rules, longest_seconds: float) -> Rules:
    """The same for a worker whose tasks may take so long."""
    return replace(rules, expires=max(rules.expires, 2 * (longest_seconds + rules.again_at_most)))


@dataclass(frozen=True)
class Facts:
    """How the worker is.

    load: messages held, and polls under way that may bring one. longest_seconds: since the oldest was received.
    newer_release: the name of a release of which another worker of this pool has started since; "" for none.
    """

    load: int
    longest_seconds: float = 0.0
    newer_release: str = ""


@dataclass(frozen=True)
class Answer:
    """What the agent says. unwanted: the service has more protected tasks than it wants tasks. why: of a refusal."""

    granted: bool
    unwanted: bool = False
    why: str = ""


@dataclass(frozen=True)
class Step:
    """What to do now. ask: protect (True), unprotect (False), or nothing; tell `answered` of the answer."""

    may_receive: bool
    ask: bool | None


class Protection:
    """The rule. now: any clock in seconds that never goes back, the same in all calls."""

    def __init__(self, rules: Rules, now: float) -> None:
        self._rules = rules
        self.phase = Phase.TAKING
        self._protected_until = float("-inf")
        self._ask_at = now
        self._refusals = 0
        #: When the stretch of receiving ends; when waiting does.
        self._until = now
        self._waits = 0
        self._longest = 0.0
        self._known_release = ""

    def is_protected(self, now: float) -> bool:
        return now < self._protected_until

    def look(self, now: float, facts: Facts) -> Step:
        """One round. Call it about once a second, with facts that were found after the last step was taken."""
        if self.phase in (Phase.RECEIVING, Phase.FINISHING):
            self._longest = max(self._longest, facts.longest_seconds)
        if self.phase is Phase.RECEIVING and self.is_protected(now) and self._is_due(now, facts):
            self._known_release = facts.newer_release or self._known_release
            self.phase = Phase.FINISHING
        elif self.phase is Phase.FINISHING and not facts.load:
            # Not in the round above: until that step was taken, more could come.
            self.phase, self._ask_at = Phase.LEAVING, now
        elif self.phase is Phase.WAITING and now >= self._until:
            self.phase, self._ask_at = Phase.TAKING, now
        return Step(self.phase is Phase.RECEIVING, self._question(now))

    def answered(self, now: float, asked: bool, answer: Answer) -> None:
        """What became of a step's question."""
        if asked:
            self._answered_protect(now, answer)
        elif answer.granted:
            self._protected_until = float("-inf")
            self._wait(now)
        else:
            # Still protected: nobody will stop it, so it goes on.
            self._ask_at = self._protected_until - self._rules.expires / 2
            self._receive(now, self._rules.staying)

    def _is_due(self, now: float, facts: Facts) -> bool:
        is_news = facts.newer_release not in ("", self._known_release)
        return is_news or now >= self._until

    def _question(self, now: float) -> bool | None:
        if self.phase is Phase.WAITING or now < self._ask_at:
            return None
        return self.phase is not Phase.LEAVING

    def _answered_protect(self, now: float, answer: Answer) -> None:
        if answer.granted:
            was_protected = self.is_protected(now)
            self._protected_until = now + self._rules.expires
            self._ask_at = now + self._rules.expires / 2
            self._refusals = self._waits = 0
            if self.phase is Phase.TAKING or not was_protected:
                self._begin_stretch(now)
            return
        pause = min(self._rules.again_at_most, self._rules.again * 2.0 ** min(self._refusals, 16))
        self._refusals += 1
        self._ask_at = now + pause
        if self.phase is not Phase.TAKING:
            return
        if answer.unwanted and self._waits < self._rules.most_waits:
            self._waits += 1
            self._wait(now)
        else:
            self._begin_stretch(now)

    def _begin_stretch(self, now: float) -> None:
        stretch = max(self._rules.receiving, self._longest) * (1.0 + self._rules.jitter)
        self._longest = 0.0
        if self.phase is not Phase.FINISHING:
            self._receive(now, stretch)

    def _receive(self, now: float, seconds: float) -> None:
        self.phase, self._until = Phase.RECEIVING, now + seconds

    def _wait(self, now: float) -> None:
        self.phase, self._until = Phase.WAITING, now + self._rules.waiting
