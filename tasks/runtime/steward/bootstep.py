"""Gives a worker its steward: from before its pool starts until after its last message is settled."""

from __future__ import annotations

import os
import time
from typing import Any

import structlog
from celery import bootsteps
from celery.worker import state as worker_state
from celery.worker.components import Pool

from serverless.broker import worker as broker_worker
from tasks.runtime.steward import client
from tasks.topology import TOPOLOGY

log = structlog.get_logger(__name__)
#: Its stubs know little of it.
state: Any = worker_state

#: What is revoked is waited for before the first message; a claim asks the database anyway.
_READY_SECONDS = 10.0
#: At the end, for outcomes on which acknowledgements wait.
_DRAIN_SECONDS = 10.0

_KINDS = {"prefork": "prefork", "thread": "threads", "solo": "solo"}


class StewardStep(bootsteps.StartStopStep):
    """Starts it, tells it how the worker is, and ends it last of all."""

    requires = (Pool,)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self.steward: client.Steward | None = None
        self._began = time.monotonic()
        self._is_closing = False

    def create(self, w: Any) -> None:
        # Spawned now: it has loaded Django by the time that the pool has started.
        self.steward = client.start(w.app, w.hostname, lambda: self._facts(w))
        self.steward.on_ready = self._take_revocations
        self._end_it_last(w)
        if w.hub is not None:
            w.hub.on_close.add(self._on_hub_close)

    def start(self, w: Any) -> None:
        """Before the consumer, which is always last."""
        if self.steward is None:
            return
        if not self.steward.ready.wait(_READY_SECONDS):
            log.warning("revocations_not_loaded", worker=w.hostname)
        self._take_revocations()
        self.steward.tell_facts()

    def close(self, w: Any) -> None:
        self._is_closing = True
        if self.steward is not None:
            self.steward.tell_facts()

    def stop(self, w: Any) -> None:
        """Not yet: the consumer's connection still settles messages."""

    def terminate(self, w: Any) -> None:
        """As stop."""

    def _end_it_last(self, w: Any) -> None:
        stopped = w.blueprint.on_stopped

        def then_the_steward() -> None:
            try:
                stopped()
            finally:
                client.stop()

        w.blueprint.on_stopped = then_the_steward

    def _on_hub_close(self, hub: Any) -> None:
        # Also called where the loop is only made anew.
        if self._is_closing and self.steward is not None:
            self.steward.drain(_DRAIN_SECONDS)

    def _take_revocations(self) -> None:
        if self.steward is None:
            return
        ids, stamps = self.steward.revocations
        state.merge_revoked(ids)
        for header, values in stamps.items():
            known = state.revoked_stamps.get(header) or []
            known = list(known) if isinstance(known, list | tuple | set) else [known]
            state.revoked_stamps[header] = [*known, *(value for value in values if value not in known)]

    def _facts(self, w: Any) -> dict[str, Any]:
        busy = len(state.active_requests)
        queues = sorted(w.app.amqp.queues.consume_from)
        return {
            "pid": os.getpid(),
            "kind": _KINDS.get(type(w.pool).__module__.rpartition(".")[2], type(w.pool).__module__)[:20],
            "concurrency": getattr(w.pool, "num_processes", None) or w.concurrency or 0,
            "pool": _pool_of(queues),
            "queues": queues,
            "is_draining": self._is_closing or broker_worker.stopping(),
            "busy": busy,
            "held": _held(w),
            "processed": max(0, state.all_total_count[0] - busy),
            "age_seconds": time.monotonic() - self._began,
        }


def _pool_of(queues: list[str]) -> str:
    """The pool of the topology that consumes these queues; "" if they are of several, or of none."""
    pools = {TOPOLOGY.queues[name].pool if name in TOPOLOGY.queues else "" for name in queues}
    return pools.pop() if len(pools) == 1 else ""


def _held(w: Any) -> int:
    """Messages that the worker holds, also those that it has not begun."""
    consumer = getattr(w, "consumer", None)
    channel = getattr(getattr(consumer, "task_consumer", None), "channel", None)
    consuming = getattr(channel, "_consuming", None)
    if consuming is not None:
        return int(consuming.holdings.held)
    return len(state.reserved_requests)
