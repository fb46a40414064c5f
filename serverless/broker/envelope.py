"""What a message's body in SQS holds: one JSON object, kombu's envelope. Pure; knows no SQS and no Celery.

    {"body": "[[], {}, {}]", "content-type": "application/json", "content-encoding": "utf-8",
     "headers": {"task": ..., "id": ...}, "properties": {"body_encoding": "utf-8", ...}}

Source: kombu's virtual transports, and Celery's message protocols 1 and 2.
"""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from typing import Any

from kombu.utils.json import dumps, loads

from serverless.broker.errors import EnvelopeError

_TEXT_OR_NONE = (str, type(None))
#: Header, and the types that Celery's worker takes without falling over. Celery itself checks eta and expires.
_HEADER_TYPES: dict[str, tuple[type, ...]] = {
    "task": (str,),
    "id": (str,),
    "root_id": _TEXT_OR_NONE,
    "parent_id": _TEXT_OR_NONE,
    "group": _TEXT_OR_NONE,
    "eta": _TEXT_OR_NONE,
    "expires": _TEXT_OR_NONE,
    "shadow": _TEXT_OR_NONE,
    "retries": (int, type(None)),
    "timelimit": (list, type(None)),
    "stamped_headers": (list, type(None)),
    "stamps": (dict, type(None)),
    "compression": _TEXT_OR_NONE,
}
#: Of a text without white space at its ends: one way to match only, or a megabyte of blanks would take hours.
_OUTER_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}", re.ASCII)
#: Brackets, and strings, whose brackets do not count.
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')
#: A hundred years: what is longer overflows somewhere in Celery's pool.
_LONGEST_LIMIT_SECONDS = 100 * 365 * 86400
#: Levels of arguments in one another. Pickling for the pool's processes gives up at about 400.
_MOST_LEVELS = 200
#: How much of a faulty value is shown.
_SHOWN = 300


def encode(envelope: dict[str, Any], *, as_base64: bool) -> str:
    """The text that SQS keeps."""
    text: str = dumps(envelope)
    return base64.b64encode(text.encode()).decode("ascii") if as_base64 else text


def decode(text: str) -> dict[str, Any]:
    """Read one message's body in SQS.

    text: a JSON object, or base64 of one where kombu's own transport wrote it.
    Raises EnvelopeError if it is neither.
    """
    text = text.strip()
    if not text.startswith("{") and _OUTER_BASE64.fullmatch(text):
        try:
            text = base64.b64decode(text, validate=False).decode()
        except ValueError:  # binascii's and unicode's errors are that
            raise EnvelopeError(f"the body is neither JSON nor base64 of JSON: {shorten(text)}") from None
    try:
        envelope = json.loads(text)
    except (ValueError, RecursionError):
        raise EnvelopeError(f"the body is not JSON: {shorten(text)}") from None
    if not isinstance(envelope, dict):
        raise EnvelopeError(f"the body is JSON, but no object: {shorten(text)}")
    _check_envelope(envelope, text)
    return envelope


def _check_envelope(envelope: dict[str, Any], text: str) -> None:
    headers = envelope.setdefault("headers", {})
    properties = envelope.get("properties")
    if headers is None:
        headers = envelope["headers"] = {}
    if not isinstance(headers, dict):
        raise EnvelopeError(f"headers={shorten(headers)} is not an object.")
    if not isinstance(properties, dict):
        raise EnvelopeError(f"properties={shorten(properties)} is not an object.")
    for key in ("content-type", "content-encoding"):
        if not isinstance(envelope.get(key), _TEXT_OR_NONE):
            raise EnvelopeError(f"{key}={shorten(envelope[key])} is not text.")
    if not isinstance(properties.get("body_encoding"), _TEXT_OR_NONE):
        raise EnvelopeError(f"body_encoding={shorten(properties['body_encoding'])} is not text.")
    if not isinstance(envelope.get("body"), _TEXT_OR_NONE):
        raise EnvelopeError(f"body={shorten(envelope['body'])} is not text.")
    if "task" in headers:
        check_task_headers(headers)
    check_depth(text)


def check_task_headers(headers: dict[str, Any]) -> None:
    """The headers of a message of protocol 2, or the like fields in the body of protocol 1. Raises EnvelopeError."""
    if "id" not in headers:
        raise EnvelopeError(f'the message names the task "{shorten(headers["task"])}" but no id.')
    for name, types in _HEADER_TYPES.items():
        value = headers.get(name)
        if name in headers and (not isinstance(value, types) or isinstance(value, bool)):
            wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            raise EnvelopeError(f"header {name}={shorten(value)} must be {wanted}.")
    if not headers["id"] or not headers["task"]:
        raise EnvelopeError("the message's task or id is empty.")
    limits = headers.get("timelimit")
    if limits and (len(limits) != 2 or not all(_is_limit(each) for each in limits)):
        raise EnvelopeError(f"header timelimit={shorten(limits)} must be two numbers of seconds or null, none below 0.")
    for name in ("eta", "expires"):
        if headers.get(name):
            parse_time(name, headers[name])


def check_payload(payload: object) -> None:
    """Whether the decoded body of a message of protocol 2 is (args, kwargs, embed). Raises EnvelopeError."""
    if not (isinstance(payload, list | tuple) and len(payload) == 3):
        raise EnvelopeError(f"the task's body must be [args, kwargs, embed], and is {shorten(payload)}")
    args, kwargs, embed = payload
    if not isinstance(args, list | tuple) or not isinstance(kwargs, dict) or not isinstance(embed, dict):
        raise EnvelopeError(f"the task's body must be [[...], {{...}}, {{...}}], and is {shorten(payload)}")
    check_signatures(embed)


def check_signatures(embed: dict[str, Any]) -> None:
    """What follows the task, in the body's third part or in the body of protocol 1. Raises EnvelopeError."""
    for name in ("callbacks", "errbacks", "chain"):
        signatures = embed.get(name)
        if signatures is not None and not (
            isinstance(signatures, list | tuple) and all(_is_signature(each) for each in signatures)
        ):
            raise EnvelopeError(f"the task's {name}={shorten(signatures)} must be a list of signatures or null.")
    if embed.get("chord") is not None and not _is_signature(embed["chord"]):
        raise EnvelopeError(f"the task's chord={shorten(embed['chord'])} must be a signature or null.")


def check_depth(text: str) -> None:
    """Whether JSON is nested so deep that Celery could not pickle it for a process of its pool. Raises EnvelopeError.

    text: valid JSON. It is walked only if it has brackets enough.
    """
    if text.count("[") + text.count("{") <= _MOST_LEVELS:
        return
    depth = 0
    for found in _BRACKETS.finditer(text):
        bracket = found[0]
        depth += 1 if bracket in "[{" else -1 if bracket in "]}" else 0
        if depth > _MOST_LEVELS:
            raise EnvelopeError(f"it is nested more than {_MOST_LEVELS} levels deep: {shorten(text)}")


def read_json(body: bytes | str) -> Any:
    """The decoded body, as kombu's JSON serializer reads it. Raises EnvelopeError."""
    try:
        return loads(body)
    except Exception as error:  # its object hooks may raise anything
        raise EnvelopeError(f"the task's body is not JSON that kombu reads ({error}): {shorten(body)}") from None


def parse_time(name: str, text: str) -> datetime:
    """An ISO 8601 time; without an offset it is UTC. Raises EnvelopeError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise EnvelopeError(f"header {name}={shorten(text)} is not a time in ISO 8601.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def seconds_until_eta(headers: dict[str, Any], now: datetime) -> float:
    """Seconds from now to the message's eta; 0 if it has none or it is over. Protocol 1 has no such header."""
    eta = headers.get("eta")
    if not isinstance(eta, str) or not eta:
        return 0.0
    try:
        return max(0.0, (parse_time("eta", eta) - now).total_seconds())
    except OverflowError:  # the first or last day that a datetime can hold, with an offset
        return 0.0


def bytes_of(text: str, entry: dict[str, Any]) -> int:
    """What SQS counts against its limit. entry: its MessageAttributes count as well."""
    size = len(text.encode())
    for name, value in (entry.get("MessageAttributes") or {}).items():
        size += len(name.encode()) + len(value.get("DataType", ""))
        size += len(value.get("StringValue", "").encode()) + len(value.get("BinaryValue", b""))
    return size


def shorten(value: object) -> str:
    """At most 300 characters of it, for messages and logs."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def _is_limit(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LONGEST_LIMIT_SECONDS


def _is_signature(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("task"), str)
        and isinstance(value.get("args"), list | tuple | type(None))
        and isinstance(value.get("kwargs"), dict | type(None))
        and isinstance(value.get("options"), dict | type(None))
    )
