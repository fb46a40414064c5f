"""Whether the site serves (/healthz) and whether it can do its work (/readyz); /metrics is answered here as well.

They are answered before any other middleware, so that a load balancer's probe, which names the host by its address,
is not refused for that, and opens no session. Neither says anything that is not meant for everybody.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.db import connection
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseNotAllowed, JsonResponse

from django_app import prometheus

log = structlog.get_logger(__name__)

#: How long a probe waits for the database, and how long what was found is told again, in seconds.
_BOUND_SECONDS = 2.0
_KEEP_SECONDS = 5.0
#: A connection that was cut may never answer: after so long another one is tried.
_GIVE_UP_SECONDS = 30.0


def healthz(request: HttpRequest) -> HttpResponse:
    """Says that the process serves requests. Touches no database, so that an outage does not stop the web side."""
    return HttpResponse("ok\n", content_type="text/plain")


def readyz(request: HttpRequest) -> HttpResponse:
    """Says whether the database answers and has the tables that this release needs; 503 with reasons if not."""
    reasons = _readiness.reasons()
    return JsonResponse({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)


class Readiness:
    """What stands in the way of work; asked for at most once in a while, whatever the number of probes.

    The database is asked in a thread of its own: no probe waits longer than the bound, whatever the driver does.
    """

    def __init__(self, bound_seconds: float = _BOUND_SECONDS, keep_seconds: float = _KEEP_SECONDS) -> None:
        self._bound_seconds = bound_seconds
        self._keep_seconds = keep_seconds
        self._lock = threading.Lock()
        self._found: list[str] | None = None
        self._found_at = float("-inf")
        self._asking: threading.Event | None = None
        self._asked_at = 0.0
        self._is_migrated = False

    def reasons(self) -> list[str]:
        with self._lock:
            now = time.monotonic()
            if self._asking is None or now - self._asked_at > _GIVE_UP_SECONDS:
                if self._found is not None and now - self._found_at < self._keep_seconds:
                    return self._found
                self._asking, self._asked_at = threading.Event(), now
                threading.Thread(target=self._ask, args=(self._asking,), name="readiness", daemon=True).start()
            asking, left = self._asking, self._asked_at + self._bound_seconds - now
        if not asking.wait(max(0.0, left)):
            return [f"database: no answer within {self._bound_seconds:g} s"]
        with self._lock:
            return self._found or []

    def _ask(self, asking: threading.Event) -> None:
        try:
            found = self._look()
        except Exception as error:
            # Its message names host and user.
            log.warning("not_ready", error=str(error))
            found = [f"database: not reachable ({type(error).__name__})"]
        finally:
            connection.close()
        with self._lock:
            self._found, self._found_at = found, time.monotonic()
            if self._asking is asking:
                self._asking = None
        asking.set()

    def _look(self) -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        if not self._is_migrated:
            unapplied = _unapplied()
            if unapplied:
                log.warning("not_ready", unapplied=unapplied)
                return [f"migrations: {len(unapplied)} not applied"]
            # What is applied stays so while this release runs.
            self._is_migrated = True
        return []


def _unapplied() -> list[str]:
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [str(migration) for migration, _ in plan]


_readiness = Readiness()
_PROBES: dict[str, Callable[[HttpRequest], HttpResponse]] = {"/healthz": healthz, "/readyz": readyz}
_METRICS = "/metrics"

GetResponse = Callable[[HttpRequest], Any]


class ProbeMiddleware:
    """Answers probes; passes everything else on."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self._answer_async(request)
        view = _view_of(request)
        response: HttpResponseBase = _answer(view, request) if view is not None else self.get_response(request)
        return response

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        view = _view_of(request)
        if view is None:
            response: HttpResponseBase = await self.get_response(request)
            return response
        if view is healthz:
            return _answer(view, request)
        # The thread that may wait for the database must not be the one in which all views run.
        return await sync_to_async(_answer, thread_sensitive=view is not readyz)(view, request)


def _view_of(request: HttpRequest) -> Callable[[HttpRequest], HttpResponse] | None:
    if request.path_info == _METRICS and prometheus.is_on():
        return prometheus.metrics
    return _PROBES.get(request.path_info)


def _answer(view: Callable[[HttpRequest], HttpResponse], request: HttpRequest) -> HttpResponseBase:
    allowed = ("GET", "HEAD")
    response = view(request) if request.method in allowed else HttpResponseNotAllowed(allowed)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
