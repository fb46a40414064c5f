"""The site while it is being worked on: MAINTENANCE=true, or `make maintenance STAGE=production STATE=on`.

Probes are answered as ever, so that nobody replaces what is being worked on. Nothing else is touched, the database
least of all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.exceptions import MiddlewareNotUsed
from django.http import HttpRequest, HttpResponse, HttpResponseBase

from django_app import errors

_RETRY_AFTER_SECONDS = 120


class MaintenanceMiddleware:
    """Stands behind the probes. Costs nothing while MAINTENANCE is off."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        if not settings.MAINTENANCE:
            raise MiddlewareNotUsed
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        return self._answer(request) if self._is_async else _closed(request)

    async def _answer(self, request: HttpRequest) -> HttpResponseBase:
        return _closed(request)


def _closed(request: HttpRequest) -> HttpResponse:
    return errors.unavailable(request, "The site is being worked on.", _RETRY_AFTER_SECONDS)
