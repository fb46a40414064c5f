"""What visitors see when something fails on our side: never how, which the log has."""

from __future__ import annotations

import sys
from pathlib import Path

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse

_TEMPLATES = Path(__file__).resolve().parent / "templates"
_RETRY_AFTER_SECONDS = 10
_AWAY = (OperationalError, InterfaceError)


def server_error(request: HttpRequest) -> HttpResponse:
    """Django's handler500. That the database is away passes, and is said as such."""
    if isinstance(sys.exc_info()[1], _AWAY):
        return unavailable(request, "The database does not answer.", _RETRY_AFTER_SECONDS)
    if _wants_json(request):
        return JsonResponse({"error": {"rule": "it failed, and has been logged"}}, status=500)
    return HttpResponse((_TEMPLATES / "500.html").read_bytes(), status=500)


def unavailable(request: HttpRequest, reason: str, retry_after_seconds: int) -> HttpResponse:
    """503 with a page of its own: templates with menus would ask the database who is visiting."""
    if _wants_json(request):
        told = {"error": {"rule": reason, "remedy": f"Try again in {retry_after_seconds} seconds."}}
        response: HttpResponse = JsonResponse(told, status=503)
    else:
        page = (_TEMPLATES / "503.html").read_text().replace("REASON", reason)
        response = HttpResponse(page, status=503)
    response.headers["Retry-After"] = str(retry_after_seconds)
    response.headers["Cache-Control"] = "no-store"
    return response


def _wants_json(request: HttpRequest) -> bool:
    return request.get_preferred_type(["text/html", "application/json"]) == "application/json"
