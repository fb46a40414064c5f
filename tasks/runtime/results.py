"""Celery's result backend over the ledger: a run's outcome, what follows from it and its result are one transaction.

In a pool's process or thread the database is written to directly, and tried again for as long as it is away: what a
task has done must not be forgotten because of an outage. A worker's main process never opens a database connection:
what only it sees is told to the steward.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
from celery import states
from celery.app.task import Context
from celery.backends import base
from celery.backends.base import BaseBackend
from celery.canvas import group, maybe_signature
from celery.exceptions import ChordError, TaskRevokedError
from celery.result import GroupResult, allow_join_result, result_from_tuple
from django.db import connection, transaction
from kombu.utils.json import dumps, loads

from django_app.ledger import outcomes, payloads, workflows
from django_app.ledger.models import Attempt, Run
from django_app.ledger.outcomes import Ended
from django_app.ledger.states import FINAL, Outcome, Report, State
from serverless import aws
from serverless.objects import ObjectMissingError
from tasks.runtime import attempts, endings, recording, steward
from tasks.runtime.attempts import Current

log = structlog.get_logger(__name__)
_chord_error: Any = base._create_chord_error_with_cause  # type: ignore[attr-defined]

_POLL_SECONDS = 0.5
#: What forget() leaves of a run's result.
_FORGOTTEN = "FORGOTTEN"
_AS_CELERY = {
    State.PENDING: states.PENDING,
    State.QUEUED: states.PENDING,
    State.WAITING: states.PENDING,
    State.RUNNING: states.STARTED,
    State.LOST: states.STARTED,
    State.SUCCEEDED: states.SUCCESS,
    State.FAILED: states.FAILURE,
    State.DEAD: states.FAILURE,
    State.REVOKED: states.REVOKED,
    State.EXPIRED: states.REVOKED,
    State.SKIPPED: states.REVOKED,
}
_REPORTS = {
    states.SUCCESS: Report.SUCCEEDED,
    states.FAILURE: Report.FAILED,
    states.REVOKED: Report.REVOKED,
}
_OUTCOMES = {
    Report.SUCCEEDED: Outcome.SUCCEEDED,
    Report.FAILED: Outcome.FAILED,
    Report.REVOKED: Outcome.REVOKED,
    Report.EXPIRED: Outcome.REVOKED,
    Report.DEAD: Outcome.DEAD,
}


class ResultMissingError(LookupError):
    """A run has succeeded, and its result is no longer in the bucket."""


class WaitsForItselfError(RuntimeError):
    """A result is waited for inside the transaction that enqueues its task, which nobody sees before the commit."""


#: Celery's stubs know little of it.
_Backend: Any = BaseBackend


class LedgerBackend(_Backend):  # type: ignore[misc]
    """Results beside their runs."""

    supports_native_join = True
    # Runs have a retention of their own; no periodic task is needed.
    supports_autoexpire = True
    persistent = True

    # Outcomes --------------------------------------------------------------------------------------------------------

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Any = None,
        store_result: bool = True,
        state: str = states.SUCCESS,
    ) -> None:
        attempt = attempts.of(task_id)
        if attempt is None:
            if _is_unrecorded(request):
                return
            super().mark_as_done(task_id, result, request, store_result, state)
            return
        if attempt.again is not None:
            # retry(throw=False): it goes on in another message, which will have the last word.
            self._send_again(attempt, None, "")
            return
        is_stored = store_result and not getattr(request, "ignore_result", False)
        kept = self._kept(task_id, result, state) if is_stored else ""

        def return_part() -> None:
            self.on_chord_part_return(request, state, result)

        ended = Ended(Outcome.SUCCEEDED, result=kept)
        follow = return_part if request.chord else None
        endings.end(task_id, Report.SUCCEEDED, ended, follow, attempt=attempt, request=request)

    def mark_as_failure(  # noqa: PLR0917 - Celery's signature
        self,
        task_id: str,
        exc: BaseException,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
        report: Report = Report.FAILED,
    ) -> None:
        attempt = attempts.of(task_id)
        if attempt is None and request is not None and (_is_unrecorded(request) or _told_the_steward(request, exc)):
            return
        kept = self._kept_error(task_id, exc, state) if store_result else ""
        ended = endings.failed(_OUTCOMES[report], exc, traceback, kept)

        chain = getattr(request, "chain", None)
        errbacks = call_errbacks and request is not None and request.errbacks

        def follow() -> None:
            if request.chord:
                self.on_chord_part_return(request, state, exc)
            self._fail_chain(chain, exc, traceback, store_result=True, state=state)
            if errbacks:
                self._call_task_errbacks(request, exc, traceback)

        follows = request is not None and (request.chord or chain or errbacks)
        self._end(task_id, report, ended, follow if follows else None, request)

    def mark_as_revoked(  # noqa: PLR0917 - Celery's signature
        self,
        task_id: str,
        reason: str = "",
        request: Any = None,
        store_result: bool = True,
        state: str = states.REVOKED,
        report: Report = Report.REVOKED,
    ) -> None:
        if request is not None and _is_unrecorded(request):
            return
        exc = TaskRevokedError(reason)
        ended = Ended(_OUTCOMES[report], error=f"revoked: {reason}", result=self._kept_error(task_id, exc, state))

        def follow() -> None:
            if request is None:
                return
            if request.chord:
                self.on_chord_part_return(request, state, exc)
            # What was to come after it will never come; stock Celery leaves it pending for ever.
            self._fail_chain(getattr(request, "chain", None), exc, None, store_result=True, state=state)

        self._end(task_id, report, ended, follow, request)

    def mark_as_retry(  # noqa: PLR0917 - Celery's signature
        self,
        task_id: str,
        exc: BaseException | None,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> None:
        attempt = attempts.of(task_id)
        if attempt is not None:
            self._send_again(attempt, exc, traceback)

    def _send_again(self, attempt: Current, exc: BaseException | None, traceback: Any) -> None:
        if attempt.again is None:
            return
        ended = Ended(Outcome.RETRIED)
        if exc is not None:
            kept = self._kept_error(attempt.run_id, exc, states.RETRY)
            ended = endings.failed(Outcome.RETRIED, exc, traceback, kept)
        ended = replace(ended, claim=attempt.claim, log_tail=attempt.log_tail, celery_state=states.RETRY)
        endings.release(attempt, attempt.again, ended)

    def end_quietly(self, attempt: Current, *, is_ignored: bool, request: Any) -> None:
        """Record what the tracer has not: a replacement, an Ignore, a message that goes back."""
        if attempt.again is not None:
            ended = Ended(Outcome.REPLACED, claim=attempt.claim, log_tail=attempt.log_tail)
            endings.release(attempt, attempt.again, ended)
        elif attempt.is_replaced:
            endings.set_aside(attempt)
        elif is_ignored:

            def follow() -> None:
                if request.chord:
                    # Nobody else would ever return this part.
                    error = RuntimeError(f"run {attempt.run_id} was ignored and returned nothing")
                    self.on_chord_part_return(request, states.FAILURE, error)

            ended = Ended(Outcome.SUCCEEDED, celery_state=states.IGNORED)
            attempt.successors.clear()
            endings.end(attempt.run_id, Report.SUCCEEDED, ended, follow, attempt=attempt, request=request)
        else:
            endings.hand_back(attempt)

    def _end(self, task_id: str, report: Report, ended: Ended, follow: Callable[[], None] | None, request: Any) -> None:
        attempt = attempts.of(task_id)
        unknown = None
        if attempt is None:
            # It may be a step behind one that failed, and so was never enqueued.
            name = getattr(request, "task", None) or _callback.get()
            unknown = Run(id=task_id, task=str(name or ""), group_id=getattr(request, "group", None) or "")
        endings.end(task_id, report, ended, follow, attempt=attempt, request=request, unknown=unknown)

    def _kept(self, task_id: str, result: Any, state: str) -> str:
        """A result as its row has it. Raises EncodeError."""
        encoded = self.encode(self.encode_result(result, state))
        return endings.persistently(lambda: payloads.keep(encoded, task_id))

    def _kept_error(self, task_id: str, error: BaseException, state: str) -> str:
        """As _kept; "" where the bucket refuses it for good: the error's line and traceback are kept all the same."""
        try:
            return self._kept(task_id, error, state)
        except aws.ERRORS as refusal:
            log.error("error_not_stored", task_id=task_id, error=str(refusal))
            return ""

    # States that tasks and Celery store directly ---------------------------------------------------------------------

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **_: Any
    ) -> Any:
        if state == states.STARTED:
            return result  # the claim says so
        if request is not None and _is_unrecorded(request):
            return result
        report = _REPORTS.get(state)
        kept = payloads.keep(self.encode(result), task_id)
        if report is None:
            outcomes.set_state(task_id, state, kept)
            return result
        error = ""
        if state in states.EXCEPTION_STATES:
            described = result if isinstance(result, dict) else {}
            error = f"{described.get('exc_type', state)}: {described.get('exc_message', '')}"
        ended = Ended(_OUTCOMES[report], error=error, traceback=attempts.storable(traceback), result=kept)
        self._end(task_id, report, ended, None, request)
        return result

    # Chords ----------------------------------------------------------------------------------------------------------

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        header = ""
        results = header_result_args[1]
        if isinstance(results, list | tuple):
            result = self.app.GroupResult(*header_result_args)
            if any(isinstance(each, GroupResult) for each in result.results):
                # Only then does its shape say more than a list of parts.
                header = dumps(result.as_tuple())
        _with_the_replacement(partial(workflows.begin_chord, header_result_args[0], header))

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        _with_the_replacement(partial(workflows.set_chord_size, group_id, chord_size))

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        workflows.add_to_chord(chord_id)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **_: Any) -> None:
        group_id, part_id = request.group, request.id
        if not group_id or not part_id:
            return

        def work() -> None:
            encoded = self.encode([state, self.encode_result(result, state)])
            chord = workflows.return_part(group_id, part_id, request.group_index, payloads.keep(encoded, part_id))
            if chord is not None:
                self._call_back(chord, request)

        endings.transact(None, work)

    def _call_back(self, chord: Any, request: Any) -> None:
        callback: Any = maybe_signature(request.chord, app=self.app)
        try:
            values = self._values(chord)
            callback.delay(values)
        except endings.AWAY:
            raise
        except ChordError as error:
            self.chord_error_from_stack(callback, error)
        except Exception as error:
            log.exception("chord_callback_failed", group=chord.group_id, callback=callback.task)
            failure = _chord_error(message=f"Callback error: {error!r}", original_exc=error)
            self.chord_error_from_stack(callback, failure)
        workflows.forget_parts(chord)

    def _values(self, chord: Any) -> Any:
        """What the header returned, in its order and shape. Raises ChordError for a part that failed."""
        values = []
        for kept in workflows.part_results(chord):
            part_id, text = kept
            state, value = self.decode(payloads.read(text))
            if state in states.EXCEPTION_STATES:
                value = self.exception_to_python(value)
            if state in states.PROPAGATE_STATES:
                raise _chord_error(message=f"Dependency {part_id} raised {value!r}", original_exc=value)
            values.append(value)
        if not chord.header:
            return values
        header: Any = result_from_tuple(loads(chord.header), self.app)
        header.on_ready()
        with allow_join_result():
            return header.join(timeout=self.app.conf.result_chord_join_timeout, propagate=True)

    def chord_error_from_stack(self, callback: Any, exc: Any = None) -> Any:
        token = _callback.set(callback.task)
        try:
            told = super().chord_error_from_stack(callback, exc)
        finally:
            _callback.reset(token)
        # A chord whose part was this chord would wait for its callback for ever.
        for part in callback.tasks if isinstance(callback, group) else [callback]:
            options = part.options
            if options.get("chord"):
                request = Context({**options, "id": options.get("task_id"), "group": options.get("group_id")})
                self.on_chord_part_return(request, states.FAILURE, exc)
        return told

    def _call_task_errbacks(self, request: Any, exc: Any, traceback: Any) -> None:
        """Each by itself: one that breaks the transaction takes nothing but itself back."""
        for errback in list(request.errbacks or ()):
            if errback["task"] not in self.app.tasks:
                # Stewards, the web and the housekeeping import no tasks, and how it is called depends on it.
                self.app.loader.import_default_modules()
            alone = Context(request.__dict__)
            alone.errbacks = [errback]
            try:
                with transaction.atomic():
                    super()._call_task_errbacks(alone, exc, traceback)
            except endings.AWAY:
                raise
            except Exception:
                log.exception("errback_failed", task_id=request.id)

    def _fail_chain(
        self,
        chain: Any,
        exc: Any,
        traceback: Any = None,
        store_result: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """Celery's own, and the tasks of a group among the steps as well: nobody will ever enqueue them."""
        super()._fail_chain(chain, exc, traceback, store_result=store_result, state=state)
        for step in chain or ():
            if isinstance(step, dict) and step.get("subtask_type") == "group":
                tasks = (step.get("kwargs") or {}).get("tasks") or ()
                self._fail_chain(tasks, exc, traceback, store_result=store_result, state=state)

    # Reading ---------------------------------------------------------------------------------------------------------

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        run = Run.objects.filter(pk=task_id).defer("message", "arguments").first()
        return self._meta(task_id, run)

    def _meta(self, task_id: str, run: Run | None) -> dict[str, Any]:
        if run is None or run.celery_state == _FORGOTTEN:
            return {"task_id": task_id, "status": states.PENDING, "result": None, "traceback": None, "children": []}
        status = _AS_CELERY[State(run.state)]
        if run.celery_state:
            status = run.celery_state
        try:
            result = self._result(run, status)
        except ObjectMissingError as error:
            status, result = states.FAILURE, self.prepare_exception(ResultMissingError(f"run {task_id}: {error}"))
        meta: dict[str, Any] = {
            "task_id": task_id,
            "status": status,
            "result": result,
            "traceback": _traceback(run) if status in states.EXCEPTION_STATES else None,
            "children": [result_from_tuple(each, self.app) for each in loads(run.children or "[]")],
            "date_done": run.finished_at.isoformat() if run.finished_at else None,
            "name": run.task,
            "worker": run.worker or None,
            "retries": run.retries,
            "queue": run.queue,
        }
        if run.group_id:
            meta["group_id"] = run.group_id
        if run.parent_id:
            meta["parent_id"] = run.parent_id
        decoded: dict[str, Any] = self.meta_from_decoded(meta)
        return decoded

    def _result(self, run: Run, status: str) -> Any:
        text = payloads.read(run.result)
        if text is not None:
            return self.decode(text)
        if status in states.EXCEPTION_STATES:
            kind, _, message = run.error.partition(": ")
            name = kind.rpartition(".")[2] or "TaskFailed"
            return {"exc_type": name, "exc_message": message, "exc_module": "celery.exceptions"}
        if status == states.STARTED:
            return {"hostname": run.worker, "pid": None}
        return None

    def wait_for_pending(self, result: Any, *args: Any, **options: Any) -> Any:
        _refuse_to_wait(_with_ancestors(result))
        return super().wait_for_pending(result, *args, **options)

    def iter_native(self, result: Any, *args: Any, **options: Any) -> Any:
        _refuse_to_wait(_with_ancestors(result))
        return super().iter_native(result, *args, **options)

    def get_many(  # noqa: PLR0917 - Celery's signature
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float | None = _POLL_SECONDS,
        no_ack: bool = True,
        on_message: Callable[[Any], None] | None = None,
        on_interval: Callable[[], None] | None = None,
        max_iterations: int | None = None,
        READY_STATES: frozenset[str] = states.READY_STATES,  # noqa: N803 - Celery's name
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """(task id, meta) of each as it is ready. Raises TimeoutError after `timeout` seconds."""
        left = list(dict.fromkeys(task_ids))
        _refuse_to_wait(left)
        began, rounds = time.monotonic(), 0
        while left:
            found: dict[str, Run] = {}
            for start in range(0, len(left), 500):
                found |= Run.objects.defer("message", "arguments").in_bulk(left[start : start + 500])
            waiting = []
            for task_id in left:
                meta = self._meta(task_id, found.get(task_id))
                if meta["status"] not in READY_STATES:
                    waiting.append(task_id)
                    continue
                if on_message is not None:
                    on_message(meta)
                yield task_id, meta
            left = waiting
            if not left:
                return
            if on_interval:
                on_interval()
            rounds += 1
            if max_iterations and rounds >= max_iterations:
                return
            waited = time.monotonic() - began
            if timeout is not None and waited >= timeout:
                raise self.TimeoutError(f"{len(left)} results were not ready after {timeout} seconds")
            pause = _POLL_SECONDS if interval is None else interval
            time.sleep(pause if timeout is None else min(pause, timeout - waited))

    def _forget(self, task_id: str) -> None:
        for kept in Run.objects.filter(pk=task_id).values_list("result", flat=True):
            payloads.forget(kept)
        Run.objects.filter(pk=task_id, state__in=FINAL).update(result="", children="", celery_state=_FORGOTTEN)

    def _save_group(self, group_id: str, result: Any) -> Any:
        workflows.save_group(group_id, dumps(result.as_tuple()))
        return result

    def _restore_group(self, group_id: str) -> dict[str, Any] | None:
        text = workflows.restore_group(group_id)
        if text is None:
            return None
        return {"task_id": group_id, "result": result_from_tuple(loads(text), self.app)}

    def _delete_group(self, group_id: str) -> None:
        workflows.delete_group(group_id)

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        return isinstance(exc, endings.AWAY)


#: The callback of the chord whose error is being recorded; Celery passes only its id on.
_callback: ContextVar[str] = ContextVar("chord_callback", default="")


def _is_unrecorded(request: Any) -> bool:
    return request is not None and request.get("recorded") is False


def _told_the_steward(request: Any, error: BaseException) -> bool:
    """In a worker's main process: leave it to the steward. For what a Request of ours has not seen to itself."""
    told = steward.current()
    if told is None or attempts.current.get() is not None:
        return False
    told.finish("failed", dict(request.__dict__), {"type": type(error).__name__, "message": str(error)}, lambda: None)
    return True


def _with_the_replacement(call: Callable[[], None]) -> None:
    """Do it; for a task that is replacing itself, when that is recorded: its exception may roll all else back."""
    attempt = attempts.current.get()
    if attempt is not None and attempt.is_replacing:
        attempt.aside_calls.append(call)
    else:
        call()


def _traceback(run: Run) -> str | None:
    last = Attempt.objects.filter(run=run).order_by("-number").values_list("traceback", flat=True).first()
    return last or None


def _with_ancestors(result: Any) -> Iterator[str]:
    """Ids of what must end before a result is there: itself, a group's members, and all that comes before them."""
    left = [result]
    while left:
        each = left.pop()
        if each is None:
            continue
        if getattr(each, "id", None):
            yield each.id
        left += [getattr(each, "parent", None), *(getattr(each, "results", None) or ())]


def _refuse_to_wait(task_ids: Iterable[str]) -> None:
    if not connection.in_atomic_block:
        return
    for task_id in task_ids:
        if recording.is_unsent(task_id) and not Run.objects.filter(pk=task_id, state__in=FINAL).exists():
            raise WaitsForItselfError(
                f"run {task_id} is enqueued in the transaction that is still open here, so nobody can work on it "
                "before its commit: leave the atomic() block before you call get()."
            )
