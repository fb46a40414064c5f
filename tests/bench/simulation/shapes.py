"""Load shapes: what arrives when, at which pool, and what goes wrong meanwhile."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from serverless.scaling.policy import Limits

MINUTE, HOUR = 60.0, 3600.0
#: As the pool "general" of the shipped topology, with tasks of four seconds.
GENERAL = Limits(
    pool="general", minimum=0, maximum=10, slots=2, acceptable_wait_seconds=60.0, mean_task_seconds=4.0, prefetch=10
)
#: A share of 2 % takes ten minutes, the others four seconds.
MIXED = replace(GENERAL, pool="mixed", maximum=20, mean_task_seconds=0.98 * 4 + 0.02 * 600, prefetch=1)


@dataclass(frozen=True)
class Work:
    """One task: when it is sent, how long it takes, whether its process dies each time."""

    at: float
    seconds: float
    poison: bool = False


Times = Callable[[random.Random], Iterator[float]]


@dataclass(frozen=True)
class Shape:
    """One simulated time.

    times: seconds at which tasks are sent. hours: of load; two more follow, so that the pool may fall asleep.
    mean_seconds: how long tasks take, where that is not what the pool declares.
    long_share, long_seconds: of tasks that take so long, exactly. most_seconds: the time limit of the others.
    poison_share: of tasks whose process dies at each attempt.
    start_seconds: between which a container takes until it receives. lag_seconds: between which a minute's metrics come late.
    sampler: whether the minute sampler runs. sampler_keeps_metrics: whether its reading keeps SQS's metrics from sleeping.
    spot_per_hour: how often Spot takes a given container. Each gets two minutes.
    variants: which ways of scaling it says something of.
    """

    name: str
    what: str
    times: Times
    hours: float
    limits: Limits = GENERAL
    mean_seconds: float | None = None
    long_share: float = 0.0
    long_seconds: float = 600.0
    most_seconds: float = 90.0
    poison_share: float = 0.0
    start_seconds: tuple[float, float] = (60.0, 120.0)
    lag_seconds: tuple[float, float] = (60.0, 180.0)
    sampler: bool = True
    sampler_keeps_metrics: bool = True
    spot_per_hour: float = 0.0
    variants: tuple[str, ...] = ("ours", "policy", "tracking", "steps")

    def work(self, rng: random.Random) -> Iterator[Work]:
        short = self._mean_of_the_short()
        for at in self.times(rng):
            long = rng.random() < self.long_share
            seconds = self.long_seconds if long else min(self.most_seconds, rng.expovariate(1 / short))
            yield Work(at, seconds, rng.random() < self.poison_share)

    def _mean_of_the_short(self) -> float:
        """So that the mean of all is as it should be."""
        mean = self.mean_seconds or self.limits.mean_task_seconds
        return (mean - self.long_share * self.long_seconds) / (1 - self.long_share)


def at_rate(rate: Callable[[float], float], most: float, hours: float) -> Times:
    """Independent senders whose rate, tasks a second and at most `most`, changes with time."""

    def times(rng: random.Random) -> Iterator[float]:
        now = rng.expovariate(most)
        while now < hours * HOUR:
            if rng.random() * most < rate(now):
                yield now
            now += rng.expovariate(most)

    return times


def _wave(most: float) -> Times:
    """A day from nothing to the most and back."""
    return at_rate(lambda now: most / 2 * (1 - math.cos(2 * math.pi * now / (24 * HOUR))), most, 24)


def _nothing(_: random.Random) -> Iterator[float]:
    return iter(())


def _burst(rng: random.Random) -> Iterator[float]:
    start = HOUR + rng.random() * MINUTE
    return iter([start] * 5000)


def _groups(rng: random.Random) -> Iterator[float]:
    """Twenty at once, every forty minutes: the pool is asleep each time."""
    for number in range(12):
        yield from [(number * 40 + 1 + rng.random()) * MINUTE] * 20


def _mornings(rng: random.Random) -> Iterator[float]:
    """One task after each of eight nights of seven to eight hours."""
    now = 0.0
    for _ in range(8):
        now += rng.uniform(7 * HOUR, 8 * HOUR)
        yield now


#: The pure policy alone needs neither metrics nor sampler.
_ON_AWS = ("ours", "tracking", "steps")
_NIGHT = Shape("quiet night", "one task after seven to eight quiet hours, eight times", _mornings, 65, GENERAL)

SHAPES = {
    shape.name: shape
    for shape in (
        Shape("idle", "nothing for a day", _nothing, 24),
        Shape("trickle", "one task every ten minutes", at_rate(lambda _: 1 / 600, 1 / 600, 24), 24),
        Shape("steady", "three tasks a second for eight hours, from nothing", at_rate(lambda _: 3, 3, 8), 8),
        Shape("burst", "5,000 tasks at once", _burst, 3),
        Shape(
            "daily wave",
            "from nothing at midnight to three a second at noon and back",
            _wave(3),
            24,
        ),
        Shape(
            "long tasks",
            "one a second, 2 % of them ten minutes",
            at_rate(lambda _: 1, 1, 5),
            5,
            MIXED,
            long_share=0.02,
        ),
        Shape("poison", "one a second, 1 % kill their process", at_rate(lambda _: 1, 1, 4), 4, poison_share=0.01),
        Shape(
            "late metrics",
            "two a second in alternate hours, metrics always three minutes late",
            at_rate(lambda now: 2.0 * (now // HOUR % 2), 2, 8),
            8,
            lag_seconds=(180.0, 180.0),
        ),
        Shape(
            "cold start",
            "twenty at once every forty minutes, two minutes to start",
            _groups,
            8,
            start_seconds=(120.0, 120.0),
        ),
        Shape(
            "wrong mean",
            "the daily wave, at a pool that declares one second a task where it is four",
            _wave(3),
            24,
            replace(GENERAL, mean_task_seconds=1.0),
            mean_seconds=4.0,
        ),
        _NIGHT,
        replace(
            _NIGHT,
            name="sleeping metrics",
            what="the same; SQS's metrics sleep in spite of the sampler",
            sampler_keeps_metrics=False,
            variants=_ON_AWS,
        ),
        replace(
            _NIGHT,
            name="dead sampler",
            what="the same; nobody samples, so the metrics sleep too",
            sampler=False,
            variants=_ON_AWS,
        ),
        Shape(
            "spot",
            "two a second; Spot takes each container once an hour",
            at_rate(lambda _: 2, 2, 6),
            6,
            spot_per_hour=1.0,
        ),
        Shape(
            "spot, long tasks",
            "one a second, 2 % ten minutes; Spot takes each container once an hour",
            at_rate(lambda _: 1, 1, 5),
            5,
            MIXED,
            long_share=0.02,
            spot_per_hour=1.0,
        ),
    )
}
