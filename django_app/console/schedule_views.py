"""Pages of schedules: all of them, one, and making or changing one with a look at what it would mean."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from django_app import zones
from django_app.console import actions, schedule_forms, schedule_queries, shown
from django_app.console.access import visible_schedules
from django_app.console.doing import Action
from django_app.console.errors import InvalidError, NotAllowedError, NotVisibleError, RefusalError
from django_app.console.pages import page, seen_by, show
from django_app.console.schedule_forms import Form, Preview
from django_app.console.services import schedule_runs, schedules
from django_app.console.services.acting import Actor
from django_app.ledger.models import Overlap, Schedule, ScheduleSource
from tasks.runtime.schedules import MOST_TIMES, task_names


@require_safe
@page
def index(request: HttpRequest) -> HttpResponse:
    """Schedules by name, by what is asked for."""
    problem: InvalidError | None = None
    found = schedule_queries.Page([])
    asked = schedule_queries.Asked()
    try:
        asked = schedule_queries.read(request.GET.dict())
        found = schedule_queries.find(seen_by(request), asked, timezone.now())
    except InvalidError as error:
        problem = error
    context = {
        "page": found,
        "problem": problem,
        "asked": {name: request.GET.get(name, "") for name in schedule_queries.PARAMETERS},
        "is_first": not asked.after,
        "states": [state.value for state in schedule_queries.Standing],
        "looked_through": schedule_queries.LOOKED_THROUGH,
    }
    return show(request, "schedules.html", context, part="_schedules.html")


@require_safe
@page
def schedule(request: HttpRequest, name: str) -> HttpResponse:
    """One schedule: what it means, what came of it, what can be done; with a range, what a backfill would do."""
    access = seen_by(request)
    found = _schedule(request, name)
    now = timezone.now()
    asked = {end: request.GET.get(end, "") for end in ("since", "until")}
    problem: RefusalError | None = None
    due = None
    if asked["since"] and asked["until"]:
        try:
            due = schedule_runs.due_times(found, asked["since"], asked["until"])
        except InvalidError as error:
            problem = error
    history = schedule_queries.history(access, found)
    context = {
        "schedule": found,
        "words": schedule_queries.in_words(found),
        "next": schedule_queries.next_due(found, now),
        "is_ended": found.has_ended(now),
        "is_code": found.source == ScheduleSource.CODE,
        "overlap": Overlap(found.overlap).label if found.overlap in Overlap.values else found.overlap,
        "arguments": shown.schedule_arguments(schedules.hidden(found)),
        "history": history,
        "table": history.runs[: schedule_queries.TABLE],
        "token": uuid.uuid4().hex,
        "asked": asked,
        "due": due,
        "problem": problem,
        "most_times": MOST_TIMES,
    }
    return show(request, "schedule.html", context, part="_schedule.html")


def _schedule(request: HttpRequest, name: str) -> Schedule:
    found = visible_schedules(seen_by(request)).filter(name=name).first()
    if found is None:
        raise NotVisibleError
    return found


# Making and changing -------------------------------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
@page
def new(request: HttpRequest) -> HttpResponse:
    """Make one. With `preview` nothing is made, and the page says what it would mean."""
    access = seen_by(request)
    action = actions.ACTIONS["create-schedule"]
    if not access.sees_installation:
        raise NotVisibleError
    if not access.may(action.role):
        raise NotAllowedError("operator")
    if request.method != "POST":
        return _form(request, Form(schedule_forms.BLANK))
    form = schedule_forms.read(action, request.POST)
    if "preview" in request.POST:
        form, preview = _previewed(form, schedules.made_of, dict(form.values), access.username, access.tenant)
        return _form(request, form, preview=preview)
    return _save(request, action, form, form.typed["name"].strip())


@require_http_methods(["GET", "HEAD", "POST"])
@page
def edit(request: HttpRequest, name: str) -> HttpResponse:
    """Change one; with `preview` as above."""
    found = _schedule(request, name)
    action = actions.ACTIONS["change-schedule"]
    if not actions.may(action, seen_by(request)):
        raise NotAllowedError("operator")
    if found.source == ScheduleSource.CODE:
        messages.warning(request, "It stands in CELERY_BEAT_SCHEDULE. Change it there and deploy.")
        return redirect("console:schedule", name)
    if request.method != "POST":
        return _form(request, schedule_forms.of(found), found, seen=schedules.version(found))
    form = schedule_forms.read(action, request.POST)
    seen = request.POST.get("seen", "")
    if "preview" in request.POST:
        form, preview = _previewed(form, schedules.changed_by, found, dict(form.values))
        return _form(request, form, found, seen=seen, preview=preview)
    return _save(request, action, form, name, found=found, seen=seen)


def _previewed(form: Form, make: Any, *of: Any) -> tuple[Form, Preview]:
    """make: gives the schedule that would be saved."""
    try:
        made = make(*of)
    except InvalidError as error:
        return schedule_forms.with_faults(form, error), Preview()
    return schedule_forms.checked(form, made)


def _save(
    request: HttpRequest, action: Action, form: Form, name: str, *, found: Schedule | None = None, seen: str = ""
) -> HttpResponse:
    if form.faults:
        return _form(request, form, found, seen=seen)
    raw = dict(form.values) if found is None else {**form.values, "schedule": name, "seen": seen}
    try:
        done = actions.perform(action, Actor(seen_by(request)), raw)
    except InvalidError as error:
        return _form(request, schedule_forms.with_faults(form, error), found, seen=seen)
    except RefusalError as error:
        if error.thing not in schedule_forms.BLANK:
            return _form(request, form, found, seen=seen, problem=error)
        answer = _form(request, schedule_forms.with_faults(form, error), found, seen=seen)
        answer.status_code = error.status
        return answer
    messages.success(request, shown.plain(done.message, 1000))
    return redirect("console:schedule", name)


def _form(
    request: HttpRequest,
    form: Form,
    found: Schedule | None = None,
    *,
    seen: str = "",
    preview: Preview | None = None,
    problem: RefusalError | None = None,
) -> HttpResponse:
    context = {
        "schedule": found,
        "typed": form.typed,
        "faults": form.faults,
        # What is wrong with no field in particular.
        "others": [fault for field, fault in form.faults.items() if field not in schedule_forms.BLANK],
        "seen": seen,
        "preview": preview,
        "problem": problem,
        "overlaps": Overlap.choices,
        "zones": zones.names(),
        "tasks": task_names(),
    }
    answer = show(request, "schedule_edit.html", context, part="_schedule_form.html")
    if preview is None and (form.faults or problem is not None):
        answer.status_code = problem.status if problem is not None else 400
    return answer
