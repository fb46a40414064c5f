"""Tells sockets, at once and in the calling thread, and raises what goes wrong.

Behind API Gateway that takes as long as all the handlers do, so requests and tasks leave it to realtime.pushing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import connection

from django_app.realtime import groups

#: People whose sockets are closed when their group's rights change; those of others end when they are told something.
MOST_MEMBERS = 1000


def run_changed(run_id: str) -> None:
    _tell(groups.run(run_id), {"type": "feed.changed"})


def dataset_changed(dataset_id: UUID) -> None:
    _tell(groups.dataset(dataset_id), {"type": "feed.changed"})


def console_changed(topics: Sequence[str], seq: int) -> None:
    _tell(groups.CONSOLE, {"type": "feed.changed", "topics": list(topics), "seq": seq})


def close_user(user_id: object) -> None:
    """Whoever may still watch connects anew."""
    _tell(groups.user(user_id), {"type": "rights.changed"})


def close_members(group_id: int) -> None:
    """As close_user, for all who are in a group of Django's."""
    members = get_user_model()._default_manager.filter(groups=group_id, is_active=True)
    for user_id in list(members.order_by("pk").values_list("pk", flat=True)[:MOST_MEMBERS]):
        close_user(user_id)


def close_session(session_hash: str, why: str) -> None:
    """session_hash: see tokens.session_hash. why: see rights.Bye."""
    _tell(groups.session(session_hash), {"type": "session.ended", "why": why})


def _tell(group: str, message: dict[str, Any]) -> None:
    if not settings.CHANNEL_LAYERS:
        return
    # What has nothing to tell does not load Channels.
    from channels.layers import get_channel_layer

    from serverless.websockets.layer import GatewayChannelLayer

    layer = get_channel_layer()
    with _one_connection() if isinstance(layer, GatewayChannelLayer) else nullcontext():
        async_to_sync(layer.group_send)(group, message)


@contextmanager
def _one_connection() -> Iterator[None]:
    """Keep the thread's database connection for all handlers, which run in it, and for its owner to close.

    Channels closes old ones before and after each: that would be one for each viewer, where settings keep none.
    """
    connection.ensure_connection()
    kept, connection.close_at = connection.close_at, None
    try:
        yield
    finally:
        connection.close_at = kept
