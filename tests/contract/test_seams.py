"""The private parts of Celery and kombu that the broker stands on are still what it takes them for."""

from __future__ import annotations

import ast
import inspect
import json
import threading
from importlib import import_module

import celery
import kombu
import pytest
from celery import Celery, group
from celery.app.task import Context
from celery.concurrency import solo
from celery.worker import request as celery_request
from celery.worker.consumer import consumer as celery_consumer
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.asynchronous import Hub
from kombu.transport import virtual

from serverless.broker import seams
from serverless.broker.seams import SEAMS
from tests.conftest import ROOT


def resolve(path: str) -> object:
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise AssertionError(path)


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.path)
def test_each_seam_is_where_it_was(seam):
    resolve(seam.path)
    assert (ROOT / "serverless" / "broker" / f"{seam.by}.py").exists()


def test_the_versions_are_those_that_were_read():
    """An upgrade is looked at: read the seams anew, then change the versions in seams.py and here."""
    assert (celery.__version__, kombu.__version__) == ("5.7.0", "5.7.0")
    assert "Celery 5.7.0 and kombu 5.7.0" in (seams.__doc__ or "")


class RecordingChannel(virtual.Channel):
    """A channel that keeps what reaches it."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.calls: list[tuple] = []

    def _put(self, queue, message, **options):
        self.calls.append(("put", queue, options))

    def _size(self, queue):
        return 0

    def _new_queue(self, queue, **options):
        pass

    def create_publish_batch(self, max_size):
        channel = self

        class Batch:
            def __init__(self):
                self.channel = channel

            def publish(self, message, **options):
                channel.calls.append(("publish", max_size))
                return channel.basic_publish(message, _publish_batch=self, **options)

            def flush(self):
                channel.calls.append(("flush",))

            def discard(self):
                channel.calls.append(("discard",))

            def close(self):
                channel.calls.append(("close",))

        return Batch()


class RecordingTransport(virtual.Transport):
    Channel = RecordingChannel
    implements = virtual.Transport.implements.extend(batch_publish=True)


@pytest.fixture
def channel():
    with Connection(transport=RecordingTransport) as connection:
        yield connection.default_channel


@pytest.mark.parametrize("exchange", ["", "named"])
def test_a_batch_reaches_put_through_any_direct_exchange(channel, exchange):
    if exchange:
        Queue("q", Exchange(exchange, type="direct"), routing_key="q")(channel).declare()
    producer = Producer(channel)
    with producer.batch(max_size=7):
        producer.publish({"a": 1}, exchange=exchange, routing_key="q")
    kinds = [call[0] for call in channel.calls]
    assert kinds == ["publish", "put", "flush", "close"]
    assert channel.calls[0] == ("publish", 7)
    assert "_publish_batch" in channel.calls[1][2]


def test_a_batch_that_ends_in_an_error_is_discarded(channel):
    producer = Producer(channel)

    def fail() -> None:
        with producer.batch():
            producer.publish({}, routing_key="q")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert [call[0] for call in channel.calls] == ["publish", "put", "discard", "close"]


def test_what_is_already_a_message_is_delivered_as_it_is(channel):
    payload = {"body": "[]", "properties": {"delivery_tag": "t"}, "headers": {}, "content-type": "application/json"}
    message = channel.Message({**payload, "content-encoding": "utf-8"}, channel=channel)
    got: list[object] = []
    consumer = Consumer(channel, on_message=got.append)
    consumer._receive_callback(message)
    assert got == [message]


def test_a_broken_compression_is_noted_and_not_raised(channel):
    payload = {"body": "x", "properties": {"delivery_tag": "t"}, "headers": {"compression": "application/x-gzip"}}
    assert channel.Message(payload, channel=channel).errors


def test_the_loop_calls_back_when_a_registered_end_can_be_read():
    import socket

    hub, (reader, writer) = Hub(), socket.socketpair()
    called: list[int] = []
    hub.add_reader(reader, lambda: called.append(reader.recv(1)[0]))
    threading.Timer(0.05, lambda: writer.send(b"\x07")).start()
    for _ in range(5):
        hub.run_once()
        if called:
            break
    assert called == [7]
    hub.close()


def test_a_request_tells_whether_it_was_begun():
    assert celery_request.Request.time_start is None
    assert celery_request.Request.time_limits == (None, None)
    assert "self.time_start = time() - (monotonic() - time_accepted)" in inspect.getsource(
        celery_request.Request.on_accepted
    )


def test_celery_forgets_what_the_pool_does_not_have_before_it_cancels_the_consumers():
    source = inspect.getsource(celery_consumer.Consumer.on_close)
    assert "self.controller.semaphore.clear()" in source
    from celery.bootsteps import Blueprint

    assert inspect.getsource(Blueprint.close).index("self.on_close()") < inspect.getsource(Blueprint.close).index(
        "send_all"
    )
    stop = inspect.getsource(Blueprint.stop)
    assert stop.index("self.close(parent)") < stop.index("self.restart(")


def test_the_solo_pool_is_told_by_its_module():
    assert solo.TaskPool.__module__ == "celery.concurrency.solo"


class CountingApp(Celery):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.asked: list[object] = []

    def producer_or_acquire(self, producer=None):
        self.asked.append(producer)
        return super().producer_or_acquire(producer)


def test_a_group_takes_one_producer_for_all_its_tasks():
    app = CountingApp("seams", broker="memory://", set_as_current=False)

    @app.task(name="nothing")
    def nothing() -> None:
        pass

    group([nothing.s(), nothing.s(), nothing.s()], app=app).apply_async()
    assert [producer is None for producer in app.asked] == [True, False, False, False]
    app.asked.clear()
    nothing.delay()
    assert [producer is None for producer in app.asked] == [True]


def test_celery_keeps_the_headers_that_the_broker_reads():
    app = Celery("seams", broker="memory://", set_as_current=False)
    message = app.amqp.as_task_v2("id", "name", countdown=60, time_limit=5)
    assert {"task", "id", "eta", "timelimit", "retries"} <= set(message.headers)
    assert json.loads(json.dumps(message.body))[2].keys() >= {"callbacks", "errbacks", "chain", "chord"}
    assert Context is not None


def private_names(tree: ast.AST) -> tuple[set[str], set[str]]:
    """(private attributes that are read or set on anything, private names that the module itself makes)."""
    used, made = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            used.add(node.attr)
            if isinstance(node.value, ast.Name) and node.value.id == "self" and isinstance(node.ctx, ast.Store):
                made.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.startswith("_"):
            made.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            made.add(node.id)
    return used, made


def test_every_private_name_of_celery_and_kombu_that_is_used_is_listed():
    used, made = set(), set()
    for path in (ROOT / "serverless" / "broker").glob("*.py"):
        found = private_names(ast.parse(path.read_text()))
        used |= found[0]
        made |= found[1]
    # kombu's channel and message attributes that are its subclasses' business.
    foreign = used - made
    assert "_process_task" in foreign
    listed = " ".join(seam.path + " " + seam.used for seam in SEAMS)
    assert {name for name in foreign if name not in listed} == set()
