"""A worker container's process: one Celery worker for one pool of the topology.

    python -m serverless.entrypoints.worker --pool datasets

Queues and concurrency come from tasks/topology.json.
"""

from __future__ import annotations

import argparse
import os
import sys

from tasks.topology import TOPOLOGY, TopologyError

#: KiB after which a child is replaced when its task is done: a worker stays under 400 MB.
CHILD_MEMORY_KIB = 350_000


def arguments(pool_name: str, concurrency: int | None = None) -> list[str]:
    """Celery's command line for a worker of that pool. Raises TopologyError for an unknown pool."""
    queues = TOPOLOGY.queues_of_pool(pool_name)
    pool = TOPOLOGY.pools[pool_name]
    return [
        "--quiet",
        "worker",
        f"--queues={','.join(queue.name for queue in queues)}",
        f"--concurrency={concurrency or pool.concurrency}",
        # The broker takes prefetch from the topology, by queue: here one slot is one child process.
        "--prefetch-multiplier=1",
        f"--max-memory-per-child={CHILD_MEMORY_KIB}",
        f"--hostname={pool_name}@%h",
        "--pool=prefork",
        "--loglevel=INFO",
        # These speak to other workers by broadcast, which SQS does not have.
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", required=True, help=f"one of {', '.join(TOPOLOGY.pools)}")
    parser.add_argument("--concurrency", type=int, help="child processes; default: the pool's")
    options = parser.parse_args()
    try:
        command = arguments(options.pool, options.concurrency)
    except TopologyError as error:
        parser.error(str(error))
    # Tasks run side by side in processes; threads inside each would only compete for the same cores.
    for library in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(library, "1")
    from tasks.celery import app

    sys.exit(app.worker_main(command))


if __name__ == "__main__":
    main()
