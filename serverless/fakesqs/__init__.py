"""A fake SQS for tests and benchmarks: fast, with the clock, latency and faults in the test's hands.

It speaks the JSON protocol, so any SDK uses it through AWS_ENDPOINT_URL_SQS, and keeps SQS's rules: visibility, receipt
handles, long polls, delays, dead-letter queues, FIFO groups, batch and size limits. It counts requests by kind, billed
64 KB units and bytes. Standard library only; imports nothing of ours, so that any project could use it.

    async with Server() as sqs: ...                in a test's own event loop
    with running() as sqs: ...                     in a thread
    python -m serverless.fakesqs --port 9324       as a process
"""

from serverless.fakesqs.faults import Fault
from serverless.fakesqs.queues import FakeSQS, SQSError
from serverless.fakesqs.server import Server, running

__all__ = ["FakeSQS", "Fault", "SQSError", "Server", "running"]
