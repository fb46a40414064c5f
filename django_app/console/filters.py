"""What people ask for: filters of lists, and where a list goes on."""

from __future__ import annotations

import base64
import binascii
import datetime
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from django.utils import timezone

from django_app.console.errors import InvalidError
from django_app.ledger.states import State

_LONGEST = 255
LONGEST_SEARCH = 100
#: A search in arguments looks at what was created since then, if nothing is said.
SEARCH_AGE = "24h"
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
_AGE = re.compile(r"(\d{1,5})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
#: Fields of a run that can be asked for by value.
EQUAL = ("state", "task", "queue", "schedule", "worker", "tenant", "fingerprint")
PARAMETERS = (*EQUAL, "since", "q")


@dataclass(frozen=True)
class Cursor:
    """Behind which run a list goes on: its time and id. id "": behind all of that time."""

    at: datetime.datetime
    id: str = ""

    def encode(self) -> str:
        return base64.urlsafe_b64encode(f"{self.at.isoformat()}|{self.id}".encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Raises InvalidError."""
        try:
            plain = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
            at, _, run_id = plain.partition("|")
            cursor = cls(datetime.datetime.fromisoformat(at), run_id)
        except (ValueError, binascii.Error):
            cursor = None
        if cursor is None or cursor.at.tzinfo is None or "\x00" in cursor.id or len(cursor.id) > _LONGEST:
            raise InvalidError("cursor", text, "it is none that a list gave", "Begin at the list's first page.")
        return cursor


@dataclass(frozen=True)
class Filters:
    """What a list of runs shows.

    equal: values by field, see EQUAL. since: created at that time or later. q: stands in the redacted arguments.
    """

    equal: Mapping[str, str] = field(default_factory=dict)
    since: datetime.datetime | None = None
    q: str = ""


def read(parameters: Mapping[str, str], now: datetime.datetime | None = None) -> Filters:
    """From a query string; empty values are none. Raises InvalidError."""
    now = now or timezone.now()
    found = {name: parameters[name].strip() for name in PARAMETERS if parameters.get(name, "").strip()}
    for name, value in found.items():
        longest = LONGEST_SEARCH if name == "q" else _LONGEST
        if len(value) > longest:
            raise InvalidError(
                name, value[:40], f"it has {len(value)} characters, and {longest} are allowed", "Shorten it."
            )
        if "\x00" in value:
            raise InvalidError(name, value.replace("\x00", "\\0"), "it holds a NUL character", "Leave that out.")
    if "state" in found and found["state"] not in list(State):
        raise InvalidError("state", found["state"], "no run has such a state", nearest(found["state"], list(State)))
    if "fingerprint" in found and not _FINGERPRINT.fullmatch(found["fingerprint"]):
        raise InvalidError(
            "fingerprint", found["fingerprint"], "it is not 16 hexadecimal digits", "Copy it from a run."
        )
    since = found.get("since", SEARCH_AGE if "q" in found else "")
    return Filters(
        {name: found[name] for name in EQUAL if name in found},
        time_of(since, now) if since else None,
        found.get("q", ""),
    )


def time_of(text: str, now: datetime.datetime) -> datetime.datetime:
    """A time as people give it: an age such as 15m, 24h or 7d, or a time of ISO 8601. Raises InvalidError."""
    age = _AGE.fullmatch(text)
    if age is not None:
        return now - datetime.timedelta(**{_UNITS[age[2]]: int(age[1])})
    try:
        # A "+" in a query string is a space.
        found = datetime.datetime.fromisoformat(
            text.replace(" ", "+") if text.count(" ") == 1 and "T" in text else text
        )
        if found.tzinfo is None:
            found = found.replace(tzinfo=datetime.UTC)
        return found.astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        raise InvalidError(
            "since", text, "it is no age and no time", "Write 15m, 24h, 7d or 2026-01-31T12:00:00Z."
        ) from None


def without(filters: Filters, *names: str) -> Filters:
    return replace(filters, equal={name: value for name, value in filters.equal.items() if name not in names})


def nearest(name: str, known: list[str]) -> str:
    """What may have been meant."""
    if not known:
        return "There are none."
    close = difflib.get_close_matches(name, known, n=1)
    return f'Did you mean "{close[0]}"?' if close else f"Known: {', '.join(known)}."


def only_known(parameters: Mapping[str, str], known: tuple[str, ...]) -> None:
    """Raises InvalidError for a parameter that nobody reads."""
    for name in parameters:
        if name not in known:
            raise InvalidError("parameter", name, "it is not known", nearest(name, list(known)))


AUDIT = ("actor", "action", "target")


def read_audit(parameters: Mapping[str, str]) -> tuple[dict[str, str], int | None]:
    """(conditions, number before which entries are wanted), from a query string.

    One condition at most: each has an index, and two of them have none together. Raises InvalidError.
    """
    equal = {name: parameters[name].strip() for name in AUDIT if parameters.get(name, "").strip()}
    if len(equal) > 1:
        raise InvalidError(
            "filters", ", ".join(equal), "entries are searched by one at a time", "Leave the others empty."
        )
    for name, value in equal.items():
        if "\x00" in value or len(value) > 300:
            raise InvalidError(name, value[:40].replace("\x00", "\\0"), "no entry has such a value", "Correct it.")
    cursor = parameters.get("cursor", "")
    if cursor and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise InvalidError("cursor", cursor[:40], "it is none that a list gave", "Begin at the list's first page.")
    return equal, int(cursor) if cursor else None
