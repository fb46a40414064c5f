"""A Celery app with neither Django nor our tasks, for measuring brokers: no-op tasks on one queue.

BENCH_ENDPOINT names the SQS.
BENCH_TRANSPORT is kombu's name or the dotted path of the transport; without it, kombu's own for SQS.
BENCH_TRANSPORT_OPTIONS holds further transport options as JSON.
BENCH_POOL is the worker's pool, prefork by default.
BENCH_PREFETCH is the worker's prefetch multiplier, 4 by default as in Celery.
BENCH_LATENCIES names the file that `stamp` writes to.
"""

from __future__ import annotations

import json
import os
import time

from celery import Celery

QUEUE = "bench"
OURS = "serverless.broker:Transport"
ENDPOINT = os.environ.get("BENCH_ENDPOINT", "http://127.0.0.1:9324")
TRANSPORT = os.environ.get("BENCH_TRANSPORT", "sqs")


def make_app() -> Celery:
    if TRANSPORT != OURS:
        return Celery("bench")
    from serverless.broker import BatchPublishing

    class App(BatchPublishing, Celery):
        pass

    return App("bench")


app = make_app()
app.conf.update(
    broker_url="sqs://",
    broker_transport=TRANSPORT,
    broker_transport_options={
        "region": "us-east-1",
        "predefined_queues": {QUEUE: {"url": f"{ENDPOINT}/000000000000/{QUEUE}"}},
        "wait_time_seconds": 20,
        **json.loads(os.environ.get("BENCH_TRANSPORT_OPTIONS", "{}")),
    },
    task_default_queue=QUEUE,
    task_ignore_result=True,
    task_acks_late=True,
    worker_pool=os.environ.get("BENCH_POOL", "prefork"),
    worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "4")),
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
)


@app.task
def noop() -> None:
    """Does nothing, so that what is measured is the broker."""


@app.task
def stamp(sent_at: float) -> None:
    """Appends the seconds since `sent_at` (of time.time()) to the file of BENCH_LATENCIES, one a line."""
    line = f"{time.time() - sent_at}\n".encode()
    # One write of a short line to a file opened to append: lines of several processes do not mix.
    file = os.open(os.environ["BENCH_LATENCIES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line)
    os.close(file)
