"""Who takes part in tests.bench.broker_speed, with the settings of each side by side. Standard library only: the programs
beside this file import what they measure, and run in processes of their own.

Each holds 10 messages a slot where it can say so; a slot is one of `concurrency` tasks at work at the same time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

ACCOUNT = "000000000000"
QUEUE = "bench"
HERE = "tests.bench.contenders"
PREFETCH = 10
CELERY_FLAGS = ("--loglevel=ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat")


@dataclass(frozen=True)
class Setup:
    """What a worker or a producer is started with.

    url: of the SQS. pool: prefork or threads. concurrency: tasks at the same time. prefetch: messages held a slot.
    """

    url: str
    pool: str = "prefork"
    concurrency: int = 4
    prefetch: int = PREFETCH

    @property
    def processes(self) -> int:
        """Worker processes, where a library has no pool of its own: prefork is one a slot."""
        return self.concurrency if self.pool == "prefork" else 1

    @property
    def slots(self) -> int:
        """Slots a worker process."""
        return self.concurrency // self.processes


@dataclass(frozen=True)
class Contender:
    """One way to consume from SQS and to send to it.

    worker, producer: arguments after the interpreter. environment: further variables of both.
    held: in words, what it prefetches. pollers: receives that are under way when it idles.
    needs: the module without which it cannot run. extra: it is not among the project's requirements.
    """

    name: str
    held: Callable[[Setup], str]
    needs: str
    worker: Callable[[Setup], list[str]]
    producer: tuple[str, ...]
    environment: Callable[[Setup], dict[str, str]] = lambda setup: {}
    pollers: Callable[[Setup], int] = lambda setup: 1
    extra: bool = False


def celery_worker(setup: Setup) -> list[str]:
    return [
        *("-m", "celery", "-A", "tests.bench.plain_app", "--quiet", "worker"),
        *(f"--concurrency={setup.concurrency}", *CELERY_FLAGS),
    ]


def stock_environment(setup: Setup) -> dict[str, str]:
    return {
        "BENCH_POOL": setup.pool,
        "BENCH_PREFETCH": str(setup.prefetch),
        "BENCH_TRANSPORT_OPTIONS": json.dumps({"polling_interval": 0}),
    }


def ours_environment(setup: Setup) -> dict[str, str]:
    url = f"{setup.url}/{ACCOUNT}/{QUEUE}"
    return {
        "BENCH_TRANSPORT": "serverless.broker:Transport",
        "BENCH_POOL": setup.pool,
        "BENCH_PREFETCH": "1",
        "BENCH_TRANSPORT_OPTIONS": json.dumps(
            {"predefined_queues": {QUEUE: {"url": url, "prefetch": setup.prefetch}}},
        ),
    }


STOCK = Contender(
    name="stock",
    held=lambda setup: f"{setup.prefetch} a slot",
    needs="celery",
    worker=celery_worker,
    producer=("-m", f"{HERE}.celery_sends"),
    environment=stock_environment,
)

#: Held back by its default of a second between receives, which a full prefetch also waits for.
STOCK_UNTUNED = Contender(
    name="stock-untuned",
    held=lambda setup: f"{setup.prefetch} a slot, polling_interval=1",
    needs="celery",
    worker=celery_worker,
    producer=STOCK.producer,
    environment=lambda setup: {**stock_environment(setup), "BENCH_TRANSPORT_OPTIONS": "{}"},
)

OURS = Contender(
    name="ours",
    held=lambda setup: f"{setup.prefetch} a slot",
    needs="serverless.broker",
    worker=celery_worker,
    producer=STOCK.producer,
    environment=ours_environment,
)

RAW = Contender(
    name="raw",
    held=lambda setup: "10 a thread, one batch",
    needs="boto3",
    worker=lambda setup: ["-m", f"{HERE}.raw_loop", "consume", str(setup.concurrency)],
    producer=("-m", f"{HERE}.raw_loop", "produce"),
    pollers=lambda setup: setup.concurrency,
)

# A dramatiq process receives anew only below dramatiq_queue_prefetch, for which dramatiq-sqs allows at most 10.
DRAMATIQ = Contender(
    name="dramatiq",
    held=lambda setup: f"10 a process of {setup.slots} threads, and up to 9 more",
    needs="dramatiq_sqs",
    worker=lambda setup: [
        *("-m", "dramatiq", f"{HERE}.dramatiq_app:broker", "--skip-logging"),
        *("--processes", str(setup.processes), "--threads", str(setup.slots)),
    ],
    producer=("-m", f"{HERE}.dramatiq_app"),
    environment=lambda setup: {"dramatiq_queue_prefetch": "10"},
    pollers=lambda setup: setup.processes,
    extra=True,
)

# Below what taskiq's receiver admits lies the broker's own buffer, which has no setting.
TASKIQ = Contender(
    name="taskiq",
    held=lambda setup: f"{setup.prefetch} a slot, and up to 110 in the broker's buffer",
    needs="taskiq_aio_sqs",
    worker=lambda setup: [
        *("-m", "taskiq", "worker", f"{HERE}.taskiq_app:broker", "--log-level=ERROR"),
        *("--workers", str(setup.processes), "--max-async-tasks", str(setup.slots)),
        *("--max-prefetch", str((setup.prefetch - 1) * setup.slots)),
    ],
    producer=("-m", f"{HERE}.taskiq_app"),
    pollers=lambda setup: setup.processes,
    extra=True,
)

CONTENDERS = {each.name: each for each in (STOCK, OURS, RAW, DRAMATIQ, TASKIQ, STOCK_UNTUNED)}
