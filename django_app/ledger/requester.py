"""Who asks for what is enqueued now: set for a web request, and carried along into every task that it causes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Requester:
    """user: a user name, or "". tenant: whose data it concerns, or ""."""

    user: str = ""
    tenant: str = ""


_NOBODY = Requester()
_current: ContextVar[Requester] = ContextVar("requester", default=_NOBODY)


def current() -> Requester:
    return _current.get()


@contextmanager
def asking(user: str = "", tenant: str = "") -> Iterator[None]:
    """Within the block, what is enqueued is asked for by this user."""
    token = _current.set(Requester(user, tenant))
    try:
        yield
    finally:
        _current.reset(token)
