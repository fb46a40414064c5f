"""Running once more what has ended badly: a new run, made of the message that the old one was sent with.

The old run stays as it is, for whatever followed from its end has happened. What the new one has of it:

- task, queue, priority, arguments, stamps, callbacks, error callbacks, who asked for it, its place in the workflow
  (root, parent, group) and its unique key;
- its chain goes on, with new ids for the steps: the old ones have failed with it, for good;
- not its chord, which has failed as well: the retry runs alone, and no callback waits for it;
- not its eta, its expiry and its count of retries.

A run is retried once. Should that fail, the retry is what can be retried.
"""

from __future__ import annotations

import datetime
import inspect
import json
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery import current_app
from celery.utils.saferepr import saferepr
from django.conf import settings
from django.db import transaction
from kombu import compression
from kombu.utils.json import loads

from django_app.ledger import redaction, sealing, uniqueness
from django_app.ledger.models import Run, UniqueRun
from django_app.ledger.states import State
from tasks.runtime import publishing, recording
from tasks.topology import TOPOLOGY

#: What can be retried. One that succeeded is not repeated by a button.
RETRYABLE = frozenset({State.FAILED, State.DEAD, State.REVOKED, State.EXPIRED, State.SKIPPED})
#: Characters of arguments, as JSON, up to which they can be edited.
LONGEST_EDITED = 100_000
#: Levels of edited arguments in one another.
_MOST_LEVELS = 100
_NAMESPACE = uuid.UUID("5d0a1f39-6f5c-4f0e-9d5b-0d3f2c1f7c11")
_BY = "retried_by"
#: What kombu calls the classes that redaction shows as they print themselves.
_SPOKEN_TYPES = frozenset({"datetime", "date", "time", "decimal", "uuid"})
_JSON = "application/json"
#: Of a message, what was meant for its first sending.
_SENDING = ("delay_seconds", "DelaySeconds", "expiration", "MessageDeduplicationId")


class RetryError(ValueError):
    """A run that cannot be retried. rule: why. remedy: what to do instead."""

    def __init__(self, run_id: str, rule: str, remedy: str) -> None:
        super().__init__(run_id, rule, remedy)
        self.run_id, self.rule, self.remedy = run_id, rule, remedy

    def __str__(self) -> str:
        return f"run {self.run_id}: {self.rule}. {self.remedy}"


class NotRetryableError(RetryError):
    """A run that has not ended, or has succeeded. state: its state; "" where it is recorded no more."""

    def __init__(self, run_id: str, state: str) -> None:
        self.state = state
        if not state:
            super().__init__(run_id, "it is not recorded, or no longer", "Enqueue the task anew.")
        elif state == State.SUCCEEDED:
            super().__init__(run_id, "it has succeeded", "Enqueue the task anew if its work is to be done twice.")
        else:
            super().__init__(run_id, f"it is {state}, and has not ended", "Wait for its end, or revoke it first.")


class AlreadyRetriedError(RetryError):
    """A run that has been retried before. retry_id: as which run. by: by whom, or "". at: when."""

    def __init__(self, run_id: str, retry_id: str, by: str, at: datetime.datetime) -> None:
        self.retry_id, self.by, self.at = retry_id, by, at
        whom = f"by {by} " if by else ""
        rule = f"it was already retried {whom}at {at:%Y-%m-%d %H:%M:%S} UTC as run {retry_id}"
        super().__init__(run_id, rule, "Look at that run; if it has failed, retry it.")


class MessageMissingError(RetryError):
    """A run whose message cannot be had, or not be read."""


class UnknownTaskError(RetryError):
    """A run of a task, or in a queue, that this release does not know."""


class ArgumentsError(RetryError):
    """Arguments that cannot be given to the task."""


class KeyHeldError(RetryError):
    """A run whose unique key another one holds. holder: that run's id."""

    def __init__(self, run_id: str, key: str, holder: str) -> None:
        self.key, self.holder = key, holder
        super().__init__(run_id, f'its unique key "{key}" is held by run {holder}', "Wait for the end of that one.")


@dataclass(frozen=True)
class _Message:
    """A stored message. text: the body, unpacked, JSON."""

    text: str
    options: dict[str, Any]


def retry_id(run_id: str) -> str:
    """The id that a run's retry has, or would have. One id, so that there is one retry."""
    return str(uuid.uuid5(_NAMESPACE, run_id))


def retried_by(retry: Run) -> str:
    """Who made this retry; "" where it is unknown."""
    try:
        return str(publishing.unpack(retry.message)[1]["headers"].get(_BY) or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def retry(run: Run, by: str, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None) -> Run:
    """Make a new run of one that failed, was dead-lettered, was revoked or expired, and publish it after the commit.

    by: who wants it, or "". args, kwargs: other arguments, as JSON has them; None: as they were. A value "[redacted]"
    in them stands for the old one, see `editable`.
    Whoever retries the same run at the same moment waits for this transaction, and is told of this retry.
    Raises RetryError.
    """
    with transaction.atomic():
        original = Run.objects.select_for_update().filter(pk=run.pk).first()
        if original is None or original.state not in RETRYABLE:
            raise NotRetryableError(run.pk, original.state if original is not None else "")
        existing = Run.objects.filter(pk=retry_id(original.pk)).only("pk", "created_at", "message").first()
        if existing is not None:
            raise AlreadyRetriedError(original.pk, existing.pk, retried_by(existing), existing.created_at)
        task = _task_of(original)
        message = _read(original)
        stored_args, stored_kwargs, embed = _contents(original, message)
        is_edited = args is not None or kwargs is not None
        if is_edited:
            names = recording.parameters_of(original.task)
            args, kwargs = keep_secrets(
                original.pk,
                names,
                (stored_args, stored_kwargs),
                (stored_args if args is None else args, stored_kwargs if kwargs is None else kwargs),
            )
        else:
            args, kwargs = stored_args, stored_kwargs
        _check_signature(original.pk, task, args, kwargs)
        again = _made_anew(original, message, (args, kwargs, embed), by, is_edited=is_edited)
        _take_unique_key(original, again)
        with recording.at_once():
            recording.record(again)
        return again


def editable(run: Run) -> tuple[list[Any], dict[str, Any]]:
    """A run's arguments as JSON has them, whole, with "[redacted]" in place of what people must not see.

    Raises MessageMissingError, and ArgumentsError for what is too long.
    """
    message = _read(run)
    if len(message.text) > LONGEST_EDITED:
        raise ArgumentsError(
            run.pk,
            f"its message has {len(message.text)} characters, and more than {LONGEST_EDITED} are not edited",
            "Retry it as it is, or enqueue the task anew.",
        )
    args, kwargs, _ = _contents(run, message)
    return hide_secrets(args, kwargs, recording.parameters_of(run.task))


# The message ---------------------------------------------------------------------------------------------------------


def _task_of(run: Run) -> Any:
    if run.task not in current_app.tasks:
        # The web side imports a task's module when it first needs it.
        current_app.loader.import_default_modules()
    task = current_app.tasks.get(run.task)
    if task is None:
        raise UnknownTaskError(
            run.pk, f'this release has no task "{run.task}"', "Deploy the release that has it, or enqueue another task."
        )
    if run.queue not in TOPOLOGY.queues:
        raise UnknownTaskError(
            run.pk, f'its queue "{run.queue}" is not declared', "Declare it in tasks/topology.json, then retry."
        )
    return task


def _read(run: Run) -> _Message:
    if not run.message:
        raise MessageMissingError(
            run.pk, "no message of it is kept", "It was a step that never began: retry the run that failed before it."
        )
    try:
        body, options = publishing.unpack(run.message)
        encoding = options["headers"].get("compression")
        if encoding:
            body = compression.decompress(body.encode() if isinstance(body, str) else body, encoding)
        if options.get("content_type") != _JSON:
            raise ValueError(f"its content type is {options.get('content_type')!r}, not {_JSON}")
        text = body.decode() if isinstance(body, bytes) else str(body)
    except sealing.SealError as error:
        raise MessageMissingError(run.pk, f"its message cannot be read: {error}", "Then retry.") from error
    except Exception as error:  # whatever a foreign producer, or a codec, made of it
        raise MessageMissingError(run.pk, f"its message cannot be read: {error}", "Enqueue the task anew.") from error
    return _Message(text, options)


def _contents(run: Run, message: _Message) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """(args, kwargs, embed) as plain JSON: what kombu decodes from it, such as dates, stays encoded."""
    try:
        args, kwargs, embed = json.loads(message.text)
        if not isinstance(args, list) or not isinstance(kwargs, dict) or not isinstance(embed, dict):
            raise ValueError("it is no [args, kwargs, embed]")
    except (ValueError, TypeError, RecursionError) as error:
        raise MessageMissingError(
            run.pk, f"its message is not Celery's protocol 2: {error}", "Enqueue the task anew."
        ) from error
    return args, kwargs, embed


def _made_anew(
    original: Run,
    message: _Message,
    contents: tuple[Sequence[Any], Mapping[str, Any], Mapping[str, Any]],
    by: str,
    *,
    is_edited: bool,
) -> Run:
    args, kwargs, embed = contents
    new_id = retry_id(original.pk)
    ids: dict[str, str] = {}
    chain = [_renamed(step, ids) for step in embed.get("chain") or ()]
    errbacks = [_renamed(each, ids) for each in embed.get("errbacks") or ()]
    body = [args, kwargs, {**embed, "chain": chain or None, "errbacks": errbacks or None, "chord": None}]
    headers = {
        **message.options["headers"],
        "id": new_id,
        "retries": 0,
        "eta": None,
        "expires": None,
        "replaced_task_nesting": 0,
        "enqueued_at": time.time(),
        _BY: by,
    }
    headers.pop("compression", None)
    if is_edited:
        amqp: Any = current_app.amqp
        headers["argsrepr"] = saferepr(args, amqp.argsrepr_maxsize)
        headers["kwargsrepr"] = saferepr(kwargs, amqp.kwargsrepr_maxsize)
    options = {key: value for key, value in message.options.items() if key not in _SENDING}
    options |= {"headers": headers, "correlation_id": new_id, "content_encoding": "utf-8"}
    text = json.dumps(body)
    before = recording.describe_run(original.task, headers, loads(message.text), original.queue, {})
    try:
        again = recording.describe_run(original.task, headers, loads(text), original.queue, {})
    except Exception as error:  # a "__type__" that kombu does not know, or the task's own concurrency_key
        raise ArgumentsError(
            original.pk, f"task {original.task} cannot be given these arguments: {error}", "Edit them to fit."
        ) from error
    if before.limit_key != original.limit_key:
        # It was given at the call, and does not follow from the arguments.
        again.limit_key = original.limit_key
    again.priority = options.get("priority")
    again.retry_of = original.pk
    again.message = publishing.pack(text, options)
    return again


def _renamed(signature: Any, ids: dict[str, str]) -> Any:
    """A signature that is to be sent again, under new ids: those of its tasks, groups and chords, wherever they stand.

    ids: old to new, which grows.
    """
    if isinstance(signature, list):
        return [_renamed(each, ids) for each in signature]
    if not isinstance(signature, dict) or "task" not in signature:
        return signature
    options = dict(signature.get("options") or {})
    for name in ("task_id", "group_id"):
        if options.get(name):
            options[name] = ids.setdefault(options[name], str(uuid.uuid4()))
    for name in ("chord", "link", "link_error"):
        if options.get(name):
            options[name] = _renamed(options[name], ids)
    kwargs = signature.get("kwargs")
    if signature.get("subtask_type") in ("group", "chain", "chord") and isinstance(kwargs, dict):
        parts = {name: _renamed(kwargs[name], ids) for name in ("tasks", "header", "body") if name in kwargs}
        kwargs = {**kwargs, **parts}
    return {**signature, "options": options, "kwargs": kwargs}


def _take_unique_key(original: Run, again: Run) -> None:
    key = original.unique_key
    if not key:
        return
    # A key that outlasts its run goes on to the retry, for as long as it was meant to.
    if not UniqueRun.objects.filter(key=key, run_id=original.pk).update(run_id=again.pk):
        holder = uniqueness.reserve(key, again.pk, None)
        if holder != again.pk:
            raise KeyHeldError(original.pk, key, holder)
    again.unique_key = key


# Arguments -----------------------------------------------------------------------------------------------------------


def _check_signature(run_id: str, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    try:
        inspect.signature(task.run).bind(*args, **kwargs)
    except TypeError as error:
        raise ArgumentsError(
            run_id, f"task {task.name} does not take these arguments: {error}", "Edit them to fit its parameters."
        ) from None


def _is_hidden(name: str) -> bool:
    return re.search(settings.REDACTED_ARGUMENTS, name, re.IGNORECASE) is not None


def _is_opaque(value: Any) -> bool:
    """Whether it is an object that kombu packed for its class, other than those that are shown as they print."""
    if not isinstance(value, Mapping) or value.keys() != {"__type__", "__value__"}:
        return False
    return value["__type__"] not in _SPOKEN_TYPES


def hide_secrets(
    args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str]
) -> tuple[list[Any], dict[str, Any]]:
    """The same arguments with secrets left out, and nothing cut."""
    positional = [
        redaction.REDACTED if index < len(names) and _is_hidden(names[index]) else _without_secrets(value)
        for index, value in enumerate(args)
    ]
    return positional, _without_secrets(dict(kwargs))


def _without_secrets(value: Any) -> Any:
    if _is_opaque(value):
        return redaction.REDACTED
    if isinstance(value, dict):
        return {
            key: redaction.REDACTED if _is_hidden(str(key)) else _without_secrets(each) for key, each in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(each) for each in value]
    return value


def keep_secrets(
    run_id: str,
    names: Sequence[str],
    stored: tuple[list[Any], dict[str, Any]],
    edited: tuple[Sequence[Any], Mapping[str, Any]],
) -> tuple[list[Any], dict[str, Any]]:
    """Edited arguments, with the old values where "[redacted]" stands. Raises ArgumentsError."""
    args, kwargs = edited
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        raise ArgumentsError(run_id, "args must be a list and kwargs an object", "Write [] and {} for none.")
    try:
        length = len(json.dumps([list(args), dict(kwargs)], allow_nan=False))
    except (ValueError, TypeError, RecursionError) as error:
        raise ArgumentsError(run_id, f"the arguments are not JSON: {error}", "Correct them.") from None
    if length > LONGEST_EDITED:
        raise ArgumentsError(
            run_id, f"the arguments have {length} characters, and {LONGEST_EDITED} are allowed", "Shorten them."
        )
    if _levels(kwargs) > _MOST_LEVELS or _levels(list(args)) > _MOST_LEVELS:
        raise ArgumentsError(run_id, f"the arguments are nested deeper than {_MOST_LEVELS} levels", "Flatten them.")
    merge = _Merge(run_id)
    positional = []
    for index, value in enumerate(args):
        name = names[index] if index < len(names) else ""
        old = stored[0][index] if index < len(stored[0]) else _NOTHING
        # All that `*tokens` takes has one name: there, too, a place does not say which one it was.
        certain = names.count(name) <= 1 or len(args) == len(stored[0])
        is_hidden = bool(name) and _is_hidden(name)
        positional.append(merge.value(value, old, f"args[{index}]", is_hidden=is_hidden, certain=certain))
    return positional, merge.value(dict(kwargs), stored[1], "kwargs", is_hidden=False)


def _levels(value: Any) -> int:
    deepest, left = 0, [(value, 1)]
    while left:
        each, level = left.pop()
        deepest = max(deepest, level)
        inner = each.values() if isinstance(each, Mapping) else each if isinstance(each, list | tuple) else ()
        left += [(child, level + 1) for child in inner]
    return deepest


_NOTHING = object()


@dataclass(frozen=True)
class _Merge:
    """Puts old values where "[redacted]" stands, and nowhere else.

    In a list, an entry's place does not say which one it was. There the old value is kept only if the list is as long
    as before, and the entry is otherwise unchanged: or a secret would end up with what it does not belong to.
    """

    run_id: str

    def value(self, new: Any, old: Any, place: str, *, is_hidden: bool, certain: bool = True) -> Any:
        """is_hidden: what stands here is a secret. certain: it is known which old value stood here."""
        if isinstance(new, str) and new == redaction.REDACTED:
            if old == new:
                return new
            if old is _NOTHING or not (is_hidden or _is_opaque(old)):
                raise self._error(place, "stands where nothing was redacted")
            if not certain:
                raise self._error(place, "stands in an entry of a list that was changed, so its old value is not known")
            return old
        if is_hidden:
            return new
        if isinstance(new, Mapping):
            return {key: self._entry(key, each, old, place, certain=certain) for key, each in new.items()}
        if isinstance(new, list | tuple):
            return self._listed(list(new), old, place, certain=certain)
        return new

    def _entry(self, key: Any, new: Any, old: Any, place: str, *, certain: bool) -> Any:
        before = old.get(key, _NOTHING) if isinstance(old, Mapping) else _NOTHING
        return self.value(new, before, f"{place}.{str(key)[:40]}", is_hidden=_is_hidden(str(key)), certain=certain)

    def _listed(self, new: list[Any], old: Any, place: str, *, certain: bool) -> list[Any]:
        same_length = isinstance(old, list) and len(old) == len(new)
        merged = []
        for index, each in enumerate(new):
            before = old[index] if isinstance(old, list) and index < len(old) else _NOTHING
            is_known = certain and same_length and _without_secrets(each) == _without_secrets(before)
            merged.append(self.value(each, before, f"{place}[{index}]", is_hidden=False, certain=is_known))
        return merged

    def _error(self, place: str, rule: str) -> ArgumentsError:
        return ArgumentsError(self.run_id, f'{place}: "{redaction.REDACTED}" {rule}', "Type the value anew.")
