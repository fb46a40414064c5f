"""A kombu transport for Amazon SQS: cheap, fast, and not to be stopped by any answer of SQS or any message.

    app = Celery("shop")
    app.conf.broker_url = "sqs://"
    app.conf.broker_transport = "serverless.broker:Transport"
    app.conf.broker_transport_options = {"predefined_queues": {"celery": {"url": "https://sqs...", "prefetch": 10}}}
    app.conf.worker_prefetch_multiplier = 1

`BatchPublishing` lets `group` and `bulk` send ten messages to a request. It imports nothing of this project but
`serverless.aws`: any Celery project can use it. docs/broker.md describes it.
"""

from serverless.broker.app import BatchPublishing, bulk
from serverless.broker.errors import (
    BrokerError,
    ClaimCheckError,
    DelayError,
    EnvelopeError,
    OptionError,
    PriorityError,
    PublishError,
    RemoteControlError,
    UndeclaredQueueError,
    Unsent,
)
from serverless.broker.transport import Channel, Transport

__all__ = [
    "BatchPublishing",
    "BrokerError",
    "Channel",
    "ClaimCheckError",
    "DelayError",
    "EnvelopeError",
    "OptionError",
    "PriorityError",
    "PublishError",
    "RemoteControlError",
    "Transport",
    "UndeclaredQueueError",
    "Unsent",
    "bulk",
]
