"""Count the requests to SQS that a task costs, on the fake SQS: sending, receiving, deleting, and doing nothing.

    .venv/bin/python -m tests.bench.broker_requests [--tasks 500] [--prefetch 10] [--json]

The numbers are counts, not times: they come out alike on any machine.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from serverless import fakesqs
from serverless.fakesqs import Server
from serverless.fakesqs.queues import ACCOUNT_ID, Queue

ROOT = Path(__file__).resolve().parent.parent.parent
CONCURRENCY = 4
IDLE_SECONDS = 61.0  # three long polls of 20 s and a little
STOCK: Mapping[str, str] = {}
TUNED: Mapping[str, str] = {"BENCH_TRANSPORT_OPTIONS": '{"polling_interval": 0}'}
SINGLE = "for _ in range({tasks}): noop.delay()"
BATCHED = "from celery import group\ngroup(noop.s() for _ in range({tasks})).apply_async()"


def ours(server: Server, prefetch: int) -> Mapping[str, str]:
    """The bench app on our transport: a slot holds `prefetch` messages."""
    queue = {"url": f"{server.url}/{ACCOUNT_ID}/bench", "prefetch": prefetch}
    return {
        "BENCH_TRANSPORT": "serverless.broker:Transport",
        "BENCH_TRANSPORT_OPTIONS": json.dumps({"predefined_queues": {"bench": queue}}),
    }


def environment(server: Server, variables: Mapping[str, str]) -> dict[str, str]:
    """For a process of the bench app."""
    return {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "BENCH_ENDPOINT": server.url,
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_EC2_METADATA_DISABLED": "true",
        **variables,
    }


def publish(server: Server, variables: Mapping[str, str], tasks: int, how: str = SINGLE) -> Counter[str]:
    """Requests that sending so many tasks costs. how: SINGLE or BATCHED."""
    server.counts.clear()
    code = "from tests.bench.plain_app import noop\n" + how.format(tasks=tasks)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(server, variables), check=True)
    return Counter(server.counts)


@contextmanager
def worker(server: Server, variables: Mapping[str, str], multiplier: int) -> Iterator[None]:
    """A real prefork worker while the block runs."""
    command = [sys.executable, "-m", "celery", "-A", "tests.bench.plain_app", "--quiet", "worker", "--pool=prefork"]
    command += [f"--concurrency={CONCURRENCY}", f"--prefetch-multiplier={multiplier}", "--loglevel=ERROR"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(server, variables), stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        # Its pool with it, and without waiting for its last long poll.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def await_(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(0.05)


def measure(
    tasks: int,
    prefetch: int,
    transport: Mapping[str, str] | None,
    how: str = SINGLE,
    idle_seconds: float = IDLE_SECONDS,
) -> dict[str, float]:
    """Requests a task when sent and then consumed from the backlog, and receives a minute when there is nothing.

    transport: STOCK or TUNED; None is ours. idle_seconds: 0 leaves the idle time out.
    """
    with fakesqs.running() as server:
        queue: Queue = server.sqs.create_queue("bench", {"VisibilityTimeout": "600"})
        variables = ours(server, prefetch) if transport is None else transport
        sent = publish(server, variables, tasks, how)
        server.counts.clear()
        with worker(server, variables, 1 if transport is None else prefetch):
            await_(lambda: server.counts["messages_deleted"] >= tasks, 120)
            consumed = Counter(server.counts)
            # The poll that is under way when the queue runs dry belongs to the idle time.
            await_(lambda: not queue.ready and not queue.hidden, 10)
            before = server.counts["ReceiveMessage"]
            time.sleep(idle_seconds)
            idle = server.counts["ReceiveMessage"] - before
    found = {
        "tasks": tasks,
        "prefetch": prefetch,
        "sending": sent["requests"] / tasks,
        "receiving": consumed["ReceiveMessage"] / tasks,
        "deleting": (consumed["DeleteMessage"] + consumed["DeleteMessageBatch"]) / tasks,
        "all": (sent["requests"] + consumed["requests"]) / tasks,
    }
    if idle_seconds:
        found["idle_receives_a_minute"] = idle * 60 / idle_seconds
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--prefetch", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {
        "stock": measure(options.tasks, options.prefetch, STOCK),
        "stock, polling_interval=0": measure(options.tasks, options.prefetch, TUNED),
        "ours, sent one by one": measure(options.tasks, options.prefetch, None),
        "ours, sent as a group": measure(options.tasks, options.prefetch, None, BATCHED, idle_seconds=0),
    }
    if options.json:
        print(json.dumps(found))
        return
    for name, figures in found.items():
        print(name, *(f"{key} {value:.2f}" for key, value in figures.items()), sep="  ")


if __name__ == "__main__":
    main()
