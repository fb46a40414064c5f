"""Workers, what they are told and what they answer, and what is revoked by name.

Time is the database's own: workers' clocks need not agree.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet
from django.db.models.functions import Now

from django_app.ledger import requester
from django_app.ledger.models import Command, Reply, Revocation, Worker

RUNNING, DRAINING, STOPPED, LOST = "running", "draining", "stopped", "lost"
#: What is revoked is remembered so long: as long as SQS keeps a message.
REVOCATION_DAYS = 14
#: An answer that nobody has collected for so long is not waited for.
_REPLY_SECONDS = 600
#: Rows in one statement.
_AT_ONCE = 500
_LONGEST_NAME = 255


class RevocationError(ValueError):
    """Something is to be revoked that no run can have."""


@dataclass(frozen=True)
class Sign:
    """A worker's sign of life, see models.Worker. age_seconds: since it started."""

    kind: str
    concurrency: int
    pid: int
    pool: str = ""
    queues: Sequence[str] = ()
    release: str = ""
    is_draining: bool = False
    busy: int = 0
    held: int = 0
    processed: int = 0
    load: float = 0.0
    memory_bytes: int = 0
    age_seconds: float = 0.0


# Workers -------------------------------------------------------------------------------------------------------------


def beat(name: str, sign: Sign, lease_seconds: float, *, is_first: bool = False) -> None:
    """A worker lives: it is not lost for another lease. is_first: it has just started, or its row may be another's."""
    fields: dict[str, Any] = {
        "pool": sign.pool,
        "kind": sign.kind,
        "concurrency": sign.concurrency,
        "queues": ",".join(sign.queues),
        "release": sign.release[:100],
        "pid": sign.pid,
        "state": DRAINING if sign.is_draining else RUNNING,
        "busy": sign.busy,
        "held": sign.held,
        "processed": sign.processed,
        "load": sign.load,
        "memory_bytes": sign.memory_bytes,
        "seen_at": Now(),
        "lease_until": Now() + datetime.timedelta(seconds=lease_seconds),
    }
    if not is_first and Worker.objects.filter(pk=name).update(**fields):
        return
    fields["started_at"] = Now() - datetime.timedelta(seconds=sign.age_seconds)
    Worker.objects.bulk_create(
        [Worker(name=name, **fields)], update_conflicts=True, unique_fields=["name"], update_fields=[*fields]
    )


def newer_release(name: str) -> str:
    """The release of the youngest worker of this one's pool that started after it with another; "" if there is none."""
    own = Worker.objects.filter(pk=name).values("pool", "release", "started_at").first()
    if own is None or not own["pool"]:
        return ""
    younger = Worker.objects.filter(pool=own["pool"], started_at__gt=own["started_at"], state=RUNNING)
    return (
        younger.exclude(release__in=("", own["release"]))
        .order_by("-started_at")
        .values_list("release", flat=True)
        .first()
        or ""
    )


def stop(name: str) -> None:
    """A worker has ended as it should."""
    Worker.objects.filter(pk=name).update(state=STOPPED, busy=0, held=0, seen_at=Now(), lease_until=Now())


def lose_overdue(most: int, grace_seconds: float = 0.0) -> list[str]:
    """Mark workers as lost that have not been heard of for a lease; their names.

    Neither work nor a drain keeps a worker from its signs of life. One that speaks up again is no longer lost.
    grace_seconds: added to the lease, such as after an outage of the database itself.
    """
    overdue = Worker.objects.filter(
        state__in=(RUNNING, DRAINING), lease_until__lt=Now() - datetime.timedelta(seconds=grace_seconds)
    )
    names = list(overdue.order_by("lease_until").values_list("pk", flat=True)[:most])
    return [name for name in names if overdue.filter(pk=name).update(state=LOST)]


def workers() -> QuerySet[Worker]:
    """All that are remembered, by name."""
    return Worker.objects.order_by("name")


def forget(before: datetime.datetime, most: int) -> int:
    """Delete workers that ended, or were lost, and were last seen before a time; how many."""
    gone = Worker.objects.filter(state__in=(STOPPED, LOST), seen_at__lt=before)
    names = list(gone.values_list("pk", flat=True)[:most])
    return gone.filter(pk__in=names).delete()[0] if names else 0


# Commands ------------------------------------------------------------------------------------------------------------


def send(body: str, keep_seconds: float) -> int:
    """Tell all workers something; the command's number. keep_seconds: after that nobody begins to obey it."""
    expires_at = Now() + datetime.timedelta(seconds=keep_seconds)
    return int(Command.objects.create(body=body, created_at=Now(), expires_at=expires_at).pk)


def newest_command() -> int:
    """The highest number so far; 0 if there is none."""
    return Command.objects.order_by("-pk").values_list("pk", flat=True).first() or 0


def commands(above: int, known: Collection[int], most: int) -> list[tuple[int, str]]:
    """Commands with a number above one that are not among the known; numbers with bodies, lowest first.

    Numbers are given when a command is written and seen when it is committed, so a lower one may come after a higher:
    ask from some way back, and say what is known.
    """
    numbers = Command.objects.filter(pk__gt=above).order_by("pk").values_list("pk", flat=True)[: most + len(known)]
    new = [number for number in numbers if number not in known][:most]
    if not new:
        return []
    return list(Command.objects.filter(pk__in=new, expires_at__gt=Now()).order_by("pk").values_list("pk", "body"))


def answer(ticket: str, body: str) -> None:
    """Answer the command that carried the ticket."""
    Reply.objects.create(ticket=ticket, body=body, created_at=Now())


def answers(ticket: str, known: Collection[int]) -> list[tuple[int, str]]:
    """Answers that are not among the known; numbers with bodies."""
    found = Reply.objects.filter(ticket=ticket).order_by("pk").values_list("pk", "body")
    return list(found.exclude(pk__in=known) if known else found)


def forget_commands(before: datetime.datetime, most: int) -> int:
    """Delete commands and revocations that expired before a time, and answers that nobody collected; how many."""
    uncollected = before - datetime.timedelta(seconds=_REPLY_SECONDS)
    return sum(
        _delete(expired, most)
        for expired in (
            Command.objects.filter(expires_at__lt=before),
            Reply.objects.filter(created_at__lt=uncollected),
            Revocation.objects.filter(expires_at__lt=before),
        )
    )


def _delete(rows: QuerySet[Any], most: int) -> int:
    deleted = 0
    while deleted < most:
        found = list(rows.values_list("pk", flat=True)[: min(_AT_ONCE, most - deleted)])
        if not found:
            break
        # Once more with its condition: a revocation may have been renewed meanwhile.
        rows.filter(pk__in=found).delete()
        deleted += len(found)
    return deleted


# Revocations ---------------------------------------------------------------------------------------------------------


def checked(name: object) -> str:
    """A name that may be revoked. Raises RevocationError for one that no run can have."""
    text = str(name)
    if len(text) > _LONGEST_NAME:
        raise RevocationError(
            f'"{text[:40]}..." has {len(text)} characters, and nothing of more than {_LONGEST_NAME} is recorded. '
            "Revoke by the task id, or the stamped header, that it was sent with."
        )
    return text


def revoke_stamped(header: str, values: Iterable[object]) -> None:
    """Nothing that is stamped so is to be begun from now on. Raises RevocationError."""
    named = list(dict.fromkeys(map(checked, values)))
    by = requester.current().user[:150]
    expires_at = Now() + datetime.timedelta(days=REVOCATION_DAYS)
    Revocation.objects.bulk_create(
        [
            Revocation(header=checked(header), value=value, by=by, created_at=Now(), expires_at=expires_at)
            for value in named
        ],
        batch_size=_AT_ONCE,
        update_conflicts=True,
        unique_fields=["header", "value"],
        update_fields=["expires_at"],
    )


def revocations(most: int) -> tuple[list[str], dict[str, list[str]]]:
    """The newest that are in force: task ids, and stamped headers with their values. Oldest first."""
    rows = Revocation.objects.filter(expires_at__gt=Now()).order_by("-pk").values_list("header", "value")[:most]
    ids: list[str] = []
    stamps: dict[str, list[str]] = {}
    for header, value in reversed(list(rows)):
        if header:
            stamps.setdefault(header, []).append(value)
        else:
            ids.append(value)
    return ids, stamps
