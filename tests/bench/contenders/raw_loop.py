"""Nothing but boto3 in batches of ten: what a client could reach if a task cost nothing.

consume CONCURRENCY: so many threads that receive ten, do nothing and delete them in one request.
produce: sends from one thread.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import boto3
from botocore.config import Config

from tests.bench.contenders import ACCOUNT, QUEUE, sending

#: As long as what Celery writes.
BODY = "x" * 1040


def connect(connections: int) -> tuple[Any, str]:
    """A client, and the queue's address."""
    client = boto3.client("sqs", config=Config(max_pool_connections=connections))
    return client, f"{os.environ['BENCH_ENDPOINT']}/{ACCOUNT}/{QUEUE}"


def consume(concurrency: int) -> None:
    client, queue = connect(concurrency)

    def loop() -> None:
        while True:
            found = client.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=20)
            entries = [
                {"Id": str(index), "ReceiptHandle": message["ReceiptHandle"]}
                for index, message in enumerate(found.get("Messages", []))
            ]
            if entries:
                client.delete_message_batch(QueueUrl=queue, Entries=entries)

    threads = [threading.Thread(target=loop) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def produce() -> None:
    sending.count_calls()
    client, queue = connect(1)

    def single(number: int) -> None:
        for _ in range(number):
            client.send_message(QueueUrl=queue, MessageBody=BODY)

    def bulk(number: int) -> None:
        for first in range(0, number, 10):
            entries = [{"Id": str(index), "MessageBody": BODY} for index in range(min(10, number - first))]
            client.send_message_batch(QueueUrl=queue, Entries=entries)

    sending.serve(single=single, bulk=bulk)


if __name__ == "__main__":
    if sys.argv[1] == "consume":
        consume(int(sys.argv[2]))
    else:
        produce()
