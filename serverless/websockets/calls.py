"""How AWS is called here: in threads of the process's own, with short timeouts.

boto3 blocks. Channel layers are called from many event loops (each async_to_sync makes one), from many threads and in
forked children, so nothing here belongs to a loop, and a child has threads of its own.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from botocore.config import Config
from botocore.exceptions import ClientError

from serverless import aws

_Answer = TypeVar("_Answer")

_THROTTLED_CODES = {
    *("LimitExceededException", "TooManyRequestsException", "ThrottlingException", "Throttling"),
    *("ProvisionedThroughputExceededException", "RequestLimitExceeded"),
}

_lock = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}


@dataclass(frozen=True)
class Timeouts:
    """How long one call may take. A push must never stall a task.

    connect_seconds, read_seconds: of one request. retries: how often it is repeated after it failed.
    """

    connect_seconds: float = 1.0
    read_seconds: float = 2.0
    retries: int = 1

    def client(self, service: str, *, endpoint_url: str | None, connections: int, repeats_itself: bool) -> Any:
        """The process's client with these timeouts.

        connections: how many requests it makes at once. repeats_itself: whether boto3 retries, which it also does
        where AWS may have acted.
        """
        retries = self.retries if repeats_itself else 0
        config = Config(
            connect_timeout=self.connect_seconds,
            read_timeout=self.read_seconds,
            retries={"mode": "standard", "total_max_attempts": 1 + retries},
            max_pool_connections=connections,
        )
        purpose = f"websockets {endpoint_url} {connections} {retries} {self}"
        options = {"endpoint_url": endpoint_url} if endpoint_url else {}
        make: Callable[..., Any] = aws.client
        return make(service, purpose, config=config, **options)


async def in_thread(threads: int, work: Callable[..., _Answer], *arguments: Any) -> _Answer:
    """What a blocking call gives, while the event loop goes on. threads: how many such calls run at once."""
    return await asyncio.get_running_loop().run_in_executor(_pool(threads), work, *arguments)


def is_throttled(error: BaseException) -> bool:
    """Whether AWS asks for fewer requests, or a client reads its socket too slowly."""
    if not isinstance(error, ClientError):
        return False
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status == 429 or error.response.get("Error", {}).get("Code") in _THROTTLED_CODES


def pause(attempt: int) -> None:
    """Wait before the next try: at most 50 ms after the first, twice as long after each further one."""
    time.sleep(random.uniform(0.2, 1.0) * 0.05 * 2**attempt)


def _pool(threads: int) -> ThreadPoolExecutor:
    found = _pools.get(threads)
    if found is not None:
        return found
    with _lock:
        if threads not in _pools:
            _pools[threads] = ThreadPoolExecutor(threads, thread_name_prefix="websockets")
        return _pools[threads]


def _forget_threads() -> None:
    """A forked child has none of its parent's threads, and a lock that was held at the fork would stay held."""
    global _lock  # noqa: PLW0603 - as above
    _lock = threading.Lock()
    _pools.clear()


os.register_at_fork(after_in_child=_forget_threads)
