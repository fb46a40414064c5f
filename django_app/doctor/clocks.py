"""Subject "clocks": this machine's clock against AWS's and the database's."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from django.db import connection
from django.utils import timezone

from django_app.doctor.findings import Finding, Severity
from django_app.doctor.subjects import Examination, not_told, span
from serverless import inspection
from serverless.inspection import NotToldError

#: Leases are a minute, and delays are told to the second.
_MOST_SECONDS = 5.0
#: AWS refuses what was signed at another time than its own: five minutes, fifteen for S3.
_REFUSED_SECONDS = 300.0
_REMEDY = "sudo chronyc makestep (or: sudo systemctl restart systemd-timesyncd)"


def examine(this: Examination) -> Iterator[Finding]:
    """D140, D141."""
    try:
        ahead = inspection.identity(this.clock).ahead_seconds
    except NotToldError as problem:
        yield not_told("AWS's clock", problem)
    else:
        this.tell(f"{ahead:+.0f} s to AWS")
        yield from _off("D140", "AWS", ahead, "above it leases, delays and schedules are off; above 300 s AWS refuses")
    ahead = _ahead_of_database(this)
    this.tell(f"{ahead:+.1f} s to the database")
    yield from _off("D141", "the database", ahead, "claims and leases are timed by the database, delays by machines")


def _ahead_of_database(this: Examination) -> float:
    connection.ensure_connection()
    before = this.clock()
    # Not now(): on Postgres that is when the transaction began.
    statement = "SELECT clock_timestamp()" if connection.vendor == "postgresql" else "SELECT julianday('now')"
    with connection.cursor() as cursor:
        cursor.execute(statement)
        (told,) = cursor.fetchone()
    there = _from_julian(told) if isinstance(told, float) else _seconds(told)
    return inspection.certainly_ahead(before, this.clock(), there, there)


def _seconds(time: datetime.datetime) -> float:
    return (timezone.make_aware(time, datetime.UTC) if timezone.is_naive(time) else time).timestamp()


def _from_julian(day: float) -> float:
    return (day - 2_440_587.5) * 86_400


def _off(id_: str, other: str, ahead: float, why: str) -> Iterator[Finding]:
    if abs(ahead) <= _MOST_SECONDS:
        return
    severity = Severity.ERROR if abs(ahead) >= _REFUSED_SECONDS else Severity.WARNING
    value = f"{span(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} {other}"
    yield Finding(severity, id_, "this machine's clock", value, f"within {_MOST_SECONDS:.0f} s: {why}", _REMEDY)
