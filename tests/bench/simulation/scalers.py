"""Who sets how many workers are wanted: ours, and what teams use instead."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from serverless.scaling import aws_policies
from serverless.scaling.aws_policies import Alarm, TargetTracking
from serverless.scaling.policy import Figures, Limits, decide, woken
from serverless.scaling.watch import Watch
from tests.bench.simulation.cloudwatch import all_of

if TYPE_CHECKING:
    from tests.bench.simulation.world import World


class Scaler:
    """protects: whether its workers protect themselves from scale-in while they may hold a message."""

    protects = True

    def __init__(self, limits: Limits) -> None:
        self.limits, self.minimum = limits, limits.minimum

    def sample(self, world: World) -> None:
        """The minute sampler runs."""

    def evaluate(self, world: World) -> None:
        """CloudWatch evaluates its alarms."""


class Tracking:
    """Application Auto Scaling's target tracking, outwards.

    Within a cooldown it counts from the capacity before it: what was added by then is part of what is wanted.
    """

    def __init__(self, policy: TargetTracking) -> None:
        self._policy = policy
        self._base, self._cooled_at = 0, 0.0

    def wanted(self, world: World) -> int:
        values = world.metrics.last(self._policy.expression, self._policy.datapoints, world.now)
        if not world.desired or not all_of(values, lambda value: value > self._policy.target):
            return world.desired
        if world.now >= self._cooled_at:
            self._base, self._cooled_at = world.desired, world.now + self._policy.scale_out_cooldown_seconds
        # A tenth of a percent of tolerance, against rounding.
        return max(world.desired, math.ceil(self._base * (values[-1] or 0) / self._policy.target - 0.001))


class Step:
    """One alarm and its step."""

    def __init__(self, alarm: Alarm) -> None:
        self._alarm = alarm
        self._cooled_at = 0.0

    def wanted(self, world: World) -> int:
        alarm = self._alarm
        values = world.metrics.last(alarm.expression, alarm.datapoints, world.now)
        above = alarm.comparison == "GreaterThanOrEqualToThreshold"
        breaching = all_of(values, lambda value: value >= alarm.threshold if above else value <= alarm.threshold)
        if not breaching or world.now < self._cooled_at:
            return world.desired
        wanted = alarm.change if alarm.adjustment == "ExactCapacity" else world.desired + alarm.change
        if wanted != world.desired:
            self._cooled_at = world.now + alarm.cooldown_seconds
        return wanted


class Ours(Scaler):
    """What infra/terraform makes of aws_policies, with the minute sampler beside it."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        policies = aws_policies.of(limits)
        self._steps: list[Tracking | Step] = [Tracking(policies.out)]
        self._steps += [Step(alarm) for alarm in (policies.wake, policies.give_back, policies.sleep) if alarm]

    def sample(self, world: World) -> None:
        figures = Figures(
            waiting=len(world.waiting), in_flight=world.in_flight, running=world.running, desired=world.desired
        )
        decision = woken(self.limits, figures)
        if decision:
            world.want(decision.desired)

    def evaluate(self, world: World) -> None:
        for step in self._steps:
            wanted = self.limits.bounded(step.wanted(world))
            if wanted != world.desired:
                world.want(wanted)


class Policy(Scaler):
    """The pure policy alone, asked each minute about what is, as the laptop's scaler asks it."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._watch = Watch(0.0)

    def evaluate(self, world: World) -> None:
        figures = self._watch.look(
            world.now,
            waiting=len(world.waiting),
            in_flight=world.in_flight,
            running=world.running,
            desired=world.desired,
            holding=sum(worker.held > 0 for worker in world.workers),
        )
        decision = decide(self.limits, figures)
        if decision.desired != world.desired:
            world.want(decision.desired)


class PlainTracking(Scaler):
    """Target tracking both ways on the backlog a worker, as AWS describes it. It never wakes from zero, so one stays."""

    protects = False

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.minimum = max(1, limits.minimum)
        self._target = limits.acceptable_wait_seconds * limits.slots / limits.mean_task_seconds
        self._expression = "v1 / IF(running > 0, running, 1)"
        self._out = Tracking(TargetTracking(self._expression, self._target, 3, 300, disable_scale_in=False))
        self._cooled_at = 0.0

    def evaluate(self, world: World) -> None:
        wanted = self._out.wanted(world)
        if wanted == world.desired:
            # AWS's own low alarm: fifteen minutes below nine tenths of the target.
            low = world.metrics.last(self._expression, 15, world.now)
            if world.now >= self._cooled_at and all_of(low, lambda value: value < 0.9 * self._target):
                wanted = min(wanted, math.ceil(world.desired * (low[-1] or 0) / self._target))
                self._cooled_at = world.now + 300
        world.want(min(self.limits.maximum, max(self.minimum, wanted)))


class PlainSteps(Scaler):
    """One more while something waits, one fewer while nothing does."""

    protects = False

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        more = Alarm("v1", "GreaterThanOrEqualToThreshold", 1, 1, "ChangeInCapacity", 1, 60)
        fewer = Alarm("v1", "LessThanOrEqualToThreshold", 0, 1, "ChangeInCapacity", -1, 60)
        self._steps = [Step(more), Step(fewer)]

    def evaluate(self, world: World) -> None:
        for step in self._steps:
            world.want(self.limits.bounded(step.wanted(world)))


VARIANTS: dict[str, type[Scaler]] = {
    "ours": Ours,
    "policy": Policy,
    "tracking": PlainTracking,
    "steps": PlainSteps,
}
