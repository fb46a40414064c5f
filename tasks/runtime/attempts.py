"""The attempt that is at work in this thread: what it holds, and what it sends when it ends.

A task's own messages leave with its own transactions. What follows from its end (callbacks, the chain's next step, a
retry, a replacement) is kept here until its outcome is recorded, and is recorded in the same transaction.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django_app.ledger.claims import Claim
    from django_app.ledger.models import Run
    from tasks.runtime.progress import Progress

_LOG_LINES = 40
_LONGEST_LOG = 8000
_LONGEST_TRACEBACK = 20_000
_LEFT_OUT = "\n[...]\n"


@dataclass
class Current:
    """An attempt and what it has kept for its end.

    successors: called within the outcome's transaction, each enqueues something.
    again: its own run, sent once more (a retry, or a replacement under its id).
    aside, aside_calls: a replacement's runs and what else it writes, which must survive the rollback that the exception
    causes.
    progress_saved_at: a time.monotonic(). progress_kept: what was reported since, and is not saved.
    is_ending: its outcome's transaction is open. is_over: its outcome is recorded.
    """

    claim: Claim
    task: Any
    successors: list[Callable[[], Any]] = field(default_factory=list)
    again: Run | None = None
    aside: list[Run] = field(default_factory=list)
    aside_calls: list[Callable[[], Any]] = field(default_factory=list)
    is_replacing: bool = False
    is_replaced: bool = False
    is_ending: bool = False
    is_over: bool = False
    progress_saved_at: float = float("-inf")
    progress_kept: Progress | None = None
    log: deque[str] = field(default_factory=lambda: deque(maxlen=_LOG_LINES))

    @property
    def run_id(self) -> str:
        return self.claim.run_id

    @property
    def log_tail(self) -> str:
        return "\n".join(self.log)[-_LONGEST_LOG:]


current: ContextVar[Current | None] = ContextVar("attempt", default=None)


def of(task_id: str) -> Current | None:
    """The attempt at work here, if it is that run's and has not ended."""
    attempt = current.get()
    if attempt is None or attempt.is_over or attempt.run_id != task_id:
        return None
    return attempt


def describe(error: BaseException) -> str:
    """An error in one line: its class and message."""
    return storable("".join(traceback.format_exception_only(error)).strip().partition("\n")[0])


def storable(text: Any) -> str:
    """What every database can keep of a text: Postgres refuses NUL, and nobody encodes half a surrogate pair."""
    return str(text).replace("\x00", "").encode("utf-8", "replace").decode() if text is not None else ""


def shortened(traceback: str) -> str:
    """A traceback as it is kept: of a long one the beginning and the end, so that no message displaces its places."""
    if len(traceback) <= _LONGEST_TRACEBACK:
        return traceback
    half = (_LONGEST_TRACEBACK - len(_LEFT_OUT)) // 2
    return traceback[:half] + _LEFT_OUT + traceback[-half:]
