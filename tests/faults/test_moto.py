"""What matters most, once more on moto: an SQS that was not written beside the broker."""

from __future__ import annotations

import json
import secrets
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.faults.messages import NAP, NOTE, client, envelope
from tests.faults.plant import Plant, plant
from tests.waiting import wait_for

LINGER = "tests.faults.app.linger"


@pytest.fixture
def works(tmp_path: Path, cloud_url: str):
    """A plant whose queue `work` and its dead-letter queue `dead` are moto's."""
    sqs = client(cloud_url)
    name = f"work-{secrets.token_hex(4)}"
    dead = sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 3})
    url = sqs.create_queue(QueueName=name, Attributes={"RedrivePolicy": policy, "VisibilityTimeout": "30"})["QueueUrl"]
    with plant(tmp_path) as made:
        made.endpoint_url = cloud_url
        made.queues["work"] = {"url": url, "dead_letter_url": dead, "max_receives": 3, "prefetch": 10}
        made.options["lease_seconds"] = 2
        yield made
        made.close()
    for each in (url, dead):
        sqs.delete_queue(QueueUrl=each)


def put(works: Plant, bodies: list[Any]) -> None:
    for body in bodies:
        text = body if isinstance(body, str) else json.dumps(body)
        client(works.endpoint_url).send_message(QueueUrl=works.queues["work"]["url"], MessageBody=text)


def depths(works: Plant) -> tuple[int, int]:
    """(visible, in flight) messages of the queue."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    answer = client(works.endpoint_url).get_queue_attributes(QueueUrl=works.queues["work"]["url"], AttributeNames=names)
    visible, in_flight = (int(answer["Attributes"][name]) for name in names)
    return visible, in_flight


def dead_letters(works: Plant) -> list[dict[str, Any]]:
    answer = client(works.endpoint_url).receive_message(
        QueueUrl=works.queues["work"]["dead_letter_url"],
        MaxNumberOfMessages=10,
        MessageAttributeNames=["All"],
        VisibilityTimeout=0,
    )
    return answer.get("Messages", [])


def await_empty(works: Plant, seconds: float = 30) -> None:
    wait_for(lambda: depths(works) == (0, 0), "the end of all work", seconds)


def test_on_moto_every_task_runs_once(works):
    works.start_worker(concurrency=2)
    works.send("from celery import group\ngroup(note.s(n) for n in range(35)).apply_async()\nnote.delay(35)")
    wait_for(lambda: len(works.traces()) >= 36, "all tasks", 30)
    await_empty(works)
    assert sorted(int(trace.argument) for trace in works.traces()) == list(range(36))
    assert dead_letters(works) == []


def test_on_moto_a_task_longer_than_its_lease_runs_once(works):
    put(works, [envelope(task=NAP, args=[4])])
    works.start_worker("threads", concurrency=1)
    wait_for(lambda: works.traces("began"), "the beginning", 10)
    works.start_worker("threads", concurrency=1)
    wait_for(works.traces, "the end", 10)
    await_empty(works)
    assert len(works.traces("began")) == len(works.traces("ran")) == 1


def test_on_moto_a_warm_stop_gives_back_at_once_what_was_not_started(works):
    works.options["lease_seconds"] = 30
    put(works, [envelope(task=LINGER, args=[number]) for number in range(8)])
    worker = works.start_worker(concurrency=1, FAULT_LINGER="2.5")
    wait_for(lambda: works.traces("began"), "the beginning", 10)
    worker.tell(signal.SIGTERM)
    wait_for(lambda: depths(works) == (7, 1), "what was not started, at once", 2.5)
    assert worker.process.wait(10) == 0
    works.start_worker("threads", concurrency=2)
    await_empty(works)
    assert sorted(int(trace.argument) for trace in works.traces()) == list(range(8))
    assert len(works.traces("began")) == 8
    assert dead_letters(works) == []


def test_on_moto_poison_goes_to_the_dead_letter_queue_with_its_story(works):
    worker = works.start_worker(concurrency=1)
    put(works, ["junk", envelope(task="no.such.task"), envelope(task=NOTE, args=["healthy"])])
    wait_for(lambda: len(dead_letters(works)) == 2, "the dead letters", 15)
    await_empty(works)
    assert [trace.argument for trace in works.traces()] == ["healthy"]
    for letter in dead_letters(works):
        story = {name: value["StringValue"] for name, value in letter["MessageAttributes"].items()}
        assert story["DeadLetterQueue"] == "work"
        assert story["DeadLetterReceives"] == "1"
        assert story["DeadLetterReason"]
    assert not worker.ended()
