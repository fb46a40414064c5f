"""Every part of Celery and kombu that the broker stands on and that is not promised by their documentation.

tests/contract/test_seams.py resolves each path and tries what is said of it, so that an upgrade that changes one fails
there and not in production. Read for Celery 5.7.0 and kombu 5.7.0.
"""

from __future__ import annotations

from typing import NamedTuple


class Seam(NamedTuple):
    """path: dotted, to what is used. used: what the broker expects of it. by: the module that does."""

    path: str
    used: str
    by: str


SEAMS = (
    Seam(
        "kombu.messaging._ProducerBatchState.publish",
        "Producer.batch() hands messages to channel.create_publish_batch(max_size).publish(message, ...), and ends "
        "with flush or discard, then close; the batch names its channel",
        "sending",
    ),
    Seam(
        "kombu.transport.virtual.Channel.basic_publish",
        "passes unknown keywords on to _put, also through an exchange, so that a batch can name itself",
        "sending",
    ),
    Seam(
        "kombu.transport.virtual.Channel._inplace_augment_message",
        "encodes the body through encode_body and notes body_encoding in the properties",
        "transport",
    ),
    Seam(
        "kombu.transport.virtual.Channel.close",
        "cancels the consumers that _consumers names and asks _qos to restore nothing",
        "transport",
    ),
    Seam(
        "kombu.transport.virtual.Message",
        "is made of an envelope's dict and collects errors of decompression in `errors`",
        "incoming",
    ),
    Seam(
        "kombu.messaging.Consumer._receive_callback",
        "turns what is delivered into a message by channel.message_to_python, which leaves a Message as it is",
        "transport",
    ),
    Seam(
        "kombu.asynchronous.hub.Hub.add_reader",
        "calls back in the loop's thread when a file descriptor can be read, and polls only if one is registered",
        "transport",
    ),
    Seam(
        "celery.worker.consumer.consumer.Consumer.connect",
        "calls transport.register_with_event_loop before anything is consumed",
        "transport",
    ),
    Seam(
        "celery.worker.consumer.consumer.Consumer.on_decode_error",
        "acknowledges what cannot be decoded; Message.ack turns that into a dead letter",
        "incoming",
    ),
    Seam(
        "celery.worker.consumer.consumer.Consumer.on_close",
        "forgets requests that were not given to the pool, before Tasks.stop cancels the consumers",
        "consuming",
    ),
    Seam(
        "celery.worker.state.reserved_requests",
        "with active_requests, every request that Celery has and has not ended",
        "worker",
    ),
    Seam(
        "celery.worker.request.Request.time_start",
        "None until the pool has begun the task, then a time.time()",
        "worker",
    ),
    Seam(
        "celery.worker.request.Request.time_limits",
        "(hard, soft) of the message, seconds or None",
        "worker",
    ),
    Seam(
        "celery.worker.worker.WorkController.setup_instance",
        "sends worker_init with the controller, whose `pool` is set later, after the transport was loaded",
        "worker",
    ),
    Seam(
        "celery.concurrency.base.BasePool.num_processes",
        "how many tasks run at once, also after the pool was grown or shrunk",
        "worker",
    ),
    Seam(
        "celery.worker.worker.WorkController._process_task",
        "gives a request to the pool; is read from the controller after worker_init, so that it can be replaced there; "
        "gives the slot back, by _quick_release, only for a revoked task",
        "guards",
    ),
    Seam(
        "celery.concurrency.thread.TaskPool.on_apply",
        "takes target, args, kwargs and callbacks, and never calls error_callback",
        "guards",
    ),
    Seam(
        "celery.concurrency.solo.TaskPool",
        "the pool that runs tasks in the event loop's thread, by its module's name",
        "worker",
    ),
    Seam(
        "celery.worker.worker.WorkController.wait_for_soft_shutdown",
        "sleeps in the signal's handler, before worker_shutting_down is sent; is read from the controller",
        "guards",
    ),
    Seam(
        "celery.worker.consumer.consumer.Consumer.cancel_active_requests",
        "is called by a cold stop, and raises NotImplementedError in pools that cannot end a task; is read from the "
        "consumer, which worker_ready sends",
        "guards",
    ),
    Seam(
        "celery.apps.worker._shutdown_handler",
        "sends worker_shutting_down from the signal's handler, before the loop stops",
        "worker",
    ),
    Seam(
        "celery.canvas.group._apply_tasks",
        "takes one producer for all its tasks from app.producer_or_acquire(None) and passes it to each",
        "app",
    ),
    Seam(
        "celery.local.Proxy._get_current_object",
        "the app that stands behind celery.current_app",
        "app",
    ),
    Seam(
        "celery.app.base.Celery.send_task",
        "takes its producer from app.producer_or_acquire",
        "app",
    ),
)
