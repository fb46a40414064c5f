"""Why a worker does not start, and how that is said before there is a log."""

from __future__ import annotations

import json
import sys
from typing import Any

#: sysexits.h: what waiting cannot mend, and what it might have.
EX_CONFIG = 78
EX_TEMPFAIL = 75


class CheckError(RuntimeError):
    """Something that a worker needs is not as it must be.

    check: which. remedy: "" where the rule, taken from another error, ends with one. passing: whether it may come right
    by itself, so that it is looked at again.
    """

    def __init__(self, check: str, rule: str, remedy: str = "", *, passing: bool = False) -> None:
        super().__init__(f"{check}: {rule}. {remedy}" if remedy else f"{check}: {rule}")
        self.check = check
        self.passing = passing

    @property
    def status(self) -> int:
        """The exit code of a worker that gives up for it."""
        return EX_TEMPFAIL if self.passing else EX_CONFIG


def say(event: str, level: str, error: CheckError, **more: Any) -> None:
    """One line as the log has them: how it is to look stands in the settings, which may be what is wrong."""
    line = {"event": event, "level": level, "check": error.check, "error": str(error), **more}
    print(json.dumps(line), file=sys.stderr, flush=True)


def refuse(error: CheckError) -> int:
    """Say why the worker does not start; the exit code."""
    say("start_refused", "error", error, status=error.status)
    return error.status
