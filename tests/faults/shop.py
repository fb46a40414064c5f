"""A project of a team's own on our machinery: an app with tasks, a database, a fake SQS, real workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serverless import fakesqs
from serverless.fakesqs import Server
from serverless.fakesqs.queues import ACCOUNT_ID
from tasks.topology import TOPOLOGY
from tests.conftest import ROOT
from tests.faults.plant import Trace, Worker
from tests.waiting import wait_for

_PRELUDE = """
import django; django.setup()
import json, os, sys, time
from django.db import connection, transaction
from django.contrib.auth.models import Group
from django_app.ledger.models import *
from celery import chain, chord, group
from shop.tasks import *
"""


def trace(what: str, task_id: str, argument: object = "") -> None:
    """For the shop's tasks: note what is done. One line, whole even when many processes write."""
    line = f"{what}\t{task_id}\t{argument}\t{os.getpid()}\t{time.time()}\n".encode()
    descriptor = os.open(os.environ["FAULT_TRACE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


@dataclass
class Shop:
    """Run code in it, start workers for it, ask its database. settings: lines of its settings module."""

    server: Server
    folder: Path
    environment: dict[str, str]
    workers: list[Worker] = field(default_factory=list)

    def run(self, code: str, *, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run Python in a producer's process, with models, canvas and the shop's tasks imported."""
        done = subprocess.run(
            [sys.executable, "-c", _PRELUDE + code],
            cwd=ROOT,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=self.environment, start_new_session=True)

    def start_code(self, code: str) -> subprocess.Popen[str]:
        """As run, but go on meanwhile."""
        return self.start("-c", _PRELUDE + code)

    def ask(self, expression: str) -> Any:
        """The value of an expression, by way of JSON."""
        return json.loads(self.run(f"print(json.dumps({expression}, default=str))").stdout.splitlines()[-1])

    def start_worker(self, *arguments: str, concurrency: int = 1, **variables: str) -> Worker:
        """A worker of the general pool, ready to work."""
        log = self.folder / f"worker-{len(self.workers)}.log"
        command = [sys.executable, "-m", "celery", "-A", "tasks", "--quiet", "worker", f"--concurrency={concurrency}"]
        queues = ",".join(queue.name for queue in TOPOLOGY.queues_of_pool("general"))
        command += ["--loglevel=INFO", f"--queues={queues}", f"--hostname=w{len(self.workers)}@%h"]
        command += ["--prefetch-multiplier=1", "--without-gossip", "--without-mingle", *arguments]
        with log.open("wb") as handle:
            process = subprocess.Popen(
                command, cwd=ROOT, env={**self.environment, **variables}, stdout=handle, stderr=subprocess.STDOUT
            )
        worker = Worker(process, log)
        self.workers.append(worker)
        wait_for(lambda: " ready." in worker.text() or worker.ended(), "the worker", 60)
        assert not worker.ended(), worker.text()
        return worker

    def keep_house(self) -> None:
        """One round, as if the minute were over for which whoever recorded a run has it to himself."""
        self.run(
            "from django.utils import timezone\nfrom django.core.management import call_command\n"
            "Run.objects.filter(state='pending').update(publish_claimed_until=timezone.now())\n"
            "call_command('housekeeping')"
        )

    @property
    def trace_file(self) -> Path:
        return self.folder / "trace"

    def traces(self, what: str = "ran") -> list[Trace]:
        """What tasks have noted with `trace`."""
        if not self.trace_file.exists():
            return []
        lines = [line.split("\t") for line in self.trace_file.read_text().splitlines()]
        return [Trace(name, task, arg, int(pid), float(at)) for name, task, arg, pid, at in lines if name == what]

    def queue(self, name: str = "default") -> Any:
        return self.server.sqs.queues[f"s-{name}"]

    def depth(self, name: str = "default") -> int:
        """Messages in the queue: waiting, in flight and delayed."""
        return sum(self.server.sqs.counts(self.queue(name)).values())

    def await_empty(self, seconds: float = 60, name: str = "default") -> None:
        wait_for(lambda: self.depth(name) == 0, f"the end of all work in queue {name}", seconds)

    def orders(self) -> list[str]:
        """What the messages in the queue are about."""
        return [str(json.loads(json.loads(m.body)["body"])[0][0]) for m in self.queue().ready]


@contextmanager
def open_shop(folder: Path, database_url: str, tasks: str, settings: str = "") -> Iterator[Shop]:
    """A shop whose app's tasks.py is `tasks`; all that it started is ended with the block."""
    package = folder / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tasks.py").write_text(tasks)
    (folder / "shop_settings.py").write_text(
        "from django_app.settings import *  # noqa: F403\n\n"
        f"INSTALLED_APPS = [*INSTALLED_APPS, 'shop']  # noqa: F405\n{settings}\n"
    )
    with fakesqs.running() as server:
        for queue in TOPOLOGY.queues.values():
            dead = server.sqs.create_queue(f"s-{queue.dead_letter_name}")
            policy = {"deadLetterTargetArn": dead.arn, "maxReceiveCount": TOPOLOGY.max_receives}
            server.sqs.create_queue(f"s-{queue.name}", {"RedrivePolicy": json.dumps(policy)})
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "shop_settings",
            "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
            "DATABASE_URL": database_url,
            "BROKER_URL": "sqs://",
            "RESULT_BACKEND": "tasks.runtime.results:LedgerBackend",
            "QUEUE_URL_PREFIX": f"{server.url}/{ACCOUNT_ID}/s-",
            "QUEUE_WAIT_SECONDS": "1",
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "FAULT_TRACE": str(folder / "trace"),
        }
        made = Shop(server, folder, environment)
        migrated = subprocess.run(
            [sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=environment, capture_output=True, check=False
        )
        assert migrated.returncode == 0, migrated.stderr
        made.run(
            "for model in (Attempt, Run, Chord, UniqueRun, OnceMark, Pause, Revocation, Worker, Group):\n"
            "    model.objects.all().delete()"
        )
        try:
            yield made
        finally:
            for worker in made.workers:
                worker.kill()
