"""taskiq on taskiq-aio-sqs: `broker` for its worker; run as a program it sends."""

from __future__ import annotations

import asyncio
import threading

from taskiq_aio_sqs import SQSBroker

from tests.bench.contenders import QUEUE, sending

broker = SQSBroker(QUEUE, max_number_of_messages=10, wait_time_seconds=20)
batching = SQSBroker(QUEUE, enable_batching=True, batch_size=10, batch_timeout=0.1)


async def noop() -> None:
    """Does nothing, so that what is measured is the broker. A coroutine, which taskiq runs without its thread pool."""


one = broker.register_task(noop, task_name="noop")
batched = batching.register_task(noop, task_name="noop")


async def single(number: int) -> None:
    for _ in range(number):
        await one.kiq()


async def bulk(number: int) -> None:
    """Returns before all are sent: a task in the background sends them, ten at a time."""
    for _ in range(number):
        await batched.kiq()


def main() -> None:
    sending.count_calls()
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    for each in (broker, batching):
        asyncio.run_coroutine_threadsafe(each.startup(), loop).result()
    sending.serve(
        single=lambda number: asyncio.run_coroutine_threadsafe(single(number), loop).result(),
        bulk=lambda number: asyncio.run_coroutine_threadsafe(bulk(number), loop).result(),
    )


if __name__ == "__main__":
    main()
