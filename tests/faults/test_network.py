"""SQS that answers with errors, half, late or not at all: work stands still for a while, and then all of it is done."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from celery import Celery, group

from serverless import aws
from serverless.broker import BatchPublishing, PublishError, bulk
from serverless.fakesqs import Fault
from tests.faults.messages import NAP, NOTE, envelope, put
from tests.faults.plant import Plant, Worker, plant
from tests.waiting import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.broker]

POOLS = ("prefork", "threads", "solo")
RECEIVE, SEND = "ReceiveMessage", "SendMessageBatch"
DELETE, RENEW = "DeleteMessageBatch", "ChangeMessageVisibilityBatch"

#: What SQS, or the way to it, does wrong. After the first ten it certainly has not acted, after the last two it has.
SHAPES = {
    "500 InternalFailure": Fault("", "error", 500, "InternalFailure"),
    "503 ServiceUnavailable": Fault("", "error", 503, "ServiceUnavailable"),
    "400 ThrottlingException": Fault("", "error", 400, "ThrottlingException"),
    "403 AccessDenied": Fault("", "error", 403, "AccessDenied"),
    "400 ExpiredToken": Fault("", "error", 400, "ExpiredToken"),
    "400 InvalidClientTokenId": Fault("", "error", 400, "InvalidClientTokenId"),
    "400 QueueDoesNotExist": Fault("", "error", 400, "AWS.SimpleQueueService.NonExistentQueue"),
    "connection reset": Fault("", "reset"),
    "partial failure": Fault("", "partial", code="InternalError", share=0.5),
    "cut answer": Fault("", "cut"),
    "lost answer": Fault("", "lost_answer"),
}
#: What a producer cannot expect to pass: it is told at once.
REFUSALS = ("403 AccessDenied", "400 QueueDoesNotExist")
#: After these a message may have been sent all the same.
UNCERTAIN = ("cut answer", "lost answer")


def strike(works: Plant, fault: Fault, *operations: str, times: int | None = 1) -> list[Fault]:
    """Let it befall the next calls of each operation; the faults, whose `hits` count."""
    made = [replace(fault, operation=operation, times=times, hits=0) for operation in operations]
    works.server.faults = [*works.server.faults, *made]
    return made


def ids_that_ran(works: Plant) -> Counter[str]:
    return Counter(trace.task_id for trace in works.traces())


# Workers -------------------------------------------------------------------------------------------------------------


class Crew(NamedTuple):
    """One worker on a plant of its own."""

    pool: str
    works: Plant
    worker: Worker
    children: list[int]


@pytest.fixture(scope="module")
def crews(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Crew]]:
    """A worker of each pool, all of them alive from the first fault of this file to the last."""
    with ExitStack() as stack:
        plants = [stack.enter_context(plant(tmp_path_factory.mktemp(pool))) for pool in POOLS]
        for made in plants:
            made.add_queue("work", prefetch=10)
        with ThreadPoolExecutor() as executor:
            workers = list(executor.map(lambda made, pool: made.start_worker(pool), plants, POOLS))
        yield [
            Crew(pool, made, worker, [child.pid for child in worker.pool()])
            for pool, made, worker in zip(POOLS, plants, workers, strict=True)
        ]


def work_through(crew: Crew, fault: Fault, uncertain: bool) -> str:
    """Let every call of a worker fail while there is work; what is wrong then, or nothing.

    uncertain: a dead letter may have been sent though the call failed.
    """
    works, worker = crew.works, crew.worker
    works.server.sqs.queues["work-dead"].ready.clear()
    faults = strike(works, fault, DELETE, times=2) + strike(works, fault, RECEIVE, RENEW, SEND)
    sent = [envelope(args=[number]) for number in range(8)] + [envelope(task=NAP, args=[1.3])]
    put(works, [*sent, "poison"])
    wait_for(lambda: all(each.hits == each.times for each in faults) or worker.ended(), "all faults", 20)
    sent += (late := [envelope(args=["late"]) for _ in range(4)])
    put(works, late)
    wait_for(lambda: works.depth() == 0 or worker.ended(), "the end of all work", 20)
    if worker.ended():
        return worker.text()[-3000:]
    ran = ids_that_ran(works)
    times = Counter(ran[each["headers"]["id"]] for each in sent)
    if set(times) != {1}:
        return f"tasks by how often they ran: {dict(times)}"
    letters = [letter["body"] for letter in works.dead_letters()]
    if letters != ["poison"] and not (uncertain and letters == ["poison"] * 2):
        return f"dead letters: {letters}"
    if [child.pid for child in worker.pool()] != crew.children:
        return "the pool's processes are not the same"
    if "the lease of message" in worker.text():
        return "a lease was given up"
    return ""


@pytest.mark.parametrize("shape", SHAPES)
def test_each_task_runs_once_though_every_call_of_the_worker_fails(crews, shape):
    with ThreadPoolExecutor() as executor:
        wrong = list(executor.map(lambda crew: work_through(crew, SHAPES[shape], shape in UNCERTAIN), crews))
    assert dict(zip(POOLS, wrong, strict=True)) == dict.fromkeys(POOLS, "")


def test_a_deletion_that_sqs_refuses_for_good_lets_the_task_run_again_rather_than_block(works):
    worker = works.start_worker()
    strike(works, Fault("", "partial", code="InvalidAddress", sender_fault=True), DELETE)
    put(works, [sent := envelope()])
    works.await_empty(seconds=20)
    assert ids_that_ran(works) == {sent["headers"]["id"]: 2}
    assert works.dead_letters() == []
    assert worker.text().count("SQS refuses delete_message_batch") == 1


def test_trouble_is_logged_once_a_spell_and_not_once_a_try(works):
    worker = works.start_worker()
    for spell, tries in enumerate((3, 2), 1):
        strike(works, SHAPES["503 ServiceUnavailable"], RECEIVE, DELETE, times=tries)
        put(works, [envelope() for _ in range(3)])
        ends = f"works again after {tries} failed tries"
        wait_for(lambda: worker.text().count(ends) == 2, f"the end of the {tries} failures of each call", 20)  # noqa: B023
        works.await_empty(seconds=20)
        for what in ('receiving from queue "work"', 'delete_message_batch on queue "work"'):
            assert worker.text().count(f"{what} failed and is tried again until it works: ServiceUnavailable") == spell
            assert worker.text().count(f"{what} works again") == spell
        assert worker.text().count("ServiceUnavailable") == 2 * spell


def test_an_answer_that_breaks_off_is_trouble_and_not_an_empty_queue(works):
    put(works, [sent := envelope()])
    strike(works, SHAPES["cut answer"], RECEIVE)
    worker = works.start_worker()
    works.await_empty(seconds=10)
    assert ids_that_ran(works) == {sent["headers"]["id"]: 1}
    assert worker.text().count('receiving from queue "work" failed and is tried again until it works: ') == 1
    assert "the answer broke off" in worker.text()


def liveness(works: Plant) -> dict[str, Any]:
    return json.loads((works.folder / "liveness").read_text())


def test_the_liveness_file_shows_an_outage_of_receives(works):
    works.options = {"liveness_file": str(works.folder / "liveness")}
    works.start_worker()
    wait_for((works.folder / "liveness").exists, "the liveness file", 10)
    first = liveness(works)
    wait_for(lambda: (liveness(works)["last_receive_at"] or 0) > time.time() - 1.5, "a receive", 10)
    wait_for(lambda: liveness(works)["last_receive_at"] > (first["last_receive_at"] or 0), "another receive", 10)
    (outage,) = strike(works, SHAPES["403 AccessDenied"], RECEIVE, times=None)
    wait_for(lambda: outage.hits >= 1, "the outage", 10)
    wait_for(lambda: liveness(works)["last_try_at"] > liveness(works)["last_receive_at"], "a report of a try", 10)
    before = liveness(works)
    wait_for(lambda: liveness(works)["last_try_at"] > before["last_try_at"], "another try", 10)
    assert liveness(works)["last_receive_at"] == before["last_receive_at"]
    assert before["pid"] == works.workers[0].process.pid
    assert (before["dead_pollers"], before["hung"], before["stopping"]) == ([], False, False)
    works.server.faults.clear()
    put(works, [envelope()])
    works.await_empty(seconds=20)
    wait_for(lambda: liveness(works)["last_receive_at"] > before["last_receive_at"], "a receive after the outage", 10)


def test_a_worker_whose_deletions_fail_stops_receiving_and_recovers(works):
    works.options = {"most_unacked": 10}
    worker = works.start_worker("threads")
    (outage,) = strike(works, SHAPES["500 InternalFailure"], DELETE, times=None)
    put(works, [envelope(args=[number]) for number in range(60)])
    wait_for(lambda: outage.hits and len(works.traces()) >= 10, "the outage, and some work", 10)
    # One that could still receive would have done it all by now, at a hundred a second and more.
    renewals = works.server.counts[RENEW]
    wait_for(lambda: works.server.counts[RENEW] >= renewals + 2, "renewals, a second later", 10)
    began = len(works.traces())
    # Ten unconfirmed, and what a poll brought that had begun before: two slots of ten.
    assert began <= 30
    works.server.faults.clear()
    works.await_empty(seconds=30)
    assert set(ids_that_ran(works).values()) == {1}
    assert len(works.traces()) == 60
    assert not worker.ended()


def test_credentials_that_are_rotated_in_their_file_are_read_anew(works):
    file = works.folder / "credentials"

    def write(key: str) -> None:
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n")

    write("FIRST")
    worker = works.start_worker(AWS_SHARED_CREDENTIALS_FILE=str(file), AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    put(works, [envelope(args=["before"])])
    works.await_empty(seconds=10)
    works.server.refused_keys = {"FIRST"}
    write("SECOND")
    put(works, [envelope(args=["after"]) for _ in range(20)])
    works.await_empty(seconds=20)
    assert [trace.argument for trace in works.traces()] == ["before", *["after"] * 20]
    assert not worker.ended()
    assert worker.text().count("ExpiredToken") <= 2


# Black holes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["prefork", *(pytest.param(pool, marks=pytest.mark.slow) for pool in POOLS[1:])])
def test_deletions_and_renewals_that_get_no_answer_are_tried_again(works, pool):
    works.options = {"client-config": {"read_timeout": 0.5}}
    worker = works.start_worker(pool)
    faults = strike(works, Fault("", "black_hole"), DELETE, RENEW)
    sent = [envelope(), envelope(task=NAP, args=[1.5])]
    put(works, sent)
    wait_for(lambda: all(each.hits for each in faults), "the black holes", 10)
    works.await_empty(seconds=15)
    assert ids_that_ran(works) == {each["headers"]["id"]: 1 for each in sent}
    assert works.dead_letters() == []
    assert not worker.ended()


@pytest.mark.slow
def test_a_long_poll_that_gets_no_answer_deafens_a_worker_for_its_wait_and_ten_seconds(works):
    worker = works.start_worker()
    (hole,) = strike(works, Fault("", "black_hole"), RECEIVE)
    wait_for(lambda: hole.hits, "the black hole", 10)
    fell = time.monotonic()
    put(works, [sent := envelope()])
    works.await_empty(seconds=20)
    assert time.monotonic() - fell < 1 + 10 + 3
    assert ids_that_ran(works) == {sent["headers"]["id"]: 1}
    assert worker.text().count("ReadTimeoutError") == 1
    assert not worker.ended()


# Producers -----------------------------------------------------------------------------------------------------------


class App(BatchPublishing, Celery):
    pass


@pytest.fixture
def producer(works, monkeypatch) -> Iterator[Callable[..., App]]:
    """Makes a producer in this process. options: of the transport."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    aws.forget_clients()
    made: list[App] = []

    def make(**options: Any) -> App:
        app = App("producer", set_as_current=False)
        app.conf.update(
            broker_url="sqs://",
            broker_transport="serverless.broker:Transport",
            broker_transport_options={
                "region": "us-east-1",
                "endpoint_url": works.server.url,
                "predefined_queues": works.queues,
                **options,
            },
            task_default_queue="work",
        )
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()
    aws.forget_clients()


def ids_in_queue(works: Plant, name: str = "work") -> list[str]:
    """Task ids of all messages that wait, sorted."""
    return sorted(json.loads(message.body)["headers"]["id"] for message in works.server.sqs.queues[name].ready)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape not in REFUSALS])
def test_a_producer_sends_again_until_sqs_takes_it(works, producer, shape):
    app = producer()
    faults = strike(works, SHAPES[shape], SEND, times=2)
    note = app.signature(NOTE)
    ids = [
        note.delay("single").id,
        *(each.id for each in group((note.clone([n]) for n in range(25)), app=app)().children),
    ]
    assert faults[0].hits == 2
    assert set(ids_in_queue(works)) == set(ids)
    if shape not in UNCERTAIN:
        assert works.server.counts["messages_sent"] == len(ids) == 26
    assert works.depth() == works.server.counts["messages_sent"]


@pytest.mark.parametrize("shape", REFUSALS)
def test_a_producer_is_told_at_once_what_sqs_refuses(works, producer, shape):
    app = producer()
    (fault,) = strike(works, SHAPES[shape], SEND)
    with pytest.raises(PublishError, match=r"1 of 1 messages were not sent: task lost to queue \"work\": \w+") as error:
        app.signature(NOTE).apply_async(task_id="lost")
    assert [each.task_id for each in error.value.unsent] == ["lost"]
    assert (works.depth(), fault.hits, works.server.counts[SEND]) == (0, 1, 1)
    app.signature(NOTE).apply_async(task_id="sent")
    assert ids_in_queue(works) == ["sent"]


def test_an_outage_longer_than_publish_seconds_is_reported_with_the_task_id(works, producer):
    app = producer(publish_seconds=1)
    strike(works, SHAPES["503 ServiceUnavailable"], SEND, times=None)
    began = time.monotonic()
    with pytest.raises(PublishError, match="ServiceUnavailable") as error:
        app.signature(NOTE).apply_async(task_id="lost")
    assert time.monotonic() - began < 10
    assert [(each.task_id, each.queue) for each in error.value.unsent] == [("lost", "work")]
    assert works.server.counts[SEND] >= 2


def test_a_producer_gives_up_on_a_black_hole_and_sends_again(works, producer):
    app = producer(**{"client-config": {"read_timeout": 0.5}})
    strike(works, Fault("", "black_hole"), SEND)
    app.signature(NOTE).apply_async(task_id="once")
    assert ids_in_queue(works) == ["once"]
    assert works.server.counts[SEND] == 2


def by_group(app: App, ids: list[str]) -> None:
    group((app.signature(NOTE, task_id=each) for each in ids), app=app).apply_async()


def in_bulk(app: App, ids: list[str]) -> None:
    with bulk(app):
        for each in ids:
            app.signature(NOTE).apply_async(task_id=each)


@pytest.mark.parametrize("send", [by_group, in_bulk])
def test_of_a_batch_that_failed_in_part_only_that_part_is_sent_again(works, producer, send):
    ids = [f"task-{number:03}" for number in range(95)]
    (fault,) = strike(works, SHAPES["partial failure"], SEND, times=12)
    send(producer(), ids)
    assert fault.hits == 12
    assert ids_in_queue(works) == ids
    assert works.server.counts["messages_sent"] == 95


@pytest.mark.parametrize("send", [by_group, in_bulk])
def test_what_sqs_refuses_of_a_batch_is_named_and_all_else_is_sent(works, producer, send):
    ids = [f"task-{number:03}" for number in range(95)]
    strike(works, Fault("", "partial", code="InvalidMessageContents", share=0.3, sender_fault=True), SEND, times=None)
    with pytest.raises(PublishError) as error:
        send(producer(), ids)
    unsent = [each.task_id for each in error.value.unsent]
    assert 0 < len(unsent) < 95
    assert sorted([*unsent, *ids_in_queue(works)]) == ids
    assert error.value.sent == works.server.counts["messages_sent"] == 95 - len(unsent)
    assert works.server.counts[SEND] == 10
    assert {each.reason for each in error.value.unsent} == {"InvalidMessageContents: A fault that the test asked for."}


def test_entries_that_keep_failing_are_named_when_publish_seconds_are_over(works, producer):
    strike(works, SHAPES["partial failure"], SEND, times=None)
    ids = [f"task-{number:03}" for number in range(40)]
    with pytest.raises(PublishError) as error:
        in_bulk(producer(publish_seconds=0.6), ids)
    unsent = [each.task_id for each in error.value.unsent]
    assert sorted([*unsent, *ids_in_queue(works)]) == ids
    assert error.value.sent == works.server.counts["messages_sent"] == 40 - len(unsent)
