"""The API's routes on schedules."""

from __future__ import annotations

from django.http import HttpRequest
from django.utils import timezone

from django_app.console import schedule_forms, schedule_queries
from django_app.console.access import visible_schedules
from django_app.console.api import schedule_shapes
from django_app.console.api.table import PAGED, TEXT, Json, Parameter, Route, limit_of
from django_app.console.errors import NotVisibleError
from django_app.console.services import schedules
from django_app.console.services.acting import Actor


def _schedules(request: HttpRequest, actor: Actor) -> Json:
    asked = schedule_queries.read(request.GET.dict())
    page = schedule_queries.find(actor.access, asked, timezone.now(), limit_of(request))
    return {"schedules": [schedule_shapes.schedule(row) for row in page.rows], "next": page.after or None}


def _schedule(request: HttpRequest, actor: Actor, name: str) -> Json:
    found = visible_schedules(actor.access).filter(name=name).first()
    if found is None:
        raise NotVisibleError
    now = timezone.now()
    row = schedule_queries.row_of(actor.access, found, now)
    times = schedule_queries.next_due(found, now)
    return schedule_shapes.detail(row, times, schedule_queries.history(actor.access, found))


def _preview(request: HttpRequest, actor: Actor) -> Json:
    given = {name: request.GET[name] for name in _OF_PREVIEW if request.GET.get(name)}
    return schedule_shapes.preview(schedule_forms.preview(schedules.timed(given)))


_OF_PREVIEW = {
    "timing": Parameter("as a schedule has it; needed", TEXT),
    "zone": Parameter("default UTC", TEXT),
    "ends_at": Parameter("no due time after it", TEXT),
}
SCHEDULE_ROUTES: tuple[Route, ...] = (
    Route(
        "schedules",
        "/schedules",
        "schedules",
        "Schedules that you may see, by name.",
        _schedules,
        "Schedules",
        {
            "state": Parameter("", {"type": "string", "enum": [each.value for each in schedule_queries.Standing]}),
            "q": Parameter("stands in the name or the task", {"type": "string", "maxLength": 100}),
            **PAGED,
        },
    ),
    Route(
        "schedule",
        "/schedules/{name}",
        "schedules/<id:name>",
        "One schedule, with its next due times and what became of its last runs.",
        _schedule,
        "ScheduleDetail",
        {},
    ),
    Route(
        "schedule_preview",
        "/schedule-preview",
        "schedule-preview",
        "What a timing would mean. Nothing is saved.",
        _preview,
        "SchedulePreview",
        _OF_PREVIEW,
    ),
)
