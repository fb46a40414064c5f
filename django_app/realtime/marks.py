"""Which addresses of sockets are used up, which sessions have ended, how often somebody asked for an address."""

from __future__ import annotations

import datetime
import hashlib

from django.db import IntegrityError, transaction
from django.db.models import Exists, F, Q
from django.utils import timezone

from django_app.realtime.models import Mark

#: A socket ends after so long, whoever holds it: API Gateway closes each after two hours, and clients are back sooner.
SOCKET_SECONDS = 2 * 3600 + 600
#: Addresses that one person may ask for in a minute: a browser asks for one a tab, and again when a socket broke.
MOST_ADDRESSES = 60
_MINUTE = datetime.timedelta(minutes=1)
#: Of clocks that differ.
_MARGIN = datetime.timedelta(minutes=10)


def spend(token: str, valid_until: datetime.datetime) -> bool:
    """Use a token up; False if it was before, by whichever of two who came at once."""
    return _make(_key("token", token), valid_until + _MARGIN)


def end_session(session_hash: str) -> None:
    """From now on no socket of that session may show anything. See tokens.session_hash."""
    until = timezone.now() + datetime.timedelta(seconds=SOCKET_SECONDS) + _MARGIN
    Mark.objects.bulk_create([Mark(key=_key("session", session_hash), until=until)], ignore_conflicts=True)


def has_ended(session_hash: str) -> Exists:
    """The condition that the session has ended, for a query about something else."""
    return Exists(Mark.objects.filter(pk=_key("session", session_hash)))


def admit(user_id: object) -> int:
    """Count that a person asks for an address. 0: they may; else the seconds until they may again."""
    now = timezone.now()
    minute = now.replace(second=0, microsecond=0)
    key = _key("asked", f"{user_id} {minute.isoformat()}")
    for _ in range(2):
        if Mark.objects.filter(Q(count__lt=MOST_ADDRESSES), pk=key).update(count=F("count") + 1):
            return 0
        if _make(key, minute + _MINUTE + _MARGIN, count=1):
            return 0
        # Somebody else has made it meanwhile, or it is full.
    return max(1, round((minute + _MINUTE - now).total_seconds()))


def forget(now: datetime.datetime, most: int) -> int:
    """Delete what does not matter any more; how many."""
    keys = list(Mark.objects.filter(until__lt=now).order_by("until").values_list("pk", flat=True)[:most])
    return Mark.objects.filter(pk__in=keys).delete()[0] if keys else 0


def _make(key: str, until: datetime.datetime, count: int = 0) -> bool:
    try:
        with transaction.atomic():
            Mark.objects.create(key=key, until=until, count=count)
    except IntegrityError:
        return False
    return True


def _key(kind: str, about: str) -> str:
    return f"{kind}:{hashlib.sha256(about.encode()).hexdigest()}"
