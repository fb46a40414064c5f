"""Keeps a worker's task protected while it may hold something: the thread that does what protection.py decides."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from serverless.broker import gate, worker
from serverless.broker.spells import Spell
from serverless.container import agent
from serverless.container.protection import Facts, Phase, Protection, Rules, for_tasks_of

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
#: Of a stretch of receiving: workers that started together drift apart.
_MOST_JITTER = 0.2
RULES = Rules()


class Keeper(threading.Thread):
    """Asks the agent, and opens and closes the broker's gate.

    uri: the agent's. newer_release: says which release has started since, "" for none; must not wait.
    longest_task_seconds: the hard limit of its queues' tasks.
    """

    def __init__(self, uri: str, newer_release: Callable[[], str], longest_task_seconds: float) -> None:
        super().__init__(name="task-protection", daemon=True)
        self._uri = uri
        self._newer_release = newer_release
        rules = replace(RULES, jitter=random.uniform(0.0, _MOST_JITTER))
        self._rules = for_tasks_of(rules, longest_task_seconds)
        self._protection = Protection(self._rules, time.monotonic())
        self._spell = Spell("asking ECS for task protection")

    def run(self) -> None:
        while not worker.stopping():
            try:
                self.look()
            except Exception:
                # Whatever is wrong here, the work goes on.
                log.exception("task_protection_failed")
                gate.open_again()
            time.sleep(_LOOK_SECONDS)

    def look(self) -> None:
        """One round."""
        before = self._protection.phase
        load = gate.load()
        facts = Facts(load.held + load.polls, load.longest_seconds, self._newer_release())
        step = self._protection.look(time.monotonic(), facts)
        self._move(step.may_receive)
        self._tell(before, facts)
        if step.ask is None:
            return
        before = self._protection.phase
        answer = agent.protect(self._uri, step.ask, minutes=max(1, round(self._rules.expires / 60)))
        if answer.granted:
            self._spell.worked()
        elif answer.unwanted:
            log.info("task_not_wanted", why=answer.why)
        else:
            self._spell.failed(answer.why)
        self._protection.answered(time.monotonic(), step.ask, answer)
        self._move(self._protection.phase is Phase.RECEIVING)
        self._tell(before, facts)

    @staticmethod
    def _move(may_receive: bool) -> None:
        if not may_receive:
            gate.close()
        elif gate.is_closed():
            gate.open_again()

    def _tell(self, before: Phase, facts: Facts) -> None:
        phase = self._protection.phase
        if phase is before:
            return
        log.info(
            f"task_protection_{phase}",
            held=facts.load,
            protected=self._protection.is_protected(time.monotonic()),
            newer_release=facts.newer_release or None,
        )
