"""Management commands inside of a function: `zappa manage production "migrate --check"`.

A list says which: whoever may invoke the function could otherwise open a shell in it. What is run is logged before and
after, and written into the audit log, where there is one.
"""

from __future__ import annotations

import shlex
import time
from typing import Any

import structlog
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import Error

from django_app.console import audit
from serverless.entrypoints.invocation import Invocation

log = structlog.get_logger(__name__)

#: AWS does not tell a function who invokes it; CloudTrail knows, by the request id.
ACTOR = "lambda"


class CommandRefusedError(ValueError):
    """It is not among those that may be run here."""


def run(line: str, invocation: Invocation) -> dict[str, Any]:
    """Run one command; what it prints goes to the function's log, of which Zappa shows the end.

    Raises CommandRefusedError, and what the command raises.
    """
    words = _words(line)
    name = words[0] if words else ""
    if name not in settings.LAMBDA_COMMANDS:
        _tell(name, words, invocation, audit.Outcome.REFUSED)
        raise CommandRefusedError(
            f'manage "{name}": only {", ".join(sorted(settings.LAMBDA_COMMANDS))} may be run in a function. '
            "Add it to LAMBDA_COMMANDS if that is wanted."
        )
    log.info("command_started", command=name, words=words[1:], request_id=invocation.request_id)
    began = time.monotonic()
    try:
        call_command(*words)
    except SystemExit as exit_:
        # A command that exits would end the sandbox, and be told as a crash of the runtime.
        if exit_.code:
            _tell(name, words, invocation, audit.Outcome.FAILED)
            raise CommandError(f'manage "{line}" exited with {exit_.code}; its own lines stand above') from exit_
    except BaseException:
        _tell(name, words, invocation, audit.Outcome.FAILED)
        raise
    log.info("command_done", command=name, seconds=round(time.monotonic() - began, 3))
    _tell(name, words, invocation, audit.Outcome.DONE)
    return {"command": name, "seconds": round(time.monotonic() - began, 3)}


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise CommandRefusedError(f'manage "{line}": {error}. Close the quotation.') from error


def _tell(name: str, words: list[str], invocation: Invocation, outcome: str) -> None:
    detail = {"words": words[1:], "request_id": invocation.request_id}
    try:
        audit.write(ACTOR, "manage", name, detail, outcome)
    except Error as error:
        # Before the first migration there is no table.
        log.warning("command_not_audited", command=name, outcome=outcome, error=str(error))
