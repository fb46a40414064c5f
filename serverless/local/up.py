"""`make up`: run the whole stack, print where to click, stop everything on Ctrl-C."""

from __future__ import annotations

import argparse
import fcntl
import signal
import sys
import time
from pathlib import Path

from serverless.local.doors import Door
from serverless.local.processes import ROOT
from serverless.local.stack import LambdaWeb, Stack, StackError, raise_on_signals, say

FOLDER = ROOT / ".local"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where database, objects and secrets are kept")
    parser.add_argument("--port", type=int, default=8000, help="another one is taken if this is in use")
    parser.add_argument("--lambda", dest="is_lambda", action="store_true", help="run the web side as Lambda would")
    parser.add_argument("--door", type=Door, choices=list(Door), default=Door.HTTP, help="what stands before Lambda")
    parser.add_argument("--stage", default="", help="API Gateway's stage, which all addresses then begin with")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with (options.folder / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            where = lock.read().strip() or "(still starting)"
            print(f"Cloudqueue is already running from this folder: {where}", file=sys.stderr)
            return 1
        web = _package(options.folder, options.door, options.stage) if options.is_lambda else None
        return run(Stack(options.folder, options.port, web=web), lock)


def _package(folder: Path, door: str, stage: str) -> LambdaWeb:
    from serverless.packaging import build

    say("building the package of the web side for this machine ...")
    return LambdaWeb(build("local", folder / "lambda" / "cloudqueue-web.zip"), door, stage)


def run(stack: Stack, lock: object) -> int:
    raise_on_signals()
    began = time.monotonic()
    status = 0
    try:
        stack.start()
        name, password = stack.demo_login()
        lock.truncate(0)  # type: ignore[attr-defined]
        lock.write(stack.url)  # type: ignore[attr-defined]
        lock.flush()  # type: ignore[attr-defined]
        say(f"Cloudqueue is up after {time.monotonic() - began:.1f} s")
        say(f"  site       {stack.url}")
        say(f"  sign in    {name} / {password}")
        say(f"  sent mail  {stack.mailbox_url}")
        say("Ctrl-C stops everything.")
        while True:
            stack.watch()
            time.sleep(0.2)
    except KeyboardInterrupt:
        say("stopping ...")
    except StackError as error:
        say(f"{error}")
        status = 1
    finally:
        # A second Ctrl-C must not leave half of it running.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        stack.stop()
        lock.truncate(0)  # type: ignore[attr-defined]
        say("stopped")
    return status


if __name__ == "__main__":
    sys.exit(main())
