"""What becomes of runs that no worker can work on, or that must not be worked on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.messages import client, envelope
from tests.faults.shop import Shop, open_shop
from tests.waiting import wait_for

pytestmark = pytest.mark.faults

TASKS = """
import os

from celery import shared_task
from celery.exceptions import Reject

from tests.faults.messages import client, envelope
from django_app.ledger.models import Attempt
from tests.faults.shop import trace


@shared_task(bind=True)
def note(self, argument=""):
    trace("ran", self.request.id, argument)
    return argument


@shared_task(bind=True)
def reject(self, password="", times=1000):
    if len(Attempt.objects.filter(run__task=self.name)) < times:
        raise Reject("as asked", requeue=False)
    trace("ran", self.request.id, password)


@shared_task
def failed(request, exc, traceback):
    trace("errback", request.id, type(exc).__name__)


if os.environ.get("SHOP_RELEASE") == "2":

    @shared_task(bind=True)
    def of_the_next_release(self):
        trace("ran", self.request.id)
"""


@pytest.fixture
def shop(tmp_path: Path, stack_database_url: str) -> Iterator[Shop]:
    with open_shop(tmp_path, stack_database_url, TASKS) as made:
        yield made


def test_a_task_of_the_next_release_waits_for_a_worker_that_knows_it(shop):
    old = shop.start_worker()
    shop.run("of_the_next_release.delay()", SHOP_RELEASE="2")
    wait_for(lambda: "is unknown to this worker" in old.text(), "the old worker's word", 20)
    assert not shop.queue("default-dead").ready
    shop.start_worker(SHOP_RELEASE="2")
    old.kill()
    shop.await_empty(40)
    assert len(shop.traces()) == 1
    assert shop.ask("Run.objects.get().state") == "succeeded"


def test_a_task_that_rejects_its_message_ends_as_dead_and_fails_its_chord(shop):
    shop.start_worker()
    shop.run("chord([note.s(1), reject.s()], note.s().on_error(failed.s()))()")
    wait_for(lambda: shop.traces("errback"), "the chord's end", 30)
    shop.await_empty()
    assert sorted(shop.ask("list(Run.objects.values_list('task', 'state'))")) == [
        ["shop.tasks.note", "failed"],
        ["shop.tasks.note", "succeeded"],
        ["shop.tasks.reject", "dead"],
    ] or shop.ask("Run.objects.filter(task='shop.tasks.failed').exists()")
    [letter] = shop.queue("default-dead").ready
    assert "as asked" in letter.attributes["DeadLetterReason"]["StringValue"]


def test_a_message_that_nobody_recorded_gets_its_run_when_it_is_claimed(shop):
    shop.start_worker()
    body = envelope(task="shop.tasks.note", args=["elsewhere"], task_id="sent-by-somebody")
    client(shop.server.url).send_message(
        QueueUrl=shop.environment["QUEUE_URL_PREFIX"] + "default", MessageBody=json.dumps(body)
    )
    wait_for(shop.traces, "the task", 30)
    shop.await_empty()
    assert shop.ask("list(Run.objects.values_list('pk', 'state', 'queue'))") == [
        ["sent-by-somebody", "succeeded", "default"]
    ]


def test_a_run_that_is_revoked_before_it_begins_does_not_run(shop):
    shop.run("r = note.delay(1)\nfrom tasks.runtime import reports\nassert reports.revoke_runs([r.id]) == [r.id]")
    shop.start_worker()
    shop.await_empty()
    assert shop.traces() == []
    assert shop.ask("Run.objects.get().state") == "revoked"


def test_what_has_expired_does_not_run_and_ends_as_expired(shop):
    shop.run("note.apply_async((1,), expires=0.01); time.sleep(0.05)")
    shop.start_worker()
    shop.await_empty()
    assert shop.traces() == []
    assert shop.ask("Run.objects.get().state") == "expired"


def test_a_paused_task_waits_and_runs_when_it_is_resumed(shop):
    shop.run(
        "from django_app.ledger import parking\nparking.pause('task:shop.tasks.note', 'somebody', 'why')\nnote.delay(1)"
    )
    shop.start_worker()
    shop.await_empty()
    assert shop.traces() == []
    assert shop.ask("[(r.state, r.parked_for) for r in Run.objects.all()]") == [["waiting", "paused"]]
    shop.run(
        "from django_app.ledger import parking\nfrom tasks.runtime import publishing\n"
        "assert parking.resume('task:shop.tasks.note')\npublishing.publish(parking.release_due(10))"
    )
    wait_for(shop.traces, "the resumed run", 30)


def test_a_dead_letter_is_shown_without_its_secrets_and_redriven_as_a_new_run(shop):
    worker = shop.start_worker()
    shop.run("reject.delay(password='hunter2', times=1)")
    wait_for(lambda: shop.queue("default-dead").ready, "the dead letter", 30)
    shop.await_empty()
    shown = shop.ask(
        "[[l.task, l.state, l.arguments] for l in __import__('tasks.runtime.dead_letters', fromlist=['x'])"
        ".peek('default').letters]"
    )
    assert shown == [["shop.tasks.reject", "dead", '{"args": [], "kwargs": {"password": "[redacted]", "times": 1}}']]
    done = shop.run(
        "from tasks.runtime import dead_letters\n"
        "done = dead_letters.redrive('default', by='somebody')\nprint(len(done.moved), len(done.left))"
    )
    assert done.stdout.split()[-2:] == ["1", "0"]
    wait_for(shop.traces, "the retry", 30)
    assert shop.traces()[0].argument == "hunter2"
    assert not shop.queue("default-dead").ready
    states = shop.ask("sorted(Run.objects.values_list('state', 'retry_of'))")
    assert [state for state, _ in states] == ["dead", "succeeded"]
    assert not worker.ended()


def test_a_discarded_dead_letter_ends_its_run(shop):
    shop.run("r = reject.delay()")
    [message] = shop.queue().ready
    shop.queue("default-dead").ready.append(message)
    shop.queue().ready.clear()
    done = shop.run("from tasks.runtime import dead_letters\nprint(dead_letters.discard('default', by='somebody'))")
    assert "discarded" in done.stdout
    assert shop.ask("[(r.state, r.error) for r in Run.objects.all()]") == [
        ["dead", "billiard.exceptions.WorkerLostError: discarded by somebody"]
    ]
