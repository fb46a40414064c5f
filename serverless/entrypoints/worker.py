"""A worker container's process: one Celery worker for one pool of the topology.

    python -m serverless.entrypoints.worker --pool datasets
    python -m serverless.entrypoints.worker --pool datasets --check

Queues and concurrency come from tasks/topology.json. It starts when all that it needs is there, see
serverless/container; --check says whether it is, and ends. Exit codes: 0 after a stop, 75 if what it needs did not come
in time, 78 if something must be corrected.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from serverless.container import agent, memory
from serverless.container.draining import LONGEST_STOP_SECONDS, Drain
from serverless.container.errors import CheckError, refuse

if TYPE_CHECKING:
    from celery import Celery

#: Python's own, for a worker that ended though nobody had told it to.
_EX_SOFTWARE = 70


def arguments(pool_name: str, concurrency: int | None = None, child_limit_kib: int | None = None) -> list[str]:
    """Celery's command line for a worker of that pool. Raises TopologyError for an unknown pool.

    child_limit_kib: what a child process may have taken when its task is done; default: what fits a laptop.
    """
    from tasks.topology import TOPOLOGY

    queues = TOPOLOGY.queues_of_pool(pool_name)
    pool = TOPOLOGY.pools[pool_name]
    return [
        "--quiet",
        "worker",
        f"--queues={','.join(queue.name for queue in queues)}",
        f"--concurrency={concurrency or pool.concurrency}",
        # The broker takes prefetch from the topology, by queue: here one slot is one child process.
        "--prefetch-multiplier=1",
        f"--max-memory-per-child={child_limit_kib or memory.UNLIMITED_CHILD_KIB}",
        f"--hostname={pool_name}@%h",
        "--pool=prefork",
        "--loglevel=INFO",
        # These speak to other workers by broadcast, which SQS does not have.
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
    ]


def main() -> int:
    try:
        from serverless.container import starting
    except ValueError as error:
        # A TopologyError, which cannot be named: its own module did not load.
        return refuse(CheckError("topology", str(error)))
    try:
        options = _options(starting.PATIENCE_SECONDS)
        child_limit_kib = _child_limit_kib(options.pool, options.concurrency)
        _spare_the_cores()
        starting.read_settings(options.patience)
    except CheckError as error:
        return refuse(error)
    from django.conf import settings

    try:
        status = starting.await_checks(options.pool, options.patience, "" if options.check else settings.LIVENESS_FILE)
    except starting.Stopped:
        return 0
    if status or options.check:
        return status
    from tasks.celery import app

    command = arguments(options.pool, options.concurrency, child_limit_kib)
    return _work(app, options.pool, command, options.stop_timeout)


def _options(patience_seconds: float) -> argparse.Namespace:
    from tasks.topology import TOPOLOGY, TopologyError

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", required=True, help=f"one of {', '.join(TOPOLOGY.pools)}")
    parser.add_argument("--concurrency", type=int, help="child processes; default: the pool's")
    parser.add_argument("--check", action="store_true", help="say whether all that the worker needs is there, and end")
    parser.add_argument(
        "--patience",
        type=float,
        default=patience_seconds,
        help="seconds that a start waits for it; default %(default)g",
    )
    parser.add_argument(
        "--stop-timeout",
        type=float,
        default=LONGEST_STOP_SECONDS,
        help="of the container: seconds from SIGTERM until it is killed; default %(default)g, Fargate's most",
    )
    options = parser.parse_args()
    try:
        TOPOLOGY.queues_of_pool(options.pool)
    except TopologyError as error:
        parser.error(str(error))
    if options.concurrency is not None and options.concurrency < 1:
        parser.error(f"--concurrency={options.concurrency} must be 1 or more.")
    if options.stop_timeout <= 0 or options.patience < 0:
        parser.error("--stop-timeout must be above 0, and --patience 0 or more.")
    return options


def _child_limit_kib(pool_name: str, concurrency: int | None) -> int:
    """Of the container's memory: its own limit, or its task's where ECS limits no more than that. Raises CheckError."""
    from tasks.topology import TOPOLOGY

    uri = agent.metadata_address()
    known = [limit for limit in (memory.limit_bytes(), agent.task_memory_bytes(uri) if uri else None) if limit]
    try:
        return memory.child_limit_kib(min(known, default=None), concurrency or TOPOLOGY.pools[pool_name].concurrency)
    except memory.MemoryLimitError as error:
        rule, _, remedy = str(error).partition(". ")
        raise CheckError("memory", rule, remedy) from error


def _spare_the_cores() -> None:
    """Tasks run side by side in processes; threads inside each would only compete for the same cores."""
    for library in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(library, "1")


def _work(app: Celery, pool_name: str, command: list[str], stop_timeout_seconds: float) -> int:
    """Run the worker until it is told to stop; the exit code."""
    from serverless.broker import worker as broker_worker
    from serverless.container import children
    from tasks.topology import TOPOLOGY

    # Else they stand between the log's lines of JSON.
    logging.captureWarnings(True)
    children.prepare(app)
    Drain(stop_timeout_seconds).watch()
    uri = agent.address()
    if uri:
        _keep_protected(uri, max(queue.time_limit_seconds for queue in TOPOLOGY.queues_of_pool(pool_name)))
    run: Callable[[list[str]], object] = app.worker_main
    run(command)
    # Celery ends its command the same way whatever its worker met.
    return 0 if broker_worker.stopping() else _EX_SOFTWARE


def _keep_protected(uri: str, longest_task_seconds: float) -> None:
    """Receive nothing before ECS protects this task; the thread that asks starts after the pool has forked."""
    from celery import signals

    from serverless.broker import gate
    from serverless.container.keeper import Keeper
    from tasks.runtime import steward

    def newer_release() -> str:
        told = steward.current()
        return told.newer_release if told is not None else ""

    keeper = Keeper(uri, newer_release, longest_task_seconds)

    def start(**_: object) -> None:
        # Once, though Celery says it again with each connection.
        if not keeper.is_alive():
            keeper.start()

    gate.close()
    signals.worker_ready.connect(start, weak=False, dispatch_uid="serverless.container.keeper")


if __name__ == "__main__":
    sys.exit(main())
