"""What the API answers on schedules: each thing as JSON, and the schema of that, side by side."""

from __future__ import annotations

import datetime

from django_app.console import schedule_queries
from django_app.console.api import shapes
from django_app.console.api.schemas import Json, flag, list_of, number, object_of, or_null, ref, text, time, whole
from django_app.console.api.shapes import when
from django_app.console.schedule_forms import Preview
from django_app.console.schedule_queries import History, Ran, Row
from django_app.console.services import schedules
from django_app.ledger.models import Overlap, Schedule, ScheduleSource

_PAUSE = object_of({"by": text(), "reason": text(), "since": time()})
_SCHEDULE: dict[str, Json] = {
    "name": text(),
    "task": text(),
    "timing": text("as it is written"),
    "words": text("the timing in plain words"),
    "zone": text("of its times"),
    "source": text(enum=list(ScheduleSource.values)),
    "owner": text("a user name; empty where it belongs to nobody in particular"),
    "tenant": text(),
    "next_due": or_null(time("null: paused, or ended")),
    "last_state": or_null(text("of its newest run; null where there is none that you may see")),
    "is_ended": flag(),
    "pause": {"anyOf": [_PAUSE, {"type": "null"}]},
    "synced_at": or_null(time("since when EventBridge has it as it stands here; null: it has not")),
    "sync_error": text("why it has not"),
}


def schedule(row: Row) -> Json:
    each = row.schedule
    return {
        "name": each.name,
        "task": each.task,
        "timing": each.timing,
        "words": row.words,
        "zone": each.zone,
        "source": each.source,
        "owner": each.requested_by,
        "tenant": each.tenant,
        "next_due": when(row.next_due),
        "last_state": row.last.state if row.last is not None else None,
        "is_ended": row.is_ended,
        "pause": _pause(each),
        "synced_at": when(each.synced_at),
        "sync_error": each.sync_error,
    }


def _pause(each: Schedule) -> Json | None:
    if each.paused_at is None:
        return None
    return {"by": each.paused_by, "reason": each.pause_reason, "since": when(each.paused_at)}


_RAN: dict[str, Json] = {
    "run": ref("Run"),
    "kind": text("what asked for it; retry: of another of its runs", enum=["due", "now", "backfill", "retry"]),
    "scheduled_for": or_null(time("its due time")),
    "seconds": or_null(number("that its last attempt took")),
    "began_late_seconds": or_null(number("after its due time")),
}


def ran(each: Ran) -> Json:
    return {
        "run": shapes.run(each.run),
        "kind": each.kind,
        "scheduled_for": when(each.run.scheduled_for),
        "seconds": each.seconds,
        "began_late_seconds": each.began_late,
    }


_TIMES = list_of(time(), f"at most {schedule_queries.NEXT}")
_DETAIL: dict[str, Json] = {
    **_SCHEDULE,
    "args": {"type": "array", "description": "without secrets"},
    "kwargs": {"type": "object", "description": "without secrets"},
    "options": {"type": "object", "description": "of apply_async, without secrets"},
    "overlap": text("what becomes of a due run while an earlier one has not ended", enum=list(Overlap.values)),
    "catch_up_seconds": whole("a run that comes later than this after its due time is skipped"),
    "jitter_minutes": whole("it begins within so many minutes after its due time"),
    "ends_at": or_null(time()),
    "pause_after_failures": or_null(whole("so many failures in a row pause it")),
    "version": text("give it as `seen` when you change it"),
    "next": _TIMES,
    "history": list_of("ScheduledRun", f"the newest {schedule_queries.LINE}, those that you may see"),
}


def detail(row: Row, times: list[datetime.datetime], history: History) -> Json:
    each = row.schedule
    return {
        **schedule(row),
        **schedules.hidden(each),
        "overlap": each.overlap,
        "catch_up_seconds": each.catch_up_seconds,
        "jitter_minutes": each.jitter_minutes,
        "ends_at": when(each.ends_at),
        "pause_after_failures": each.pause_after_failures,
        "version": schedules.version(each),
        "next": [when(time) for time in times],
        "history": [ran(run) for run in history.runs],
    }


def preview(each: Preview) -> Json:
    return {"words": each.words, "zone": each.zone, "next": [when(time) for time in each.times]}


SCHEMAS: dict[str, Json] = {
    "Schedule": object_of(_SCHEDULE),
    "Schedules": object_of({"schedules": list_of("Schedule", "by name"), "next": shapes.NEXT}),
    "ScheduledRun": object_of(_RAN),
    "ScheduleDetail": object_of(_DETAIL),
    "SchedulePreview": object_of({"words": text("the timing in plain words"), "zone": text(), "next": _TIMES}),
}
