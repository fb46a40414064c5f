"""The right to run a run now: taken in one write before its task begins, renewed while it is at work.

Time is the database's own: workers' clocks need not agree.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from django_app.ledger import parking, watching
from django_app.ledger.claiming import Decision, Facts, Verdict, decide
from django_app.ledger.models import Attempt, Revocation, Run
from django_app.ledger.statements import NOW, Statement
from django_app.ledger.states import Outcome, Report, State, target

#: Tries to win the row from others that change it at the same moment.
_TRIES = 10
_BUSY_SECONDS = 5.0
_ENDINGS = frozenset({Verdict.DEAD, Verdict.REVOKED, Verdict.EXPIRED})
_READ = (
    "state",
    "queue",
    "task",
    "holder",
    "worker",
    "lease_until",
    "started_at",
    "receives",
    "expires_at",
    "crashes",
    "retries",
    "replacements",
    "attempts",
    "limit_key",
    "unique_key",
    "parked_for",
    "schedule",
)


@dataclass(frozen=True)
class Claimant:
    """Who asks for a run, and for how long.

    holder: a name of this one execution. lease_seconds: until the claim must have been renewed.
    retries, replacements: of the message. stamps: stamped headers, name to values.
    limit: (runs at once, begun in a period, the period's seconds) of the run's limit key; None: no such limit.
    """

    holder: str
    worker: str
    lease_seconds: float
    receives: int = 1
    retries: int = 0
    replacements: int = 0
    stamps: Mapping[str, Sequence[str]] = field(default_factory=dict)
    limit: parking.Limit | None = None


@dataclass(frozen=True)
class Claim:
    """A decision; with RUN, the attempt that it begins. number: counted from 1."""

    decision: Decision
    run_id: str = ""
    number: int = 0
    holder: str = ""
    worker: str = ""
    receives: int = 0
    started_at: datetime.datetime | None = None
    limit_key: str = ""
    unique_key: str = ""
    schedule: str = ""


class RunMissingError(LookupError):
    """No such run is recorded: a producer without Django sent it, or it was forgotten."""


def claim(run_id: str, claimant: Claimant) -> Claim:
    """Decide on a message and, if it may run, claim its run. Raises RunMissingError and what the database raises."""
    if (taken := _take_fresh(run_id, claimant)) is not None:
        return taken
    for _ in range(_TRIES):
        seen = _look(run_id, claimant)
        if seen is None:
            raise RunMissingError(run_id)
        row, now = seen
        decision = decide(_facts(row, claimant), now)
        may_wait = decision.verdict is Verdict.PARK or (decision.verdict is Verdict.RUN and row["limit_key"])
        if row["state"] == State.RUNNING and (may_wait or decision.verdict in _ENDINGS):
            # Its last attempt's lease is over: first comes the last chapter of its story.
            lose(run_id, row["worker"], "its lease was over", row["holder"], overdue_seconds=0)
            continue
        if decision.verdict is Verdict.PARK:
            if _park(run_id, row, decision.reason):
                return Claim(decision)
            continue
        if decision.verdict is not Verdict.RUN:
            return Claim(decision)
        # One update is atomic by itself.
        needs_transaction = bool(row["limit_key"]) or row["state"] == State.RUNNING
        with transaction.atomic() if needs_transaction else contextlib.nullcontext():
            if row["limit_key"] and claimant.limit is not None:
                reason, seconds = parking.wait_for(row["limit_key"], claimant.limit, run_id, now)
                if reason:
                    if _park(run_id, row, reason):
                        is_kept_by_sqs = reason == parking.RATE
                        return Claim(Decision(Verdict.HELD if is_kept_by_sqs else Verdict.PARK, reason, seconds))
                    continue
            if _take(run_id, row, claimant, now):
                return Claim(
                    decision,
                    run_id=run_id,
                    number=row["attempts"] + 1,
                    holder=claimant.holder,
                    worker=claimant.worker,
                    receives=claimant.receives,
                    started_at=now,
                    limit_key=row["limit_key"],
                    unique_key=row["unique_key"],
                    schedule=row["schedule"],
                )
    return Claim(Decision(Verdict.HELD, "it changes hands all the time", _BUSY_SECONDS))


_UNTIL = {
    "postgresql": {"until": "statement_timestamp() + %s * interval '1 second'"},
    "sqlite": {"until": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', %s || ' seconds')"},
}
_PAUSED = "EXISTS(SELECT 1 FROM ledger_pause WHERE key = 'queue:' || run.queue OR key = 'task:' || run.task)"
_REVOKED = "EXISTS(SELECT 1 FROM ledger_revocation WHERE header = '' AND value = run.id)"

_LOOK = Statement(
    f"SELECT {', '.join(f'run.{name}' for name in _READ)}, {{now}}, {_PAUSED}, {_REVOKED} "  # noqa: S608 - all of it ours
    "FROM ledger_run run WHERE run.id = %s",
    **NOW,
)

#: Takes what `decide` lets run for sure and nobody holds, which nearly every message is for; leaves the rest to it.
_TAKE_FRESH = Statement(
    f"""
    UPDATE ledger_run AS run SET state = '{target(Report.CLAIMED)}', attempts = attempts + 1, holder = %s, worker = %s,
        receives = %s, started_at = {{now}}, lease_until = {{until}}, parked_for = '', celery_state = '',
        {watching.FURTHER}
    WHERE id = %s AND state IN ('{State.PENDING}', '{State.QUEUED}') AND replacements = %s AND retries = %s
        AND crashes < %s AND (expires_at IS NULL OR expires_at > {{now}}) AND limit_key = ''
        AND NOT {_PAUSED} AND NOT {_REVOKED}
    RETURNING attempts, started_at, unique_key, schedule, {watching.WATCHERS}
    """,  # noqa: S608 - as above
    **{vendor: NOW[vendor] | _UNTIL[vendor] for vendor in NOW},
)


def _take_fresh(run_id: str, claimant: Claimant) -> Claim | None:
    """Claim a run that nothing keeps from running, in one write; None where it must be looked at."""
    if claimant.receives > 1 or claimant.stamps or claimant.limit is not None:
        return None
    found = _TAKE_FRESH.rows(
        [
            *(claimant.holder, claimant.worker, claimant.receives, claimant.lease_seconds),
            *(run_id, claimant.replacements, claimant.retries, settings.RUN_MOST_CRASHES),
        ]
    )
    if not found:
        return None
    [(number, started_at, unique_key, schedule, is_watched, is_console_watched)] = found
    if is_watched or is_console_watched:
        watching.tell_of([(run_id, State.RUNNING, is_watched, is_console_watched)])
    return Claim(
        Decision(Verdict.RUN),
        run_id=run_id,
        number=number,
        holder=claimant.holder,
        worker=claimant.worker,
        receives=claimant.receives,
        started_at=_aware(started_at),
        unique_key=unique_key,
        schedule=schedule,
    )


def _look(run_id: str, claimant: Claimant) -> tuple[dict[str, Any], datetime.datetime] | None:
    found = _LOOK.rows([run_id])
    if not found:
        return None
    row = dict(zip((*_READ, "now", "paused", "revoked"), found[0], strict=True))
    for name in ("now", "lease_until", "started_at", "expires_at"):
        row[name] = _aware(row[name])
    if claimant.stamps and not row["revoked"]:
        row["revoked"] = is_stamp_revoked(claimant.stamps)
    return row, row["now"]


def _aware(time: datetime.datetime | str | None) -> datetime.datetime | None:
    """SQLite has times as text, in UTC."""
    if isinstance(time, str):
        time = datetime.datetime.fromisoformat(time)
    if time is not None and time.tzinfo is None:
        time = time.replace(tzinfo=datetime.UTC)
    return time


def is_stamp_revoked(stamps: Mapping[str, Sequence[str]]) -> bool:
    """Whether any of these stamped headers has been revoked."""
    return any(
        Revocation.objects.filter(header=header, value__in=[str(each) for each in values]).exists()
        for header, values in stamps.items()
    )


def _facts(row: dict[str, Any], claimant: Claimant) -> Facts:
    return Facts(
        state=State(row["state"]),
        holder=row["holder"],
        lease_until=row["lease_until"],
        expires_at=row["expires_at"],
        crashes=row["crashes"],
        sent=(row["replacements"], row["retries"]),
        message_sent=(claimant.replacements, claimant.retries),
        is_revoked=bool(row["revoked"]),
        reason_to_wait=parking.PAUSED if row["paused"] else "",
        is_due_again=row["parked_for"] == parking.RATE,
        most_crashes=settings.RUN_MOST_CRASHES,
    )


def _unchanged(run_id: str, row: dict[str, Any]) -> Any:
    """The row, if nobody has changed it since it was read."""
    return Run.objects.filter(
        pk=run_id, state=row["state"], attempts=row["attempts"], holder=row["holder"], retries=row["retries"]
    )


def _take(run_id: str, row: dict[str, Any], claimant: Claimant, now: datetime.datetime) -> bool:
    is_taken_over = row["state"] == State.RUNNING
    changes: dict[str, Any] = {
        "attempts": row["attempts"] + 1,
        "crashes": row["crashes"] + is_taken_over,
        "holder": claimant.holder,
        "worker": claimant.worker,
        "receives": claimant.receives,
        "started_at": now,
        "lease_until": now + datetime.timedelta(seconds=claimant.lease_seconds),
        "parked_for": "",
        "celery_state": "",
    }
    free = _unchanged(run_id, row)
    if is_taken_over:
        # Its holder may have renewed since it was read.
        free = free.filter(lease_until__lte=now)
    if not watching.update(free, state=target(Report.CLAIMED), **changes):
        return False
    if is_taken_over:
        _record_lost(run_id, row, now, "its lease was over, and another attempt took it")
    return True


def _record_lost(
    run_id: str, row: dict[str, Any], now: datetime.datetime, why: str, outcome: Outcome = Outcome.LOST
) -> None:
    Attempt.objects.create(
        run_id=run_id,
        number=row["attempts"],
        holder=row["holder"],
        worker=row["worker"],
        receives=row["receives"],
        started_at=row["started_at"],
        ended_at=now,
        outcome=outcome,
        error=why,
    )


def _park(run_id: str, row: dict[str, Any], reason: str) -> bool:
    parked = watching.update(_unchanged(run_id, row), state=target(Report.PARKED), parked_for=reason, holder="")
    return bool(parked)


def renew(worker: str, run_ids: Sequence[str], lease_seconds: float) -> int:
    """A worker still holds these messages: the claims among them stay. Returns how many did."""
    until = Now() + datetime.timedelta(seconds=lease_seconds)
    renewed = 0
    for start in range(0, len(run_ids), 500):
        runs = Run.objects.filter(pk__in=run_ids[start : start + 500], worker=worker, state=State.RUNNING)
        renewed += runs.update(lease_until=until)
    return renewed


def lose(run_id: str, worker: str, why: str, holder: str = "", *, overdue_seconds: float | None = None) -> bool:
    """An attempt's process died: another may take the run at once. False where that attempt holds it no more.

    overdue_seconds: only if its lease has been over for so long.
    """
    with transaction.atomic():
        runs = Run.objects.filter(pk=run_id, state=State.RUNNING, worker=worker)
        if holder:
            runs = runs.filter(holder=holder)
        if overdue_seconds is not None:
            runs = runs.filter(lease_until__lt=Now() - datetime.timedelta(seconds=overdue_seconds))
        row = runs.annotate(now=Now()).values(*_READ, "now").first()
        if row is None:
            return False
        its = _unchanged(run_id, row)
        if overdue_seconds is not None:
            # A renewal since it was read says that it lives; of one whose process died it is only a late echo.
            its = its.filter(lease_until=row["lease_until"])
        moved = watching.update(its, state=target(Report.LOST), crashes=row["crashes"] + 1, lease_until=None, holder="")
        if moved:
            _record_lost(run_id, row, row["now"], why)
        return bool(moved)


def give_back(run_id: str, worker: str, why: str, holder: str) -> bool:
    """A worker that stops has cut an attempt off: another may take the run at once, and it counts as no crash.

    False where that attempt holds it no more.
    """
    with transaction.atomic():
        runs = Run.objects.filter(pk=run_id, state=State.RUNNING, worker=worker, holder=holder)
        row = runs.annotate(now=Now()).values(*_READ, "now").first()
        if row is None:
            return False
        its = _unchanged(run_id, row)
        moved = watching.update(its, state=target(Report.HANDED_BACK), lease_until=None, holder="")
        if moved:
            _record_lost(run_id, row, row["now"], why, Outcome.HANDED_BACK)
        return bool(moved)


def lose_overdue(most: int, grace_seconds: float) -> list[str]:
    """Mark attempts whose lease was over so long ago as lost; their ids. Their messages show again by themselves."""
    overdue = Run.objects.filter(
        state=State.RUNNING, lease_until__lt=Now() - datetime.timedelta(seconds=grace_seconds)
    ).order_by("lease_until")
    found = list(overdue.values_list("pk", "worker", "holder")[:most])
    return [
        pk
        for pk, worker, holder in found
        if lose(pk, worker, "its lease was over", holder, overdue_seconds=grace_seconds)
    ]
