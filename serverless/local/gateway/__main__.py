"""Holds sockets until it is told to stop; then it closes them as API Gateway does, and tells the function."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from serverless.local.gateway.invoking import Handler
from serverless.local.gateway.limits import Limits
from serverless.local.gateway.server import Server

log = logging.getLogger("serverless.local.gateway")

HANDLER = "serverless.entrypoints.websocket:handler"
#: Shorter than what the supervisor waits before it kills.
_STOP_SECONDS = 5.0
_WANTED_FILES = 16384


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    _allow_many_files()
    limits = Limits(idle_seconds=options.idle_seconds, age_seconds=options.age_seconds)
    status = asyncio.run(_run(options.handler, options.stage, options.port, limits))
    sys.stdout.flush()
    # A function that still runs would hold an ordinary exit back.
    os._exit(status)


async def _run(handler: Handler, stage: str, port: int, limits: Limits) -> int:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    server = Server(handler, stage, limits)
    try:
        await server.start(port)
    except OSError as error:
        print(f"port {port} cannot be listened on: {error}. Give a free one as --port.", file=sys.stderr, flush=True)
        return 1
    print(f"ready ws://127.0.0.1:{server.port}/{stage}", flush=True)
    await stopped.wait()
    await server.stop(_STOP_SECONDS)
    return 0


def _allow_many_files() -> None:
    """A socket is a file, and 1024 of them are what many systems allow at first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(_WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serverless.local.gateway", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--stage", type=_stage, default="local", help="what all addresses begin with")
    parser.add_argument("--idle-seconds", type=_seconds, default=Limits.idle_seconds, help="until a silent socket ends")
    parser.add_argument("--age-seconds", type=_seconds, default=Limits.age_seconds, help="until any socket ends")
    parser.add_argument("--handler", default=HANDLER, metavar="MODULE:NAME", help="the function that is called")
    options = parser.parse_args(arguments)
    module, _, name = options.handler.partition(":")
    shown = f'--handler "{options.handler}"'
    if not name:
        parser.error(f"{shown} names no function. Write it as {HANDLER}.")
    try:
        loaded = import_module(module)
    except ModuleNotFoundError as error:
        # What its own imports lack is told with all its lines: it is the application that does not start.
        if error.name != module:
            raise
        parser.error(f"{shown}: {error}. Correct it, or start from the folder that has it.")
    if not callable(getattr(loaded, name, None)):
        parser.error(f"{shown}: module {module} has no function {name}. Correct it.")
    options.handler = getattr(loaded, name)
    return options


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f'"{text}" is no number of seconds above 0. Write one, such as 600.')
    return seconds


def _stage(text: str) -> str:
    if not text.replace("-", "").replace("_", "").isalnum() or not text.isascii():
        raise argparse.ArgumentTypeError(
            f'"{text}" is no name of a stage: letters, digits, "-" and "_" only. Write one, such as local.'
        )
    return text


if __name__ == "__main__":
    main()
