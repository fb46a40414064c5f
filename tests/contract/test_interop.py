"""Messages of kombu's own transport and of ours are read by the other, so that a project can move while it runs."""

from __future__ import annotations

import json

import pytest
from celery import Celery
from kombu import Connection

from serverless import fakesqs
from serverless.fakesqs.queues import ACCOUNT_ID

OURS, STOCK = "serverless.broker:Transport", "sqs"
TEXT = 'ä "quoted" \\ 𝄞'


@pytest.fixture
def server(monkeypatch):
    with fakesqs.running() as made:
        made.sqs.create_queue("work")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "any")
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
        yield made


def app_on(server, transport: str, **options: object) -> Celery:
    app = Celery("interop", set_as_current=False)
    app.conf.update(
        broker_url="sqs://",
        broker_transport=transport,
        broker_transport_options={
            "region": "us-east-1",
            "endpoint_url": server.url,
            "wait_time_seconds": 0,
            "predefined_queues": {"work": {"url": f"{server.url}/{ACCOUNT_ID}/work"}},
            **options,
        },
        task_default_queue="work",
    )
    return app


def read(app: Celery):
    with app.connection_for_read() as connection:
        return connection.SimpleQueue(app.amqp.queues["work"]).get(timeout=5)


@pytest.mark.parametrize(
    ("sender", "reader"),
    [
        ((STOCK, {}), (OURS, {})),
        ((STOCK, {"sqs_base64_encoding": False}), (OURS, {})),
        ((OURS, {"sqs_base64_encoding": True}), (STOCK, {})),
        ((OURS, {}), (STOCK, {"sqs_base64_encoding": False})),
        ((OURS, {}), (OURS, {})),
        ((OURS, {"sqs_base64_encoding": True}), (OURS, {})),
    ],
)
@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_a_task_of_one_transport_is_read_by_the_other(server, sender, reader, compression, serializer):
    sending = app_on(server, sender[0], **({"endpoint_url": server.url} | sender[1]))
    result = sending.send_task("task", (TEXT,), {"n": [1, 2.5, None]}, compression=compression, serializer=serializer)
    reading = app_on(server, reader[0], **reader[1])
    reading.conf.accept_content = ["json", "pickle"]
    with reading.connection_for_read() as connection:
        consumer_queue = reading.amqp.queues["work"](connection.default_channel)
        message = consumer_queue.get(accept=["json", "pickle"])
        assert message.headers["id"] == result.id
        args, kwargs, _ = message.decode()
        assert (tuple(args), kwargs) == ((TEXT,), {"n": [1, 2.5, None]})
        message.ack()


def test_the_envelope_is_half_as_large_as_kombus_own(server):
    for transport in (OURS, STOCK):
        app_on(server, transport).send_task("task", ("x" * 10_000,))
    ours, stock = (len(message.body) for message in server.sqs.queues["work"].ready)
    assert ours < 0.65 * stock


def test_plain_kombu_gets_and_consumes_without_an_event_loop(server):
    options = app_on(server, OURS).conf.broker_transport_options
    with Connection("sqs://", transport=OURS, transport_options=options) as connection:
        simple = connection.SimpleQueue("work")
        for number in range(3):
            simple.put({"number": number})
        assert [simple.get(timeout=5).payload["number"] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(simple.Empty):
            simple.get(timeout=0.2)
        simple.close()
    assert json.dumps(server.sqs.counts(server.sqs.queues["work"])) == '{"visible": 3, "in_flight": 0, "delayed": 0}'
