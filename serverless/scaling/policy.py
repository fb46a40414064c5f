"""How many workers a pool should have now, and why. Pure: figures in, a number and a sentence out.

A worker is one container, which runs `slots` tasks at a time. The rules, in the order in which they win:

1. Where something waits or is in flight, at least one worker.
2. More, so that what waits starts within a share of the acceptable wait; never more than can have something to do.
3. Fewer, down to what the busiest moment of the last ten minutes needed with room to spare, and never fewer than may
   hold messages. ECS takes unprotected workers only, and a worker is protected while it may hold one.
4. None, or the pool's minimum, after ten quiet minutes.

What is missing is never taken for zero: without a figure nothing is taken away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from serverless.scaling.errors import ScalingError

#: A pool sleeps after so long without anything to do. Fargate takes a minute or two to wake it.
QUIET_SECONDS = 600
#: A worker is given back when so long nobody needed it.
SPARE_SECONDS = 600
#: The share of the acceptable wait that a backlog may take before more workers are wanted. The rest goes by until the
#: metrics say so and the workers have started.
BACKLOG_SHARE = 0.5
#: The share of their slots that those who stay may have filled at the busiest moment. Below 1, so that giving back
#: makes no backlog. This and BACKLOG_SHARE are chosen by simulation: docs/scaling.md.
FULLEST = 0.75


@dataclass(frozen=True)
class Limits:
    """What a pool may have and what is expected of it.

    minimum, maximum: workers. slots: tasks that one worker runs at a time.
    acceptable_wait_seconds: the wait that scaling aims to stay under.
    mean_task_seconds: how long a task of this pool takes, on average. A wrong one makes waits wrong by the same factor.
    prefetch: messages that a worker holds for each slot, of the pool's queues the most.
    """

    pool: str
    minimum: int
    maximum: int
    slots: int
    acceptable_wait_seconds: float
    mean_task_seconds: float
    prefetch: int = 1

    def __post_init__(self) -> None:
        for field, least in (("minimum", 0), ("maximum", 1), ("slots", 1), ("prefetch", 1)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ScalingError(self.pool, field, value, f"is not a whole number of at least {least}. Correct it.")
        if self.minimum > self.maximum:
            rule = f"exceeds maximum={self.maximum}. Lower one or raise the other."
            raise ScalingError(self.pool, "minimum", self.minimum, rule)
        for field in ("acceptable_wait_seconds", "mean_task_seconds"):
            seconds = getattr(self, field)
            if not (math.isfinite(seconds) and seconds > 0):
                raise ScalingError(self.pool, field, seconds, "is not a number of seconds above 0. Correct it.")

    @property
    def backlog_a_worker(self) -> float:
        """Waiting messages that one worker starts within its share of the acceptable wait. Below 1 for long tasks."""
        return BACKLOG_SHARE * self.acceptable_wait_seconds * self.slots / self.mean_task_seconds

    @property
    def work_a_worker(self) -> float:
        """Messages waiting or in flight, for each worker, at which those that stay are as full as FULLEST says.

        With prefetching a message waits at one worker while another has a free slot, so that more are in flight than
        slots are busy: as many as with tasks that come and end at random, shared out among workers at random.
        """
        crowding = 1 - FULLEST**self.slots if self.prefetch > 1 else 1
        return self.slots * FULLEST / crowding

    def bounded(self, workers: int) -> int:
        return min(self.maximum, max(self.minimum, workers))


@dataclass(frozen=True)
class Figures:
    """What is known of a pool at one moment; None where nobody said.

    waiting, in_flight: messages of all its queues that are visible, and that are hidden because workers hold them.
    running: workers that run, those that are stopping or starting not counted.
    desired: workers that were wanted last.
    oldest_age_seconds: of what waits. It explains a decision and makes none: a poisoned message, which comes back again
        and again, would keep a whole pool running.
    quiet_seconds: since something waited or was in flight, or since the pool was woken, whichever is later.
    most_work: most that waited and was in flight, together, at any moment of the last SPARE_SECONDS; None before the
        pool has been watched for that long.
    holding: workers that hold messages. Where that is unknown, each message in flight counts as held by another one.
    """

    waiting: int | None
    in_flight: int | None
    running: int | None
    desired: int
    oldest_age_seconds: float | None = None
    quiet_seconds: float | None = None
    most_work: int | None = None
    holding: int | None = None


@dataclass(frozen=True)
class Decision:
    """desired: workers that the pool should have. reason: why, for a log line and for the console."""

    desired: int
    reason: str


def decide(limits: Limits, figures: Figures) -> Decision:
    """How many workers the pool should have. Raises ScalingError for a figure below zero."""
    _check(limits, figures)
    if figures.waiting is None and figures.in_flight is None:
        kept = limits.bounded(figures.desired)
        return Decision(kept, f"{_workers(kept)}, as before: how much waits and is in flight is unknown")
    wanted = needed(limits, figures.waiting or 0, figures.in_flight or 0)
    if wanted > figures.desired:
        return _more(limits, figures, wanted)
    if None in (figures.waiting, figures.in_flight):
        what = "waits" if figures.waiting is None else "is in flight"
        kept = limits.bounded(figures.desired)
        return Decision(kept, f"{_workers(kept)}, as before: how much {what} is unknown, so none is given back")
    return _fewer(limits, figures, wanted)


def woken(limits: Limits, figures: Figures) -> Decision | None:
    """What somebody else than the autoscaler may ask for: more workers, where work waits and nobody runs or is wanted.

    For the minute sampler, which sees the queues at once, where CloudWatch sees them minutes later. None: leave it.
    """
    decision = decide(limits, figures)
    if decision.desired <= figures.desired or not (figures.desired == 0 or figures.running == 0):
        return None
    return decision


def needed(limits: Limits, waiting: int, in_flight: int) -> int:
    """Workers that start what waits in time, not bounded by the pool's limits. 0 where there is nothing to do.

    At most as many as could have something to do: where a task takes longer than the acceptable wait, more do not help.
    """
    if waiting + in_flight == 0:
        return 0
    in_time = math.ceil(waiting / limits.backlog_a_worker)
    return max(1, min(in_time, math.ceil((waiting + in_flight) / limits.slots)))


def _more(limits: Limits, figures: Figures, wanted: int) -> Decision:
    desired = limits.bounded(wanted)
    waiting = "an unknown number" if figures.waiting is None else figures.waiting
    in_flight = "an unknown number" if figures.in_flight is None else figures.in_flight
    seen = f"{waiting} waiting and {in_flight} in flight{_age(limits, figures)}"
    if figures.desired == 0:
        reason = f"woken: {seen}, and nobody to do it"
    else:
        reason = f"more than {limits.backlog_a_worker:.3g} waiting a worker: {seen}"
    if desired < wanted:
        reason += f"; {_workers(wanted)} would be needed, maximum={limits.maximum}"
    if desired <= figures.desired:
        return Decision(desired, f"{_workers(desired)}, its maximum: {reason}")
    return Decision(desired, f"{_workers(desired)}, {reason}")


def _fewer(limits: Limits, figures: Figures, wanted: int) -> Decision:
    """With everything known and enough workers: whether some can go."""
    waiting, in_flight = figures.waiting or 0, figures.in_flight or 0
    before = limits.bounded(figures.desired)
    if waiting + in_flight == 0:
        quiet = figures.quiet_seconds
        if figures.desired == 0 or (quiet is not None and quiet >= QUIET_SECONDS):
            fewest = limits.bounded(0)
            state = "its minimum" if fewest else "asleep"
            return Decision(fewest, f"{_workers(fewest)}, {state}: nothing waits and nothing is in flight")
    if figures.most_work is None:
        return Decision(before, f"{_workers(before)}, enough for {waiting} waiting and {in_flight} in flight")
    busiest = max(figures.most_work, waiting + in_flight)
    stay = max(1, wanted, _holding(figures), math.ceil(busiest / limits.work_a_worker))
    if stay >= before:
        return Decision(before, f"{_workers(before)}, enough for {waiting} waiting and {in_flight} in flight")
    fewer = limits.bounded(stay)
    minutes = SPARE_SECONDS // 60
    return Decision(
        fewer, f"{_workers(fewer)}, the others idle: at most {busiest} waiting or in flight in {minutes} minutes"
    )


def _holding(figures: Figures) -> int:
    """Workers that may hold a message, at most as many as run and as there are messages in flight."""
    most = figures.in_flight or 0
    return min(count for count in (most, figures.running, figures.holding) if count is not None)


def _check(limits: Limits, figures: Figures) -> None:
    for field in (
        "waiting",
        "in_flight",
        "running",
        "desired",
        "oldest_age_seconds",
        "quiet_seconds",
        "most_work",
        "holding",
    ):
        value = getattr(figures, field)
        if value is not None and not value >= 0:
            rule = "is below 0, which no count and no age is. Give None where a figure is not known."
            raise ScalingError(limits.pool, field, value, rule)


def _age(limits: Limits, figures: Figures) -> str:
    age = figures.oldest_age_seconds
    if age is None or age <= limits.acceptable_wait_seconds:
        return ""
    return f", the oldest for {age:.0f} s where {limits.acceptable_wait_seconds:g} s are acceptable"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
