"""Publishing through Celery and kombu against the fake SQS: batches, what fails, what is delayed, what travels."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery, chord, group, signals
from kombu import Connection, Producer

from serverless import fakesqs
from serverless.broker import (
    BatchPublishing,
    DelayError,
    PublishError,
    RemoteControlError,
    UndeclaredQueueError,
    bulk,
)
from serverless.fakesqs import Fault
from serverless.fakesqs.queues import ACCOUNT_ID


@pytest.fixture
def server(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    with fakesqs.running(seed=3) as made:
        for name in ("work", "high", "low", "ordered.fifo"):
            made.sqs.create_queue(name)
        yield made


class App(BatchPublishing, Celery):
    pass


@pytest.fixture
def make_app(server):
    """An app on the fake SQS. options: transport options that differ."""
    made = []

    def make(**options) -> App:
        app = App("publishing", set_as_current=False)
        queues = {
            name: {"url": f"{server.url}/{ACCOUNT_ID}/{name}"} for name in ("work", "high", "low", "ordered.fifo")
        }
        app.conf.update(
            broker_url="sqs://",
            broker_transport="serverless.broker:Transport",
            broker_transport_options={
                "region": "us-east-1",
                "endpoint_url": server.url,
                "predefined_queues": queues,
                "publish_seconds": 0.1,
                **options,
            },
            task_default_queue="work",
            result_backend="cache+memory://",
        )

        @app.task(name="task", shared=False)
        def task(*arguments: object) -> None:
            pass

        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


@pytest.fixture
def app(make_app):
    return make_app()


def sent(server, queue: str = "work") -> list[dict]:
    """The envelopes in a queue, also those that are still delayed."""
    found = server.sqs.queues[queue]
    return [json.loads(message.body) for message in [*found.ready, *(entry[2] for entry in found.delayed)]]


def arguments(server, queue: str = "work") -> list:
    return [json.loads(envelope["body"])[0] for envelope in sent(server, queue)]


def test_a_task_is_one_request_and_its_envelope_is_plain_json(server, app):
    result = app.tasks["task"].delay("hällo")
    assert server.counts["requests"] == 1
    (envelope,) = sent(server)
    assert envelope["headers"]["id"] == result.id
    assert json.loads(envelope["body"]) == [
        ["hällo"],
        {},
        {"callbacks": None, "errbacks": None, "chain": None, "chord": None},
    ]


@pytest.mark.parametrize(
    ("send", "tasks"),
    [
        (lambda app: group(app.tasks["task"].s(n) for n in range(95)).apply_async(), 95),
        (lambda app: chord((app.tasks["task"].s(n) for n in range(95)), app=app)(app.tasks["task"].si()), 95),
        (lambda app: app.tasks["task"].chunks(((n,) for n in range(950)), 10).apply_async(), 95),
        (lambda app: app.tasks["task"].starmap([(n,) for n in range(95)]).apply_async(), 1),
    ],
    ids=["group", "chord", "chunks", "starmap"],
)
def test_many_tasks_travel_ten_to_a_request(server, app, send, tasks):
    send(app)
    assert server.counts["messages_sent"] == tasks
    assert server.counts["requests"] == -(-tasks // 10)


def test_whatever_is_enqueued_in_a_bulk_block_travels_together_when_it_ends(server, app):
    with bulk(app):
        for number in range(25):
            app.tasks["task"].delay(number)
        app.send_task("task", ("by name",))
        with app.bulk():
            app.tasks["task"].apply_async(("high",), queue="high")
        assert server.counts["requests"] == 0
    assert server.counts["requests"] == 4
    # Requests travel side by side, so their order is not that of the calls; SQS promises none.
    assert sorted(map(str, arguments(server))) == sorted(str([each]) for each in [*range(25), "by name"])
    assert arguments(server, "high") == [["high"]]
    app.tasks["task"].delay("after")
    assert server.counts["requests"] == 5


def enqueue_and_fail(app: App, tasks: int) -> None:
    with bulk(app):
        for number in range(tasks):
            app.tasks["task"].delay(number)
        raise LookupError


def test_an_error_in_a_bulk_block_sends_nothing(server, app):
    with pytest.raises(LookupError):
        enqueue_and_fail(app, 999)
    assert server.counts["requests"] == 0
    app.tasks["task"].delay(2)
    assert arguments(server) == [[2]]


def test_an_argument_that_is_not_json_fails_the_group_and_sends_nothing_of_it(server, app):
    with pytest.raises(Exception, match="not JSON serializable"):
        group(app.tasks["task"].s(object() if number == 30 else number) for number in range(60)).apply_async()
    assert server.counts["messages_sent"] == 0


def test_more_than_a_thousand_are_sent_along_the_way(server, app):
    with pytest.raises(LookupError):
        enqueue_and_fail(app, 1001)
    assert server.counts["messages_sent"] == 1000


def test_the_signals_of_a_batch_precede_its_sending_and_those_of_a_single_task_follow_it(server, app):
    seen: list[int] = []

    def published(**_: object) -> None:
        seen.append(server.counts["messages_sent"])

    signals.after_task_publish.connect(published)
    try:
        group(app.tasks["task"].s(n) for n in range(12)).apply_async()
        app.tasks["task"].delay()
    finally:
        signals.after_task_publish.disconnect(published)
    assert seen == [0] * 12 + [13]


def test_of_a_batch_that_fails_in_part_only_what_failed_is_sent_again(server, make_app):
    app = make_app(publish_seconds=20)
    server.faults = [Fault("SendMessageBatch", "partial", code="InternalError", share=0.4, times=2)]
    group(app.tasks["task"].s(n) for n in range(40)).apply_async()
    assert sorted(arguments(server)) == [[number] for number in range(40)]
    assert server.counts["messages_sent"] == 40
    assert server.counts["SendMessageBatch"] > 4


def test_what_sqs_refuses_for_good_is_reported_with_its_task_ids_and_all_else_is_sent(server, app):
    server.faults = [
        Fault("SendMessageBatch", "partial", code="InvalidMessageContents", share=0.3, sender_fault=True, times=None)
    ]
    signatures = [app.tasks["task"].s(number) for number in range(50)]
    results = [signature.freeze() for signature in signatures]
    with pytest.raises(PublishError) as caught:
        group(signatures).apply_async()
    failed = {unsent.task_id for unsent in caught.value.unsent}
    delivered = {envelope["headers"]["id"] for envelope in sent(server)}
    assert failed
    assert failed | delivered == {result.id for result in results}
    assert not failed & delivered
    assert caught.value.sent == len(delivered)
    assert all(unsent.reason.startswith("InvalidMessageContents") for unsent in caught.value.unsent)


def test_a_request_that_is_refused_as_a_whole_is_reported_and_not_repeated(server, app):
    server.faults = [Fault("SendMessageBatch", "error", status=403, code="AccessDenied", times=None)]
    with pytest.raises(PublishError, match=r"1 of 1 messages were not sent: task .* AccessDenied"):
        app.tasks["task"].delay()
    assert server.counts["requests"] == 1


def test_a_throttled_task_is_sent_when_the_throttling_ends(server, make_app):
    app = make_app(publish_seconds=20)
    server.faults = [Fault("SendMessageBatch", "error", status=400, code="ThrottlingException", times=2)]
    app.tasks["task"].delay(1)
    assert arguments(server) == [[1]]


def test_what_got_no_answer_is_sent_again_and_a_fifo_queue_keeps_it_to_once(server, make_app):
    app = make_app(publish_seconds=20)
    server.faults = [Fault("SendMessageBatch", "lost_answer", times=1)]
    app.tasks["task"].apply_async((1,), queue="ordered.fifo")
    assert server.counts["SendMessageBatch"] == 2
    assert arguments(server, "ordered.fifo") == [[1]]


def test_a_batch_stays_under_a_mebibyte(server, app):
    group(app.tasks["task"].s("x" * 300_000) for _ in range(10)).apply_async()
    assert server.counts["messages_sent"] == 10
    assert server.counts["requests"] == 4


def test_a_message_over_a_mebibyte_is_refused_with_the_remedy(server, app):
    with pytest.raises(PublishError, match="Set the transport option claim_check"):
        app.tasks["task"].delay("x" * (1 << 20))
    assert server.counts["requests"] == 0


@pytest.mark.parametrize("how", ["countdown", "eta"])
def test_a_delay_is_sqs_own(server, app, how):
    when = {"countdown": 600, "eta": datetime.now(UTC) + timedelta(seconds=600)}
    app.tasks["task"].apply_async((1,), **{how: when[how]})
    ((until, _, _),) = server.sqs.queues["work"].delayed
    assert 590 < until - time.monotonic() <= 601
    assert sent(server)[0]["headers"]["eta"]


def test_a_delay_over_fifteen_minutes_is_refused_with_the_remedy_unless_something_keeps_it(server, make_app):
    with pytest.raises(
        DelayError, match=r"task task to queue \"work\" is delayed by 3600 s; SQS delays by 900 at most"
    ):
        make_app().tasks["task"].apply_async(countdown=3600)
    kept = []
    app = make_app(
        delay_hook=lambda queue, envelope, seconds: kept.append((queue, envelope["headers"]["task"], seconds))
    )
    app.tasks["task"].apply_async(countdown=3600)
    ((queue, name, seconds),) = kept
    assert (queue, name) == ("work", "task")
    assert seconds == pytest.approx(3600, abs=5)
    assert server.counts["requests"] == 0


def test_a_retry_far_ahead_is_sent_with_the_longest_delay_since_celery_would_drop_it(server, app):
    """Its eta stays: the worker that receives it early hides it until then."""
    app.tasks["task"].apply_async((1,), countdown=3600, retries=1)
    ((until, _, _),) = server.sqs.queues["work"].delayed
    assert 890 < until - time.monotonic() <= 900


def test_a_message_that_cannot_be_prepared_names_those_that_are_given_up_with_it(server, app):
    signatures = [app.tasks["task"].s("x" * (1 << 20) if number == 3 else number) for number in range(6)]
    results = [signature.freeze() for signature in signatures]
    with pytest.raises(PublishError) as caught:
        group(signatures).apply_async()
    assert [unsent.task_id for unsent in caught.value.unsent] == [results[index].id for index in (3, 0, 1, 2)]
    assert caught.value.sent == 0
    assert server.counts["messages_sent"] == 0


@pytest.mark.parametrize("name", ["x.reply.celery.pidbox", "celeryev.1"])
def test_remote_control_and_events_are_refused_with_the_reason_and_leave_no_queue(make_app, server, name):
    for options in ({}, {"predefined_queues": {}, "create_missing_queues": True}):
        with (
            make_app(**options).connection_for_write() as connection,
            pytest.raises(RemoteControlError, match="broadcast"),
        ):
            connection.default_channel.queue_declare(name)
    assert len(server.sqs.queues) == 4


def test_a_body_that_s3_does_not_take_is_reported_with_its_task_id_also_in_a_batch(server, make_app, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    app = make_app(claim_check={"bucket": f"b{time.monotonic_ns()}"}, region=f"eu-{time.monotonic_ns()}")
    signature = app.tasks["task"].s("x" * 300_000)
    result = signature.freeze()
    for send in (signature.apply_async, lambda: group([app.tasks["task"].s(1), signature]).apply_async()):
        with pytest.raises(PublishError, match="its body cannot be put into s3://b") as caught:
            send()
        assert caught.value.unsent[0].task_id == result.id


@pytest.mark.parametrize("delay", [-1, "soon", True])
def test_a_delay_that_is_no_number_of_seconds_is_refused(app, delay):
    with pytest.raises(DelayError, match="must be a number of seconds"):
        app.tasks["task"].apply_async(DelaySeconds=delay)


def test_priority_picks_the_level(server, make_app):
    app = make_app(levels={"work": {"high": [7, 9], "work": [4, 6], "low": [1, 3]}})
    for priority in (9, 1, 5, 0, None):
        app.tasks["task"].apply_async((priority,), priority=priority)
    assert arguments(server, "high") == [[9]]
    assert arguments(server, "low") == [[1]]
    assert arguments(server) == [[5], [0], [None]]


def test_a_tenant_in_the_headers_becomes_the_message_group(server, make_app):
    app = make_app(group_header="tenant")
    app.tasks["task"].apply_async(headers={"tenant": "acme"})
    app.tasks["task"].apply_async(headers={"tenant": "ä b" * 100})
    app.tasks["task"].apply_async()
    groups = [message.group for message in server.sqs.queues["work"].ready]
    assert groups[0] == "acme"
    assert len(groups[1]) == 64
    assert groups[2] is None


def test_message_attributes_travel_beside_the_body(server, app):
    attributes = {"why": {"DataType": "String", "StringValue": "because"}}
    app.tasks["task"].apply_async(message_attributes=attributes)
    (message,) = server.sqs.queues["work"].ready
    assert message.attributes == attributes
    assert "message_attributes" not in json.loads(message.body)["properties"]


def test_a_queue_that_is_not_declared_is_refused_at_the_call(app):
    app.conf.task_create_missing_queues = True
    with pytest.raises(UndeclaredQueueError, match='queue "unknown" is not among predefined_queues'):
        app.tasks["task"].apply_async(queue="unknown")


def test_kombus_own_producer_batches(server, app):
    with Connection(
        "sqs://", transport="serverless.broker:Transport", transport_options=app.conf.broker_transport_options
    ) as connection:
        producer = Producer(connection)
        assert producer.supports_batch_publish
        with producer.batch(max_size=10):
            for number in range(20):
                producer.publish({"number": number}, routing_key="work")
        assert server.counts["requests"] == 2
    assert server.counts["messages_sent"] == 20


def test_bulk_needs_an_app_that_batches():
    with pytest.raises(TypeError, match="has not"), bulk(Celery("plain", set_as_current=False)):
        pass


def test_queues_that_are_not_predefined_are_asked_for_once(server, make_app):
    app = make_app(predefined_queues={}, queue_name_prefix="")
    for _ in range(2):
        app.tasks["task"].delay(1)
    assert server.counts["GetQueueUrl"] == 1
    assert arguments(server) == [[1], [1]]
    with pytest.raises(UndeclaredQueueError, match="create_missing_queues"):
        app.tasks["task"].apply_async(queue="not.there")
    creating = make_app(predefined_queues={}, create_missing_queues=True)
    creating.tasks["task"].apply_async((2,), queue="not.there")
    assert arguments(server, "not-there") == [[2]]


def test_producing_declares_queues_without_asking_sqs(server, app):
    with app.connection_for_write() as connection:
        queue = app.amqp.queues["work"](connection.default_channel)
        queue.declare()
        assert server.counts["requests"] == 0
        assert queue.queue_declare(passive=True).message_count == 0
        app.tasks["task"].delay()
        assert queue.queue_declare(passive=True).message_count == 1
        assert queue.purge() == 1
    assert sent(server) == []
