"""Trouble that lasts: logged when it begins and when it ends, not at each try; and pauses that grow, with jitter."""

from __future__ import annotations

import logging
import random
import threading
import time

log = logging.getLogger("serverless.broker")

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0
#: A spell that goes on is told again after this.
_REMIND_SECONDS = 300.0


def pause_seconds(tries: int, longest: float = _LONGEST_PAUSE_SECONDS) -> float:
    """How long to wait after so many failures in a row: doubling, drawn at random between half and all of it."""
    limit = min(longest, _FIRST_PAUSE_SECONDS * 2.0 ** min(tries - 1, 16))
    return limit * random.uniform(0.5, 1.0)


class Spell:
    """One kind of trouble. what: such as 'receive from queue "default"'."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.tries = 0
        self._began = 0.0
        self._told = 0.0
        self._lock = threading.Lock()

    def failed(self, error: object) -> float:
        """Count one failure; log the first and every five minutes; seconds to wait before the next try."""
        with self._lock:
            now = time.monotonic()
            self.tries += 1
            if self.tries == 1:
                self._began = self._told = now
                log.error("%s failed and is tried again until it works: %s", self.what, error)
            elif now - self._told > _REMIND_SECONDS:
                self._told = now
                log.error("%s still fails after %d tries: %s", self.what, self.tries, error)
            return pause_seconds(self.tries)

    def worked(self) -> None:
        if not self.tries:
            return
        with self._lock:
            tries, self.tries = self.tries, 0
            if tries:
                log.warning(
                    "%s works again after %d failed tries in %.0f s", self.what, tries, time.monotonic() - self._began
                )
