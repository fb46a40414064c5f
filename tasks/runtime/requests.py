"""A message that Celery's main process has received: how its outcome is passed on to SQS, and to the ledger.

The main process of a prefork pool opens no database connection. What it alone sees (a process that died, a hard time
limit, a termination) it tells the steward, and acknowledges the message when the steward has recorded it.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Callable
from typing import Any

from billiard import einfo
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import bootsteps, signals
from celery.worker import state
from celery.worker.request import Request as CeleryRequest
from celery.worker.state import task_ready
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from serverless.broker import worker as broker_worker
from tasks.runtime import steward, verdicts

log = logging.getLogger(__name__)

#: Stubs know little of these.
_Request: Any = CeleryRequest
_WITH_TRACEBACK: Any = einfo.ExceptionWithTraceback  # type: ignore[attr-defined]
#: A rolling deploy takes less than all of these pauses, a quarter of an hour.
_UNKNOWN_TRIES = 7
_FIRST_UNKNOWN_PAUSE_SECONDS = 10
_LONGEST_UNKNOWN_PAUSE_SECONDS = 300
_CELERYS = "celery.worker.request:Request"


class RequestStep(bootsteps.Step):
    """Has every task of the worker use our request, and know `once`, also those with a base class of their own."""

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        from tasks.runtime.once import ending_when_done
        from tasks.runtime.results import LedgerBackend

        if settings.RECORD_RUNS and not isinstance(parent.app.backend, LedgerBackend):
            raise ImproperlyConfigured(
                f'RESULT_BACKEND="{settings.RESULT_BACKEND}" cannot hold the outcomes of recorded runs. Leave it '
                "out, or set RECORD_RUNS=false: then nothing is recorded, and nothing of the ledger works."
            )
        for task in parent.app.tasks.values():
            if task.Request == _CELERYS:
                task.Request = Request
            task.run = ending_when_done(task.run)


def tell_dead(task_id: str | None, reason: str) -> None:
    """The broker's dead_letter_hook: the run ends as dead, unless it has ended."""
    told = steward.current()
    if told is not None and task_id is not None:
        told.finish("dead", {"id": task_id}, {"type": "WorkerLostError", "message": reason}, lambda: None)


class UnknownTaskStep(bootsteps.Step):
    """Gives a task that this worker does not know back for a while: during a deploy another worker may know it."""

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        fail = consumer.on_unknown_task

        def on_unknown_task(body: Any, message: Any, error: Exception) -> None:
            delivery = getattr(message, "delivery", None)
            if delivery is None:  # of another transport
                fail(body, message, error)
                return
            if delivery.receives > _UNKNOWN_TRIES:
                reason = f"no worker knows the task {error}: deploy the release that has it, then redrive"
                message.receiving_channel.refuse(message.delivery_tag, reason)
                signals.task_unknown.send(
                    sender=consumer, message=message, exc=error, name=str(error), id=delivery.task_id
                )
                return
            seconds = min(_LONGEST_UNKNOWN_PAUSE_SECONDS, _FIRST_UNKNOWN_PAUSE_SECONDS << (delivery.receives - 1))
            log.warning(
                "task %s is unknown to this worker: message %s goes back for %d s",
                error,
                delivery.message_id,
                seconds,
            )
            message.receiving_channel.consuming.returned(message.delivery_tag, seconds)

        consumer.on_unknown_task = on_unknown_task


class Request(_Request):  # type: ignore[misc]
    """Celery's, told by the ledger's verdicts."""

    acknowledged: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Of this one execution: what is said of it late must not strike another.
        self._request_dict["holder"] = uuid.uuid4().hex

    def revoked(self) -> bool:
        """Whether it was revoked or has expired: the claim knows, which reads what was revoked while we were down."""
        if self._already_revoked:
            return True
        if self._request_dict.get("recorded") is False:
            revoked: bool = super().revoked()
            return revoked
        return False

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        error = exc_info.exception
        if isinstance(error, _WITH_TRACEBACK):
            error = error.exc
        if isinstance(error, verdicts.HandBack):
            task_ready(self)
            self._hand_back(error.seconds)
        elif isinstance(error, verdicts.DeadLetter):
            task_ready(self)
            self._refuse(error.why)
            signals.task_failure.send(
                sender=self.task,
                task_id=self.id,
                exception=error,
                args=self.args,
                kwargs=self.kwargs,
                traceback=exc_info.traceback,
                einfo=exc_info,
            )
        elif isinstance(error, TimeLimitExceeded) and self._is_told_of_its_timeout:
            return  # on_timeout follows at once, which acknowledges only what is recorded
        else:
            is_lost = isinstance(error, WorkerLostError | SystemExit | KeyboardInterrupt)
            if is_lost and self._is_recorded and not self._already_cancelled:
                # Told before the message shows again, so that whoever gets it finds the way free.
                self._tell_lost(str(error))
            super().on_failure(exc_info, send_failed_event, return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        if soft or not self._is_told_of_its_timeout:
            super().on_timeout(soft, timeout)
            return
        task_ready(self)
        log.error("Hard time limit (%ss) exceeded for %s[%s]", timeout, self.name, self.id)
        if self.task.acks_late and not self.task.acks_on_timeout:
            self._tell_lost(f"its hard time limit of {timeout} s was over, and the task wants to run again")
            self.reject(requeue=True)
            return
        error = TimeLimitExceeded(timeout)
        self._finish("failed", error)
        signals.task_failure.send(
            sender=self.task,
            task_id=self.id,
            exception=error,
            args=self.args,
            kwargs=self.kwargs,
            traceback=None,
            einfo=None,
        )

    @property
    def _is_told_of_its_timeout(self) -> bool:
        return not state.should_terminate and self._is_recorded and steward.current() is not None

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """End its process, since the worker stops and has no more time for it.

        By KILL: the run is given away in this very call, and TERM is heard between two bytecodes only, so never while a
        library is at work.
        """
        if signal is None and self._is_recorded and broker_worker.stopping():
            signal = "KILL"
        super().cancel(pool, signal, emit_retry)

    def _announce_cancelled(self, emit_retry: bool = True) -> None:
        """A cold stop has ended its process. Whoever gets its message, at once, is to find the way free."""
        told = steward.current()
        if told is not None and self._is_recorded:
            told.cut_off(self.id, "its worker stopped, and had no more time for it", self._request_dict["holder"])
        super()._announce_cancelled(emit_retry=emit_retry)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        if not self._is_recorded or steward.current() is None:
            super()._announce_revoked(reason, terminated, signum, expired)
            return
        task_ready(self)
        self._already_revoked = True
        self._finish("expired" if expired else "revoked", RuntimeError(reason))
        signals.task_revoked.send(
            sender=self.task, request=self._context, terminated=terminated, signum=signum, expired=expired
        )

    def _success_was_stored(self) -> bool:
        # If it was, the claim of the message that comes back will find out.
        return False

    @property
    def _is_recorded(self) -> bool:
        if self._request_dict.get("recorded") is False:
            return False
        return bool(self._request_dict.get("schedule") or getattr(self.task, "recorded", True))

    def _finish(self, kind: str, error: BaseException) -> None:
        """Have the outcome recorded, and then acknowledge."""
        channel = getattr(self.message, "receiving_channel", None)
        if channel is not None:
            channel.consuming.keep(self.message.delivery_tag)
        facts = {"type": type(error).__name__, "message": str(error)}
        told = steward.current()
        if told is not None:
            told.finish(kind, dict(self._context.__dict__), facts, self._acknowledge_at_last)

    def _acknowledge_at_last(self) -> None:
        if self.task.acks_late:
            self.acknowledge()

    def _tell_lost(self, why: str) -> None:
        told = steward.current()
        if told is not None:
            told.lost(self.id, why, self._request_dict["holder"])

    def _hand_back(self, seconds: float) -> None:
        self._settle(lambda consuming, tag: consuming.returned(tag, math.ceil(seconds)), requeue=True)

    def _refuse(self, reason: str) -> None:
        self._settle(lambda consuming, tag: consuming.refused(tag, reason), requeue=False)

    def _settle(self, tell: Callable[[Any, Any], None], *, requeue: bool) -> None:
        if self.acknowledged:
            return
        channel = getattr(self.message, "receiving_channel", None)
        if channel is None:  # of another transport
            self.reject(requeue=requeue)
            return
        tell(channel.consuming, self.message.delivery_tag)
        self.acknowledged = True
