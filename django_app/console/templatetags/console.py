"""What the console's templates show, and how. Nothing here is marked safe."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from django import template

from django_app.console import shown
from django_app.ledger.models import Run

register = template.Library()
register.filter("plain", shown.plain)
register.filter("lines", shown.lines)
register.filter("arguments", shown.arguments)

_CURVE_WIDTH, _CURVE_HEIGHT = 120, 24


@register.filter
def or_more(count: int, bound: int) -> str:
    """A count, as "1000+" where it has reached its bound."""
    return f"{count}+" if count >= bound else str(count)


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
