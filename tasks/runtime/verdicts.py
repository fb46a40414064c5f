"""What an attempt tells the worker's main process to do with its message. Celery carries them as its `Reject`."""

from __future__ import annotations

from typing import Any

from celery.exceptions import Reject


class HandBack(Reject):
    """The message is sound and is not to run here and now: it shows again after so many seconds."""

    def __init__(self, reason: str = "", seconds: float = 0.0) -> None:
        super().__init__(reason, requeue=True)
        self.why = reason
        self.seconds = seconds

    def __reduce__(self) -> Any:
        return HandBack, (self.why, self.seconds)


class DeadLetter(Reject):
    """The message is never to run again: to the dead-letter queue with it. Its run has ended already."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason, requeue=False)
        self.why = reason

    def __reduce__(self) -> Any:
        return DeadLetter, (self.why,)
