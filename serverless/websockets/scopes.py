"""What is kept of a connection's scope after `$connect`, and the scope that later events get from it.

Under daphne the middleware runs once a connection. Here the whole application runs again for each event, so what the
middleware found out at `$connect` is in the scope beforehand: the user by key, and whatever else it put there that JSON
can keep. Never kept: cookies, the query string (it may hold a token), every header but a few, the session.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from serverless.websockets.errors import WebsocketsError
from serverless.websockets.events import blank_scope
from serverless.websockets.state import is_kept

#: The key of scope["extensions"] by which an application knows that it runs behind API Gateway.
EXTENSION = "aws.websocket"
KEPT_HEADERS = frozenset({b"accept-language", b"host", b"origin", b"user-agent"})
#: Bytes of JSON.
MOST_BYTES = 32 << 10

#: Of the request itself or found anew at each event, and what must not be kept.
_NOT_ADDED = {
    *("type", "asgi", "http_version", "scheme", "path", "raw_path", "root_path", "query_string", "headers"),
    *("client", "server", "subprotocols", "extensions", "state"),
    *("url_route", "path_remaining", "cookies", "session", "user"),
}


class KeptUser:
    """The user whom the application knew at `$connect`. Its key and that it signed in are there without a query.

    Everything else is read from the database when it is first asked for, which asynchronous code does by
    `await user.aload()`. Who was deactivated since then is still authenticated here: ask for is_active.
    """

    is_authenticated = True
    is_anonymous = False

    def __init__(self, key: str) -> None:
        self._key = key
        self._loaded: Any = None

    @property
    def pk(self) -> Any:
        from django.contrib.auth import get_user_model

        return get_user_model()._meta.pk.to_python(self._key)

    @property
    def id(self) -> Any:
        return self.pk

    def load(self) -> Any:
        """The user's row. Raises the model's DoesNotExist."""
        if self._loaded is None:
            from django.contrib.auth import get_user_model

            self._loaded = get_user_model()._default_manager.get(pk=self.pk)
        return self._loaded

    async def aload(self) -> Any:
        """As load()."""
        from asgiref.sync import sync_to_async

        return await sync_to_async(self.load)()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            # Python itself asks for those, of copies that are not whole yet.
            raise AttributeError(name)
        return getattr(self.load(), name)

    def __eq__(self, other: object) -> bool:
        return bool(getattr(other, "pk", None) == self.pk)

    def __hash__(self) -> int:
        return hash(self.pk)

    def __repr__(self) -> str:
        return f"KeptUser({self._key!r})"


def with_extension(scope: Mapping[str, Any], connection_id: str, *, is_resumed: bool) -> dict[str, Any]:
    """The scope, telling the application which connection it serves, and whether `$connect` is over."""
    told = {"connection_id": connection_id, "is_resumed": is_resumed}
    return {**scope, "extensions": {**scope["extensions"], EXTENSION: told}}


def keep(asked: Mapping[str, Any], seen: Mapping[str, Any], subprotocol: str | None) -> str:
    """What is kept, as JSON.

    asked: the scope of the request. seen: the scope as the consumer got it, or the same. subprotocol: the accepted one.
    Raises WebsocketsError if it is too large.
    """
    kept: dict[str, Any] = {
        "path": asked["path"],
        "raw_path": asked["raw_path"].decode(),
        "client": asked["client"],
        "server": asked["server"],
        "subprotocols": [subprotocol] if subprotocol else [],
        "headers": [
            [name.decode("latin-1"), value.decode("latin-1")]
            for name, value in asked["headers"]
            if name in KEPT_HEADERS
        ],
        "added": {name: value for name, value in seen.items() if name not in _NOT_ADDED and is_kept(value)},
    }
    key = _key_of(seen.get("user"))
    if key is not None:
        kept["user"] = key
    elif "user" in seen and is_kept(seen["user"]):
        # Not Django's: a name, or a dict of claims.
        kept["added"]["user"] = seen["user"]
    text = json.dumps(kept, separators=(",", ":"))
    if len(text) > MOST_BYTES:
        sizes = {name: len(json.dumps(value)) for name, value in kept["added"].items()}
        largest = max(sizes, key=lambda name: sizes[name], default="path")
        raise WebsocketsError(
            f"scope of {asked['path'][:80]}: what is kept of it is {len(text)} bytes of JSON, more than {MOST_BYTES}; "
            f'the largest is "{largest}". Let the middleware put less into the scope.'
        )
    return text


def restored(text: str) -> dict[str, Any]:
    """The scope of a later event."""
    kept = json.loads(text)
    scope = {
        **blank_scope(),
        **kept["added"],
        "path": kept["path"],
        "raw_path": kept["raw_path"].encode(),
        "client": kept["client"],
        "server": kept["server"],
        "subprotocols": kept["subprotocols"],
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in kept["headers"]],
    }
    if "user" in kept:
        scope["user"] = KeptUser(kept["user"])
    return scope


def _key_of(user: Any) -> str | None:
    """The primary key of a user of Django's who has signed in."""
    if user is None or not getattr(user, "is_authenticated", False):
        return None
    key = getattr(user, "pk", None)
    return None if key is None else str(key)
