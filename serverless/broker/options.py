"""The transport options: read once, checked, each with its meaning, unit and default.

They are `broker_transport_options` in Celery. Names that kombu's own SQS transport has mean the same here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError

from serverless.broker.errors import OptionError, PriorityError

MOST_ENTRIES = 10
LONGEST_WAIT_SECONDS = 20
LONGEST_DELAY_SECONDS = 900
#: SQS keeps a received message in flight for 12 hours at most, however often its visibility is changed.
LONGEST_IN_FLIGHT_SECONDS = 43_200
LARGEST_BYTES = 1 << 20
HIGHEST_PRIORITY = 9

#: What Celery adds to the options by itself when it publishes with retry, and what only kombu's own transport reads.
_PASSED_OVER = {
    *("max_retries", "interval_start", "interval_step", "interval_max", "retry_errors", "errback", "timeout"),
    *("polling_interval", "visibility_timeout", "fetch_message_attributes", "queue_tags", "confirm_publish"),
    *("body_encoding", "deadletter_queue", "max_connections", "sts_token_buffer_time"),
}
_QUEUE_KEYS_PASSED_OVER = {"backoff_policy", "backoff_tasks"}


@dataclass(frozen=True)
class QueueOptions:
    """One queue.

    url: its SQS URL; empty where it must be asked for.
    prefetch: messages held for each slot of the prefetch count, 1 or more. 1 (default): long work, a message a slot.
        10: short work, whole batches.
    level: queues of a lower number are emptied first; equal ones share. Default 0.
    dead_letter_url: where poison goes. Default: read from the queue's redrive policy when it is needed.
    max_receives: maxReceiveCount of the redrive policy. Default: read together with dead_letter_url.
    retention_days: how long SQS keeps a message, used to choose how long its claim check is kept. Default 14.
    """

    name: str
    url: str = ""
    prefetch: int = 1
    level: int = 0
    dead_letter_url: str | None = None
    max_receives: int | None = None
    retention_days: int = 14

    @property
    def fifo(self) -> bool:
        return self.name.endswith(".fifo")


@dataclass(frozen=True)
class ClaimCheckOptions:
    """Where bodies go that are too large for a message.

    bucket, prefix: nothing outside is ever read. Default prefix: claim-checks/.
    threshold_bytes: an envelope above this is checked in. Default 200 KiB.
    retention_days: the classes that a key's second part names (`claim-checks/30d/...`), for the bucket's lifecycle
        rules; the smallest that outlasts delay, queue and dead-letter queue is taken. Default 30 and 400.
    largest_bytes: of one body, in both directions. Default 64 MiB.
    """

    bucket: str
    prefix: str = "claim-checks/"
    threshold_bytes: int = 200 << 10
    retention_days: tuple[int, ...] = (30, 400)
    largest_bytes: int = 64 << 20


@dataclass(frozen=True)
class Options:
    """All of a connection's options.

    region, endpoint_url: of SQS; default: the environment's.
    queues: by the name that Celery uses (`predefined_queues`).
    levels: `{"default": {"high": [7, 9], "low": [1, 3]}}`: a message to "default" with priority 8 goes to "high".
    queue_name_prefix: put before a name that is not predefined, when SQS is asked for its URL.
    create_missing_queues: make a queue that SQS does not know, instead of refusing it. Default no.
    wait_time_seconds: of a long poll, 0 to 20. Default 20.
    lease_seconds: how long a held message stays hidden if its worker dies; renewed at a third. Default 60.
    ack_linger_seconds: how long an acknowledgement may wait for nine others. Default 0.1.
    base64: wrap the envelope in base64, as kombu's own transport does by default (`sqs_base64_encoding`). Default no;
        both are read.
    starvation_guard: while a more urgent level is busy, after so many of its messages a less urgent one gets a turn.
        Default 10.
    senders: parallel requests when many messages are sent at once. Default 8.
    publish_seconds: how long sending is tried again before PublishError. Default 20.
    most_unacked: acknowledgements that SQS does not take; above this nothing more is received. Default 1000.
    group_header: the message header (such as a tenant) that becomes MessageGroupId, for fair queues. Default none.
    claim_check: for large bodies. Default none: a message over 1 MiB is refused.
    delay_hook: called with (queue name, envelope, seconds) for a delay over 900 s; it keeps the message.
        Default none: such a delay is refused.
    lease_hook: called with the ids of the tasks at work whose messages were renewed, by the thread that renews. Default
        none.
    dead_letter_hook: called with (task id or None, reason) of each message that goes to the dead-letter queue, by any
        thread: it must not block. Default none.
    liveness_file: rewritten every few seconds with the times of the last receive. Default none.
    client_config: more of botocore.config.Config (`client-config`).
    """

    region: str | None = None
    endpoint_url: str | None = None
    queues: Mapping[str, QueueOptions] = field(default_factory=dict)
    levels: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)
    queue_name_prefix: str = ""
    create_missing_queues: bool = False
    wait_time_seconds: int = LONGEST_WAIT_SECONDS
    lease_seconds: int = 60
    ack_linger_seconds: float = 0.1
    base64: bool = False
    starvation_guard: int = 10
    senders: int = 8
    publish_seconds: float = 20.0
    most_unacked: int = 1000
    group_header: str | None = None
    claim_check: ClaimCheckOptions | None = None
    delay_hook: Callable[[str, dict[str, Any], float], None] | None = None
    lease_hook: Callable[[list[str]], None] | None = None
    dead_letter_hook: Callable[[str | None, str], None] | None = None
    liveness_file: str | None = None
    client_config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Options:
        """Check `broker_transport_options`. Raises OptionError."""
        renamed = {"predefined_queues": "queues", "sqs_base64_encoding": "base64", "client-config": "client_config"}
        known = {*cls.__dataclass_fields__, *renamed} - {"queues", "base64", "client_config"}
        values: dict[str, Any] = {}
        for key, value in raw.items():
            if key in known:
                values[renamed.get(key, key)] = value
            elif key not in _PASSED_OVER:
                raise OptionError(
                    f'transport option "{key}" is unknown. {_did_you_mean(key, known)}Remove or rename it.'
                )
        _check_kinds(values)
        queues = values.get("queues") or {}
        values["queues"] = {name: _queue(name, entry) for name, entry in queues.items()}
        values["client_config"] = values.get("client_config") or {}
        values["levels"] = _levels(values.get("levels") or {}, values["queues"])
        if values.get("claim_check") is not None:
            values["claim_check"] = _claim_check(values["claim_check"])
        for hook in ("delay_hook", "lease_hook", "dead_letter_hook"):
            if values.get(hook) is not None:
                values[hook] = _hook(hook, values[hook])
        made = cls(**values)
        where = "transport option"
        _whole_number(where, "wait_time_seconds", made.wait_time_seconds, 0, LONGEST_WAIT_SECONDS)
        _whole_number(where, "lease_seconds", made.lease_seconds, 1, LONGEST_IN_FLIGHT_SECONDS)
        _whole_number(where, "starvation_guard", made.starvation_guard, 1, None)
        _whole_number(where, "senders", made.senders, 1, 64)
        _whole_number(where, "most_unacked", made.most_unacked, 10, None)
        for key, value in (("ack_linger_seconds", made.ack_linger_seconds), ("publish_seconds", made.publish_seconds)):
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise OptionError(f"{where} {key}={value!r} must be a number of seconds, 0 or more. Correct it.")
        return made

    def queue_at_priority(self, name: str, priority: object) -> str:
        """The queue that a message to `name` goes to. priority: 1 to 9; 0 is what Celery sends for "none given".

        Raises PriorityError for one outside 0 to 9, if `name` has levels.
        """
        levels = self.levels.get(name)
        if not levels or not priority:
            return name
        if not isinstance(priority, int) or not 0 <= priority <= HIGHEST_PRIORITY:
            raise PriorityError(f'queue "{name}": priority={priority!r} is outside 0 to 9. Use 1 (lowest) to 9.')
        return next((queue for queue, (lowest, highest) in levels.items() if lowest <= priority <= highest), name)


def _check_kinds(values: Mapping[str, Any]) -> None:
    """Whether each option is of the kind that it must be; their ranges come later."""
    kinds: dict[tuple[str, ...], tuple[tuple[type, ...], str]] = {
        ("region", "endpoint_url", "group_header", "liveness_file"): ((str, type(None)), "text"),
        ("queue_name_prefix",): ((str,), "text"),
        ("create_missing_queues", "base64"): ((bool,), "true or false"),
        ("queues", "levels", "client_config"): ((Mapping, type(None)), "an object"),
    }
    for names, (types, words) in kinds.items():
        for name in names:
            if name in values and not isinstance(values[name], types):
                raise OptionError(f"transport option {name}={values[name]!r} must be {words}. Correct it.")
    try:
        Config(**(values.get("client_config") or {}))
    except (TypeError, ValueError, BotoCoreError) as error:
        raise OptionError(
            f"transport option client-config: botocore.config.Config says: {error}. Correct it."
        ) from error


def _queue(name: str, raw: Any) -> QueueOptions:
    where = f'predefined_queues "{name}"'
    if not isinstance(raw, Mapping):
        raise OptionError(f'{where}: {raw!r} is not an object. Write {{"url": "https://sqs..."}}.')
    known = set(QueueOptions.__dataclass_fields__) - {"name"}
    for key in raw:
        if key in ("access_key_id", "secret_access_key", "session_token"):
            raise OptionError(
                f'{where}: the key "{key}" is not supported: credentials come from environment or role. Remove it.'
            )
        if key not in known and key not in _QUEUE_KEYS_PASSED_OVER:
            raise OptionError(f'{where}: unknown key "{key}". {_did_you_mean(key, known)}Remove or rename it.')
    made = QueueOptions(name, **{key: value for key, value in raw.items() if key in known})
    if not isinstance(made.url, str) or "://" not in made.url:
        raise OptionError(f"{where}: url={made.url!r} is not a queue's URL. Write one such as https://sqs.../name.")
    if made.url.endswith(".fifo") != made.fifo:
        raise OptionError(f'{where}: url={made.url!r}: a FIFO queue and its name both end in ".fifo". Rename one.')
    if not isinstance(made.dead_letter_url, str | None) or (made.dead_letter_url and "://" not in made.dead_letter_url):
        raise OptionError(f"{where}: dead_letter_url={made.dead_letter_url!r} is not a queue's URL. Correct it.")
    _whole_number(where, "prefetch", made.prefetch, 1, 1000)
    _whole_number(where, "level", made.level, 0, None)
    _whole_number(where, "retention_days", made.retention_days, 1, 14)
    if made.max_receives is not None:
        _whole_number(where, "max_receives", made.max_receives, 1, 1000)
    return made


def _levels(raw: Any, queues: Mapping[str, QueueOptions]) -> dict[str, dict[str, tuple[int, int]]]:
    made: dict[str, dict[str, tuple[int, int]]] = {}
    for family, levels in raw.items():
        if queues and family not in queues:
            raise OptionError(
                f'levels "{family}" is not among predefined_queues. {_did_you_mean(family, queues)}Add it.'
            )
        if not isinstance(levels, Mapping):
            raise OptionError(f'levels "{family}": {levels!r} is not an object. Write {{"high": [7, 9]}}.')
        made[family] = {}
        taken: set[int] = set()
        for queue, ends in levels.items():
            where = f'levels "{family}": "{queue}"'
            if queues and queue not in queues:
                raise OptionError(f"{where} is not among predefined_queues. {_did_you_mean(queue, queues)}Add it.")
            if not (isinstance(ends, list | tuple) and len(ends) == 2 and all(type(end) is int for end in ends)):
                raise OptionError(f"{where} has {ends!r}; write [lowest, highest], such as [7, 9].")
            lowest, highest = ends
            if not 1 <= lowest <= highest <= HIGHEST_PRIORITY or taken & set(range(lowest, highest + 1)):
                raise OptionError(f"{where} has {ends!r}: write ranges within 1 to 9 that do not overlap.")
            taken |= set(range(lowest, highest + 1))
            made[family][queue] = (lowest, highest)
    return made


def _claim_check(raw: Any) -> ClaimCheckOptions:
    where = "claim_check"
    known = set(ClaimCheckOptions.__dataclass_fields__)
    if not isinstance(raw, Mapping):
        raise OptionError(f'{where}: {raw!r} is not an object. Write {{"bucket": "..."}}.')
    for key in raw:
        if key not in known:
            raise OptionError(f'{where}: unknown key "{key}". {_did_you_mean(key, known)}Remove or rename it.')
    if not raw.get("bucket") or not isinstance(raw["bucket"], str):
        raise OptionError(f'{where}: {raw!r} must name a bucket. Write {{"bucket": "..."}}.')
    values = dict(raw)
    if "retention_days" in values:
        days = values["retention_days"]
        if not isinstance(days, list | tuple) or not days or not all(type(each) is int and each > 0 for each in days):
            raise OptionError(
                f"{where}: retention_days={days!r} must be a list of whole numbers, 1 or more. Correct it."
            )
        values["retention_days"] = tuple(sorted(days))
    made = ClaimCheckOptions(**values)
    if not isinstance(made.prefix, str) or not made.prefix.endswith("/") or made.prefix.startswith("/"):
        raise OptionError(f"{where}: prefix={made.prefix!r} must end in a slash and not start with one. Correct it.")
    _whole_number(where, "threshold_bytes", made.threshold_bytes, 1024, LARGEST_BYTES)
    _whole_number(where, "largest_bytes", made.largest_bytes, made.threshold_bytes, None)
    return made


def _hook(name: str, value: Any) -> Callable[..., Any]:
    """A callable, or one by dotted path: `package.module:function`."""
    if callable(value):
        found: Callable[..., Any] = value
        return found
    module, _, attribute = str(value).replace(":", ".").rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError(f"transport option {name}={value!r} cannot be imported: {error}. Name a function.") from error
    return found


def _whole_number(where: str, key: str, value: Any, least: int, most: int | None) -> None:
    if type(value) is not int or value < least or (most is not None and value > most):
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        raise OptionError(f"{where} {key}={value!r} must be a whole number, {allowed}. Correct it.")


def _did_you_mean(name: object, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(str(name), list(known), n=1)
    return f'Did you mean "{nearest[0]}"? ' if nearest else f"Known: {', '.join(sorted(known))}. "
