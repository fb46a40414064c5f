"""What we rely on of SQS, over the fake SQS and over moto: one suite, so that neither strays."""

from __future__ import annotations

import threading
import time
import uuid

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from serverless import fakesqs


@pytest.fixture(scope="module")
def fake():
    with fakesqs.running() as server:
        yield server


@pytest.fixture(params=["fake", "moto"])
def sqs(request, fake, cloud_url):
    url = fake.url if request.param == "fake" else cloud_url
    return boto3.client(
        "sqs",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(retries={"total_max_attempts": 1}, read_timeout=40),
    )


@pytest.fixture
def queue(sqs) -> str:
    return sqs.create_queue(QueueName=f"q-{uuid.uuid4().hex[:12]}", Attributes={"VisibilityTimeout": "30"})["QueueUrl"]


def receive(sqs, queue: str, most: int = 10, wait: int = 0, **more) -> list[dict]:
    return sqs.receive_message(
        QueueUrl=queue, MaxNumberOfMessages=most, WaitTimeSeconds=wait, AttributeNames=["All"], **more
    ).get("Messages", [])


def error_code(call, **arguments) -> str:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"].rpartition(".")[2]


def test_a_message_comes_back_as_it_was_sent(sqs, queue):
    attributes = {"why": {"DataType": "String", "StringValue": "because"}}
    sent = sqs.send_message(QueueUrl=queue, MessageBody="hällo", MessageAttributes=attributes)
    (message,) = receive(sqs, queue, MessageAttributeNames=["All"])
    assert (message["Body"], message["MessageId"]) == ("hällo", sent["MessageId"])
    assert message["MD5OfBody"] == sent["MD5OfMessageBody"]
    assert message["MessageAttributes"]["why"]["StringValue"] == "because"
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"


def test_a_received_message_is_hidden_until_it_is_shown_or_deleted(sqs, queue):
    sqs.send_message(QueueUrl=queue, MessageBody="x")
    (message,) = receive(sqs, queue)
    assert receive(sqs, queue) == []
    sqs.change_message_visibility(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0)
    (again,) = receive(sqs, queue)
    assert again["Attributes"]["ApproximateReceiveCount"] == "2"
    sqs.delete_message(QueueUrl=queue, ReceiptHandle=again["ReceiptHandle"])
    assert receive(sqs, queue) == []


def test_a_hidden_message_comes_back_when_its_time_is_over(sqs, queue):
    sqs.send_message(QueueUrl=queue, MessageBody="x")
    assert receive(sqs, queue, VisibilityTimeout=1)
    began = time.monotonic()
    assert receive(sqs, queue, wait=5)
    assert 0.5 < time.monotonic() - began < 4


def test_a_long_poll_ends_when_a_message_arrives(sqs, queue):
    threading.Timer(0.3, lambda: sqs.send_message(QueueUrl=queue, MessageBody="x")).start()
    began = time.monotonic()
    assert receive(sqs, queue, wait=10)
    assert time.monotonic() - began < 5


def test_a_delayed_message_waits(sqs, queue):
    sqs.send_message(QueueUrl=queue, MessageBody="x", DelaySeconds=1)
    assert receive(sqs, queue) == []
    assert receive(sqs, queue, wait=5)


def test_batches_send_hide_and_delete(sqs, queue):
    entries = [{"Id": str(n), "MessageBody": f"m{n}"} for n in range(10)]
    assert len(sqs.send_message_batch(QueueUrl=queue, Entries=entries)["Successful"]) == 10
    messages = receive(sqs, queue)
    assert {message["Body"] for message in messages} == {f"m{n}" for n in range(10)}
    shown = [
        {"Id": str(n), "ReceiptHandle": m["ReceiptHandle"], "VisibilityTimeout": 0} for n, m in enumerate(messages)
    ]
    sqs.change_message_visibility_batch(QueueUrl=queue, Entries=shown)
    again = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(receive(sqs, queue))]
    assert len(sqs.delete_message_batch(QueueUrl=queue, Entries=again)["Successful"]) == 10
    assert receive(sqs, queue) == []


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([], "EmptyBatchRequest"),
        ([{"Id": str(n), "MessageBody": "x"} for n in range(11)], "TooManyEntriesInBatchRequest"),
        ([{"Id": "a", "MessageBody": "x"}] * 2, "BatchEntryIdsNotDistinct"),
        ([{"Id": "not allowed!", "MessageBody": "x"}], "InvalidBatchEntryId"),
        ([{"Id": str(n), "MessageBody": "x" * 600_000} for n in range(2)], "BatchRequestTooLong"),
    ],
)
def test_a_batch_that_breaks_a_rule_is_refused_whole(sqs, queue, entries, code):
    assert error_code(sqs.send_message_batch, QueueUrl=queue, Entries=entries) == code
    assert receive(sqs, queue) == []


def test_a_message_over_a_mebibyte_is_refused(sqs, queue):
    assert error_code(sqs.send_message, QueueUrl=queue, MessageBody="x" * (1 << 20) + "x") == "InvalidParameterValue"
    sqs.send_message(QueueUrl=queue, MessageBody="x" * (1 << 20))


def test_a_delay_beyond_fifteen_minutes_is_refused(sqs, queue):
    assert error_code(sqs.send_message, QueueUrl=queue, MessageBody="x", DelaySeconds=901) == "InvalidParameterValue"


def test_a_queue_that_is_not_there_is_said(sqs, queue):
    gone = queue + "-gone"
    assert error_code(sqs.receive_message, QueueUrl=gone) in ("NonExistentQueue", "QueueDoesNotExist")
    assert error_code(sqs.get_queue_url, QueueName="never-made") in ("NonExistentQueue", "QueueDoesNotExist")


def test_a_message_received_too_often_is_dead_lettered(sqs, queue):
    dead = sqs.create_queue(QueueName=f"d-{uuid.uuid4().hex[:12]}")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = f'{{"deadLetterTargetArn": "{arn}", "maxReceiveCount": "2"}}'
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"RedrivePolicy": policy})
    sqs.send_message(QueueUrl=queue, MessageBody="poison")
    for _ in range(2):
        assert len(receive(sqs, queue, VisibilityTimeout=0)) == 1
    assert receive(sqs, queue) == []
    (message,) = receive(sqs, dead)
    assert message["Body"] == "poison"


def test_a_fifo_group_waits_for_its_first_message(sqs):
    name = f"f-{uuid.uuid4().hex[:12]}.fifo"
    attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
    queue = sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    for body, group in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        sqs.send_message(QueueUrl=queue, MessageBody=body, MessageGroupId=group)
    (first,) = receive(sqs, queue, most=1)
    assert first["Body"] == "a1"
    assert [message["Body"] for message in receive(sqs, queue)] == ["b1"]
    sqs.delete_message(QueueUrl=queue, ReceiptHandle=first["ReceiptHandle"])
    assert [message["Body"] for message in receive(sqs, queue)] == ["a2"]


def test_a_fifo_queue_takes_the_same_message_once(sqs):
    name = f"f-{uuid.uuid4().hex[:12]}.fifo"
    queue = sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true"})["QueueUrl"]
    for _ in range(2):
        sqs.send_message(QueueUrl=queue, MessageBody="x", MessageGroupId="g", MessageDeduplicationId="same")
    assert len(receive(sqs, queue)) == 1


def test_depths_are_told(sqs, queue):
    for delay in (0, 0, 900):
        sqs.send_message(QueueUrl=queue, MessageBody="x", DelaySeconds=delay)
    receive(sqs, queue, most=1)
    found = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    kinds = ("", "NotVisible", "Delayed")
    assert [found[f"ApproximateNumberOfMessages{kind}"] for kind in kinds] == ["1", "1", "1"]
