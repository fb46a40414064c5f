"""Batches for Celery: `group`, chord headers and `chunks` by themselves, everything else inside `with bulk(app):`.

kombu's producers can batch since 5.7; Celery 5.7 never asks them to. `group` takes one producer for all its tasks
through `app.producer_or_acquire`, so that is where an app that has this mixin hands out one that batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

#: Messages that a batch holds at most before it sends what it has.
MOST_BUFFERED = 1000

#: The producers of the bulk blocks that are open, by app; and whether a single task is being sent.
_bulk_producers: ContextVar[dict[int, Any]] = ContextVar("bulk_producers", default={})  # noqa: B039 - never changed
_single: ContextVar[bool] = ContextVar("single", default=False)


class BatchPublishing:
    """Mixin for a Celery app: `class App(BatchPublishing, Celery)`.

    Nothing else changes: a single `.delay()` is sent before it returns, unless it stands in `with bulk(app):`.
    """

    def producer_or_acquire(self, producer: Any = None) -> Any:
        """Celery's own, but a producer that is taken for more than one task batches."""
        if producer is None:
            producer = _bulk_producers.get().get(id(self))
        if producer is not None or _single.get():
            return super().producer_or_acquire(producer)  # type: ignore[misc]
        return self.batching_producer(super().producer_or_acquire())  # type: ignore[misc]

    def send_task(self, *args: Any, **options: Any) -> Any:
        token = _single.set(True)
        try:
            return super().send_task(*args, **options)  # type: ignore[misc]
        finally:
            _single.reset(token)

    @contextmanager
    def batching_producer(self, acquired: AbstractContextManager[Any]) -> Iterator[Any]:
        """A producer that batches until the context ends. An app that does more with many tasks overrides it."""
        with acquired as producer, producer.batch(max_size=MOST_BUFFERED):
            yield producer

    def bulk(self) -> AbstractContextManager[None]:
        """Send all that is enqueued in the block together: see `bulk`."""
        return bulk(self)


@contextmanager
def bulk(app: Any = None) -> Iterator[None]:
    """Send everything that is enqueued in the block when it ends, ten messages to a request.

    app: default, the current app. Its class must have BatchPublishing. Blocks may be nested: the outermost one sends.
    An exception in the block discards what is not yet sent (a thousand messages are sent at a time). Raises
    PublishError, with the task ids, for what could not be sent; all else was.
    """
    if app is None:
        from celery import current_app

        app = current_app._get_current_object()  # type: ignore[attr-defined]
    if not isinstance(app, BatchPublishing):
        raise TypeError(f"bulk() needs an app whose class has serverless.broker.BatchPublishing; {app!r} has not.")
    if id(app) in _bulk_producers.get():
        yield
        return
    acquired = super(BatchPublishing, app).producer_or_acquire()  # type: ignore[misc]
    with app.batching_producer(acquired) as producer:
        token = _bulk_producers.set({**_bulk_producers.get(), id(app): producer})
        try:
            yield
        finally:
            _bulk_producers.reset(token)
