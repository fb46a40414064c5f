"""How much memory a worker's container has, and how much of it a child process may take. The rule is pure.

Celery replaces a child that has taken more, when its task is done. So a task may take more for a while; where all of
them do so at once, the kernel ends a child, see children.py, and its task runs again elsewhere.
"""

from __future__ import annotations

from pathlib import Path

#: The worker's main process, its steward, process 1, and what a health check takes.
RESERVED_BYTES = 224 << 20
#: Below this a child is replaced after nearly every task: imports alone take half of it.
LEAST_SHARE_BYTES = 200 << 20
#: Of its share, what a child may have taken when its task is done.
_KEPT = 0.85
#: Where nothing limits memory, such as on a laptop.
UNLIMITED_CHILD_KIB = 350_000

_CGROUPS = Path("/sys/fs/cgroup")
#: cgroup v1 says "no limit" with the largest number of pages.
_NO_LIMIT_BYTES = 1 << 50


class MemoryLimitError(ValueError):
    """The container is too small for so many children. limit_bytes, concurrency: what does not fit together."""

    def __init__(self, limit_bytes: int, concurrency: int) -> None:
        needed = (RESERVED_BYTES + concurrency * LEAST_SHARE_BYTES) >> 20
        super().__init__(
            f"concurrency={concurrency} needs {needed} MiB, and the container has {limit_bytes >> 20}. "
            "Raise the pool's memory_mib or lower its concurrency in tasks/topology.json."
        )
        self.limit_bytes = limit_bytes
        self.concurrency = concurrency


def child_limit_kib(limit_bytes: int | None, concurrency: int) -> int:
    """KiB after which a child is replaced. limit_bytes: of the container; None: there is none.

    Raises MemoryLimitError.
    """
    if limit_bytes is None:
        return UNLIMITED_CHILD_KIB
    share = (limit_bytes - RESERVED_BYTES) // concurrency
    if share < LEAST_SHARE_BYTES:
        raise MemoryLimitError(limit_bytes, concurrency)
    return int(share * _KEPT) >> 10


def limit_bytes(cgroups: Path = _CGROUPS) -> int | None:
    """What the kernel grants this container; None where it does not say, or grants all there is.

    Of both versions of cgroups: Fargate has had either. The files are the container's own, which sees no other.
    """
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (cgroups / name).read_text("ascii").strip()
        except (OSError, ValueError):
            continue
        if text.isdigit() and 0 < int(text) < _NO_LIMIT_BYTES:
            return int(text)
    return None
