"""Plays EventBridge each minute, or a given time once.

What is due within a minute is fired when that minute has come; what was due while the clock did not run is fired when
it starts again, up to 24 hours back. What a schedule has in its past before its creation is not fired. With --now it
is: the time is as good as given, also one before the creation. There is one message too many rather than one too few: a
clock that is killed while it sends sends again.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from serverless.local.clock.events import StageEvents, handler_of
from serverless.local.clock.firings import MINUTE
from serverless.local.clock.rounds import Clock
from serverless.local.clock.state import State
from serverless.local.processes import ROOT, stop_signal

log = logging.getLogger("serverless.local.clock")

#: Between two looks at the time, which leaps when a laptop wakes up.
_LONGEST_WAIT_SECONDS = 5.0
_GRACE_SECONDS = 5.0


def main() -> int:
    options = _options()
    events = _stage_events(options.events)
    if options.sync:
        _synchronise()
    clock = Clock(State(options.state), is_exact=options.exact, on_rules=None if events is None else events.play)
    if options.now is not None:
        try:
            clock.jump(options.since or options.now - MINUTE, options.now)
        except (BotoCoreError, ClientError) as error:
            log.error("the local cloud at AWS_ENDPOINT_URL does not answer: %s", error)
            return 1
        if events is not None:
            events.wait()
        return 0
    run(clock)
    if events is not None:
        events.wait(_GRACE_SECONDS)
    clock.close()
    # Functions and handlers that are still at work would hold an ordinary exit back.
    sys.stdout.flush()
    os._exit(0)


def run(clock: Clock) -> None:
    """Play each minute until the process is told to stop."""
    wait_for_stop = stop_signal()

    def listen() -> None:
        wait_for_stop()
        clock.stopped.set()

    threading.Thread(target=listen, daemon=True).start()
    played: datetime | None = None
    while not clock.stopped.is_set():
        now = datetime.now(UTC)
        minute = now.replace(second=0, microsecond=0)
        if minute != played:
            played = minute
            try:
                clock.play(minute)
            except (BotoCoreError, ClientError) as error:
                log.warning("the local cloud does not answer; tried again in a minute: %s", error)
        until_next = (minute + MINUTE - datetime.now(UTC)).total_seconds()
        clock.stopped.wait(min(_LONGEST_WAIT_SECONDS, max(0.05, until_next)))


def _stage_events(stage: str) -> StageEvents | None:
    if not stage:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        return None
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_app.settings")
    # Sets up logging as well.
    django.setup()
    return StageEvents(ROOT / "zappa_settings.json", stage, handler_of)


def _synchronise() -> None:
    """Bring the schedules of code to the local cloud, as a deploy does. One that is faulty holds nothing else up."""
    from django.core.management import CommandError, call_command

    try:
        call_command("schedules", "sync", stdout=io.StringIO())
    except CommandError as error:
        log.error("%s", error)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, help="a file that says up to when it has played; none: from now on")
    parser.add_argument("--events", default="", metavar="STAGE", help="play this stage of zappa_settings.json as well")
    parser.add_argument(
        "--sync", action="store_true", help="with --events: bring CELERY_BEAT_SCHEDULE to the cloud first"
    )
    parser.add_argument("--now", type=_minute, help="play the minute that ends with this time, and exit")
    parser.add_argument("--since", type=_minute, help="with --now: every minute after this time")
    parser.add_argument("--exact", action="store_true", help="fire at the due time, whatever the flexible window")
    options = parser.parse_args()
    if options.since is not None and (options.now is None or options.since >= options.now):
        parser.error("--since stands before a --now that is later. Give both, the earlier one as --since.")
    if options.sync and not options.events:
        parser.error("--sync needs Django, and so --events. Give the stage as well: --events dev.")
    return options


def _minute(text: str) -> datetime:
    """A time with its zone, such as 2026-11-30T07:00:00Z; its seconds are left out."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'"{text}" is no time. Write it as 2026-11-30T07:00:00Z.') from None
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f'"{text}" has no zone. Write it as {text}Z, or with an offset.')
    return moment.astimezone(UTC).replace(second=0, microsecond=0)


if __name__ == "__main__":
    sys.exit(main())
