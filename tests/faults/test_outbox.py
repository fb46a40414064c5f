"""The outbox with real processes: what is killed between commit and publish loses nothing and invents nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from serverless import fakesqs
from serverless.fakesqs import Server
from serverless.fakesqs.queues import ACCOUNT_ID
from tasks.topology import TOPOLOGY
from tests.conftest import ROOT
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


@dataclass
class Shop:
    """A project of a team's own on our machinery, with a database and a fake SQS of its own."""

    server: Server
    environment: dict[str, str]

    def run(self, code: str) -> subprocess.CompletedProcess[str]:
        prelude = (
            "import django; django.setup()\nimport os, sys\nfrom django.db import transaction\n"
            "from django.contrib.auth.models import Group\nfrom django_app.ledger.models import Run\n"
            "from shop.tasks import ship, stubborn\n"
        )
        return subprocess.run(
            [sys.executable, "-c", prelude + code],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=self.environment, start_new_session=True)

    def ask(self, expression: str) -> object:
        done = self.run(f"import json; print(json.dumps({expression}))")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def keep_house(self) -> None:
        """One round, as if the minute were over for which whoever recorded a run has it to himself."""
        done = self.run(
            "from django.utils import timezone\nfrom django.core.management import call_command\n"
            "Run.objects.filter(state='pending').update(publish_claimed_until=timezone.now())\n"
            "call_command('housekeeping')"
        )
        assert done.returncode == 0, done.stderr

    def orders(self) -> list[str]:
        """What the messages in the queue are about."""
        return [str(json.loads(json.loads(m.body)["body"])[0][0]) for m in self.server.sqs.queues["s-default"].ready]


@pytest.fixture
def shop(tmp_path: Path, stack_database_url: str) -> Iterator[Shop]:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tasks.py").write_text(TASKS)
    (tmp_path / "shop_settings.py").write_text(
        "from django_app.settings import *  # noqa: F403\n\nINSTALLED_APPS = [*INSTALLED_APPS, 'shop']  # noqa: F405\n"
    )
    with fakesqs.running() as server:
        for queue in TOPOLOGY.queues.values():
            for name in (queue.name, queue.dead_letter_name):
                server.sqs.create_queue(f"s-{name}")
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "shop_settings",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
            "DATABASE_URL": stack_database_url,
            "BROKER_URL": "sqs://",
            "QUEUE_URL_PREFIX": f"{server.url}/{ACCOUNT_ID}/s-",
            "QUEUE_WAIT_SECONDS": "1",
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
        }
        made = Shop(server, environment)
        migrated = subprocess.run(
            [sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=environment, capture_output=True, check=False
        )
        assert migrated.returncode == 0, migrated.stderr
        made.run("Run.objects.all().delete(); Group.objects.all().delete()")
        yield made


def test_a_process_that_ends_between_commit_and_publish_loses_nothing(shop):
    done = shop.run(
        "with transaction.atomic():\n"
        "    transaction.on_commit(lambda: os._exit(9))\n"
        "    for order in range(25): ship.delay(order)"
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
    prelude = "import django; django.setup()\nfrom django.db import transaction\n"
    prelude += "from django.contrib.auth.models import Group\nfrom shop.tasks import ship\n"
    process = shop.start("-c", prelude + code)
    enough = random.Random(seed).randrange(5, 60)
    wait_for(lambda: shop.server.counts["messages_sent"] >= enough, "some orders")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    shop.keep_house()
    committed = shop.ask("sorted(g.name for g in Group.objects.filter(name__startswith='order '))")
    assert len(committed) >= enough
    assert {f"order {order}" for order in shop.orders()} == set(committed)


def test_a_view_with_ten_tasks_is_one_request_to_sqs(shop):
    done = shop.run("with transaction.atomic():\n    [ship.delay(order) for order in range(10)]")
    assert done.returncode == 0, done.stderr
    assert shop.server.counts["requests"] == 1


def test_sqs_out_of_order_fails_no_caller_and_loses_nothing(shop):
    shop.server.faults = [fakesqs.Fault("SendMessageBatch", "error", 403, "AccessDenied", times=None)]
    done = shop.run("ship.delay(1); ship.delay(2)")
    assert done.returncode == 0, done.stderr
    shop.server.faults = []
    shop.keep_house()
    assert sorted(shop.orders()) == ["1", "2"]


def test_a_run_that_can_never_be_sent_holds_up_no_other(shop):
    done = shop.run(
        "from tasks.runtime import publishing\n"
        "publishing.publish, real = (lambda runs: 0), publishing.publish\n"
        "for order in range(3): ship.delay(order)\n"
        "run = Run.objects.order_by('created_at')[1]\n"
        "Run.objects.filter(pk=run.pk).update(message=run.message.replace('\"default\"', '\"nowhere\"'))"
    )
    assert done.returncode == 0, done.stderr
    shop.keep_house()
    assert sorted(shop.orders()) == ["0", "2"]
    assert shop.ask("sorted(Run.objects.values_list('state', flat=True))") == ["pending", "queued", "queued"]


@pytest.mark.parametrize("countdown", [0, 1])
def test_a_retry_survives_the_rollback_that_its_exception_causes(shop, countdown):
    worker = shop.start("-m", "serverless.entrypoints.worker", "--pool=general", "--concurrency=1")
    try:
        shop.run(f"stubborn.delay({countdown})")
        wait_for(lambda: shop.ask("list(Group.objects.values_list('name', flat=True))"), "the last try", 40)
        assert shop.ask("list(Group.objects.values_list('name', flat=True))") == ["try 2"]
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait(10)


def test_a_retry_far_ahead_is_sent_with_the_longest_delay_and_its_eta(shop):
    worker = shop.start("-m", "serverless.entrypoints.worker", "--pool=general", "--concurrency=1")
    try:
        shop.run("stubborn.delay(7200)")
        queue = shop.server.sqs.queues["s-default"]
        wait_for(lambda: queue.delayed, "the retry", 40)
        assert json.loads(queue.delayed[0][2].body)["headers"]["eta"]
        wait_for(lambda: not queue.hidden, "the end of the first try", 20)
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait(10)
