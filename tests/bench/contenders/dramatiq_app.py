"""dramatiq on dramatiq-sqs: `broker` for its worker; run as a program it sends."""

from __future__ import annotations

import dramatiq
from dramatiq_sqs import SQSBroker

from tests.bench.contenders import QUEUE, sending

broker = SQSBroker()
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=QUEUE)
def noop() -> None:
    """Does nothing, so that what is measured is the broker."""


def single(number: int) -> None:
    for _ in range(number):
        noop.send()


def bulk(number: int) -> None:
    dramatiq.group([noop.message() for _ in range(number)]).run()


if __name__ == "__main__":
    sending.count_calls()
    sending.serve(single=single, bulk=bulk)
