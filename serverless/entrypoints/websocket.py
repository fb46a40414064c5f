"""The function of the WebSocket API: `serverless.entrypoints.websocket.handler`, behind its three routes.

As in web.py, what an event needs is loaded and built while Lambda starts the sandbox.
"""

from __future__ import annotations

import gc
import os
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from serverless.invocations.http import LambdaContext
    from serverless.websockets.gateway import Gateway

#: As in web.py: a connection that was idle for longer may be gone without a word.
_IDLE_SECONDS = 30.0

_answered_at = time.time()


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer one event. Raises EventError for what no WebSocket API sends."""
    import structlog
    from django.db import close_old_connections, connections

    global _answered_at  # noqa: PLW0603 - of several threads, the last one counts
    if time.time() - _answered_at > _IDLE_SECONDS:
        connections.close_all()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=context.aws_request_id)
    try:
        return _gateway(event, context)
    finally:
        # As Django does at the end of a request.
        close_old_connections()
        structlog.contextvars.clear_contextvars()
        _answered_at = time.time()


def _load() -> Gateway:
    """Django, the consumers and the clients of AWS. Raises OptionError where SOCKETS_URL names no WebSocket API."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_app.settings")
    import django

    # Sets up logging as well.
    django.setup()
    from channels.layers import get_channel_layer
    from django.conf import settings

    from serverless.entrypoints import snapshots
    from serverless.websockets.errors import OptionError
    from serverless.websockets.gateway import Gateway

    scheme = urlsplit(settings.SOCKETS_URL).scheme
    if scheme not in ("wss", "ws"):
        # Never the whole of it: an address of Redis holds a password.
        shown = f"begins with {scheme}:" if scheme else "is not set"
        raise OptionError(
            f"SOCKETS_URL {shown}, and this function answers for a WebSocket API of API Gateway. "
            "Set it to wss://ID.execute-api.REGION.amazonaws.com/STAGE."
        )
    gateway = Gateway.from_settings()
    get_channel_layer().warm_up()
    snapshots.forget_after_restore()
    return gateway


# Nothing of what is loaded here becomes garbage: looking for some takes a tenth of the start.
gc.disable()
_gateway = _load()
gc.freeze()
gc.enable()
