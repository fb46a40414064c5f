"""What the API answers: each thing as JSON, and the schema of that, side by side."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from django_app.console import queries, shown
from django_app.console.errors import RefusalError
from django_app.console.models import AuditEntry
from django_app.console.queries import Failure, Related
from django_app.ledger.models import Attempt, Pause, QueueSample, Run, Worker
from django_app.ledger.states import Outcome, State
from tasks.runtime.dead_letters import Letter
from tasks.topology import Queue

Json = dict[str, Any]


def _text(about: str = "", **more: Any) -> Json:
    return {"type": "string", **({"description": about} if about else {}), **more}


def _number(about: str = "") -> Json:
    return {"type": "number", **({"description": about} if about else {})}


def _whole(about: str = "") -> Json:
    return {"type": "integer", **({"description": about} if about else {})}


def _flag(about: str = "") -> Json:
    return {"type": "boolean", **({"description": about} if about else {})}


def _time(about: str = "") -> Json:
    return _text(about, format="date-time")


def _or_null(schema: Json) -> Json:
    return {**schema, "type": [schema["type"], "null"]}


def _list(of: Json | str, about: str = "") -> Json:
    items = {"$ref": f"#/components/schemas/{of}"} if isinstance(of, str) else of
    return {"type": "array", "items": items, **({"description": about} if about else {})}


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Mapping[str, Json], about: str = "") -> Json:
    """All of them are always there, and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": dict(properties),
        **({"description": about} if about else {}),
    }


def when(time: datetime.datetime | None) -> str | None:
    return time.astimezone(datetime.UTC).isoformat() if time is not None else None


# Runs ----------------------------------------------------------------------------------------------------------------

_PROGRESS = _object({"done": _whole(), "total": _or_null(_whole("null: unknown")), "note": _text()})
_RUN: dict[str, Json] = {
    "id": _text("Celery's task id"),
    "task": _text(),
    "queue": _text(),
    "state": _text(enum=[state.value for state in State]),
    "waits_for": _text('"paused", "limit", "rate" or "replaced" where it is waiting; else ""'),
    "priority": _or_null(_whole()),
    "worker": _text("of the last attempt"),
    "tenant": _text(),
    "requested_by": _text("a user name"),
    "retry_of": _text("the run that this one is a retry of"),
    "attempts": _whole("how many have begun"),
    "created_at": _time(),
    "not_before": _or_null(_time("its eta")),
    "started_at": _or_null(_time("of the last attempt")),
    "finished_at": _or_null(_time()),
    "error": _text("of the last attempt that failed, in one line"),
    "fingerprint": _text("the same for the same error at the same place"),
    "progress": {"anyOf": [_PROGRESS, {"type": "null"}]},
}


def run(each: Run) -> Json:
    return {
        "id": each.pk,
        "task": each.task,
        "queue": each.queue,
        "state": each.state,
        "waits_for": each.parked_for,
        "priority": each.priority,
        "worker": each.worker,
        "tenant": each.tenant,
        "requested_by": each.requested_by,
        "retry_of": each.retry_of,
        "attempts": each.attempts,
        "created_at": when(each.created_at),
        "not_before": when(each.not_before),
        "started_at": when(each.started_at),
        "finished_at": when(each.finished_at),
        "error": each.error,
        "fingerprint": each.fingerprint,
        "progress": _progress(each),
    }


def _progress(each: Run) -> Json | None:
    if each.progress_done is None:
        return None
    return {"done": each.progress_done, "total": each.progress_total, "note": each.progress_note}


_ATTEMPT: dict[str, Json] = {
    "number": _whole("counted from 1"),
    "worker": _text(),
    "receives": _whole("how often SQS had delivered the message"),
    "started_at": _or_null(_time()),
    "ended_at": _time(),
    "outcome": _text(enum=[outcome.value for outcome in Outcome]),
    "error": _text(),
    "traceback": _text(),
    "log_tail": _text("the last lines that were logged"),
}


def attempt(each: Attempt) -> Json:
    return {
        "number": each.number,
        "worker": each.worker,
        "receives": each.receives,
        "started_at": when(each.started_at),
        "ended_at": when(each.ended_at),
        "outcome": each.outcome,
        "error": each.error,
        "traceback": each.traceback,
        "log_tail": each.log_tail,
    }


_RUN_DETAIL: dict[str, Json] = {
    **_RUN,
    "arguments": {
        "description": "args and kwargs, redacted and cut to size; null where they are not known",
        "anyOf": [
            {"type": "object", "properties": {"args": {"type": "array"}, "kwargs": {"type": "object"}}},
            {"type": "null"},
        ],
    },
    "expires_at": _or_null(_time()),
    "published_at": _or_null(_time("when SQS took it")),
    "retries": _whole("how often its task sent it again"),
    "crashes": _whole("attempts that were lost"),
    "parent_id": _text(),
    "root_id": _text("the first run of its workflow"),
    "group_id": _text(),
    "is_chord_part": _flag(),
    "schedule": _text(),
    "limit_key": _text("runs of one key share a limit"),
    "unique_key": _text(),
    "stamps": {"type": "object"},
    "celery_state": _text("what the task said of itself by update_state()"),
    "result": {"description": "redacted and cut to size as arguments are; null where there is none to show"},
    "result_note": _text("why there is no result to show, where there is one"),
    "past_attempts": _list("Attempt", "those that have ended, newest first, at most 50"),
    "retry_id": _text('the run that is its retry; "" where it was not retried'),
    "workflow": _list("Run", "runs of the same root, at most 100, those that you may see"),
    "workflow_is_complete": _flag("whether that is all of them"),
}


def run_detail(each: Run, attempts: list[Attempt], related: Related) -> Json:
    result = shown.result(each)
    return {
        **run(each),
        "arguments": _arguments(each),
        "expires_at": when(each.expires_at),
        "published_at": when(each.published_at),
        "retries": each.retries,
        "crashes": each.crashes,
        "parent_id": each.parent_id,
        "root_id": each.root_id,
        "group_id": each.group_id,
        "is_chord_part": each.is_chord_part,
        "schedule": each.schedule,
        "limit_key": each.limit_key,
        "unique_key": each.unique_key,
        "stamps": each.stamps if isinstance(each.stamps, dict) else {},
        "celery_state": each.celery_state,
        "result": result.value if result is not None else None,
        "result_note": result.note if result is not None else "",
        "past_attempts": [attempt(past) for past in attempts],
        "retry_id": related.retry.pk if related.retry is not None else "",
        "workflow": [run(other) for other in related.same_root],
        "workflow_is_complete": not related.more,
    }


def _arguments(each: Run) -> Any:
    found = shown.parsed_arguments(each)
    return found if isinstance(found, dict) else None


# Queues, workers, failures, dead letters -----------------------------------------------------------------------------

_QUEUE: dict[str, Json] = {
    "name": _text(),
    "pool": _text("whose workers consume it"),
    "sampled_at": _or_null(_time("when the figures below were taken; null: not within ten minutes")),
    "depth": _or_null(_whole("messages that wait, as SQS counts them")),
    "in_flight": _or_null(_whole("messages that workers hold")),
    "delayed": _or_null(_whole()),
    "dead": _or_null(_whole("messages in its dead-letter queue")),
    "oldest_age_seconds": _or_null(_number("of the oldest published run that nobody has begun")),
    "finished_a_minute": _list(
        _number(), "runs that ended, a minute, over the last hour, one number for each two minutes, oldest first"
    ),
    "pause": {"anyOf": [ref("Pause"), {"type": "null"}]},
}


def queue(each: Queue, sample: QueueSample | None, finished: list[float], pause: Pause | None) -> Json:
    return {
        "name": each.name,
        "pool": each.pool,
        "sampled_at": when(sample.at) if sample is not None else None,
        "depth": sample.depth if sample is not None else None,
        "in_flight": sample.in_flight if sample is not None else None,
        "delayed": sample.delayed if sample is not None else None,
        "dead": sample.dead if sample is not None else None,
        "oldest_age_seconds": sample.oldest_age_seconds if sample is not None else None,
        "finished_a_minute": finished,
        "pause": pause_of(pause) if pause is not None else None,
    }


_PAUSE: dict[str, Json] = {
    "kind": _text(enum=["queue", "task"]),
    "name": _text(),
    "by": _text(),
    "reason": _text(),
    "since": _time(),
}


def pause_of(each: Pause) -> Json:
    kind, _, name = each.key.partition(":")
    return {"kind": kind, "name": name, "by": each.by, "reason": each.reason, "since": when(each.created_at)}


_WORKER: dict[str, Json] = {
    "name": _text(),
    "pool": _text(),
    "kind": _text("of Celery's pools: prefork, threads, solo"),
    "state": _text(enum=["running", "draining", "stopped", "lost"]),
    "concurrency": _whole("slots"),
    "busy": _whole("slots at work"),
    "held": _whole("messages held"),
    "processed": _whole("since it started"),
    "queues": _list(_text()),
    "release": _text(),
    "pid": _whole(),
    "load": _number("of its machine, one minute"),
    "memory_bytes": _whole("with its children"),
    "started_at": _time(),
    "seen_at": _time(),
    "lease_until": _time("lost if it was not heard of by then"),
}


def worker(each: Worker) -> Json:
    return {
        "name": each.name,
        "pool": each.pool,
        "kind": each.kind,
        "state": each.state,
        "concurrency": each.concurrency,
        "busy": each.busy,
        "held": each.held,
        "processed": each.processed,
        "queues": [name for name in each.queues.split(",") if name],
        "release": each.release,
        "pid": each.pid,
        "load": each.load,
        "memory_bytes": each.memory_bytes,
        "started_at": when(each.started_at),
        "seen_at": when(each.seen_at),
        "lease_until": when(each.lease_until),
    }


_FAILURE: dict[str, Json] = {
    "fingerprint": _text(),
    "task": _text("of one of them"),
    "runs": _whole(),
    "first_at": _time("when the oldest of them was created"),
    "last_at": _time("when the newest was"),
    "newest_id": _text(),
    "error": _text("of the newest"),
}


def failure(each: Failure) -> Json:
    return {
        "fingerprint": each.fingerprint,
        "task": each.task,
        "runs": each.runs,
        "first_at": when(each.first_at),
        "last_at": when(each.last_at),
        "newest_id": each.newest_id,
        "error": each.error,
    }


_DEAD_LETTER_COUNT: dict[str, Json] = {
    "queue": _text(),
    "dead": _or_null(_whole("as SQS counts them, up to a minute ago; null: not known")),
}
_DEAD_LETTER: dict[str, Json] = {
    "message_id": _text("SQS's; another one each time that it is dead-lettered"),
    "task": _text(),
    "task_id": _text(),
    "reason": _text("why it is here; empty where SQS moved it by itself"),
    "queue": _text("that it came from"),
    "worker": _text("that moved it"),
    "receives": _whole(),
    "redrives": _whole("how often it was sent to work again"),
    "size_bytes": _whole(),
    "sent_at": _or_null(_time()),
    "dead_lettered_at": _or_null(_time()),
    "arguments": _text("redacted, JSON; empty where they cannot be read"),
    "error": _text("what is wrong with its form"),
    "run_state": _text("of its run; empty where none is recorded"),
}


def dead_letter(each: Letter) -> Json:
    return {
        "message_id": each.message_id,
        "task": each.task,
        "task_id": each.task_id,
        "reason": each.reason,
        "queue": each.queue,
        "worker": each.worker,
        "receives": each.receives,
        "redrives": each.redrives,
        "size_bytes": each.size_bytes,
        "sent_at": when(each.sent_at),
        "dead_lettered_at": when(each.dead_lettered_at),
        "arguments": each.arguments,
        "error": each.error,
        "run_state": each.state,
    }


# Audit and errors ----------------------------------------------------------------------------------------------------

_AUDIT: dict[str, Json] = {
    "id": _whole(),
    "at": _time(),
    "actor": _text("a user name"),
    "action": _text(),
    "target": _text(),
    "outcome": _text(enum=list(AuditEntry.Outcome.values)),
    "detail": {"type": "object"},
}


def audit_entry(each: AuditEntry) -> Json:
    return {
        "id": each.pk,
        "at": when(each.at),
        "actor": each.actor,
        "action": each.action,
        "target": each.target,
        "outcome": each.outcome,
        "detail": each.detail if isinstance(each.detail, dict) else {},
    }


_ERROR = _object(
    {
        "error": _object(
            {
                "message": _text("all of it in one sentence or two"),
                "thing": _text("what it is about"),
                "value": _text("which one"),
                "rule": _text("what stands in the way"),
                "remedy": _text("what to do"),
            }
        )
    }
)


def error(refusal: RefusalError) -> Json:
    return {
        "error": {
            "message": str(refusal),
            "thing": refusal.thing,
            "value": refusal.value,
            "rule": refusal.rule,
            "remedy": refusal.remedy,
        }
    }


_NEXT = _or_null(_text("give it as `cursor` for the next page; null: this was the last"))

SCHEMAS: dict[str, Json] = {
    "Run": _object(_RUN),
    "Attempt": _object(_ATTEMPT),
    "RunDetail": _object(_RUN_DETAIL),
    "Runs": _object(
        {
            "runs": _list("Run"),
            "next": _NEXT,
            "looked_back_to": _or_null(
                _time(f"set where a page looked through its {queries.WINDOW} runs: what is older is on the next one")
            ),
        }
    ),
    "Pause": _object(_PAUSE),
    "Queue": _object(_QUEUE),
    "Queues": _object({"queues": _list("Queue"), "paused_tasks": _list("Pause")}),
    "Worker": _object(_WORKER),
    "Workers": _object({"workers": _list("Worker", "those seen last first, at most 500")}),
    "Failure": _object(_FAILURE),
    "Failures": _object(
        {
            "failures": _list("Failure", "the commonest first, at most 100"),
            "most_looked_at": _or_null(_whole("set where only the newest so many were looked at")),
        }
    ),
    "DeadLetterCount": _object(_DEAD_LETTER_COUNT),
    "DeadLetterCounts": _object({"queues": _list("DeadLetterCount")}),
    "DeadLetter": _object(_DEAD_LETTER),
    "DeadLetters": _object({"dead_letters": _list("DeadLetter"), "complete": _flag("whether that is all")}),
    "AuditEntry": _object(_AUDIT),
    "AuditEntries": _object({"entries": _list("AuditEntry"), "next": _NEXT}),
    "Done": _object({"message": _text("what was done, for people"), "data": {"type": "object"}}),
    "Error": _ERROR,
}
