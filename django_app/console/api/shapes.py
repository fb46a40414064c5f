"""What the API answers: each thing as JSON, and the schema of that, side by side."""

from __future__ import annotations

import datetime
from typing import Any

from django_app.console import queries, shown
from django_app.console.api.schemas import Json, flag, list_of, number, object_of, or_null, ref, text, time, whole
from django_app.console.errors import FieldsError, RefusalError
from django_app.console.models import AuditEntry
from django_app.console.queries import Failure, Related
from django_app.ledger.models import Attempt, Pause, QueueSample, Run, Worker
from django_app.ledger.states import Outcome, State
from tasks.runtime.dead_letters import Letter
from tasks.topology import Queue


def when(moment: datetime.datetime | None) -> str | None:
    return moment.astimezone(datetime.UTC).isoformat() if moment is not None else None


# Runs ----------------------------------------------------------------------------------------------------------------

_PROGRESS = object_of({"done": whole(), "total": or_null(whole("null: unknown")), "note": text()})
_RUN: dict[str, Json] = {
    "id": text("Celery's task id"),
    "task": text(),
    "queue": text(),
    "state": text(enum=[state.value for state in State]),
    "waits_for": text('"paused", "limit", "rate" or "replaced" where it is waiting; else ""'),
    "priority": or_null(whole()),
    "worker": text("of the last attempt"),
    "tenant": text(),
    "requested_by": text("a user name"),
    "retry_of": text("the run that this one is a retry of"),
    "attempts": whole("how many have begun"),
    "created_at": time(),
    "not_before": or_null(time("its eta")),
    "started_at": or_null(time("of the last attempt")),
    "finished_at": or_null(time()),
    "error": text("of the last attempt that failed, in one line"),
    "fingerprint": text("the same for the same error at the same place"),
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
    "number": whole("counted from 1"),
    "worker": text(),
    "receives": whole("how often SQS had delivered the message"),
    "started_at": or_null(time()),
    "ended_at": time(),
    "outcome": text(enum=[outcome.value for outcome in Outcome]),
    "error": text(),
    "traceback": text(),
    "log_tail": text("the last lines that were logged"),
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
    "expires_at": or_null(time()),
    "published_at": or_null(time("when SQS took it")),
    "retries": whole("how often its task sent it again"),
    "crashes": whole("attempts that were lost"),
    "parent_id": text(),
    "root_id": text("the first run of its workflow"),
    "group_id": text(),
    "is_chord_part": flag(),
    "schedule": text(),
    "scheduled_for": or_null(time("the due time of its schedule that it is the run of")),
    "admitted_at": or_null(time("when its schedule's rules first let it begin, or wait")),
    "limit_key": text("runs of one key share a limit"),
    "unique_key": text(),
    "stamps": {"type": "object"},
    "celery_state": text("what the task said of itself by update_state()"),
    "result": {"description": "redacted and cut to size as arguments are; null where there is none to show"},
    "result_note": text("why there is no result to show, where there is one"),
    "past_attempts": list_of("Attempt", "those that have ended, newest first, at most 50"),
    "retry_id": text('the run that is its retry; "" where it was not retried'),
    "workflow": list_of("Run", "runs of the same root, at most 100, those that you may see"),
    "workflow_is_complete": flag("whether that is all of them"),
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
        "scheduled_for": when(each.scheduled_for),
        "admitted_at": when(each.admitted_at),
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
    "name": text(),
    "pool": text("whose workers consume it"),
    "sampled_at": or_null(time("when the figures below were taken; null: not within ten minutes")),
    "depth": or_null(whole("messages that wait, as SQS counts them")),
    "in_flight": or_null(whole("messages that workers hold")),
    "delayed": or_null(whole()),
    "dead": or_null(whole("messages in its dead-letter queue")),
    "oldest_age_seconds": or_null(number("of the oldest published run that nobody has begun")),
    "finished_a_minute": list_of(
        number(), "runs that ended, a minute, over the last hour, one number for each two minutes, oldest first"
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
    "kind": text(enum=["queue", "task"]),
    "name": text(),
    "by": text(),
    "reason": text(),
    "since": time(),
}


def pause_of(each: Pause) -> Json:
    kind, _, name = each.key.partition(":")
    return {"kind": kind, "name": name, "by": each.by, "reason": each.reason, "since": when(each.created_at)}


_WORKER: dict[str, Json] = {
    "name": text(),
    "pool": text(),
    "kind": text("of Celery's pools: prefork, threads, solo"),
    "state": text(enum=["running", "draining", "stopped", "lost"]),
    "concurrency": whole("slots"),
    "busy": whole("slots at work"),
    "held": whole("messages held"),
    "processed": whole("since it started"),
    "queues": list_of(text()),
    "release": text(),
    "pid": whole(),
    "load": number("of its machine, one minute"),
    "memory_bytes": whole("with its children"),
    "started_at": time(),
    "seen_at": time(),
    "lease_until": time("lost if it was not heard of by then"),
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
    "fingerprint": text(),
    "task": text("of one of them"),
    "runs": whole(),
    "first_at": time("when the oldest of them was created"),
    "last_at": time("when the newest was"),
    "newest_id": text(),
    "error": text("of the newest"),
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
    "queue": text(),
    "dead": or_null(whole("as SQS counts them, up to a minute ago; null: not known")),
}
_DEAD_LETTER: dict[str, Json] = {
    "message_id": text("SQS's; another one each time that it is dead-lettered"),
    "task": text(),
    "task_id": text(),
    "reason": text("why it is here; empty where SQS moved it by itself"),
    "queue": text("that it came from"),
    "worker": text("that moved it"),
    "receives": whole(),
    "redrives": whole("how often it was sent to work again"),
    "size_bytes": whole(),
    "sent_at": or_null(time()),
    "dead_lettered_at": or_null(time()),
    "arguments": text("redacted, JSON; empty where they cannot be read"),
    "error": text("what is wrong with its form"),
    "run_state": text("of its run; empty where none is recorded"),
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
    "id": whole(),
    "at": time(),
    "actor": text("a user name"),
    "action": text(),
    "target": text(),
    "outcome": text(enum=list(AuditEntry.Outcome.values)),
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


_ERROR = object_of(
    {
        "error": object_of(
            {
                "message": text("all of it in one sentence or two"),
                "thing": text("what it is about"),
                "value": text("which one"),
                "rule": text("what stands in the way"),
                "remedy": text("what to do"),
                "fields": {
                    "type": "object",
                    "description": "of the fields that are at fault, where several may be: what is wrong with each",
                    "additionalProperties": {"type": "string"},
                },
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
            "fields": refusal.faults if isinstance(refusal, FieldsError) else {},
        }
    }


NEXT = or_null(text("give it as `cursor` for the next page; null: this was the last"))

SCHEMAS: dict[str, Json] = {
    "Run": object_of(_RUN),
    "Attempt": object_of(_ATTEMPT),
    "RunDetail": object_of(_RUN_DETAIL),
    "Runs": object_of(
        {
            "runs": list_of("Run"),
            "next": NEXT,
            "looked_back_to": or_null(
                time(f"set where a page looked through its {queries.WINDOW} runs: what is older is on the next one")
            ),
        }
    ),
    "Pause": object_of(_PAUSE),
    "Queue": object_of(_QUEUE),
    "Queues": object_of({"queues": list_of("Queue"), "paused_tasks": list_of("Pause")}),
    "Worker": object_of(_WORKER),
    "Workers": object_of({"workers": list_of("Worker", "those seen last first, at most 500")}),
    "Failure": object_of(_FAILURE),
    "Failures": object_of(
        {
            "failures": list_of("Failure", "the commonest first, at most 100"),
            "most_looked_at": or_null(whole("set where only the newest so many were looked at")),
        }
    ),
    "DeadLetterCount": object_of(_DEAD_LETTER_COUNT),
    "DeadLetterCounts": object_of({"queues": list_of("DeadLetterCount")}),
    "DeadLetter": object_of(_DEAD_LETTER),
    "DeadLetters": object_of({"dead_letters": list_of("DeadLetter"), "complete": flag("whether that is all")}),
    "AuditEntry": object_of(_AUDIT),
    "AuditEntries": object_of({"entries": list_of("AuditEntry"), "next": NEXT}),
    "Done": object_of({"message": text("what was done, for people"), "data": {"type": "object"}}),
    "Error": _ERROR,
}
