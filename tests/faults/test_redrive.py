"""Dead letters sent back to real workers: they run; what fails again comes to an end; nothing is lost or doubled."""

from __future__ import annotations

import json
import threading
from collections import Counter

import pytest

from serverless import aws
from serverless.broker.redrive import Redriven, discard, peek, redrive
from serverless.broker.stats import stats, stats_of
from serverless.fakesqs import Fault
from tests.faults.messages import client, envelope, put
from tests.faults.plant import Plant, Worker
from tests.waiting import wait_for

MEBIBYTE = 1 << 20


@pytest.fixture
def works(works, monkeypatch):
    """The plant, with this process's clients pointed at its SQS."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_ENDPOINT_URL", works.server.url)
    aws.forget_clients()
    yield works
    aws.forget_clients()


def urls(works: Plant, queue: str = "work") -> tuple[str, str]:
    """Of its dead-letter queue, and its own."""
    return works.queues[queue]["dead_letter_url"], works.queues[queue]["url"]


def await_dead_letters(works: Plant, count: int, queue: str = "work") -> None:
    wait_for(lambda: stats(urls(works, queue)[0]).depth == count and works.depth(queue) == 0, "the dead letters", 30)


def worker_with(works: Plant, code: str, **more: object) -> Worker:
    """A worker whose release has further tasks. code: of a module of its own."""
    name = f"release{len(works.workers)}"
    (works.folder / f"{name}.py").write_text(f"import os, signal\nfrom tests.faults.app import app, trace\n{code}")
    return works.start_worker(arguments=(f"--include={name}",), PYTHONPATH=str(works.folder), **more)


def put_dead(works: Plant, *bodies: dict, count: int | None = None, **attributes: str) -> None:
    """Dead letters, as if a worker had moved them."""
    values = {"DeadLetterReason": "as asked", **({} if count is None else {"RedriveCount": str(count)}), **attributes}
    sqs = client(works.server.url)
    for body in bodies:
        sqs.send_message(
            QueueUrl=urls(works)[0],
            MessageBody=json.dumps(body),
            MessageAttributes={name: {"DataType": "String", "StringValue": text} for name, text in values.items()},
        )


def counts(works: Plant, queue: str = "work") -> list[str]:
    """RedriveCount of each dead letter."""
    return [each["attributes"]["RedriveCount"]["StringValue"] for each in works.dead_letters(queue)]


def test_a_task_that_was_not_deployed_runs_when_it_is_redriven_after_the_deploy(works):
    dead, target = urls(works)
    first = works.start_worker()
    put(works, [envelope(task="late", task_id="too-early"), "junk"])
    await_dead_letters(works, 2)
    letters = {letter.task_id: letter for letter in peek(dead).letters}
    assert letters["too-early"].error is None
    assert (letters["too-early"].queue, letters["too-early"].receives) == ("work", 1)
    assert "JSON" in letters[None].reason
    first.stop()
    worker_with(works, "@app.task(name='late', bind=True)\ndef late(self):\n    trace('ran', self.request.id)\n")
    result = redrive(dead, target)
    assert [(moved.task_id, moved.deleted) for moved in result.moved] == [("too-early", True)]
    assert [left.reason for left in result.left] == ["malformed"]
    wait_for(lambda: [trace.task_id for trace in works.traces()] == ["too-early"], "the task")
    works.await_empty()
    discard(dead, {result.left[0].message_id})
    assert stats(dead).total == 0


def test_a_task_that_killed_its_process_runs_once_it_is_mended(works):
    works.add_queue("fragile", prefetch=10, max_receives=1)
    dead, target = urls(works, "fragile")
    mended = works.folder / "mended"
    code = (
        "@app.task(name='fragile', bind=True)\ndef fragile(self):\n"
        f"    if not os.path.exists({str(mended)!r}):\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    trace('ran', self.request.id)\n"
    )
    worker_with(works, code)
    put(works, [envelope(task="fragile", task_id="f1")], queue="fragile")
    await_dead_letters(works, 1, "fragile")
    (letter,) = peek(dead).letters
    assert "its process died" in letter.reason
    mended.touch()
    assert len(redrive(dead, target, {"f1"}).moved) == 1
    wait_for(lambda: [trace.task_id for trace in works.traces()] == ["f1"], "the task")
    works.await_empty("fragile")
    assert stats(dead).total == 0


def test_a_task_that_always_kills_its_process_is_not_redriven_for_ever(works):
    works.add_queue("fatal", prefetch=10, max_receives=1)
    dead, target = urls(works, "fatal")
    works.start_worker(queues="fatal")
    put(works, [envelope(task="tests.faults.app.crash", task_id="c1", args=[100])], queue="fatal")
    for count in (1, 2, 3):
        await_dead_letters(works, 1, "fatal")
        (moved,) = redrive(dead, target, {"c1"}).moved
        assert moved.redrives == count
    await_dead_letters(works, 1, "fatal")
    assert counts(works, "fatal") == ["3"]
    (letter,) = peek(dead).letters
    assert (letter.redrives, letter.queue) == (3, "fatal")
    result = redrive(dead, target)
    assert (result.moved, [(left.task_id, left.reason) for left in result.left]) == ((), [("c1", "redriven_too_often")])
    assert len(works.traces("began")) == 4
    assert stats(dead).depth == 1


def test_the_count_of_redrives_is_never_crowded_out(works):
    """The broker adds its story where there are many attributes already, or hardly a byte of room."""
    dead, target = urls(works)
    own = {f"own{number}": "x" for number in range(8)}
    put_dead(works, envelope(task="nothing", task_id="crowded"), count=1, **own)
    large = envelope(task="nothing", task_id="large", args=["x"])
    large["body"] = large["body"].replace('"x"', '"' + "x" * (MEBIBYTE - len(json.dumps(large)) - 60) + '"')
    put_dead(works, large, count=1)
    result = redrive(dead, target)
    assert len(result.moved) == 2
    works.start_worker()
    await_dead_letters(works, 2)
    assert counts(works) == ["2", "2"]
    found = {letter.task_id: letter for letter in peek(dead).letters}
    assert len(found["crowded"].attributes) == 10
    assert set(found["large"].attributes) <= {"RedriveCount", "DeadLetterReason"}


def test_a_message_keeps_its_tenant_through_the_dead_letter_queue(works):
    dead, target = urls(works)
    client(works.server.url).send_message(
        QueueUrl=target, MessageBody=json.dumps(envelope(task="nothing")), MessageGroupId="acme"
    )
    works.start_worker()
    await_dead_letters(works, 1)
    (letter,) = peek(dead).letters
    assert letter.group == "acme"


def test_a_redrive_under_fire_runs_every_task_once(works):
    """Batches fail in part, and requests as a whole, while workers consume."""
    dead, target = urls(works)
    put_dead(works, *(envelope(args=[number]) for number in range(60)))
    works.start_worker()
    works.server.faults += [
        Fault("SendMessageBatch", "partial", share=0.5, times=3),
        Fault("SendMessageBatch", "error", 503, "ServiceUnavailable", times=2),
        Fault("DeleteMessageBatch", "partial", share=0.5, times=3),
        Fault("DeleteMessageBatch", "reset", times=2),
        Fault("ReceiveMessage", "error", 500, "InternalError", times=2),
    ]
    result = redrive(dead, target)
    assert len(result.moved) == 60
    assert (result.left, result.error) == ((), None)
    works.await_empty()
    assert Counter(trace.argument for trace in works.traces()) == Counter(map(str, range(60)))
    assert stats(dead).total == 0


def test_two_people_who_redrive_at_once_share_the_messages(works):
    dead, target = urls(works)
    put_dead(works, *(envelope(args=[number], task_id=f"t{number}") for number in range(150)))
    works.start_worker()
    works.server.latency_seconds = 0.02
    results: list[Redriven] = []
    people = [threading.Thread(target=lambda: results.append(redrive(dead, target))) for _ in range(2)]
    for person in people:
        person.start()
    for person in people:
        person.join(60)
    moved = [each.task_id for result in results for each in result.moved]
    assert sorted(moved) == sorted(f"t{number}" for number in range(150))
    assert all(result.moved for result in results)
    works.await_empty()
    assert Counter(trace.task_id for trace in works.traces()) == Counter(moved)
    assert stats(dead).total == 0


def test_a_redrive_that_dies_between_sending_and_deleting_doubles_but_loses_nothing(works):
    dead, target = urls(works)
    put_dead(works, *(envelope(args=[number]) for number in range(5)))
    works.server.faults.append(Fault("DeleteMessageBatch", "error", 403, "AccessDenied", times=1))
    result = redrive(dead, target)
    assert [moved.deleted for moved in result.moved] == [False] * 5
    for receipt in list(works.server.sqs.queues["work-dead"].hidden):  # as if its time were over
        client(works.server.url).change_message_visibility(QueueUrl=dead, ReceiptHandle=receipt, VisibilityTimeout=0)
    assert len(redrive(dead, target).moved) == 5
    works.start_worker()
    works.await_empty()
    assert Counter(trace.argument for trace in works.traces()) == {str(number): 2 for number in range(5)}


def test_figures_tell_what_workers_hold(works):
    dead, target = urls(works)
    works.start_worker(concurrency=1)
    put(works, [envelope(task="tests.faults.app.nap", args=[2, number]) for number in range(2)])
    wait_for(lambda: stats(target).in_flight == 2, "the receive")
    found = stats_of([target, dead])
    assert (found[target].depth, found[dead].total) == (0, 0)
