"""How many messages a queue holds, as SQS counts them: roughly, and a little late."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from serverless.broker.options import Options
from serverless.broker.queue_calls import ENVIRONMENT, QueueCalls, QueueError, QueueUnavailableError

_OPERATION = "GetQueueAttributes"
_COUNTS = {
    "depth": "ApproximateNumberOfMessages",
    "in_flight": "ApproximateNumberOfMessagesNotVisible",
    "delayed": "ApproximateNumberOfMessagesDelayed",
}
_MOST_THREADS = 16


@dataclass(frozen=True)
class QueueStats:
    """Messages of one queue; SQS calls all three approximate, and lets a minute pass until they settle.

    depth: wait to be received. in_flight: received and hidden, by a worker or for a pause. delayed: sent with a delay
    that is not over.
    """

    depth: int
    in_flight: int
    delayed: int

    @property
    def total(self) -> int:
        return self.depth + self.in_flight + self.delayed


def stats(queue_url: str, *, seconds: float = 5.0, options: Options = ENVIRONMENT) -> QueueStats:
    """One queue's figures. seconds: how long it is tried. Raises QueueError. Needs sqs:GetQueueAttributes."""
    return _stats(QueueCalls(options), queue_url, seconds)


def stats_of(
    queue_urls: Iterable[str], timeout_seconds: float = 3.0, *, options: Options = ENVIRONMENT
) -> dict[str, QueueStats | QueueError]:
    """Several queues' figures, asked for side by side: by URL, in the order given, each its figures or its error.

    It returns after timeout_seconds at the latest, whatever the network does; a queue that has not answered by then has
    a QueueUnavailableError. Requests that are under way end by themselves within ten seconds, in threads that hinder
    nobody's exit.
    """
    urls = list(dict.fromkeys(queue_urls))
    calls = QueueCalls(options)
    calls.prepare()
    deadline = time.monotonic() + timeout_seconds
    waiting = deque(urls)
    answers: SimpleQueue[tuple[str, QueueStats | QueueError]] = SimpleQueue()

    def ask() -> None:
        while True:
            try:
                url = waiting.popleft()
            except IndexError:
                return
            try:
                answers.put((url, _stats(calls, url, deadline - time.monotonic())))
            except QueueError as error:
                answers.put((url, error))

    for number in range(min(len(urls), _MOST_THREADS)):
        threading.Thread(target=ask, name=f"sqs-stats-{number}", daemon=True).start()
    found: dict[str, QueueStats | QueueError] = {}
    while len(found) < len(urls):
        try:
            url, answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            waiting.clear()
            break
        found[url] = answer
    late = f"no answer within {timeout_seconds:g} s"
    return {url: found.get(url) or QueueUnavailableError(url, _OPERATION, late) for url in urls}


def _stats(calls: QueueCalls, url: str, seconds: float) -> QueueStats:
    names = list(_COUNTS.values())
    answer, _ = calls.call("get_queue_attributes", url, seconds, AttributeNames=names)
    told = answer.get("Attributes", {})
    return QueueStats(**{field: int(told.get(name, 0)) for field, name in _COUNTS.items()})
