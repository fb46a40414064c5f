"""What every template may use."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest


def site(request: HttpRequest) -> dict[str, str | bool]:
    """sockets: whether pages are told of changes, and need not ask every few seconds."""
    return {"mailbox_url": settings.MAILBOX_URL, "sockets": bool(settings.SOCKETS_URL)}
