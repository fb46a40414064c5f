"""Count the requests to SQS that a task costs, on the fake SQS: sending, receiving, deleting, and doing nothing.

    .venv/bin/python -m tests.bench.broker_requests [--tasks 500] [--prefetch 10] [--json]

The numbers are counts, not times: they come out alike on any machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from serverless import fakesqs
from serverless.fakesqs import Server
from serverless.fakesqs.queues import Queue

ROOT = Path(__file__).resolve().parent.parent.parent
CONCURRENCY = 4
IDLE_SECONDS = 61.0  # three long polls of 20 s and a little


def environment(server: Server, options: dict[str, object]) -> dict[str, str]:
    """For a process of the bench app."""
    return {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "BENCH_ENDPOINT": server.url,
        "BENCH_TRANSPORT_OPTIONS": json.dumps(options),
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def publish(server: Server, options: dict[str, object], tasks: int) -> Counter[str]:
    """Requests that sending so many tasks one by one costs."""
    server.counts.clear()
    code = f"from tests.bench.plain_app import noop\nfor _ in range({tasks}): noop.delay()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(server, options), check=True)
    return Counter(server.counts)


@contextmanager
def worker(server: Server, options: dict[str, object], prefetch: int) -> Iterator[None]:
    """A real prefork worker while the block runs."""
    command = [sys.executable, "-m", "celery", "-A", "tests.bench.plain_app", "--quiet", "worker", "--pool=prefork"]
    command += [f"--concurrency={CONCURRENCY}", f"--prefetch-multiplier={prefetch}", "--loglevel=ERROR"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(server, options), stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def await_(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(0.05)


def measure(tasks: int, prefetch: int, options: dict[str, object]) -> dict[str, float]:
    """Requests a task when sent one by one and consumed from a backlog, and receives a minute when there is nothing."""
    with fakesqs.running() as server:
        queue: Queue = server.sqs.create_queue("bench", {"VisibilityTimeout": "600"})
        sent = publish(server, options, tasks)
        server.counts.clear()
        with worker(server, options, prefetch):
            await_(lambda: server.counts["messages_deleted"] >= tasks, 120)
            consumed = Counter(server.counts)
            # The poll that is under way when the queue runs dry belongs to the idle time.
            await_(lambda: not queue.ready and not queue.hidden, 10)
            before = server.counts["ReceiveMessage"]
            time.sleep(IDLE_SECONDS)
            idle = server.counts["ReceiveMessage"] - before
    return {
        "tasks": tasks,
        "prefetch": prefetch,
        "sending": sent["requests"] / tasks,
        "receiving": consumed["ReceiveMessage"] / tasks,
        "deleting": (consumed["DeleteMessage"] + consumed["DeleteMessageBatch"]) / tasks,
        "all": (sent["requests"] + consumed["requests"]) / tasks,
        "idle_receives_a_minute": idle * 60 / IDLE_SECONDS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--prefetch", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {
        "stock": measure(options.tasks, options.prefetch, {}),
        "stock, polling_interval=0": measure(options.tasks, options.prefetch, {"polling_interval": 0}),
    }
    if options.json:
        print(json.dumps(found))
        return
    for name, figures in found.items():
        print(name, *(f"{key} {value:.2f}" for key, value in figures.items()), sep="  ")


if __name__ == "__main__":
    main()
