"""How often signing in may fail.

Counted are failures of a name from an address, of an address whatever the name, and of a name from wherever. Beyond a
number of them the next try is let in after a pause only, which doubles with each further failure up to a limit; a try
during the pause is refused unseen, and lengthens nothing.

Others' failures never keep people out: what is counted of a name as a whole does not hold for an address from which
that name has signed in before, and elsewhere its pause is a minute at most.

The address is REMOTE_ADDR, what the server itself saw, and no header that anybody can send; of IPv6 the network (/64).
Rows are buckets that names and addresses fall into by a keyed hash: there are so many and no more, whatever is tried.
"""

from __future__ import annotations

import datetime
import ipaddress
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from django.db import transaction
from django.utils import timezone
from django.utils.crypto import salted_hmac

from django_app.console.models import SignInCount

log = structlog.get_logger(__name__)

#: Rows of a kind.
BUCKETS = 1 << 16
#: Failures are forgotten if no other has come for so long; where they led to a pause, later.
_FORGET_AFTER = datetime.timedelta(minutes=15)
_FORGET_PAUSED_AFTER = datetime.timedelta(hours=1)
_KNOWN_FOR = datetime.timedelta(days=90)
_LONGEST_NAME = 300


@dataclass(frozen=True)
class Limit:
    """free: failures without consequence but for the last of them. first_seconds, longest_seconds: of the pauses."""

    free: int
    first_seconds: int
    longest_seconds: int

    def pause(self, failures: int) -> datetime.timedelta | None:
        """After so many failures; None if there is none."""
        if failures < self.free:
            return None
        return datetime.timedelta(
            seconds=min(self.longest_seconds, self.first_seconds << min(failures - self.free, 20))
        )


LIMITS = {
    "pair": Limit(free=5, first_seconds=30, longest_seconds=900),
    "address": Limit(free=30, first_seconds=30, longest_seconds=900),
    "name": Limit(free=50, first_seconds=15, longest_seconds=60),
}


class ThrottledError(Exception):
    """Too many tries have failed. seconds: until the next one is let in."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"Signing in has failed too often. Try again in {self.seconds} seconds."


@dataclass(frozen=True)
class Try:
    """One that was let in. It counts as failed until it succeeds, so that many at once are counted as well.

    keys: rows by kind. counted: the kinds in which it counts.
    """

    keys: Mapping[str, str]
    counted: tuple[str, ...]

    def succeed(self) -> None:
        """Take it back, and forget what failed before from this address."""
        now = timezone.now()
        with transaction.atomic():
            rows = _locked(self.keys)
            for kind in self.counted:
                row = rows[self.keys[kind]]
                row.failures = 0 if kind == "pair" else max(0, row.failures - 1)
                if LIMITS[kind].pause(row.failures) is None:
                    row.closed_until = None
                row.save(update_fields=["failures", "closed_until"])
            SignInCount.objects.filter(pk=self.keys["known"]).update(last_at=now, failures=1)


def admit(name: str, address: str) -> Try:
    """Let a try in, or raise ThrottledError. name: as it was typed. address: of whoever tries."""
    keys = _keys(name, address)
    now = timezone.now()
    with transaction.atomic():
        SignInCount.objects.bulk_create(
            [SignInCount(key=key, last_at=now) for key in keys.values()], ignore_conflicts=True
        )
        rows = _locked(keys)
        known = rows[keys["known"]]
        is_known = known.failures > 0 and now - known.last_at < _KNOWN_FOR
        kinds = tuple(kind for kind in LIMITS if kind != "name" or not is_known)
        closed = [row.closed_until for row in (rows[keys[kind]] for kind in kinds) if row.closed_until is not None]
        until = max(closed, default=now)
        if until > now:
            seconds = math.ceil((until - now).total_seconds())
            log.warning("sign_in_throttled", seconds=seconds)
            raise ThrottledError(seconds)
        for kind in kinds:
            _count(rows[keys[kind]], LIMITS[kind], now)
    return Try(keys, kinds)


def _count(row: SignInCount, limit: Limit, now: datetime.datetime) -> None:
    kept_for = _FORGET_AFTER if row.closed_until is None else _FORGET_PAUSED_AFTER
    row.failures = 1 if now - row.last_at > kept_for else row.failures + 1
    row.last_at = now
    pause = limit.pause(row.failures)
    row.closed_until = now + pause if pause is not None else None
    row.save(update_fields=["failures", "last_at", "closed_until"])


def _locked(keys: Mapping[str, str]) -> dict[str, SignInCount]:
    # In one order, so that two never wait for each other.
    rows = SignInCount.objects.select_for_update().filter(pk__in=list(keys.values())).order_by("pk")
    return {row.pk: row for row in rows}


def _keys(name: str, address: str) -> dict[str, str]:
    # As names are compared by eye: capitals and look-alike forms of one letter are one.
    name = unicodedata.normalize("NFKC", name[:_LONGEST_NAME]).casefold().strip()
    network = _network(address)
    parts = {"pair": f"{name}\n{network}", "address": network, "name": name, "known": f"{name}\n{network}"}
    return {kind: f"{kind}:{_bucket(kind, text)}" for kind, text in parts.items()}


def _bucket(kind: str, text: str) -> int:
    digest = salted_hmac(f"console.throttle.{kind}", text.encode("utf-8", "replace"), algorithm="sha256").digest()
    return int.from_bytes(digest[:4], "big") % BUCKETS


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if found.version == 6:
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
