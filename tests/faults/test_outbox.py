"""The outbox with real processes: what is killed between commit and publish loses nothing and invents nothing."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from serverless import fakesqs
from tests.faults.shop import Shop, open_shop
from tests.waiting import wait_for

TASKS = """
from celery import shared_task
from django.contrib.auth.models import Group
from django.db import transaction


@shared_task
def ship(order):
    Group.objects.create(name=f"shipped {order}")


@shared_task(bind=True)
def stubborn(self, countdown):
    with transaction.atomic():
        Group.objects.create(name=f"try {self.request.retries}")
        if self.request.retries < 2:
            raise self.retry(countdown=countdown)
"""


@pytest.fixture
def shop(tmp_path: Path, stack_database_url: str) -> Iterator[Shop]:
    with open_shop(tmp_path, stack_database_url, TASKS) as made:
        yield made


def test_a_process_that_ends_between_commit_and_publish_loses_nothing(shop):
    done = shop.run(
        "with transaction.atomic():\n"
        "    transaction.on_commit(lambda: os._exit(9))\n"
        "    for order in range(25): ship.delay(order)",
        check=False,
    )
    assert done.returncode == 9
    assert shop.server.counts["messages_sent"] == 0
    shop.keep_house()
    assert sorted(map(int, shop.orders())) == list(range(25))
    shop.keep_house()
    assert shop.server.counts["messages_sent"] == 25


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_what_was_committed_is_published_and_what_was_rolled_back_is_not(shop, seed):
    code = """
for order in range(100_000):
    try:
        with transaction.atomic():
            Group.objects.create(name=f"order {order}")
            ship.delay(order)
            if order % 3 == 2:
                raise LookupError
    except LookupError:
        pass
"""
    process = shop.start_code(code)
    enough = random.Random(seed).randrange(5, 60)
    wait_for(lambda: shop.server.counts["messages_sent"] >= enough, "some orders")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    shop.keep_house()
    committed = shop.ask("sorted(g.name for g in Group.objects.filter(name__startswith='order '))")
    assert len(committed) >= enough
    assert {f"order {order}" for order in shop.orders()} == set(committed)


def test_a_view_with_ten_tasks_is_one_request_to_sqs(shop):
    shop.run("with transaction.atomic():\n    [ship.delay(order) for order in range(10)]")
    assert shop.server.counts["requests"] == 1


def test_sqs_out_of_order_fails_no_caller_and_loses_nothing(shop):
    shop.server.faults = [fakesqs.Fault("SendMessageBatch", "error", 403, "AccessDenied", times=None)]
    shop.run("ship.delay(1); ship.delay(2)")
    shop.server.faults = []
    shop.keep_house()
    assert sorted(shop.orders()) == ["1", "2"]


def test_a_run_that_can_never_be_sent_holds_up_no_other(shop):
    shop.run(
        "from tasks.runtime import publishing\n"
        "publishing.publish, real = (lambda runs: 0), publishing.publish\n"
        "for order in range(3): ship.delay(order)\n"
        "run = Run.objects.order_by('created_at')[1]\n"
        "Run.objects.filter(pk=run.pk).update(message=run.message.replace('\"default\"', '\"nowhere\"'))"
    )
    shop.keep_house()
    assert sorted(shop.orders()) == ["0", "2"]
    assert shop.ask("sorted(Run.objects.values_list('state', flat=True))") == ["pending", "queued", "queued"]


@pytest.mark.parametrize("countdown", [0, 1])
def test_a_retry_survives_the_rollback_that_its_exception_causes(shop, countdown):
    shop.start_worker()
    shop.run(f"stubborn.delay({countdown})")
    wait_for(lambda: shop.ask("list(Group.objects.values_list('name', flat=True))"), "the last try", 40)
    assert shop.ask("list(Group.objects.values_list('name', flat=True))") == ["try 2"]


def test_a_retry_far_ahead_waits_in_the_database_and_not_in_a_queue(shop):
    shop.start_worker()
    shop.run("stubborn.delay(7200)")
    shop.await_empty(40)
    run, ahead = shop.ask("[(r.state, (r.not_before - r.created_at).total_seconds()) for r in Run.objects.all()][0]")
    assert run == "pending"
    assert 7190 < ahead < 7260
    assert shop.ask("Group.objects.count()") == 0
