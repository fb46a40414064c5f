"""Who may open a socket at all: a page of ours, with a token of ours for that path.

It stands before the consumers, and behind API Gateway it runs at each event: what it found out when the socket was
opened is in the scope then, and nobody but it puts that there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import structlog
from channels.db import database_sync_to_async
from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.http.request import validate_host

from django_app.realtime import tokens
from django_app.realtime.tokens import Claims, TokenError

log = structlog.get_logger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_PORTS = {"http": 80, "https": 443}
#: Characters of a path that are logged.
_SHOWN = 200


class Admission:
    """Middleware. Afterwards scope["claims"] says whom the socket serves, and the query string is gone."""

    def __init__(self, inner: Application) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope = {**scope, "path": _path(scope), "root_path": ""}
        if "claims" not in scope:
            claims = await self._claims(scope)
            if claims is None:
                await _refuse(receive, send)
                return
            scope |= {"claims": claims.as_json(), "query_string": b""}
        await self._inner(scope, receive, send)

    async def _claims(self, scope: Scope) -> Claims | None:
        path = scope["path"]
        # First: another site's page must not use up a token.
        if not is_ours(value for name, value in scope["headers"] if name == b"origin"):
            log.warning("socket_refused", path=path[:_SHOWN], reason="it is opened by a page that is not ours")
            return None
        try:
            claims: Claims = await database_sync_to_async(tokens.redeem)(_token(scope["query_string"]), path)
            return claims
        except TokenError as error:
            log.info("socket_refused", path=path[:_SHOWN], reason=f"of its token: {error}")
        except (OperationalError, InterfaceError) as error:
            log.warning("socket_refused", path=path[:_SHOWN], reason=f"no database ({type(error).__name__})")
        return None


def is_ours(origins: Iterable[bytes]) -> bool:
    """Whether a page of the site opens it: one Origin, with PUBLIC_URL's scheme and port, and a host that we answer to.

    Channels' OriginValidator raises for a port that is no number, and takes the last of several.
    """
    given = list(origins)
    if len(given) != 1:
        return False
    try:
        text = given[0].decode("ascii")
        origin, public = urlsplit(text), urlsplit(settings.PUBLIC_ORIGIN)
        port, ours = (_PORTS.get(each.scheme) if each.port is None else each.port for each in (origin, public))
    except ValueError:
        return False
    host = origin.hostname or ""
    # An IPv6 address has lost its brackets.
    name = f"[{host}]" if ":" in host else host
    is_bare = text.lower() == f"{origin.scheme}://{origin.netloc}".lower() and "@" not in text
    return is_bare and (origin.scheme, port) == (public.scheme, ours) and _is_host(name)


def _is_host(name: str) -> bool:
    # Never "*": that would be every site on the internet.
    return bool(name) and validate_host(name, [host for host in settings.ALLOWED_HOSTS if host != "*"])


def _path(scope: Scope) -> str:
    """Of the site, without what PUBLIC_URL has before it. API Gateway's sockets have nothing there."""
    path: str = scope["path"]
    prefix = settings.PUBLIC_PREFIX
    return path.removeprefix(prefix) if prefix and path.startswith(f"{prefix}/ws/") else path


def _token(query: bytes) -> str:
    """Empty for none, and for several."""
    try:
        found = parse_qs(query.decode("ascii"), max_num_fields=10).get("token", [])
    except ValueError:
        return ""
    return found[0] if len(found) == 1 else ""


async def _refuse(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close"})
