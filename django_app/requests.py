"""Who asks: what a request enqueues carries the name of whoever has signed in, through every task that follows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponseBase
from django_structlog import signals

from django_app.ledger import requester


@receiver(signals.bind_extra_request_metadata)
def _bind_address(request: Any = None, **_: Any) -> None:
    """What the server itself saw: X-Forwarded-For, which django-structlog reads, may say anything."""
    structlog.contextvars.bind_contextvars(ip=request.META.get("REMOTE_ADDR", ""))


class RequesterMiddleware:
    """Stands behind those that know the user. A view that knows more, such as a tenant, says so by requester.asking."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self._call_async(request)
        with requester.asking(_user_name(request)):
            response: HttpResponseBase = self.get_response(request)
        return response

    async def _call_async(self, request: HttpRequest) -> HttpResponseBase:
        name = await sync_to_async(_user_name)(request)
        with requester.asking(name):
            response: HttpResponseBase = await self.get_response(request)
        return response


def _user_name(request: HttpRequest) -> str:
    user = getattr(request, "user", None)
    return user.get_username()[:150] if user is not None else ""
