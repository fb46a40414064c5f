"""What can be done with runs. Tasks, views and commands change runs through these functions only."""

from __future__ import annotations

import contextlib
import datetime
import json
import random
from collections.abc import Iterable, Sequence

from django.db import DEFAULT_DB_ALIAS, connection, transaction
from django.db.models import JSONField, Q
from django.utils import timezone

from django_app.ledger import payloads, sealing, watching
from django_app.ledger.models import Attempt, Run
from django_app.ledger.statements import NOW, Statement, adapted
from django_app.ledger.states import FINAL, Report, State, sources, target

#: Whoever records a run publishes it after the commit; nobody else tries for so long.
PUBLISH_CLAIM = datetime.timedelta(seconds=60)
#: SQS delays by 15 minutes at most: a run is published in its last 14, so that one late round changes nothing.
PUBLISH_AHEAD = datetime.timedelta(minutes=14)
#: Why a run waits that another signature has replaced, under its id.
REPLACED = "replaced"
#: Rows in one statement.
_AT_ONCE = 500
#: What another message under the same id changes.
_OF_A_MESSAGE = (
    "message",
    "task",
    "queue",
    "arguments",
    "priority",
    "retries",
    "replacements",
    "not_before",
    "expires_at",
    "limit_key",
    "limit_at_once",
)


def record(runs: Sequence[Run]) -> None:
    """Insert runs, in the caller's transaction if there is one.

    An id that is there already keeps its row, for an id is one run; unless that run waits for its replacement.
    """
    now = timezone.now()
    for run in runs:
        run.state = State.PENDING
        run.created_at = now
        run.publish_claimed_until = claimed_until(run, now)
    _insert(sealed(runs))
    for run in runs:
        if run.replacements:
            watching.update(
                Run.objects.filter(pk=run.pk, state=State.WAITING, parked_for=REPLACED),
                **{name: getattr(run, name) for name in _OF_A_MESSAGE},
                state=target(Report.RELEASED),
                parked_for="",
                publish_claimed_until=run.publish_claimed_until,
            )


_NAMES = tuple(field.attname for field in Run._meta.concrete_fields)
_COLUMNS = tuple(str(field.column) for field in Run._meta.concrete_fields)
_JSON = frozenset(field.attname for field in Run._meta.concrete_fields if isinstance(field, JSONField))
_INTO = f"INSERT INTO ledger_run ({', '.join(_COLUMNS)})"
_NEW_ONES = "ON CONFLICT DO NOTHING"
#: Any number of runs as one value, since each value costs: a hundred runs have 4,400.
_INSERT = Statement(
    f"{_INTO} SELECT {', '.join(_COLUMNS)} FROM json_populate_recordset(NULL::ledger_run, %s) {_NEW_ONES}"  # noqa: S608 - all of it ours
)
_ROW = f"({', '.join(['%s'] * len(_NAMES))})"


def _insert(runs: Sequence[Run]) -> None:
    """Insert runs whose ids are not there yet."""
    is_postgres = connection.vendor == "postgresql"
    at_once = _AT_ONCE if is_postgres else min(_AT_ONCE, (connection.features.max_query_params or 999) // len(_NAMES))
    # One insert is atomic by itself.
    with transaction.atomic(savepoint=False) if len(runs) > at_once else contextlib.nullcontext():
        for start in range(0, len(runs), at_once):
            rows = [[run.__dict__[name] for name in _NAMES] for run in runs[start : start + at_once]]
            if is_postgres:
                told = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
                # Not every encoding of a database can be told characters by their numbers.
                _INSERT.count([json.dumps(told, default=str, ensure_ascii=False)])
            else:
                _insert_values(rows)


def _insert_values(rows: Sequence[Sequence[object]]) -> None:
    values = (
        json.dumps(value) if name in _JSON else value for row in rows for name, value in zip(_NAMES, row, strict=True)
    )
    with connection.cursor() as cursor:
        cursor.execute(f"{_INTO} VALUES {', '.join([_ROW] * len(rows))} {_NEW_ONES}", adapted(values))


def claimed_until(run: Run, now: datetime.datetime) -> datetime.datetime:
    """Until when nobody else need try to publish it, now that somebody will: for long, if its time is far."""
    until = now + PUBLISH_CLAIM
    return until if run.not_before is None else max(until, run.not_before - PUBLISH_AHEAD)


def sealed(runs: Sequence[Run]) -> Sequence[Run]:
    """The same runs, with their messages as they are kept."""
    for run in runs:
        run.message = sealing.seal(run.message)
    return runs


def record_arrived(run: Run) -> None:
    """Insert a run whose message came from elsewhere: EventBridge, or a producer without Django."""
    run.state = State.QUEUED
    run.created_at = run.published_at = run.publish_claimed_until = timezone.now()
    _insert(sealed([run]))


def record_skipped(runs: Sequence[Run], now: datetime.datetime) -> None:
    """Insert runs of which it is known already that they do not run; their `error` says why."""
    for run in runs:
        run.state = State.SKIPPED
        run.created_at = run.publish_claimed_until = run.finished_at = run.admitted_at = now
    if runs:
        _insert(sealed(runs))


def is_due(run: Run, now: datetime.datetime) -> bool:
    """Whether it may be published now, which SQS can keep for the rest of its delay."""
    return run.not_before is None or run.not_before <= now + PUBLISH_AHEAD


def surviving(ids: Iterable[str]) -> set[str]:
    """Those that are recorded: what a savepoint took back is not."""
    listed = list(ids)
    found: set[str] = set()
    for start in range(0, len(listed), _AT_ONCE):
        found.update(Run.objects.filter(pk__in=listed[start : start + _AT_ONCE]).values_list("pk", flat=True))
    return found


_MARK = Statement(
    f"UPDATE ledger_run SET state = '{target(Report.PUBLISHED)}', published_at = %s, {watching.FURTHER} "  # noqa: S608 - all of it ours
    f"WHERE id = %s AND publish_claimed_until = %s AND state = '{State.PENDING}' "
    f"RETURNING id, state, {watching.WATCHERS}",
    **NOW,
)


def mark_published(runs: Sequence[Run]) -> int:
    """SQS has their messages; how many had not been marked before. Safe to repeat and to come late.

    runs: as they were published. One that was sent again since, and waits for that message to be published, has another
    claim on its publishing by now.
    """
    if len(runs) == 1:
        changed = _MARK.rows([timezone.now(), runs[0].pk, runs[0].publish_claimed_until])
        watching.tell_of(changed)
        return len(changed)
    marked = 0
    for start in range(0, len(runs), _AT_ONCE):
        some = runs[start : start + _AT_ONCE]
        published = Run.objects.filter(
            pk__in=[run.pk for run in some],
            publish_claimed_until__in={run.publish_claimed_until for run in some},
            state__in=sources(Report.PUBLISHED),
        )
        marked += watching.update(published, state=target(Report.PUBLISHED), published_at=timezone.now())
    return marked


def claim_unpublished(now: datetime.datetime, most: int) -> list[Run]:
    """Runs that were recorded and that nobody has published: the process died, or SQS refused, or their time has come.

    They are claimed for a minute, without holding a lock meanwhile. Two callers at once get different runs.
    """
    due = Q(not_before=None) | Q(not_before__lte=now + PUBLISH_AHEAD)
    waiting = Run.objects.filter(due, state=State.PENDING, publish_claimed_until__lte=now)
    ids = list(waiting.order_by("publish_claimed_until").values_list("pk", flat=True)[:most])
    # The time of the claim tells it from others.
    until = now + PUBLISH_CLAIM + datetime.timedelta(microseconds=random.randrange(1_000_000))
    waiting.filter(pk__in=ids).update(publish_claimed_until=until)
    return list(Run.objects.filter(pk__in=ids, state=State.PENDING, publish_claimed_until=until))


def forget(before: datetime.datetime, most: int) -> int:
    """Delete runs that ended before a time, at most so many, with their attempts and results; how many.

    In batches, so that no lock is held for long.
    """
    forgotten = 0
    while forgotten < most:
        ended = Run.objects.filter(finished_at__lt=before, state__in=FINAL).order_by("finished_at")
        found = list(ended.values_list("pk", "result")[: min(_AT_ONCE, most - forgotten)])
        if not found:
            break
        for _, result in found:
            payloads.forget(result)
        ids = [pk for pk, _ in found]
        with transaction.atomic():
            Attempt.objects.filter(run_id__in=ids)._raw_delete(DEFAULT_DB_ALIAS)
            Run.objects.filter(pk__in=ids)._raw_delete(DEFAULT_DB_ALIAS)
        forgotten += len(ids)
    return forgotten
