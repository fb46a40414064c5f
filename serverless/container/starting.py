"""A worker's start: checks first, looked at again for a while, so that an outage does not become a crash loop.

ECS replaces a task that ends, at once and with an image to pull; a deploy whose tasks keep ending is rolled back. So
what may come right by itself is waited for, with pauses that grow, and the container is healthy meanwhile. What
waiting cannot mend ends the worker at once. Each has an exit code of its own: 75 and 78.

The checks run in a process of their own: they open a database connection, and a worker's main process, which forks,
must never have had one.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import structlog
from django.core.exceptions import ImproperlyConfigured

from serverless.container.checks import Check, checks_of
from serverless.container.errors import EX_TEMPFAIL, CheckError, say

log = structlog.get_logger(__name__)

#: How long what may come right by itself is waited for.
PATIENCE_SECONDS = 300.0
#: Beyond that, for a check that does not come back.
_GRACE_SECONDS = 60.0
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 15.0
_LOOK_SECONDS = 0.1
_LIVENESS_SECONDS = 5.0


def read_settings(patience_seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
    """Set Django up. Parameters and secrets that AWS does not give just now are asked for again. Raises CheckError."""
    from serverless.parameters import ParametersError

    deadline = monotonic() + patience_seconds
    tries = 0
    while True:
        try:
            _set_up_django()
            return
        except ParametersError as error:
            failure = CheckError("settings", str(error), passing=True)
        except ImproperlyConfigured as error:
            raise CheckError("settings", str(error)) from error
        except Exception as error:
            raise CheckError("settings", f"{type(error).__name__}: {error}", "Correct it.") from error
        tries += 1
        pause = _pause_seconds(tries)
        if monotonic() + pause > deadline:
            raise failure
        say("start_waits", "warning", failure, again_in_seconds=round(pause, 1))
        if liveness_file := os.environ.get("LIVENESS_FILE"):
            # Good for longer than the longest pause.
            _say_that_we_live(liveness_file)
        time.sleep(pause)


def _set_up_django() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_app.settings")
    import django

    # Reads the settings of tasks.celery's app as well.
    django.setup()
    from tasks.celery import app

    app.finalize()


def run_checks(checks: Sequence[Check], patience_seconds: float) -> int:
    """Look at each until all are well, or for so long; the exit code, 0 if all are. Says in the log what was found."""
    deadline = time.monotonic() + patience_seconds
    for check in checks:
        tries = 0
        while True:
            try:
                log.info("start_check_passed", check=check.name, found=check.run())
                break
            except CheckError as error:
                tries += 1
                pause = _pause_seconds(tries)
                if not error.passing or time.monotonic() + pause > deadline:
                    log.error("start_refused", check=error.check, error=str(error), status=error.status, tries=tries)
                    return error.status
                log.warning("start_waits", check=error.check, error=str(error), again_in_seconds=round(pause, 1))
                time.sleep(pause)
    return 0


def await_checks(pool_name: str, patience_seconds: float, liveness_file: str = "") -> int:
    """Run the pool's checks in a process of their own; their exit code. A stop meanwhile ends both, with code 0.

    liveness_file: kept fresh meanwhile, for the container's health command.
    """
    return in_own_process(
        lambda: run_checks(checks_of(pool_name), patience_seconds),
        longest_seconds=patience_seconds + _GRACE_SECONDS,
        liveness_file=liveness_file,
    )


def in_own_process(work: Callable[[], int], longest_seconds: float, liveness_file: str = "") -> int:
    """Fork, do the work there, wait. Call it before this process has threads or connections."""
    stops: list[int] = []
    before = {number: signal.signal(number, lambda got, _: stops.append(got)) for number in _STOPS}
    child = os.fork()
    if not child:
        _be_the_child(work)
    try:
        return _wait(child, stops, time.monotonic() + longest_seconds, liveness_file)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def _be_the_child(work: Callable[[], int]) -> NoReturn:
    status = 70
    try:
        for number in _STOPS:
            signal.signal(number, signal.SIG_DFL)
        status = work()
    except BaseException:
        log.exception("start_checks_failed")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # What is registered for the process's end belongs to the parent.
        os._exit(status)


def _wait(child: int, stops: list[int], deadline: float, liveness_file: str) -> int:
    written_at = float("-inf")
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return _code(os.waitstatus_to_exitcode(status), stops)
        now = time.monotonic()
        if stops or now > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            if stops:
                raise Stopped
            log.error("start_refused", error="the checks do not come back", status=EX_TEMPFAIL)
            return EX_TEMPFAIL
        if liveness_file and now - written_at > _LIVENESS_SECONDS:
            written_at = now
            _say_that_we_live(liveness_file)
        time.sleep(_LOOK_SECONDS)


def _code(code: int, stops: list[int]) -> int:
    if stops:
        # Whatever it found: nothing has begun, and nothing is to begin.
        raise Stopped
    return code if code >= 0 else 128 - code


class Stopped(Exception):  # noqa: N818 - no error: somebody has told it to stop before it began
    """The worker was told to stop before it had started."""


def _say_that_we_live(file: str) -> None:
    """As the broker does, see serverless/broker/liveness.py: a start that waits is not to be ended for that."""
    facts = {"pid": os.getpid(), "written_at": time.time(), "hung": False, "stopping": False, "starting": True}
    temporary = f"{file}.{os.getpid()}"
    with contextlib.suppress(OSError):
        Path(temporary).write_text(json.dumps(facts), "utf-8")
        os.replace(temporary, file)


def _pause_seconds(tries: int) -> float:
    limit = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(tries - 1, 10))
    return limit * random.uniform(0.5, 1.0)
