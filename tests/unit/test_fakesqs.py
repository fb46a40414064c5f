"""The fake SQS's own means: faults, latency, duplicates, counts."""

from __future__ import annotations

import json
import time
from urllib.request import Request, urlopen

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError

from serverless import fakesqs
from serverless.fakesqs import Fault


@pytest.fixture
def server():
    with fakesqs.running(seed=1) as made:
        yield made


@pytest.fixture
def sqs(server):
    config = Config(retries={"total_max_attempts": 1}, read_timeout=1, connect_timeout=1)
    return boto3.client(
        "sqs", endpoint_url=server.url, region_name="x", aws_access_key_id="a", aws_secret_access_key="b", config=config
    )


@pytest.fixture
def queue(sqs) -> str:
    return sqs.create_queue(QueueName="q")["QueueUrl"]


def send(sqs, queue, count: int = 1) -> dict:
    return sqs.send_message_batch(QueueUrl=queue, Entries=[{"Id": str(n), "MessageBody": str(n)} for n in range(count)])


def test_an_error_is_answered_as_often_as_asked(server, sqs, queue):
    server.faults = [Fault("SendMessageBatch", "error", 503, "ServiceUnavailable", times=2)]
    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            send(sqs, queue)
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
        assert caught.value.response["Error"]["Code"] == "ServiceUnavailable"
    assert send(sqs, queue)["Successful"]
    assert server.counts["messages_sent"] == 1


@pytest.mark.parametrize("kind", ["reset", "lost_answer"])
def test_a_connection_that_breaks_is_an_error_to_the_caller(server, sqs, queue, kind):
    server.faults = [Fault("SendMessageBatch", kind)]
    with pytest.raises(BotoCoreError):
        send(sqs, queue)
    assert server.counts["messages_sent"] == (0 if kind == "reset" else 1)


def test_an_answer_that_breaks_off_looks_like_an_empty_success_to_boto3(server, sqs, queue):
    """botocore takes half a JSON document for an empty one: whoever reads a batch's answer must count its entries."""
    server.faults = [Fault("SendMessageBatch", "cut")]
    answer = send(sqs, queue)
    assert (answer.get("Successful"), answer.get("Failed")) == (None, None)
    assert server.counts["messages_sent"] == 1


def test_a_black_hole_never_answers(server, sqs, queue):
    server.faults = [Fault("ReceiveMessage", "black_hole")]
    with pytest.raises(ReadTimeoutError):
        sqs.receive_message(QueueUrl=queue)
    assert "Messages" not in sqs.receive_message(QueueUrl=queue)


@pytest.mark.parametrize("sender_fault", [True, False])
def test_a_batch_may_fail_in_part(server, sqs, queue, sender_fault):
    server.faults = [Fault("SendMessageBatch", "partial", code="Broken", share=0.5, sender_fault=sender_fault)]
    answer = send(sqs, queue, 10)
    assert 0 < len(answer["Failed"]) < 10
    assert len(answer["Failed"]) + len(answer["Successful"]) == 10
    assert {(failed["Code"], failed["SenderFault"]) for failed in answer["Failed"]} == {("Broken", sender_fault)}
    assert server.counts["messages_sent"] == len(answer["Successful"])


def test_messages_may_come_twice(server, sqs, queue):
    server.duplicate_share = 1.0
    send(sqs, queue)
    first = sqs.receive_message(QueueUrl=queue)["Messages"]
    server.duplicate_share = 0.0
    second = sqs.receive_message(QueueUrl=queue)["Messages"]
    assert first[0]["MessageId"] == second[0]["MessageId"]
    assert first[0]["ReceiptHandle"] != second[0]["ReceiptHandle"]


def test_messages_may_come_in_any_order(server, sqs, queue):
    server.reorder = True
    send(sqs, queue, 10)
    bodies = [message["Body"] for message in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]]
    assert sorted(bodies) == [str(n) for n in range(10)] != bodies


def test_requests_are_counted_by_kind_and_billed_by_size(server, sqs, queue):
    server.counts.clear()
    sqs.send_message(QueueUrl=queue, MessageBody="x" * 65_537)
    sqs.receive_message(QueueUrl=queue)
    sqs.receive_message(QueueUrl=queue)
    assert {name: server.counts[name] for name in ("SendMessage", "ReceiveMessage", "requests")} == {
        "SendMessage": 1,
        "ReceiveMessage": 2,
        "requests": 3,
    }
    assert server.counts["billed_units"] == 4
    assert (server.counts["messages_received"], server.counts["empty_receives"]) == (1, 1)


def test_latency_is_added_to_each_request(server, sqs, queue):
    server.latency_seconds = 0.05
    began = time.monotonic()
    for _ in range(4):
        sqs.get_queue_url(QueueName="q")
    assert time.monotonic() - began >= 0.2


def test_a_fake_in_another_process_is_steered_over_http(server, sqs, queue):
    wanted = {"reset": True, "faults": [{"operation": "*", "kind": "error", "code": "Throttling", "status": 400}]}
    request = Request(f"{server.url}/_control", json.dumps(wanted).encode(), method="POST")
    with urlopen(request) as answer:
        assert json.load(answer) == {"counts": {}, "queues": {"q": {"visible": 0, "in_flight": 0, "delayed": 0}}}
    with pytest.raises(ClientError, match="Throttling"):
        sqs.list_queues()
