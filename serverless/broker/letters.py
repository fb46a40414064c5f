"""What a message in a dead-letter queue says of itself. Pure: makes no request, and trusts nothing that it says."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from serverless.broker import claim_checks, dead_letters, envelope
from serverless.broker.errors import EnvelopeError

_JSON = ("application/json", "json")
_JSON_ENCODINGS = (None, "utf-8", "utf8", "us-ascii", "binary")


@dataclass(frozen=True)
class DeadLetter:
    """One message of a dead-letter queue.

    message_id: SQS's; it is a new one each time that the broker moves the message, and kept where SQS does.
    task, task_id: as the message names them, of any length; None where it names none that is text.
    sent_at: when it came here; where SQS moved it by itself, when it was first sent.
    reason, dead_lettered_at, queue, worker, receives: the story that the broker wrote: why, when, from which queue (its
        name in Celery), by which worker, after how many receives. All None where SQS moved it by itself, for its
        receive count, or somebody else sent it.
    source_arn: the queue's, where SQS moved it by itself.
    redrives: how often it was redriven before.
    group: MessageGroupId.
    size_bytes: body and attributes, as SQS counts them.
    claim_checked: the task's arguments lie in S3, and not in the body.
    error: why the broker would refuse it again at once; None if nothing is wrong with its form. What is compressed, or
        not JSON, is not looked into.
    body: as it is, with arguments that may be secret: redact before showing anything of it.
    attributes: its message attributes, as SQS gives them. receipt: SQS's handle, of no use to others.
    """

    message_id: str
    task: str | None
    task_id: str | None
    sent_at: datetime | None
    reason: str | None
    dead_lettered_at: datetime | None
    queue: str | None
    worker: str | None
    receives: int | None
    source_arn: str | None
    redrives: int
    group: str | None
    size_bytes: int
    claim_checked: bool
    error: str | None
    body: str = field(repr=False)
    attributes: Mapping[str, Any] = field(repr=False)
    receipt: str = field(repr=False)

    def arguments(self) -> tuple[list[Any], dict[str, Any]] | None:
        """The task's positional and keyword arguments, not redacted; None where they cannot be read here."""
        contents = _Contents()
        try:
            _read_body(self.body, contents)
        except Exception:  # hostile in ways that nobody thought of
            return None
        return contents.arguments


@dataclass
class _Contents:
    """What could be read of a body before something was wrong with it."""

    task: str | None = None
    task_id: str | None = None
    claim_checked: bool = False
    arguments: tuple[list[Any], dict[str, Any]] | None = None

    def name(self, fields: object) -> None:
        if isinstance(fields, dict):
            task, task_id = fields.get("task"), fields.get("id")
            self.task = task if isinstance(task, str) else None
            self.task_id = task_id if isinstance(task_id, str) else None


def read(raw: Mapping[str, Any]) -> DeadLetter:
    """One entry of ReceiveMessage's answer. Never raises, whatever is in it."""
    contents = _Contents()
    body = str(raw.get("Body", ""))
    error: str | None = None
    try:
        _read_body(body, contents)
    except EnvelopeError as fault:
        error = str(fault)
    except Exception as fault:  # hostile in ways that nobody thought of
        error = f"reading it failed: {type(fault).__name__}: {envelope.shorten(str(fault))}"
    system: Mapping[str, Any] = raw.get("Attributes") or {}
    attributes: Mapping[str, Any] = raw.get("MessageAttributes") or {}
    receives = _text(attributes, dead_letters.RECEIVES)
    return DeadLetter(
        message_id=str(raw.get("MessageId", "")),
        task=contents.task,
        task_id=contents.task_id,
        sent_at=_from_milliseconds(system.get("SentTimestamp")),
        reason=_text(attributes, dead_letters.REASON),
        dead_lettered_at=_time(_text(attributes, dead_letters.AT)),
        queue=_text(attributes, dead_letters.QUEUE),
        worker=_text(attributes, dead_letters.WORKER),
        receives=None if receives is None else _count(receives),
        source_arn=system.get("DeadLetterQueueSourceArn"),
        redrives=_count(_text(attributes, dead_letters.REDRIVES)),
        group=system.get("MessageGroupId"),
        size_bytes=_size(body, attributes),
        claim_checked=contents.claim_checked,
        error=error,
        body=body,
        attributes=attributes,
        receipt=str(raw.get("ReceiptHandle", "")),
    )


def _read_body(text: str, contents: _Contents) -> None:
    """Raises EnvelopeError for what the broker refuses to take (incoming.py). contents: what is found on the way."""
    try:
        payload = envelope.decode(text)
    except EnvelopeError:
        contents.name(_headers_of(text))
        raise
    headers = payload["headers"]
    contents.name(headers)
    if claim_checks.KEY in payload:
        contents.claim_checked = True
        return
    plain = _unpacked(payload.get("body"), payload["properties"].get("body_encoding"))
    if headers.get("compression"):
        # Not unpacked here: a small message may become a very large one.
        return
    if payload.get("content-type") not in _JSON or payload.get("content-encoding") not in _JSON_ENCODINGS:
        return
    value = envelope.read_json(plain or b"null")
    envelope.check_depth(plain.decode(errors="replace") if isinstance(plain, bytes) else plain)
    if "task" in headers:
        envelope.check_payload(value)
        contents.arguments = (list(value[0]), value[1])
        return
    # Of protocol 1, the body says it all.
    contents.name(value)
    if not isinstance(value, dict) or "task" not in value:
        raise EnvelopeError(f"it names no task: {envelope.shorten(text)}")
    envelope.check_task_headers(value)
    envelope.check_signatures(value)
    args, kwargs = value.get("args") or [], value.get("kwargs") or {}
    if isinstance(args, list | tuple) and isinstance(kwargs, dict):
        contents.arguments = (list(args), kwargs)


def _unpacked(body: str | None, encoding: str | None) -> bytes | str:
    if not body or not encoding or encoding.lower() == "utf-8":
        return body or ""
    if encoding != "base64":
        raise EnvelopeError(f"its body cannot be unpacked: body_encoding={envelope.shorten(encoding)} is unknown.")
    try:
        return base64.b64decode(body.encode())
    except ValueError as error:  # binascii's and unicode's errors are that
        raise EnvelopeError(f"its body cannot be unpacked: {type(error).__name__}: {error}") from None


def _headers_of(text: str) -> object:
    """The headers of an envelope that breaks some rule, as far as they can be had."""
    try:
        found = json.loads(text if text.lstrip().startswith("{") else base64.b64decode(text))
    except (ValueError, RecursionError):
        return None
    return found.get("headers") if isinstance(found, dict) else None


def _size(body: str, attributes: Mapping[str, Any]) -> int:
    try:
        return envelope.bytes_of(body, {"MessageAttributes": attributes})
    except (ValueError, TypeError, AttributeError):  # what SQS would not have taken
        return len(body)


def _text(attributes: Mapping[str, Any], name: str) -> str | None:
    value = attributes.get(name)
    text = value.get("StringValue") if isinstance(value, Mapping) else None
    return text if isinstance(text, str) else None


def _count(text: str | None) -> int:
    """A number that we wrote; 0 for what somebody else may have put there."""
    return int(text) if text and len(text) < 10 and text.isascii() and text.isdigit() else 0


def _time(text: str | None) -> datetime | None:
    try:
        return envelope.parse_time(dead_letters.AT, text) if text else None
    except EnvelopeError:
        return None


def _from_milliseconds(text: str | None) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(text) / 1000, UTC) if text else None
    except (ValueError, OverflowError, OSError):
        return None
