"""One simulated AWS: a queue, a service of containers, CloudWatch, and whoever sets how many are wanted.

What a container does is what our worker does: it protects itself before it receives, gives its protection up after the
longer of five minutes and its longest task, finishes what runs when told to stop and hands the rest back at once.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.bench.simulation.cloudwatch import Metrics
from tests.bench.simulation.fleet import Message, State, Worker
from tests.bench.simulation.shapes import HOUR, MINUTE, Shape, Work

if TYPE_CHECKING:
    from tests.bench.simulation.scalers import Scaler

#: Fargate's longest stopTimeout, and Spot's warning.
STOP_SECONDS = 120.0
#: How long a message stays hidden when its process has died, and how often that may happen: lease and RUN_MOST_CRASHES.
LEASE_SECONDS, MOST_CRASHES = 60.0, 5
#: How long a worker keeps its protection at least, and how long it then leaves ECS to take it.
PROTECTED_SECONDS, REST_SECONDS = 300.0, 15.0
#: Of the minute: when the sampler has been started, and when alarms are evaluated.
SAMPLER_SECOND, ALARM_SECOND = 20.0, 30.0
#: After the load, so that a pool can fall asleep.
AFTER_HOURS = 2.0


@dataclass(frozen=True)
class Moment:
    """What a person would see at one minute."""

    at: float
    waiting: int
    in_flight: int
    running: int
    desired: int


class World:
    """Runs one shape once, at whatever `scaler` makes of it. After run(), what happened is in the attributes."""

    def __init__(self, shape: Shape, scaler: Scaler, seed: int) -> None:
        # Loads are alike for all variants: what scaling draws comes from another source than what is sent.
        self.rng = random.Random(f"fleet {seed}")
        self.work = shape.work(random.Random(f"load {seed}"))
        self.shape, self.scaler = shape, scaler
        self.now, self.ends_at = 0.0, (shape.hours + AFTER_HOURS) * HOUR
        self.metrics = Metrics(shape.lag_seconds, self.rng)
        self.waiting: deque[Message] = deque()
        self.leased = 0
        self.workers: list[Worker] = []
        self.desired = scaler.minimum
        self.waits: list[float] = []
        self.done = self.dead = self.killed = self.interrupted = 0
        self.worker_seconds = 0.0
        self.history: list[Moment] = []
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0

    def run(self) -> World:
        self._next_arrival()
        self._after(0.0, self._minute)
        while self._events and self._events[0][0] <= self.ends_at:
            self.now, _, happen, arguments = heapq.heappop(self._events)
            happen(*arguments)
        self.worker_seconds += sum(self.ends_at - worker.born_at for worker in self.workers)
        return self

    # What scalers see and do.

    @property
    def in_flight(self) -> int:
        return self.leased + sum(worker.held for worker in self.workers)

    @property
    def running(self) -> int:
        return sum(worker.state in {State.UP, State.RESTING} for worker in self.workers)

    def want(self, desired: int) -> None:
        self.desired = desired
        self._reconcile()

    # Time.

    def _after(self, seconds: float, happen: Callable[..., None], *arguments: Any) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.now + seconds, self._number, happen, arguments))

    def _minute(self) -> None:
        if self.running:
            self.metrics.touch(self.now)
        moment = Moment(self.now, len(self.waiting), self.in_flight, self.running, self.desired)
        self.history.append(moment)
        self.metrics.record(self.now, moment.waiting, moment.in_flight, moment.running, moment.desired)
        self._after(SAMPLER_SECOND, self._sample)
        self._after(ALARM_SECOND, self.scaler.evaluate, self)
        self._after(MINUTE, self._minute)

    def _sample(self) -> None:
        if not self.shape.sampler:
            return
        if self.shape.sampler_keeps_metrics:
            self.metrics.touch(self.now)
        self.scaler.sample(self)

    # Messages.

    def _next_arrival(self) -> None:
        work = next(self.work, None)
        if work is not None:
            self._after(work.at - self.now, self._arrive, work)

    def _arrive(self, work: Work) -> None:
        # Sending is a call about the queue: from now on its metrics wake.
        self.metrics.touch(self.now)
        self._send(Message(work))
        self._next_arrival()

    def _send(self, message: Message) -> None:
        """To whoever polls and has room; SQS does not mind who is busy."""
        polling = [worker for worker in self.workers if worker.has_room]
        if polling:
            self._take(self.rng.choice(polling), message)
        else:
            self.waiting.append(message)

    def _take(self, worker: Worker, message: Message) -> None:
        if len(worker.running) < worker.slots:
            self._begin(worker, message)
        else:
            worker.prefetched.append(message)

    def _begin(self, worker: Worker, message: Message) -> None:
        worker.running[message] = self.now
        if message.started_at is None:
            message.started_at = self.now
            self.waits.append(self.now - message.work.at)
        self._after(message.work.seconds, self._end, worker, message)

    def _end(self, worker: Worker, message: Message) -> None:
        begun_at = worker.running.get(message)
        if begun_at is None or begun_at + message.work.seconds > self.now + 1e-6:
            return  # it was killed here, and may even have begun again
        del worker.running[message]
        worker.longest_seconds = max(worker.longest_seconds, message.work.seconds)
        if message.work.poison:
            self._crash(message)
        else:
            self.done += 1
        if worker.prefetched:
            self._begin(worker, worker.prefetched.popleft())
        if worker.state is State.UP:
            self._receive(worker)
        elif not worker.held:
            self._settle(worker)

    def _crash(self, message: Message) -> None:
        message.crashes += 1
        if message.crashes >= MOST_CRASHES:
            self.dead += 1
        else:
            self.leased += 1
            self._after(LEASE_SECONDS, self._return_lease, message)

    def _return_lease(self, message: Message) -> None:
        self.leased -= 1
        self._send(message)

    def _receive(self, worker: Worker) -> None:
        while self.waiting and worker.has_room:
            self._take(worker, self.waiting.popleft())

    # Containers.

    def _reconcile(self) -> None:
        """As ECS does: start what is missing, stop what is too much and may be stopped."""
        live = [worker for worker in self.workers if worker.state is not State.STOPPING]
        for _ in range(self.desired - len(live)):
            self._launch()
        free = [worker for worker in live if not worker.protected]
        # What has not started yet goes first, then anybody: ECS does not know who is busy.
        self.rng.shuffle(free)
        free.sort(key=lambda worker: worker.state is not State.STARTING)
        for worker in free[: max(0, len(live) - self.desired)]:
            self._stop(worker)

    def _launch(self) -> None:
        slots = self.shape.limits.slots
        worker = Worker(slots, slots * self.shape.limits.prefetch, self.now)
        self.workers.append(worker)
        self._after(self.rng.uniform(*self.shape.start_seconds), self._shift, worker)
        if self.shape.spot_per_hour:
            self._after(self.rng.expovariate(self.shape.spot_per_hour / HOUR), self._interrupt, worker)

    def _shift(self, worker: Worker) -> None:
        """It begins to receive, protected if this variant's workers protect themselves."""
        if worker.state not in {State.STARTING, State.RESTING}:
            return
        worker.state, worker.protected = State.UP, self.scaler.protects
        if worker.protected:
            self._after(max(PROTECTED_SECONDS, worker.longest_seconds), self._rest, worker)
        self._receive(worker)

    def _rest(self, worker: Worker) -> None:
        if worker.state is not State.UP:
            return
        worker.state = State.RESTING
        if not worker.held:
            self._settle(worker)

    def _settle(self, worker: Worker) -> None:
        """It holds nothing, and was resting or told to stop."""
        if worker.state is State.STOPPING:
            self._leave(worker)
        elif worker.state is State.RESTING:
            worker.protected = False
            self._after(REST_SECONDS, self._shift, worker)
            self._reconcile()

    def _interrupt(self, worker: Worker) -> None:
        if worker.state in {State.STOPPING, State.GONE}:
            return
        self.interrupted += 1
        self._stop(worker)
        self._reconcile()

    def _stop(self, worker: Worker) -> None:
        worker.state, worker.protected = State.STOPPING, False
        handed_back, worker.prefetched = worker.prefetched, deque()
        for message in handed_back:
            self._send(message)
        if worker.held:
            self._after(STOP_SECONDS, self._kill, worker)
        else:
            self._leave(worker)

    def _kill(self, worker: Worker) -> None:
        if worker.state is State.GONE:
            return
        cut_off = list(worker.running)
        worker.running.clear()
        self._leave(worker)
        for message in cut_off:
            self.killed += 1
            self._send(message)

    def _leave(self, worker: Worker) -> None:
        worker.state, worker.gone_at = State.GONE, self.now
        self.workers.remove(worker)
        self.worker_seconds += self.now - worker.born_at
