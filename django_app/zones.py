"""Time zones to choose from."""

from __future__ import annotations

from functools import cache
from zoneinfo import available_timezones

#: "UTC" alone of the names without a place: the others are old spellings of those with one.
_PLAIN = "UTC"


@cache
def names() -> tuple[str, ...]:
    """By place, such as "Europe/Berlin", and UTC first. Finding them opens each file of the machine's zones, once."""
    places = {name for name in available_timezones() if "/" in name and not name.startswith(("Etc/", "SystemV/"))}
    return (_PLAIN, *sorted(places))
