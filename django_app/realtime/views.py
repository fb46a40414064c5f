"""Where a page asks for the address of a socket. It opens no socket itself, and loads nothing that does."""

from __future__ import annotations

from typing import cast
from urllib.parse import quote, unquote, urlsplit

import structlog
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.models import AbstractUser
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache

from django_app.realtime import feeds, marks, tokens

log = structlog.get_logger(__name__)

#: Characters of a path: an id of a run has 255, each of up to twelve when it is written in an address.
_LONGEST_PATH = 4000
_AT_GATEWAY = ("wss", "ws")


@login_not_required
@never_cache
def address(request: HttpRequest) -> JsonResponse:
    """The address of one socket, for one use within SOCKET_TOKEN_SECONDS. path: of the socket, as it stands in a URL.

    For people who have signed in with a browser. Tokens of the API get none: a socket ends with its session, and they
    have no session that could end.
    """
    if request.method != "POST":
        answer = _refused(405, f"{request.method}: this address takes POST, with the field path.")
        answer["Allow"] = "POST"
        return answer
    user, session = cast(AbstractUser, request.user), request.session
    if not user.is_authenticated or not session.session_key:
        return _refused(401, "Nobody has signed in. Sign in, and ask again.")
    if not settings.SOCKETS_URL:
        return _refused(503, "This site has no sockets: SOCKETS_URL is not set. Ask for the page instead.")
    seconds = marks.admit(user.pk)
    if seconds:
        log.warning("socket_addresses_throttled", seconds=seconds)
        rule = f"more than {marks.MOST_ADDRESSES} addresses were asked for in a minute"
        answer = _refused(429, f"address: {rule}. Ask again in {seconds} seconds.")
        answer["Retry-After"] = str(seconds)
        return answer
    path = _decoded(request.POST.get("path", ""))
    feed = feeds.find(path)
    if feed is None or not feed.may_watch(user):
        return _refused(404, "path: there is nothing there to watch, or it is not yours to see.")
    token = tokens.issue(user, session.session_key, session.get_expiry_date(), path)
    return JsonResponse({"url": _url(request, path, token), "expires_in": settings.SOCKET_TOKEN_SECONDS})


def _decoded(path: str) -> str:
    """Empty for one that has no meaning."""
    try:
        return unquote(path, errors="strict") if len(path) <= _LONGEST_PATH else ""
    except UnicodeDecodeError:
        return ""


def _url(request: HttpRequest, path: str, token: str) -> str:
    if urlsplit(settings.SOCKETS_URL).scheme in _AT_GATEWAY:
        # A WebSocket API has no paths.
        return f"{settings.SOCKETS_URL}?path={quote(path, safe='')}&token={quote(token, safe='')}"
    public = urlsplit(settings.PUBLIC_ORIGIN)
    visited = request.get_host()
    # The policy of a page that was visited under another name allows that name.
    host = visited if visited.rpartition(":")[0] in settings.EXTRA_HOSTS or visited in settings.EXTRA_HOSTS else ""
    scheme = "wss" if public.scheme == "https" else "ws"
    return f"{scheme}://{host or public.netloc}{settings.PUBLIC_PREFIX}{quote(path)}?token={quote(token, safe='')}"


def _refused(status: int, why: str) -> JsonResponse:
    return JsonResponse({"error": why}, status=status)
