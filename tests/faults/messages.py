"""Messages as Celery writes them to SQS, put into a queue of the plant without a Celery producer."""

from __future__ import annotations

import functools
import json
import threading
import uuid
from collections.abc import Iterable
from typing import Any

import boto3

from tests.faults.plant import Plant

NOTE, NAP, FAIL = "tests.faults.app.note", "tests.faults.app.nap", "tests.faults.app.fail"
#: botocore's loader of service descriptions is not thread-safe.
_lock = threading.Lock()


def envelope(*, task: str = NOTE, args: Iterable[object] = (), task_id: str = "", **headers: object) -> dict[str, Any]:
    """A message of protocol 2, still an object so that a test can spoil it. task_id: default, a new one."""
    task_id = task_id or str(uuid.uuid4())
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return {
        "body": json.dumps([list(args), {}, embed]),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"lang": "py", "task": task, "id": task_id, "root_id": task_id, "retries": 0, **headers},
        "properties": {
            "correlation_id": task_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "work"},
            "body_encoding": "utf-8",
        },
    }


@functools.lru_cache(maxsize=8)
def client(url: str) -> Any:
    """A boto3 client of the SQS there."""
    with _lock:
        return boto3.client(
            "sqs",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )


def put(works: Plant, bodies: Iterable[str | dict[str, Any]], queue: str = "work") -> None:
    """Send bodies with SendMessage, which workers and producers never use: faults of their calls do not strike it."""
    sqs, url = client(works.server.url), works.queues[queue]["url"]
    for body in bodies:
        sqs.send_message(QueueUrl=url, MessageBody=body if isinstance(body, str) else json.dumps(body))
