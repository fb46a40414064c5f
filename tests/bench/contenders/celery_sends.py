"""Sends with Celery, over kombu's own transport or over ours as BENCH_TRANSPORT says."""

from __future__ import annotations

import time

from celery import group

from tests.bench.contenders import sending
from tests.bench.plain_app import noop, stamp

PACE_PER_SECOND = 20


def main() -> None:
    sending.count_calls()

    def single(number: int) -> None:
        for _ in range(number):
            noop.delay()

    def bulk(number: int) -> None:
        group(noop.s() for _ in range(number)).delay()

    def paced(number: int) -> None:
        """PACE_PER_SECOND tasks a second that say how long they took to arrive."""
        began = time.monotonic()
        for index in range(number):
            time.sleep(max(0.0, began + index / PACE_PER_SECOND - time.monotonic()))
            stamp.delay(time.time())

    sending.serve(single=single, bulk=bulk, paced=paced)


if __name__ == "__main__":
    main()
