"""Looking into dead-letter queues, sending back, discarding, and the queues' figures: over the fake SQS and over moto."""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
import time
import uuid
from datetime import UTC, datetime, timedelta

import boto3
import pytest

from serverless import aws, fakesqs
from serverless.broker import letters, sweep
from serverless.broker.holdings import Holdings
from serverless.broker.incoming import Reader
from serverless.broker.options import Options
from serverless.broker.queue_calls import QueueAccessError, QueueError, QueueUnavailableError, UnknownQueueError
from serverless.broker.receiving import received
from serverless.broker.redrive import RedriveTargetError, discard, discard_all, peek, redrive
from serverless.broker.sqs import Sqs
from serverless.broker.stats import QueueStats, stats, stats_of
from serverless.broker.transport import Transport
from serverless.fakesqs import Fault
from serverless.local.cloud import environment
from tests.faults.messages import NOTE, envelope
from tests.faults.test_poison import KNOWN, random_bodies

MEBIBYTE = 1 << 20
STORY = {
    "DeadLetterReason": "as asked",
    "DeadLetterAt": "2026-01-02T03:04:05+00:00",
    "DeadLetterQueue": "default",
    "DeadLetterWorker": "17@host",
    "DeadLetterReceives": "5",
}


@pytest.fixture(scope="module")
def running():
    with fakesqs.running() as server:
        yield server


@pytest.fixture
def server(running):
    """The fake SQS, with nothing wrong."""
    yield running
    running.faults, running.duplicate_share, running.latency_seconds = [], 0.0, 0.0


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch):
    """The fakes have one server each: a short poll finds what there is. (tests/faults waits as on AWS.)"""
    monkeypatch.setattr(sweep, "_WAIT_SECONDS", 0)


@contextlib.contextmanager
def pointed_at(url, monkeypatch):
    """This process's clients, and one for the test, at the SQS there."""
    for name, value in environment(url).items():
        monkeypatch.setenv(name, value)
    aws.forget_clients()
    yield boto3.client(
        "sqs", endpoint_url=url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    aws.forget_clients()


@pytest.fixture(params=["fake", "moto"])
def sqs(request, server, cloud_url, monkeypatch):
    with pointed_at(server.url if request.param == "fake" else cloud_url, monkeypatch) as client:
        yield client


@pytest.fixture
def moto(cloud_url, monkeypatch):
    with pointed_at(cloud_url, monkeypatch) as client:
        yield client


@pytest.fixture
def fake(server, monkeypatch):
    with pointed_at(server.url, monkeypatch) as client:
        yield client


def make_queue(sqs, *, suffix: str = "", **attributes: str) -> str:
    if suffix == ".fifo":
        attributes["FifoQueue"] = "true"
    return sqs.create_queue(QueueName=f"q-{uuid.uuid4().hex[:12]}{suffix}", Attributes=attributes)["QueueUrl"]


def texts(**values: str) -> dict:
    return {name: {"DataType": "String", "StringValue": text} for name, text in values.items()}


def put(sqs, queue: str, *bodies: object, attributes: dict | None = None, **more: object) -> list[str]:
    """Send each, by default with the story of a dead letter; their message ids."""
    attributes = texts(**STORY) if attributes is None else attributes
    return [
        sqs.send_message(
            QueueUrl=queue,
            MessageBody=body if isinstance(body, str) else json.dumps(body),
            MessageAttributes=attributes,
            **more,
        )["MessageId"]
        for body in bodies
    ]


def tasks(*task_ids: str) -> list[dict]:
    return [envelope(task_id=task_id) for task_id in task_ids]


def take_all(sqs, queue: str) -> list[dict]:
    """Receive everything that is visible at once, and keep it."""
    found = []
    while True:
        answer = sqs.receive_message(
            QueueUrl=queue,
            MaxNumberOfMessages=10,
            VisibilityTimeout=600,
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
        ).get("Messages", [])
        if not answer:
            return found
        found += answer


def ids_in(sqs, queue: str) -> list[str]:
    return sorted(json.loads(message["Body"])["headers"]["id"] for message in take_all(sqs, queue))


# Figures -------------------------------------------------------------------------------------------------------------


def test_a_queues_figures_are_those_of_sqs(sqs):
    queue = make_queue(sqs)
    put(sqs, queue, "a", "b", "c")
    put(sqs, queue, "d", DelaySeconds=900)
    sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=1, VisibilityTimeout=600)
    assert stats(queue) == QueueStats(depth=2, in_flight=1, delayed=1)
    assert stats(queue).total == 4


def test_figures_of_many_queues_come_together_and_an_unknown_queue_is_an_error_among_them(sqs):
    queues = [make_queue(sqs) for _ in range(20)]
    put(sqs, queues[3], "a")
    gone = queues[0] + "-gone"
    began = time.monotonic()
    found = stats_of([gone, *queues, queues[3]], timeout_seconds=20)
    assert time.monotonic() - began < 15
    assert list(found) == [gone, *queues]
    assert [found[queue].depth for queue in queues] == [0, 0, 0, 1, *[0] * 16]
    assert isinstance(found[gone], UnknownQueueError)
    assert stats_of([]) == {}


def test_figures_do_not_wait_for_a_queue_that_does_not_answer(fake, server):
    queues = [make_queue(fake) for _ in range(5)]
    stats_of(queues)
    server.faults = [Fault("GetQueueAttributes", "black_hole", times=1)]
    began = time.monotonic()
    found = stats_of(queues, timeout_seconds=1)
    assert time.monotonic() - began < 2
    assert sum(isinstance(each, QueueStats) for each in found.values()) == 4
    (error,) = [each for each in found.values() if isinstance(each, QueueError)]
    assert isinstance(error, QueueUnavailableError)
    assert "no answer within 1 s" in str(error)


def test_figures_of_many_queues_are_asked_for_side_by_side(fake, server):
    queues = [make_queue(fake) for _ in range(16)]
    stats_of(queues)
    server.latency_seconds = 0.4
    began = time.monotonic()
    assert all(isinstance(each, QueueStats) for each in stats_of(queues, timeout_seconds=5).values())
    assert time.monotonic() - began < 3


def test_an_answer_that_broke_off_is_not_an_empty_queue(fake, server):
    queue = make_queue(fake)
    put(fake, queue, "a")
    server.faults = [Fault("GetQueueAttributes", "cut", times=1)]
    assert stats(queue).depth == 1
    server.faults = [Fault("ReceiveMessage", "cut", times=1)]
    listing = peek(queue)
    assert (listing.letters, listing.complete) == ((), False)


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault("*", "error", 403, "AccessDenied", times=None), QueueAccessError, "Grant sqs:GetQueueAttributes"),
        (Fault("*", "error", 503, "ServiceUnavailable", times=None), QueueUnavailableError, "Try again later"),
        (Fault("*", "reset", times=None), QueueUnavailableError, "Try again later"),
        (
            Fault("*", "error", 400, "InvalidSecurity", times=None),
            QueueError,
            "SQS refuses GetQueueAttributes: InvalidSec",
        ),
    ],
)
def test_an_error_names_the_queue_what_was_asked_and_the_remedy(fake, server, fault, kind, words):
    queue = make_queue(fake)
    server.faults = [fault]
    with pytest.raises(QueueError) as caught:
        stats(queue, seconds=1)
    assert type(caught.value) is kind
    assert (caught.value.queue_url, caught.value.action) == (queue, "GetQueueAttributes")
    assert queue.rpartition("/")[2] in str(caught.value)
    assert words in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301 - our own


def test_trouble_that_passes_is_not_an_error(fake, server):
    queue = make_queue(fake)
    server.faults = [Fault("GetQueueAttributes", "error", 503, "ServiceUnavailable", times=2)]
    assert stats(queue) == QueueStats(0, 0, 0)


# Looking -------------------------------------------------------------------------------------------------------------


def test_peeking_lists_each_message_once_and_leaves_all_visible(sqs):
    dead = make_queue(sqs)
    sent = put(sqs, dead, *tasks(*(f"t{number:02}" for number in range(25))))
    for _ in range(2):
        listing = peek(dead)
        assert sorted(letter.message_id for letter in listing.letters) == sorted(sent)
        assert sorted(letter.task_id for letter in listing.letters) == [f"t{number:02}" for number in range(25)]
        assert (listing.complete, listing.hidden) == (True, 0)
    assert len(take_all(sqs, dead)) == 25


def test_a_dead_letter_tells_its_story(sqs):
    dead = make_queue(sqs)
    body = json.dumps(envelope(task_id="t1", args=["a secret"]))
    (message_id,) = put(sqs, dead, body, attributes=texts(**STORY, RedriveCount="2", own="kept"), MessageGroupId="acme")
    (letter,) = peek(dead).letters
    assert (letter.message_id, letter.task, letter.task_id, letter.group) == (message_id, NOTE, "t1", "acme")
    assert (letter.reason, letter.queue, letter.worker, letter.receives) == ("as asked", "default", "17@host", 5)
    assert letter.dead_lettered_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (letter.redrives, letter.source_arn, letter.error, letter.claim_checked) == (2, None, None, False)
    assert len(body) < letter.size_bytes < len(body) + 400
    assert letter.body == body


def test_arguments_are_given_raw_but_not_shown(sqs):
    dead = make_queue(sqs)
    put(sqs, dead, envelope(args=["a secret"], argsrepr="('a secret',)"))
    (letter,) = peek(dead).letters
    assert letter.arguments() == (["a secret"], {})
    assert "secret" not in repr(letter)


def test_a_letter_knows_when_it_was_sent(moto):
    dead = make_queue(moto)
    put(moto, dead, *tasks("t1"))
    (letter,) = peek(dead).letters
    assert abs(letter.sent_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_message_that_sqs_moved_by_itself_has_no_story_and_keeps_its_count(sqs):
    queue, dead = make_queue(sqs), make_queue(sqs)
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "1"})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"RedrivePolicy": policy})
    for count in (1, 2):
        if count == 1:
            put(sqs, queue, *tasks("t1"), attributes=texts(own="x"))
        for _ in range(2):
            sqs.receive_message(QueueUrl=queue, VisibilityTimeout=0)
        (letter,) = peek(dead).letters
        assert (letter.task_id, letter.reason, letter.dead_lettered_at, letter.receives) == ("t1", None, None, None)
        assert letter.redrives == count - 1
        assert set(letter.attributes) == ({"own"} if count == 1 else {"own", "RedriveCount"})
        assert [moved.redrives for moved in redrive(dead, queue).moved] == [count]


def test_peeking_is_bounded_in_count(sqs):
    dead = make_queue(sqs)
    put(sqs, dead, *tasks(*(f"t{number}" for number in range(15))))
    listing = peek(dead, most=12)
    assert (len(listing.letters), listing.complete) == (12, False)
    assert len(take_all(sqs, dead)) == 15


def test_peeking_is_bounded_in_time(fake, server):
    dead = make_queue(fake)
    put(fake, dead, *tasks(*(f"t{number}" for number in range(100))))
    server.latency_seconds = 0.3
    began = time.monotonic()
    listing = peek(dead, most=100, seconds=1)
    assert time.monotonic() - began < 5
    assert 10 <= len(listing.letters) <= 40
    assert not listing.complete
    server.latency_seconds = 0
    assert len(take_all(fake, dead)) == 100


def test_a_message_that_comes_twice_is_listed_once(fake, server):
    dead = make_queue(fake)
    sent = put(fake, dead, *tasks(*(f"t{number}" for number in range(30))))
    server.duplicate_share = 0.4
    assert sorted(letter.message_id for letter in peek(dead, most=60, seconds=3).letters) == sorted(sent)


def test_what_cannot_be_shown_again_is_told(fake, server):
    dead = make_queue(fake)
    put(fake, dead, *tasks(*(f"t{number}" for number in range(10))))
    operation = "ChangeMessageVisibilityBatch"
    server.faults = [Fault(operation, "partial", share=0.5, times=None, code="Broken", sender_fault=True)]
    listing = peek(dead)
    assert len(listing.letters) == 10
    assert 0 < listing.hidden == stats(dead).in_flight < 10
    server.faults = [Fault(operation, "error", 403, "AccessDenied", times=None)]
    assert peek(dead).hidden == 10 - listing.hidden


def test_no_body_is_too_hostile_to_be_listed(sqs):
    dead = make_queue(sqs)
    bodies = ["junk", "[" * 100_000, "5", "null", '{"headers": 5}', "%%%", json.dumps(envelope(task_id="x" * 1000))]
    put(sqs, dead, *bodies, attributes={})
    listing = peek(dead)
    assert sorted(letter.body for letter in listing.letters) == sorted(bodies)
    assert sum(letter.error is not None for letter in listing.letters) == 6


def raw(body: str, **attributes: object) -> dict:
    return {"MessageId": "m", "ReceiptHandle": "r", "Body": body, "MessageAttributes": attributes}


def test_what_is_called_malformed_is_what_the_broker_refuses(fake):
    options = Options.read({"region": "us-east-1", "predefined_queues": {"work": {"url": make_queue(fake)}}})
    refused: list[str] = []
    channel = Transport.Channel.__new__(Transport.Channel)
    reader = Reader(
        Sqs(options),
        Holdings(),
        channel,
        give=lambda *_: None,
        refuse=lambda _, reason: refused.append(reason),
        hand_back=lambda *_: None,
    )
    compared = 0
    for poison in KNOWN + random_bodies(400):
        refused.clear()
        message = reader.parse(received(options.queues["work"], raw(poison.body), 60))
        letter = letters.read(raw(poison.body))
        letter.arguments()
        if letter.claim_checked or (message is not None and message.headers.get("compression")):
            continue
        if "compression" in poison.body and refused and refused[0].startswith("its body cannot be unpacked"):
            continue  # it is not unpacked to be shown
        if message is not None and "names no task" in (letter.error or ""):
            continue  # Celery refuses it then
        assert bool(letter.error) == bool(refused), (poison, letter.error, refused)
        compared += 1
    assert compared > 450


def test_an_envelope_in_base64_and_one_whose_body_lies_in_s3_are_read():
    whole = envelope(task_id="t1", args=[1])
    wrapped = letters.read(raw(base64.b64encode(json.dumps(whole).encode()).decode()))
    assert (wrapped.task_id, wrapped.error, wrapped.arguments()) == ("t1", None, ([1], {}))
    checked = letters.read(raw(json.dumps({**whole, "body": None, "claim-check": {"bucket": "b", "key": "k"}})))
    assert (checked.task_id, checked.error, checked.claim_checked, checked.arguments()) == ("t1", None, True, None)


def test_hostile_attributes_are_no_story():
    strange = texts(DeadLetterAt="tomorrow", DeadLetterReceives="-5", RedriveCount="9" * 400)
    strange["DeadLetterQueue"] = {"DataType": "Binary", "BinaryValue": b"\xff"}
    strange["DeadLetterReason"] = {"DataType": "String", "StringValue": "\ud800"}
    strange["DeadLetterWorker"] = None
    letter = letters.read({**raw("{}", **strange), "Attributes": {"SentTimestamp": "9" * 30}})
    assert (letter.dead_lettered_at, letter.receives, letter.redrives) == (None, 0, 0)
    assert (letter.queue, letter.worker, letter.sent_at) == (None, None, None)
    assert letters.read({}).error


# Sending back --------------------------------------------------------------------------------------------------------


def test_all_are_redriven_as_they_were_without_their_story(sqs):
    dead, target = make_queue(sqs), make_queue(sqs)
    own = {**texts(own="kept"), "binary": {"DataType": "Binary", "BinaryValue": b"\x00\xff"}}
    bodies = [json.dumps(each) for each in tasks(*(f"t{number:02}" for number in range(23)))]
    put(sqs, dead, *bodies, attributes={**texts(**STORY), **own})
    told: list = []
    result = redrive(dead, target, on_moved=told.append)
    assert (len(result.moved), result.left, result.missing, result.complete) == (23, (), frozenset(), True)
    assert told == list(result.moved)
    assert sorted(moved.task_id for moved in result.moved) == [f"t{number:02}" for number in range(23)]
    assert all(moved.deleted and moved.redrives == 1 and moved.task == NOTE for moved in result.moved)
    messages = take_all(sqs, target)
    assert sorted(message["Body"] for message in messages) == sorted(bodies)
    for message in messages:
        values = {name: value.get("StringValue") for name, value in message["MessageAttributes"].items()}
        assert values == {"own": "kept", "binary": None, "RedriveCount": "1"}
        assert message["MessageAttributes"]["binary"]["BinaryValue"] == b"\x00\xff"
    assert stats(dead).total == 0


def test_some_are_redriven_by_message_id_or_task_id_and_the_rest_stays_visible(sqs):
    dead, target = make_queue(sqs), make_queue(sqs)
    sent = put(sqs, dead, *tasks(*(f"t{number}" for number in range(12))))
    result = redrive(dead, target, {sent[3], "t7", "never-there"})
    assert sorted(moved.task_id for moved in result.moved) == ["t3", "t7"]
    assert (result.missing, result.complete, result.left) == (frozenset({"never-there"}), True, ())
    assert ids_in(sqs, target) == ["t3", "t7"]
    assert ids_in(sqs, dead) == sorted(f"t{number}" for number in range(12) if number not in (3, 7))


def test_nothing_is_asked_of_sqs_for_no_ids(fake, server):
    server.counts.clear()
    result = redrive(make_queue(fake), make_queue(fake), set())
    assert (result.moved, result.complete) == ((), True)
    assert server.counts["ReceiveMessage"] == 0


def test_one_text_is_no_set_of_ids(fake):
    with pytest.raises(TypeError, match="Put it into a set"):
        discard(make_queue(fake), "t1")


def test_a_message_that_was_redriven_too_often_is_left_unless_forced(sqs):
    dead, target = make_queue(sqs), make_queue(sqs)
    for count in range(2, 5):
        put(sqs, dead, *tasks(f"t{count}"), attributes=texts(**STORY, RedriveCount=str(count)))
    result = redrive(dead, target)
    assert [moved.task_id for moved in result.moved] == ["t2"]
    assert sorted((left.task_id, left.reason) for left in result.left) == [
        ("t3", "redriven_too_often"),
        ("t4", "redriven_too_often"),
    ]
    assert "redriven 3 times" in next(left.detail for left in result.left if left.task_id == "t3")
    assert [left.task_id for left in redrive(dead, target, {"t4"}, most_redrives=4).left] == ["t4"]
    assert len(redrive(dead, target, {"t4"}, most_redrives=5).moved) == 1
    (forced,) = redrive(dead, target, {"t3"}, force=True).moved
    assert forced.redrives == 4
    counts = {message["MessageAttributes"]["RedriveCount"]["StringValue"] for message in take_all(sqs, target)}
    assert counts == {"3", "4", "5"}


def test_a_malformed_message_is_left_unless_forced(sqs):
    dead, target = make_queue(sqs), make_queue(sqs)
    (message_id,) = put(sqs, dead, "{")
    put(sqs, dead, *tasks("t1"))
    result = redrive(dead, target)
    assert [moved.task_id for moved in result.moved] == ["t1"]
    ((left),) = result.left
    assert (left.message_id, left.task_id, left.reason) == (message_id, None, "malformed")
    assert "is not JSON" in left.detail
    assert [moved.message_id for moved in redrive(dead, target, {message_id}, force=True).moved] == [message_id]
    assert len(take_all(sqs, target)) == 2


def test_a_message_without_room_for_the_count_is_left_unless_forced(sqs):
    dead, target = make_queue(sqs), make_queue(sqs)
    crowded = texts(**{f"own{number}": "x" for number in range(10)})
    put(sqs, dead, *tasks("crowded"), attributes=crowded)
    large = json.dumps(envelope(task_id="large", args=["x"]))
    large = large.replace('\\"x\\"', '\\"' + "x" * (MEBIBYTE - len(large) - 5) + '\\"')
    put(sqs, dead, large, attributes={})
    result = redrive(dead, target)
    assert result.moved == ()
    assert sorted((left.task_id, left.reason) for left in result.left) == [("crowded", "no_room"), ("large", "no_room")]
    assert len(redrive(dead, target, force=True).moved) == 2
    found = {len(message.get("MessageAttributes", {})): message for message in take_all(sqs, target)}
    assert set(found) == {0, 10}
    assert set(found[10]["MessageAttributes"]) == set(crowded)


def test_messages_of_hundreds_of_kilobytes_go_in_several_requests(sqs):
    dead, target = make_queue(sqs), make_queue(sqs)
    put(sqs, dead, *(envelope(task_id=f"t{number}", args=["x" * 300_000]) for number in range(8)))
    assert len(redrive(dead, target).moved) == 8
    assert ids_in(sqs, target) == [f"t{number}" for number in range(8)]


def test_a_message_keeps_its_group_on_a_standard_queue(sqs):
    dead, target = make_queue(sqs), make_queue(sqs)
    put(sqs, dead, *tasks("t1"), MessageGroupId="acme")
    redrive(dead, target)
    assert [message["Attributes"]["MessageGroupId"] for message in take_all(sqs, target)] == ["acme"]


def test_a_fifo_group_is_redriven_in_order(sqs):
    dead, target = make_queue(sqs, suffix=".fifo"), make_queue(sqs, suffix=".fifo")
    for number in range(25):
        put(sqs, dead, *tasks(f"t{number:02}"), MessageGroupId="acme", MessageDeduplicationId=str(number))
    assert len(redrive(dead, target).moved) == 25
    messages = take_all(sqs, target)
    assert {message["Attributes"]["MessageGroupId"] for message in messages} == {"acme"}
    assert [json.loads(message["Body"])["headers"]["id"] for message in messages] == [
        f"t{number:02}" for number in range(len(messages))
    ]
    assert stats(target).total == 25


def test_a_redrive_stops_at_its_most_and_goes_on_when_called_again(sqs):
    dead, target = make_queue(sqs), make_queue(sqs)
    put(sqs, dead, *tasks(*(f"t{number}" for number in range(15))))
    result = redrive(dead, target, most=12)
    assert (len(result.moved), result.complete) == (12, False)
    assert stats(dead).depth == 3
    assert len(redrive(dead, target).moved) == 3
    assert len(redrive(target, dead, {f"t{number}" for number in range(15)}, most=4).moved) == 4
    assert (stats(target).depth, stats(dead).depth) == (11, 4)


def test_a_redrive_keeps_its_rate(sqs):
    dead, target = make_queue(sqs), make_queue(sqs)
    put(sqs, dead, *tasks(*(f"t{number}" for number in range(12))))
    times: list[float] = []
    redrive(dead, target, per_second=8, on_moved=lambda _: times.append(time.monotonic()))
    assert len(times) == 12
    assert 0.4 < times[-1] - times[0] < 3
    for start in times:
        assert sum(start <= each < start + 0.9 for each in times) <= 8


def test_a_redrive_ends_when_its_time_is_over_and_shows_the_rest(sqs):
    dead, target = make_queue(sqs), make_queue(sqs)
    put(sqs, dead, *tasks(*(f"t{number}" for number in range(10))))
    began = time.monotonic()
    result = redrive(dead, target, per_second=2, seconds=1.8)
    assert time.monotonic() - began < 4
    assert (len(result.moved), result.complete) == (4, False)
    assert stats(dead) == QueueStats(depth=6, in_flight=0, delayed=0)


def test_what_comes_back_meanwhile_is_left_for_the_next_time(moto):
    dead, target = make_queue(moto), make_queue(moto)
    put(moto, dead, *tasks("t1", "t2"))
    result = redrive(dead, target, on_moved=lambda moved: put(moto, dead, *tasks(f"{moved.task_id}-again")))
    assert sorted(moved.task_id for moved in result.moved) == ["t1", "t2"]
    assert result.complete
    assert ids_in(moto, dead) == ["t1-again", "t2-again"]


def test_a_caller_is_asked_before_messages_are_sent_and_may_stop_it(sqs):
    dead, target = make_queue(sqs), make_queue(sqs)
    put(sqs, dead, *tasks("t1", "t2"))
    asked: list = []

    def refuse(batch) -> None:
        asked.extend(letter.task_id for letter in batch)
        assert stats(target).total == 0
        raise LookupError("the database is away")

    with pytest.raises(LookupError):
        redrive(dead, target, on_sending=refuse)
    assert asked
    assert stats(target).total == 0
    assert stats(dead) == QueueStats(depth=2, in_flight=0, delayed=0)


def test_a_caller_that_fails_to_take_note_is_told_of_the_whole_batch(sqs):
    dead, target = make_queue(sqs), make_queue(sqs)
    put(sqs, dead, *tasks(*(f"t{number}" for number in range(8))))
    told: list[str] = []

    def note(moved) -> None:
        told.append(moved.task_id)
        raise LookupError(moved.task_id)

    with pytest.raises(LookupError):
        redrive(dead, target, on_moved=note)
    assert sorted(told) == ids_in(sqs, target)
    assert stats(dead).depth == 8 - len(told)


def test_a_target_that_is_not_there_is_said_and_everything_stays(sqs):
    dead = make_queue(sqs)
    put(sqs, dead, *tasks("t1"))
    with pytest.raises(UnknownQueueError) as caught:
        redrive(dead, dead + "-gone")
    assert caught.value.queue_url == dead + "-gone"
    with pytest.raises(UnknownQueueError):
        redrive(dead + "-gone", dead)
    assert stats(dead) == QueueStats(depth=1, in_flight=0, delayed=0)


def test_a_dead_letter_queue_is_not_redriven_into_itself(fake):
    dead = make_queue(fake)
    with pytest.raises(RedriveTargetError, match="Name the queue that they came from"):
        redrive(dead, dead.replace("127.0.0.1", "localhost"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"most": 0}, "most=0 must be 1 or more"),
        ({"per_second": 0}, "per_second=0 must be above 0"),
        ({"per_second": float("nan")}, "per_second=nan must be above 0"),
        ({"most_redrives": -1}, "most_redrives=-1 must be 0 or more"),
        ({"seconds": 43_200}, "seconds=43200 must be above 0 and up to 43140"),
    ],
)
def test_a_wrong_limit_is_refused_with_its_rule(fake, wrong, words):
    with pytest.raises(ValueError, match=words):
        redrive(make_queue(fake), make_queue(fake), **wrong)


def test_of_a_batch_only_the_entries_that_failed_are_sent_again(fake, server):
    dead, target = make_queue(fake), make_queue(fake)
    put(fake, dead, *tasks(*(f"t{number:02}" for number in range(30))))
    server.faults = [
        Fault("SendMessageBatch", "partial", share=0.5, times=2),
        Fault("DeleteMessageBatch", "partial", share=0.5, times=2),
    ]
    server.counts.clear()
    result = redrive(dead, target)
    assert (len(result.moved), result.left, result.complete) == (30, (), True)
    assert all(moved.deleted for moved in result.moved)
    assert server.counts["messages_sent"] == 30
    assert server.counts["SendMessageBatch"] > 3
    assert ids_in(fake, target) == [f"t{number:02}" for number in range(30)]
    assert stats(dead).total == 0


def test_entries_that_sqs_refuses_for_good_stay_and_are_told(fake, server):
    dead, target = make_queue(fake), make_queue(fake)
    put(fake, dead, *tasks(*(f"t{number}" for number in range(10))))
    server.faults = [
        Fault("SendMessageBatch", "partial", share=0.5, times=None, code="InvalidMessageContents", sender_fault=True)
    ]
    server.counts.clear()
    result = redrive(dead, target)
    assert server.counts["SendMessageBatch"] == 1
    assert {left.reason for left in result.left} == {"refused"}
    assert all(left.detail.startswith("InvalidMessageContents") for left in result.left)
    assert 0 < len(result.moved) < 10
    server.faults = []
    assert ids_in(fake, target) == sorted(moved.task_id for moved in result.moved)
    assert ids_in(fake, dead) == sorted(left.task_id for left in result.left)


def test_where_nothing_can_be_deleted_the_redrive_stops_at_once(fake, server):
    dead, target = make_queue(fake), make_queue(fake)
    put(fake, dead, *tasks(*(f"t{number}" for number in range(25))))
    server.faults = [Fault("DeleteMessageBatch", "error", 403, "AccessDenied", times=None)]
    result = redrive(dead, target)
    assert isinstance(result.error, QueueAccessError)
    assert "sqs:DeleteMessage" in str(result.error)
    assert [moved.deleted for moved in result.moved] == [False] * 10
    assert stats(target).depth == 10
    # What was sent stays hidden for its time, so that it is not sent again at once.
    assert stats(dead) == QueueStats(depth=15, in_flight=10, delayed=0)


@pytest.mark.parametrize("operation", ["SendMessage", "ReceiveMessage"])
def test_a_failure_after_some_were_moved_is_in_the_result(fake, server, operation):
    dead, target = make_queue(fake), make_queue(fake)
    put(fake, dead, *tasks(*(f"t{number}" for number in range(25))))
    name = operation if operation == "ReceiveMessage" else "SendMessageBatch"
    denied = Fault(name, "error", 403, "AccessDenied", times=None)
    result = redrive(dead, target, on_moved=lambda _: server.faults.append(denied))
    assert (len(result.moved), result.complete) == (10, False)
    assert isinstance(result.error, QueueAccessError)
    assert result.error.action == operation
    assert {left.reason for left in result.left} <= {"refused"}
    assert stats(dead).depth == 15


def test_an_answer_that_got_lost_may_double_a_message_but_loses_none(fake, server):
    dead, target = make_queue(fake), make_queue(fake)
    put(fake, dead, *tasks(*(f"t{number}" for number in range(10))))
    server.faults = [Fault("SendMessageBatch", "lost_answer", times=1)]
    assert len(redrive(dead, target).moved) == 10
    assert set(ids_in(fake, target)) == {f"t{number}" for number in range(10)}
    assert stats(dead).total == 0


def test_on_a_fifo_queue_neither_a_lost_answer_nor_a_failed_deletion_doubles_anything(fake, server):
    dead, target = make_queue(fake, suffix=".fifo"), make_queue(fake, suffix=".fifo")
    for number in range(5):
        put(fake, dead, *tasks(f"t{number}"), MessageGroupId="acme", MessageDeduplicationId=str(number))
    server.faults = [
        Fault("SendMessageBatch", "lost_answer", times=1),
        Fault("DeleteMessageBatch", "error", 403, "AccessDenied", times=1),
    ]
    assert [moved.deleted for moved in redrive(dead, target).moved] == [False] * 5
    for receipt in list(server.sqs.queue(dead).hidden):  # as if its time were over
        fake.change_message_visibility(QueueUrl=dead, ReceiptHandle=receipt, VisibilityTimeout=0)
    assert [moved.deleted for moved in redrive(dead, target).moved] == [True] * 5
    assert ids_in(fake, target) == [f"t{number}" for number in range(5)]
    assert stats(dead).total == 0


def test_a_dead_letter_that_sqs_hands_out_twice_is_moved_once(fake, server):
    dead, target = make_queue(fake), make_queue(fake)
    put(fake, dead, *tasks(*(f"t{number:02}" for number in range(30))))
    server.duplicate_share = 0.3
    result = redrive(dead, target, seconds=3)
    server.duplicate_share = 0
    assert sorted(moved.task_id for moved in result.moved) == [f"t{number:02}" for number in range(30)]
    assert ids_in(fake, target) == [f"t{number:02}" for number in range(30)]
    assert stats(dead).total == 0


# Discarding ----------------------------------------------------------------------------------------------------------


def test_some_are_discarded_and_the_rest_stays_visible(sqs):
    dead = make_queue(sqs)
    sent = put(sqs, dead, *tasks(*(f"t{number}" for number in range(12))))
    put(sqs, dead, "junk")
    result = discard(dead, {sent[0], "t5", "never-there"})
    assert sorted(each.task_id for each in result.discarded) == ["t0", "t5"]
    assert (result.missing, result.complete) == (frozenset({"never-there"}), True)
    assert stats(dead) == QueueStats(depth=11, in_flight=0, delayed=0)


def test_all_are_discarded_malformed_ones_included(sqs):
    dead = make_queue(sqs)
    put(sqs, dead, "junk", *tasks(*(f"t{number}" for number in range(22))))
    first = discard_all(dead, most=5)
    assert (len(first.discarded), first.complete) == (5, False)
    result = discard_all(dead)
    assert (len(result.discarded), result.complete, result.left) == (18, True, ())
    assert stats(dead).total == 0


def test_what_is_sent_meanwhile_is_not_discarded(moto):
    dead = make_queue(moto)
    put(moto, dead, *tasks("t1", "t2"))
    result = discard_all(dead, on_discarding=lambda batch: put(moto, dead, *tasks("new")))
    assert sorted(each.task_id for each in result.discarded) == ["t1", "t2"]
    assert set(ids_in(moto, dead)) == {"new"}


def test_a_caller_is_asked_before_messages_are_deleted_and_may_stop_it(sqs):
    dead = make_queue(sqs)
    put(sqs, dead, *tasks("t1", "t2"))

    def refuse(batch) -> None:
        raise LookupError("the database is away")

    with pytest.raises(LookupError):
        discard_all(dead, on_discarding=refuse)
    assert stats(dead) == QueueStats(depth=2, in_flight=0, delayed=0)


def test_what_sqs_does_not_delete_is_told(fake, server):
    dead = make_queue(fake)
    put(fake, dead, *tasks(*(f"t{number}" for number in range(10))))
    server.faults = [Fault("DeleteMessageBatch", "partial", share=0.5, times=None, code="Broken", sender_fault=True)]
    result = discard_all(dead)
    assert 0 < len(result.discarded) < 10
    assert {left.reason for left in result.left} == {"failed"}
    assert len(result.discarded) + len(result.left) == 10
    server.faults = [Fault("DeleteMessageBatch", "error", 403, "AccessDenied", times=None)]
    put(fake, dead, *tasks("t1"))
    with pytest.raises(QueueAccessError):
        discard_all(dead)
