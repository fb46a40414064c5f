"""The function behind the API, run in threads as Lambda runs it in sandboxes: many events at once, each in its time."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)

Handler = Callable[[Any, Any], Any]


class FunctionError(Exception):
    """The function raised, did not answer in time, or not as it must; told as API Gateway tells it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Context:
    """As Lambda's runtime gives one to each invocation."""

    seconds: float
    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    began: float = field(default_factory=time.monotonic)

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self.seconds - (time.monotonic() - self.began)) * 1000))


class Function:
    """handler: called with event and context. seconds: of one event. most_at_once: how many run side by side."""

    def __init__(self, handler: Handler, seconds: float, most_at_once: int = 16) -> None:
        self._handler = handler
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(most_at_once, thread_name_prefix="function")

    async def invoke(self, event: dict[str, Any]) -> dict[str, Any]:
        """The function's answer, which has a statusCode. Raises FunctionError.

        A thread cannot be ended: one whose time is over goes on, and what it answers is not heard.
        """
        route = event["requestContext"]["routeKey"]
        loop = asyncio.get_running_loop()
        # By JSON, as it travels to Lambda.
        work = loop.run_in_executor(self._threads, self._handler, json.loads(json.dumps(event)), Context(self._seconds))
        try:
            answer = await asyncio.wait_for(work, self._seconds)
        except TimeoutError:
            log.warning("the function did not answer %s within %g s", route, self._seconds)
            raise FunctionError(504, "Endpoint request timed out") from None
        except Exception:
            # Never the event: it holds cookies, tokens and what people write.
            log.exception("the function failed at %s", route)
            raise FunctionError(502, "Internal server error") from None
        status = answer.get("statusCode") if isinstance(answer, dict) else None
        if not isinstance(status, int) or not 200 <= status <= 599:
            log.error("the function's answer to %s has no statusCode from 200 to 599; return one", route)
            raise FunctionError(502, "Internal server error")
        return dict(answer)

    def close(self) -> None:
        """Take no more; what runs goes on."""
        self._threads.shutdown(wait=False, cancel_futures=True)
