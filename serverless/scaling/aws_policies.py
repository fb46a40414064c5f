"""The rules of `policy` as CloudWatch alarms and Application Auto Scaling follow them: what infra/terraform must say.

Four of them, which never contradict each other: `out` is target tracking with its scale-in off; `wake`, `give_back` and
`sleep` are alarms with a step each. Their metric math names its series `v1`, `v2` ..., each queue's
ApproximateNumberOfMessagesVisible, `f1`, `f2` ..., each queue's ApproximateNumberOfMessagesNotVisible, and `desired`,
the service's DesiredTaskCount of ECS/ContainerInsights. Averages over a minute.

SQS reports NotVisible only while something is in flight, so a gap there is 0. A gap in the others is not: without them
nothing is taken away. To wake a pool, though, what is known of one queue is enough.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from serverless.scaling.errors import ScalingError
from serverless.scaling.policy import QUIET_SECONDS, SPARE_SECONDS, Limits

PERIOD_SECONDS = 60
#: SQS's figures are up to three minutes old and a container takes up to two to start: before that has passed, what the
#: metrics say of the last step is what was before it.
SETTLE_SECONDS = 300
#: Of the alarm that target tracking makes for itself; AWS sets that, not we.
TRACKING_DATAPOINTS = 3
#: Two, since the sampler wakes the pool within the first minute: the alarm is for when the sampler is dead, and one
#: minute's figure, seen later, would make it wake a second worker.
WAKE_DATAPOINTS = 2
#: Above any threshold of work a worker.
NOT_TO_BE_GIVEN_BACK = 1_000_000
#: CloudWatch takes ten metrics in an alarm: two a queue, and DesiredTaskCount.
MOST_QUEUES = 4


@dataclass(frozen=True)
class Alarm:
    """One alarm on a metric-math expression, and the step that it makes each minute while it is on.

    comparison: as CloudWatch spells it. datapoints: of as many periods; all must breach.
    adjustment: ChangeInCapacity or ExactCapacity. Missing data never breaches.
    """

    expression: str
    comparison: str
    threshold: float
    datapoints: int
    adjustment: str
    change: int
    cooldown_seconds: int
    period_seconds: int = PERIOD_SECONDS
    treat_missing_data: str = "notBreaching"


@dataclass(frozen=True)
class TargetTracking:
    """Out only. The metric is workers needed over workers wanted, so that its target is 1 whatever the pool."""

    expression: str
    target: float
    datapoints: int
    scale_out_cooldown_seconds: int
    disable_scale_in: bool


@dataclass(frozen=True)
class Policies:
    """All that a pool's service needs. give_back is None where a pool never has a worker to spare."""

    minimum: int
    maximum: int
    out: TargetTracking
    wake: Alarm | None
    give_back: Alarm | None
    sleep: Alarm | None

    def as_dict(self) -> dict[str, Any]:
        """Nothing but numbers, words and dictionaries, to be compared with a plan of Terraform."""
        return asdict(self)


def of(limits: Limits, queues: int = 1) -> Policies:
    """A pool's policies. queues: how many it consumes. Raises ScalingError where CloudWatch cannot watch so many.

    wake and sleep are None where the pool's minimum keeps somebody awake, give_back where it has no one to give back.
    """
    if not 1 <= queues <= MOST_QUEUES:
        rule = f"is not within 1 and {MOST_QUEUES}, all that an alarm's ten metrics can watch. Split the pool."
        raise ScalingError(limits.pool, "queues", queues, rule)
    numbers = range(1, queues + 1)
    visible = " + ".join(f"v{number}" for number in numbers)
    in_flight = " + ".join(f"FILL(f{number}, 0)" for number in numbers)
    work = f"({visible} + {in_flight})"
    in_time, useful = f"({visible}) / {limits.backlog_a_worker:.6g}", f"{work} / {limits.slots}"
    out = TargetTracking(
        expression=f"IF(desired > 0, IF({in_time} < {useful}, {in_time}, {useful}) / IF(desired > 0, desired, 1), 0)",
        target=1.0,
        datapoints=TRACKING_DATAPOINTS,
        scale_out_cooldown_seconds=SETTLE_SECONDS,
        disable_scale_in=True,
    )
    known = " + ".join(f"FILL(v{number}, 0) + FILL(f{number}, 0)" for number in numbers)
    wake = Alarm(
        expression=f"IF(FILL(desired, 0) > 0, 0, {known})",
        comparison="GreaterThanOrEqualToThreshold",
        threshold=1,
        datapoints=WAKE_DATAPOINTS,
        adjustment="ChangeInCapacity",
        change=1,
        cooldown_seconds=SETTLE_SECONDS,
    )
    # Work for each of those that would stay. Where none can go it is above the threshold, so that none does.
    fewest = max(1, limits.minimum)
    others = f"IF(desired > {fewest}, desired - 1, 1)"
    give_back = Alarm(
        expression=f"IF(desired > {fewest}, {work} / {others}, {NOT_TO_BE_GIVEN_BACK})",
        comparison="LessThanOrEqualToThreshold",
        threshold=round(limits.work_a_worker, 6),
        datapoints=SPARE_SECONDS // PERIOD_SECONDS,
        adjustment="ChangeInCapacity",
        change=-1,
        cooldown_seconds=SETTLE_SECONDS,
    )
    # While nobody is wanted the pool counts as busy: who has just been woken is not put to sleep by what the metrics,
    # minutes old, say of the time before.
    sleep = Alarm(
        expression=f"IF(desired > 0, {work}, 1)",
        comparison="LessThanOrEqualToThreshold",
        threshold=0,
        datapoints=QUIET_SECONDS // PERIOD_SECONDS,
        adjustment="ExactCapacity",
        change=0,
        cooldown_seconds=PERIOD_SECONDS,
    )
    sleeps = limits.minimum == 0
    return Policies(
        limits.minimum,
        limits.maximum,
        out,
        wake if sleeps else None,
        give_back if limits.maximum > fewest else None,
        sleep if sleeps else None,
    )
