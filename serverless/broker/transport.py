"""kombu's Transport and Channel for SQS: where Celery meets the broker."""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from amqp.protocol import queue_declare_ok_t
from kombu.transport import virtual

from serverless.broker import guards, worker
from serverless.broker.consuming import Consuming
from serverless.broker.errors import SHAPE_ERRORS
from serverless.broker.incoming import Message
from serverless.broker.options import Options
from serverless.broker.sending import PublishBatch, Sender
from serverless.broker.sqs import Sqs

log = logging.getLogger("serverless.broker")

worker.watch()
guards.watch()


#: Until what failed in the event loop is tried again.
_DUE_AGAIN_SECONDS = 1.0


class QoS(virtual.QoS):
    """kombu's interface for the prefetch count; what is held is kept in Consuming."""

    restore_at_shutdown = False

    def __init__(self, channel: Channel, prefetch_count: int = 0) -> None:
        # Not kombu's own: it would keep what is held a second time.
        self.channel: Channel = channel
        self._prefetch_count = prefetch_count

    @property
    def prefetch_count(self) -> int:
        return self._prefetch_count

    @prefetch_count.setter
    def prefetch_count(self, count: int | None) -> None:
        self._prefetch_count = count or 0
        self.channel.consuming.set_slots(self._prefetch_count)

    def can_consume(self) -> bool:
        return True

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """kombu calls it when the channel closes: Channel.close has seen to it."""


class Channel(virtual.Channel):
    """Publishes, and consumes from any number of queues."""

    QoS = QoS
    Message = Message
    do_restore = False
    from_transport_options = ()
    supports_batch_publish = True

    def __init__(self, connection: Transport, **options: Any) -> None:
        super().__init__(connection, **options)
        #: kombu sets `connection` to None when the channel closes; this stays.
        self.transport = connection
        self._consuming: Consuming | None = None
        self._no_ack: set[str] = set()
        self._queue_of: dict[str, str] = {}
        #: What takes the messages of each queue that is consumed.
        self._callbacks: dict[str, Callable[[Message], Any]] = {}

    @property
    def consuming(self) -> Consuming:
        if self._consuming is None:
            self._consuming = Consuming(self.transport.sqs, self, on_ready=self.transport.wake)
            self._consuming.keeper.ping = self.transport.ping
        return self._consuming

    # Queues ----------------------------------------------------------------------------------------------------------

    def queue_declare(self, queue: str | None = None, passive: bool = False, **options: Any) -> Any:
        """Check that the queue is known. SQS is asked for its depth only if `passive`: each send declares its queue."""
        if not queue:
            raise ValueError("A queue must have a name: SQS makes none up.")
        self.transport.sqs.queue(queue)
        return queue_declare_ok_t(queue, self._size(queue) if passive else 0, 0)

    def _new_queue(self, queue: str, **options: Any) -> None:
        self.transport.sqs.queue(queue)

    def _has_queue(self, queue: str, **options: Any) -> bool:
        return bool(self.transport.sqs.queue(queue))

    def _size(self, queue: str) -> int:
        """Messages that wait; SQS counts approximately."""
        answer = self.transport.sqs.client.get_queue_attributes(
            QueueUrl=self.transport.sqs.queue(queue).url, AttributeNames=["ApproximateNumberOfMessages"]
        )
        return int(answer["Attributes"]["ApproximateNumberOfMessages"])

    def _purge(self, queue: str) -> int:
        """Delete all that waits; how many there were, approximately. SQS allows it once a minute."""
        size = self._size(queue)
        self.transport.sqs.client.purge_queue(QueueUrl=self.transport.sqs.queue(queue).url)
        return size

    def _delete(self, queue: str, *_: Any, **options: Any) -> None:
        """Queues are infrastructure: they are neither made nor deleted with a connection."""

    # Publishing ------------------------------------------------------------------------------------------------------

    def encode_body(self, body: Any, encoding: str | None = None) -> tuple[Any, str]:
        """Text stands in the envelope as it is; what is no text is base64."""
        if isinstance(body, bytes):
            try:
                body = body.decode()
            except UnicodeDecodeError:
                return super().encode_body(body, "base64")
        return body, "utf-8"

    def _put(self, queue: str, message: dict[str, Any], _publish_batch: PublishBatch | None = None, **_: Any) -> None:
        outgoing = self.transport.sender.prepare(queue, message)
        if outgoing is None:
            return
        if _publish_batch is not None:
            _publish_batch.add(outgoing)
        else:
            self.transport.sender.send(outgoing)

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """The buffer of `kombu.Producer.batch(max_size)`."""
        return PublishBatch(self, self.transport.sender, max_size)

    # Consuming -------------------------------------------------------------------------------------------------------

    def basic_consume(  # type: ignore[override]
        self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **options: Any
    ) -> None:
        self._queue_of[consumer_tag] = queue
        self._consumers.add(consumer_tag)
        if no_ack:
            self._no_ack.add(queue)
        self._callbacks[queue] = callback
        self.transport.consuming_channels.add(self)
        # Raises now if it is not declared.
        self.transport.sqs.queue(queue)
        self.transport.soon(self._poll_what_is_consumed)

    def _poll_what_is_consumed(self) -> None:
        """Begin with all queues at once that Celery has named by now: the first must not be a less urgent one."""
        self.consuming.receiver.add([self.transport.sqs.queue(name) for name in self._queue_of.values()])

    def basic_cancel(self, consumer_tag: str) -> None:
        if consumer_tag not in self._consumers:
            return
        self._consumers.discard(consumer_tag)
        queue_name = self._queue_of.pop(consumer_tag)
        self._no_ack.discard(queue_name)
        self._callbacks.pop(queue_name, None)
        self.consuming.receiver.remove(queue_name)
        if not self._consumers:
            self.consuming.release_unstarted()

    def basic_get(self, queue: str, no_ack: bool = False, **_: Any) -> Any:
        """One message, or None; asks SQS once."""
        message = self.consuming.get(self.transport.sqs.queue(queue))
        if message is not None and no_ack:
            self.basic_ack(message.delivery_tag or "")
        return message

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        self.qos.prefetch_count = prefetch_count

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        self.consuming.done(delivery_tag)

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """requeue: it shows again after a pause. Without, it goes to the dead-letter queue."""
        if requeue:
            self.consuming.crashed(delivery_tag)
        else:
            self.refuse(delivery_tag, "the worker rejected it: an unknown or invalid task, or a task that said so")

    def refuse(self, delivery_tag: str, reason: str) -> None:
        self.consuming.refused(delivery_tag, reason)

    def basic_recover(self, requeue: bool = False) -> None:
        for delivery in self.consuming.holdings.all_held():
            self.consuming.hand_back(delivery)

    def deliver_next(self) -> bool:
        """Hand one message to its consumer; whether there was one."""
        taken = self._consuming.take() if self._consuming is not None else None
        if taken is None:
            return False
        delivery, message = taken
        callback = self._callbacks.get(delivery.queue.name)
        if callback is None:
            self.consuming.returned(delivery.receipt)
            return True
        if delivery.queue.name in self._no_ack:
            self.basic_ack(delivery.receipt)
        worker.delivering = delivery
        try:
            callback(message)
        except SHAPE_ERRORS as error:
            log.exception("message %s cannot be handled", delivery.message_id)
            self.refuse(delivery.receipt, f"handling it failed: {type(error).__name__}: {error}")
        except Exception:
            log.exception("message %s cannot be handled now", delivery.message_id)
            self.consuming.crashed(delivery.receipt)
        finally:
            worker.delivering = None
        return True

    def close(self) -> None:
        if self._consuming is not None and not self.closed:
            self._consuming.close()
        self.transport.consuming_channels.discard(self)
        super().close()


class Transport(virtual.Transport):
    """SQS. In Celery: `broker_url = "sqs://"`, `broker_transport = "serverless.broker:Transport"`."""

    Channel = Channel
    driver_type = "sqs"
    driver_name = "boto3"
    default_port = None
    polling_interval = 0
    # No error of SQS is among them: none is worth a new connection.
    connection_errors = (*virtual.Transport.connection_errors, OSError)
    channel_errors = virtual.Transport.channel_errors

    implements = virtual.Transport.implements.extend(
        asynchronous=True,
        batch_publish=True,
        exchange_type=frozenset(["direct"]),
    )

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        # Once more: Celery may have been imported after this module.
        worker.watch()
        guards.watch()
        self.sqs = Sqs(Options.read(client.transport_options))
        self.sender = Sender(self.sqs)
        self.consuming_channels: set[Channel] = set()
        self.hub: Any = None
        self._woken = False
        self._due: deque[Callable[[], object]] = deque()
        self._listener: socket.socket
        self._waker: socket.socket
        #: Wakes drain_events, where there is no event loop.
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    def driver_version(self) -> str:
        import boto3

        return boto3.__version__

    # With an event loop (prefork, threads, solo) ---------------------------------------------------------------------

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let other threads wake the loop. kombu's loop polls only while something is registered to be read."""
        if self.hub is None:
            self._listener, self._waker = socket.socketpair()
            for end in (self._listener, self._waker):
                end.setblocking(False)
        self.hub = loop
        loop.add_reader(self._listener, self._on_woken)

    def wake(self) -> None:
        """There is something to deliver. Called in any thread."""
        if self.hub is None:
            self._bell.put(None)
        elif not self._woken:
            self._woken = True
            # The loop may be closed already, or its buffer full of wake-ups.
            with contextlib.suppress(OSError):
                self._waker.send(b"\0")

    def soon(self, function: Callable[[], object]) -> None:
        """Have the event loop call something in its next turn; without one, the next drain_events."""
        self._due.append(function)
        self.wake()

    def ping(self, answer: Callable[[], None]) -> None:
        """Ask the event loop to call `answer`, which shows that it turns."""
        if self.hub is None:
            answer()
        else:
            self.soon(answer)

    def _do_what_is_due(self) -> None:
        while self._due:
            function = self._due.popleft()
            try:
                function()
            except Exception:
                log.exception("%s failed and is tried again", getattr(function, "__name__", function))
                if self.hub is not None:
                    self.hub.call_later(_DUE_AGAIN_SECONDS, self.soon, function)

    def _on_woken(self) -> None:
        # In this order: a wake-up that comes between the two needs no byte of its own, since all is delivered below.
        with contextlib.suppress(OSError):
            self._listener.recv(4096)
        self._woken = False
        self._do_what_is_due()
        self._deliver_ready()

    def _deliver_ready(self) -> None:
        # The solo pool runs a task inside this call: one at a time, so that the loop sees signals in between.
        most = 1 if worker.pool_blocks_the_loop() else 100
        for channel in list(self.consuming_channels):
            for _ in range(most):
                if not channel.deliver_next():
                    break
            if channel._consuming is not None and channel._consuming.has_ready and not worker.stopping():
                self.wake()

    def close_connection(self, connection: Any) -> None:
        super().close_connection(connection)
        if self.hub is not None:
            with contextlib.suppress(Exception):
                self.hub.remove_reader(self._listener)
            self._listener.close()
            self._waker.close()

    # Without one (eventlet, gevent, plain kombu) ---------------------------------------------------------------------

    def drain_events(self, connection: Any, timeout: float | None = None, **_: Any) -> None:
        """Deliver one message. Raises socket.timeout if none came in so many seconds; None waits for ever."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._do_what_is_due()
            for channel in list(self.consuming_channels):
                if channel.deliver_next():
                    return
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            try:
                self._bell.get(timeout=left)
            except queue.Empty:
                raise TimeoutError from None
