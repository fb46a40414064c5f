"""Names of the layer's groups. Pure.

Channels allows letters, digits, hyphens, underscores and periods, and fewer than 100 characters; ids of runs may be
anything. Nobody gets in by knowing a name: consumers alone join groups, and ask for rights at each message.
"""

from __future__ import annotations

import hashlib
from uuid import UUID

CONSOLE = "console"


def run(run_id: str) -> str:
    return _named("run", run_id)


def dataset(dataset_id: UUID) -> str:
    return _named("dataset", str(dataset_id))


def user(user_id: object) -> str:
    """All sockets of one person."""
    return _named("user", str(user_id))


def session(session_hash: str) -> str:
    """All sockets that were opened by one session. session_hash: see tokens.session_hash."""
    return _named("session", session_hash)


def _named(kind: str, key: str) -> str:
    # Half a surrogate pair is text to Python, and may stand in an id.
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{kind}.{digest[:40]}"
