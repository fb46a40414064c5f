"""The API's routes: the table from which addresses and the description are made."""

from __future__ import annotations

from django.http import HttpRequest
from django.utils import timezone

from django_app.console import actions, filters, queries, tokens
from django_app.console.access import visible_runs
from django_app.console.api import shapes
from django_app.console.api.schedule_routes import SCHEDULE_ROUTES
from django_app.console.api.table import PAGED, TEXT, Json, Parameter, Route, limit_of
from django_app.console.errors import NotAllowedError, NotVisibleError
from django_app.console.filters import Cursor
from django_app.console.roles import Role
from django_app.console.services import letters
from django_app.console.services.acting import Actor
from tasks.runtime import retrying
from tasks.topology import TOPOLOGY

_SINCE = Parameter("an age such as 15m, 24h or 7d, or a time of ISO 8601", {"type": "string"})
_OF_RUNS = {
    "state": Parameter("", {"type": "string", "enum": shapes.SCHEMAS["Run"]["properties"]["state"]["enum"]}),
    "task": Parameter("its whole name", TEXT),
    "queue": Parameter("", TEXT),
    "schedule": Parameter("the schedule that they belong to", TEXT),
    "worker": Parameter("of the last attempt; such a list goes by started_at", TEXT),
    "tenant": Parameter("", TEXT),
    "fingerprint": Parameter("of the error", {"type": "string", "pattern": "^[0-9a-f]{16}$"}),
    "since": Parameter(f"created since then: {_SINCE.about}", _SINCE.schema),
    "q": Parameter(
        f"stands in the redacted arguments; a page looks through {queries.SEARCH_WINDOW} runs, "
        f"and back for {filters.SEARCH_AGE} if `since` says nothing else",
        {"type": "string", "maxLength": filters.LONGEST_SEARCH},
    ),
}


def _runs(request: HttpRequest, actor: Actor) -> Json:
    asked = filters.read(request.GET.dict())
    after = Cursor.decode(request.GET["cursor"]) if request.GET.get("cursor") else None
    page = queries.find_runs(actor.access, asked, after, limit_of(request))
    return {
        "runs": [shapes.run(each) for each in page.runs],
        "next": page.after.encode() if page.after is not None else None,
        "looked_back_to": shapes.when(page.looked_back_to),
    }


def _run(request: HttpRequest, actor: Actor, pk: str) -> Json:
    found = visible_runs(actor.access).filter(pk=pk).first()
    if found is None:
        raise NotVisibleError
    related = queries.related(actor.access, found, retrying.retry_id(found.pk))
    return shapes.run_detail(found, queries.attempts(found), related)


def _queues(request: HttpRequest, actor: Actor) -> Json:
    _require_installation(actor)
    now = timezone.now()
    samples, finished = queries.latest_samples(now), queries.throughput(now)
    paused = {pause.key: pause for pause in queries.pauses()}
    return {
        "queues": [
            shapes.queue(
                queue,
                samples.get(queue.name),
                finished.get(queue.name, [0.0] * queries.POINTS),
                paused.get(f"queue:{queue.name}"),
            )
            for queue in TOPOLOGY.queues.values()
        ],
        "paused_tasks": [shapes.pause_of(pause) for key, pause in paused.items() if key.startswith("task:")],
    }


def _workers(request: HttpRequest, actor: Actor) -> Json:
    _require_installation(actor)
    return {"workers": [shapes.worker(each) for each in queries.workers()]}


def _failures(request: HttpRequest, actor: Actor) -> Json:
    since = filters.time_of(request.GET.get("since") or queries.FAILURES_AGE, timezone.now())
    found = queries.failures(actor.access, since)
    return {
        "failures": [shapes.failure(each) for each in found.groups],
        "most_looked_at": found.most_looked_at,
    }


def _dead_letter_counts(request: HttpRequest, actor: Actor) -> Json:
    _require_installation(actor)
    samples = queries.latest_samples(timezone.now())
    dead = {name: samples[name].dead if name in samples else None for name in TOPOLOGY.queues}
    return {"queues": [{"queue": name, "dead": count} for name, count in dead.items()]}


def _dead_letters(request: HttpRequest, actor: Actor, queue: str) -> Json:
    _require_installation(actor)
    listing = letters.peek(queue)
    return {"dead_letters": [shapes.dead_letter(each) for each in listing.letters], "complete": listing.complete}


def _audit(request: HttpRequest, actor: Actor) -> Json:
    _require_installation(actor)
    if not actor.access.may(Role.ADMIN):
        raise NotAllowedError("admin")
    equal, before = filters.read_audit(request.GET.dict())
    limit = limit_of(request)
    entries = queries.audit_entries(equal, before, limit + 1)
    more, entries = len(entries) > limit, entries[:limit]
    return {"entries": [shapes.audit_entry(each) for each in entries], "next": str(entries[-1].pk) if more else None}


def _require_installation(actor: Actor) -> None:
    if not actor.access.sees_installation:
        raise NotVisibleError


def _description(request: HttpRequest, actor: Actor) -> Json:
    from django_app.console.api import openapi

    return openapi.description()


ROUTES: tuple[Route, ...] = (
    Route("runs", "/runs", "runs", "Runs that you may see, newest first.", _runs, "Runs", _OF_RUNS | PAGED),
    Route("run", "/runs/{id}", "runs/<id:pk>", "One run, with its attempts and its workflow.", _run, "RunDetail", {}),
    Route("queues", "/queues", "queues", "Queues, and what is paused.", _queues, "Queues", {}),
    *SCHEDULE_ROUTES,
    Route("workers", "/workers", "workers", "Workers.", _workers, "Workers", {}),
    Route(
        "failures", "/failures", "failures", "What failed, by kind of error.", _failures, "Failures", {"since": _SINCE}
    ),
    Route(
        "dead_letter_counts",
        "/dead-letters",
        "dead-letters",
        "How many dead letters each queue has.",
        _dead_letter_counts,
        "DeadLetterCounts",
        {},
    ),
    Route(
        "dead_letters",
        "/dead-letters/{queue}",
        "dead-letters/<str:queue>",
        f"At most {letters.MOST_SHOWN} of a queue's dead letters, which are hidden from others for the moment.",
        _dead_letters,
        "DeadLetters",
        {},
    ),
    Route(
        "audit",
        "/audit",
        "audit",
        "What was done, newest first; by one of actor, action and target.",
        _audit,
        "AuditEntries",
        {name: Parameter("", TEXT) for name in filters.AUDIT} | PAGED,
    ),
    Route("openapi", "/openapi.json", "openapi.json", "This description.", _description, "Description", {}),
)
#: How a token looks, for the description.
TOKEN_FORMAT = f"{tokens.PREFIX}..."
ACTION_NAMES = tuple(actions.ACTIONS)
