"""What the console's templates show, and how. Nothing here is marked safe."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from zoneinfo import ZoneInfo

from django import template

from django_app.console import shown
from django_app.console.schedule_queries import LINE, Ran
from django_app.ledger.models import Run

register = template.Library()
register.filter("plain", shown.plain)
register.filter("lines", shown.lines)
register.filter("arguments", shown.arguments)

_CURVE_WIDTH, _CURVE_HEIGHT = 120, 24
#: Of the sparkline: one bar with the gap behind it, and its height from the shortest run to the longest.
_BAR_STEP, _LOWEST_BAR, _HIGHEST_BAR = 8, 6, 40


@register.filter
def or_more(count: int, bound: int) -> str:
    """A count, as "1000+" where it has reached its bound."""
    return f"{count}+" if count >= bound else str(count)


@register.filter
def counted(counts: dict[str, int]) -> str:
    """ "48 succeeded, 2 failed", the commonest first."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda each: (-each[1], each[0])))


@register.filter
def seconds(value: float | None) -> str:
    """A duration as people say it."""
    if value is None:
        return ""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.1f} s"
    if value < 7200:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.0f} h" if value < 172_800 else f"{value / 86400:.0f} days"


@register.filter
def took(run: Run, now: datetime.datetime) -> str:
    """How long the run's last attempt took, or has been at work."""
    if run.started_at is None:
        return ""
    end = run.finished_at or (now if run.state == "running" else None)
    return seconds(max(0.0, (end - run.started_at).total_seconds())) if end is not None else ""


@register.filter
def curve(values: Sequence[float]) -> str:
    """Points of an SVG polyline, of 120 by 24."""
    highest = max(values, default=0) or 1
    step = _CURVE_WIDTH / max(1, len(values) - 1)
    return " ".join(
        f"{place * step:.1f},{_CURVE_HEIGHT - 1 - (_CURVE_HEIGHT - 2) * value / highest:.1f}"
        for place, value in enumerate(values)
    )


@register.filter
def in_zone(time: datetime.datetime | None, zone: str) -> str:
    """ "Mon 2026-11-30 08:00 CET"; in UTC where the zone is none."""
    if time is None:
        return ""
    try:
        local = time.astimezone(ZoneInfo(zone))
    except (ValueError, KeyError, OSError):
        local = time.astimezone(datetime.UTC)
    return local.strftime("%a %Y-%m-%d %H:%M %Z")


@register.filter
def bars(ran: Sequence[Ran]) -> list[dict[str, object]]:
    """Bars of a sparkline, the oldest first, as high as the runs took long. ran: newest first."""
    longest = max((each.seconds or 0 for each in ran), default=0) or 1
    rows = []
    for place, each in enumerate(reversed(ran)):
        height = _LOWEST_BAR + round((_HIGHEST_BAR - _LOWEST_BAR) * (each.seconds or 0) / longest)
        rows.append(
            {"ran": each, "x": (LINE - len(ran) + place) * _BAR_STEP, "y": _HIGHEST_BAR - height, "height": height}
        )
    return rows


@register.simple_tag(takes_context=True)
def with_parameters(context: template.Context, **changes: object) -> str:
    """The query string of this page with some parameters changed; "" removes one."""
    parameters = context["request"].GET.copy()
    for name, value in changes.items():
        parameters.pop(name, None)
        if value not in ("", None):
            parameters[name] = str(value)
    encoded: str = parameters.urlencode()
    return f"?{encoded}"
