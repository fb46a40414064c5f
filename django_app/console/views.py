"""Operators' pages. Each begins with what whoever is signed in may see: all else does not exist for them."""

from __future__ import annotations

import json
from typing import Any, cast

from django.contrib import messages
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from django_app.console import actions, doing, filters, queries, shown, tokens
from django_app.console.access import visible_runs, visible_schedules
from django_app.console.errors import InvalidError, NotAllowedError, NotVisibleError, RefusalError
from django_app.console.filters import Cursor, Filters
from django_app.console.pages import back, page, seen_by, show
from django_app.console.roles import Role
from django_app.console.services import letters
from django_app.console.services.acting import Actor
from django_app.ledger.models import Run
from django_app.ledger.states import FINAL, State
from tasks.runtime import retrying
from tasks.topology import TOPOLOGY

AGES = (("15m", "15 minutes"), ("1h", "an hour"), ("24h", "a day"), ("7d", "a week"), ("14d", "two weeks"))


@require_safe
@page
def index(request: HttpRequest) -> HttpResponse:
    return redirect("console:runs")


# Runs ----------------------------------------------------------------------------------------------------------------


@require_safe
@page
def runs(request: HttpRequest) -> HttpResponse:
    """Runs, newest first, by what is asked for."""
    access = seen_by(request)
    problem: InvalidError | None = None
    asked, after = Filters(), None
    try:
        asked = filters.read(request.GET.dict())
        after = Cursor.decode(request.GET["cursor"]) if request.GET.get("cursor") else None
    except InvalidError as error:
        problem = error
    found = queries.find_runs(access, asked, after) if problem is None else queries.Page([])
    context = {
        "page": found,
        "problem": problem,
        "filters": asked,
        "asked": {name: request.GET.get(name, "") for name in filters.PARAMETERS},
        "is_first": after is None,
        "next": found.after.encode() if found.after is not None else "",
        "counts": queries.count_states(access),
        "bound": queries.MOST_COUNTED,
        "states": [state.value for state in State],
        "queues": list(TOPOLOGY.queues),
        "ages": _ages(request.GET.get("since", "")),
        "search_window": queries.SEARCH_WINDOW,
        "search_age": filters.SEARCH_AGE,
    }
    return show(request, "runs.html", context, part="_runs.html")


def _ages(asked: str) -> tuple[tuple[str, str], ...]:
    """The ages to choose from; a time that was given in the address is one of them."""
    return AGES if not asked or asked in dict(AGES) else (*AGES, (asked, asked))


@require_safe
@page
def run(request: HttpRequest, pk: str) -> HttpResponse:
    """One run: what happened to it, what came of it, what belongs to it."""
    found = _run(request, pk)
    related = queries.related(seen_by(request), found, retrying.retry_id(found.pk))
    attempts = queries.attempts(found)
    context = {
        "run": found,
        "attempts": attempts,
        "related": related,
        "result": shown.result(found),
        "is_retryable": found.state in retrying.RETRYABLE and related.retry is None and bool(found.message),
        "is_revocable": found.state not in FINAL,
        "retried_by": _retried_by(found),
        "schedule_is_seen": bool(found.schedule)
        and visible_schedules(seen_by(request)).filter(name=found.schedule).exists(),
    }
    return show(request, "run.html", context, part="_run.html")


def _run(request: HttpRequest, pk: str) -> Run:
    found = visible_runs(seen_by(request)).filter(pk=pk).first()
    if found is None:
        raise NotVisibleError
    return found


def _retried_by(found: Run) -> str:
    return retrying.retried_by(found) if found.retry_of else ""


@require_safe
@page
def edit(request: HttpRequest, pk: str) -> HttpResponse:
    """A run's arguments, to be changed before it is retried."""
    found = _run(request, pk)
    if not actions.may(actions.ACTIONS["retry"], seen_by(request)):
        raise NotAllowedError("operator")
    try:
        args, kwargs = retrying.editable(found)
    except retrying.RetryError as error:
        messages.warning(request, shown.plain(error, 1000))
        return redirect("console:run", found.pk)
    return _edit(request, found, _pretty(args), _pretty(kwargs))


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _edit(
    request: HttpRequest, found: Run, args: str, kwargs: str, problem: RefusalError | None = None
) -> HttpResponse:
    context = {"run": found, "args": args, "kwargs": kwargs, "problem": problem}
    answer = show(request, "edit.html", context)
    answer.status_code = problem.status if problem is not None else 200
    return answer


# Queues, workers, failures -------------------------------------------------------------------------------------------


@require_safe
@page
def queues(request: HttpRequest) -> HttpResponse:
    """Queues with what they hold, and what is paused."""
    _require_installation(request)
    now = timezone.now()
    samples, curves = queries.latest_samples(now), queries.throughput(now)
    paused = {pause.key: pause for pause in queries.pauses()}
    rows = [
        {
            "queue": queue,
            "sample": samples.get(queue.name),
            "curve": curves.get(queue.name, [0.0] * queries.POINTS),
            # Of the last six minutes.
            "rate": sum(curves.get(queue.name, [])[-3:]) / 3,
            "pause": paused.get(f"queue:{queue.name}"),
        }
        for queue in TOPOLOGY.queues.values()
    ]
    tasks = [
        {"name": key.removeprefix("task:"), "pause": pause} for key, pause in paused.items() if key.startswith("task:")
    ]
    return show(request, "queues.html", {"rows": rows, "tasks": tasks}, part="_queues.html")


@require_safe
@page
def workers(request: HttpRequest) -> HttpResponse:
    """Workers, and how they are."""
    _require_installation(request)
    return show(request, "workers.html", {"workers": queries.workers()}, part="_workers.html")


@require_safe
@page
def failures(request: HttpRequest) -> HttpResponse:
    """What failed, by kind."""
    age = request.GET.get("since") or queries.FAILURES_AGE
    problem = None
    try:
        since = filters.time_of(age, timezone.now())
    except InvalidError as error:
        problem, age = error, queries.FAILURES_AGE
        since = filters.time_of(age, timezone.now())
    found = queries.failures(seen_by(request), since)
    context = {"failures": found, "age": age, "ages": _ages(age), "problem": problem}
    return show(request, "failures.html", context, part="_failures.html")


def _require_installation(request: HttpRequest) -> None:
    if not seen_by(request).sees_installation:
        raise NotVisibleError


# Dead letters --------------------------------------------------------------------------------------------------------


@require_safe
@page
def dead_letters(request: HttpRequest) -> HttpResponse:
    """Queues, with how many dead letters each has."""
    _require_installation(request)
    samples = queries.latest_samples(timezone.now())
    rows = [{"queue": queue, "sample": samples.get(queue.name)} for queue in TOPOLOGY.queues.values()]
    return show(request, "dead_letters.html", {"rows": rows})


@require_safe
@page
def dead_letters_of(request: HttpRequest, queue: str) -> HttpResponse:
    """One queue's dead letters. SQS hides what is looked at for a moment, so this is not asked again by itself."""
    _require_installation(request)
    listing, problem = None, None
    try:
        listing = letters.peek(queue)
    except RefusalError as error:
        problem = error
    return show(request, "dead_letters_of.html", {"queue": queue, "listing": listing, "problem": problem})


# Audit and tokens ----------------------------------------------------------------------------------------------------


@require_safe
@page
def audit(request: HttpRequest) -> HttpResponse:
    """What was done, newest first."""
    access = seen_by(request)
    if not access.sees_installation:
        raise NotVisibleError
    if not access.may(Role.ADMIN):
        raise NotAllowedError("admin")
    problem: InvalidError | None = None
    entries: list[Any] = []
    try:
        equal, before = filters.read_audit(request.GET.dict())
        entries = queries.audit_entries(equal, before, queries.PAGE + 1)
    except InvalidError as error:
        problem = error
    more = len(entries) > queries.PAGE
    entries = entries[: queries.PAGE]
    context = {
        "entries": entries,
        "problem": problem,
        "next": str(entries[-1].pk) if more else "",
        "asked": {name: request.GET.get(name, "") for name in filters.AUDIT},
        "action_names": [*actions.ACTIONS, "issue-token", "revoke-token"],
    }
    return show(request, "audit.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@page
def tokens_page(request: HttpRequest) -> HttpResponse:
    """One's own tokens. A new one is shown in the answer that makes it, and never again."""
    user = cast(User, request.user)
    text, problem = "", None
    if request.method == "POST":
        try:
            _, text = tokens.issue(user, request.POST.get("name", ""))
        except RefusalError as error:
            problem = error
    context = {"tokens": queries.tokens(user.pk), "text": text, "problem": problem, "most": tokens.MOST}
    answer = show(request, "tokens.html", context)
    answer.status_code = problem.status if problem is not None else 200
    return answer


@require_POST
@page
def revoke_token(request: HttpRequest, pk: int) -> HttpResponse:
    try:
        token = tokens.revoke(cast(User, request.user), pk)
        messages.success(request, f"Token {shown.plain(token.name)} is revoked.")
    except RefusalError as error:
        messages.warning(request, shown.plain(error, 1000))
    return redirect("console:tokens")


# Actions -------------------------------------------------------------------------------------------------------------


@require_POST
@page
def act(request: HttpRequest, name: str) -> HttpResponse:
    """Do what a button says, and go back to where it stood, with a word on what came of it."""
    action = actions.ACTIONS.get(name)
    if action is None:
        raise NotVisibleError
    try:
        done = actions.perform(action, Actor(seen_by(request)), doing.from_form(action, request.POST))
    except RefusalError as error:
        if action.name == "retry" and "args" in request.POST and error.status == 400:
            # What was typed must not be lost.
            found = _run(request, request.POST.get("run", "").replace("\x00", ""))
            return _edit(request, found, request.POST["args"], request.POST.get("kwargs", "{}"), error)
        messages.warning(request, shown.plain(error, 1000))
        return back(request)
    messages.success(request, shown.plain(done.message, 1000))
    return redirect("console:run", done.run_id) if done.run_id else back(request)
