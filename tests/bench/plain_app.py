"""A Celery app with neither Django nor our tasks, for measuring brokers: no-op tasks on one queue.

BENCH_ENDPOINT names the SQS. BENCH_TRANSPORT_OPTIONS holds further transport options as JSON.
"""

from __future__ import annotations

import json
import os

from celery import Celery

QUEUE = "bench"
ENDPOINT = os.environ.get("BENCH_ENDPOINT", "http://127.0.0.1:9324")

app = Celery("bench")
app.conf.update(
    broker_url="sqs://",
    broker_transport_options={
        "region": "us-east-1",
        "predefined_queues": {QUEUE: {"url": f"{ENDPOINT}/000000000000/{QUEUE}"}},
        "wait_time_seconds": 20,
        **json.loads(os.environ.get("BENCH_TRANSPORT_OPTIONS", "{}")),
    },
    task_default_queue=QUEUE,
    task_ignore_result=True,
    task_acks_late=True,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
)


@app.task
def noop() -> None:
    """Does nothing, so that what is measured is the broker."""
