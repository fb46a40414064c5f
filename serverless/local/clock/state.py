"""What the clock must not forget when it is killed: up to when it has played, and what is on its way."""

from __future__ import annotations

import json
import logging
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from serverless.local.clock.firings import Firing

log = logging.getLogger(__name__)


class State:
    """played: all that was due until then is in `pending`, or done. file: where it is kept; None: nowhere."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.played: datetime | None = None
        self.pending: dict[str, Firing] = {}
        if file is not None and file.exists():
            self._read(file)

    def save(self) -> None:
        """Write a file beside, then put it in the place of the old one: a kill leaves one of the two, whole."""
        if self.file is None or self.played is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        beside = self.file.with_name(self.file.name + ".new")
        pending = [firing.to_json() for firing in list(self.pending.values())]
        beside.write_text(json.dumps({"played": self.played.isoformat(), "pending": pending}))
        os.replace(beside, self.file)

    def _read(self, file: Path) -> None:
        try:
            saved: dict[str, Any] = json.loads(file.read_text())
            self.played = datetime.fromisoformat(saved["played"])
            self.pending = {made.id: made for made in map(Firing.from_json, saved["pending"])}
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s is no state of the clock, which begins anew: %r", file, error)
            self.played, self.pending = None, {}
