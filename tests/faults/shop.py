"""A project of a team's own on our machinery: an app with tasks, a database, a fake SQS, real workers.

Its processes can be made to die at a moment of a run's life: the shop's tasks.py calls `place_deaths`, and the test says
with `Shop.doom` which label dies when. A label is what a task is given as `label=`; tasks of one label are counted
together.

The shop's processes import this module too. It must not import tests.environment, which would change their database and
their broker; so tests.faults.plant is imported where it is needed.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from serverless import fakesqs
from serverless.fakesqs import Server
from serverless.fakesqs.queues import ACCOUNT_ID
from tasks.topology import TOPOLOGY
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.faults.plant import Trace, Worker

ROOT = Path(__file__).resolve().parents[2]

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


# Deaths --------------------------------------------------------------------------------------------------------------

#: Moments of a run's life, in their order.
CLAIMED = "claimed"  # it is claimed, and its task has not begun
INSIDE = "inside"  # its task is inside of a block under `once`; the shop's task calls `reach` itself
WORKING = "working"  # its task is at work, and has left that block; likewise
RAN = "ran"  # its task is over, and nothing of its outcome is recorded
ENDING = "ending"  # its outcome is written, and its transaction is open
COMMITTED = "committed"  # what it has enqueued is committed, and not published
PUBLISHED = "published"  # SQS has it, and it is not marked
ENDED = "ended"  # its outcome is committed, all that follows is published, and its worker does not know yet
_GATE_SECONDS = 20.0

_label = ""


def acting_for(label: str) -> None:
    """In a producer: what it does from now on is of this label."""
    global _label  # noqa: PLW0603
    _label = label


def reach(moment: str) -> None:
    """A moment of the present label has come: die, or wait for others, if the test wants it so."""
    folder = Path(os.environ["FAULT_TRACE"]).parent / "dooms"
    plan = folder / f"{_label.replace('/', '+')}.json"
    if not _label or not plan.exists():
        return
    for doom in json.loads(plan.read_text()):
        if doom["moment"] != moment:
            continue
        number = _arrive(plan, moment)
        deadline = time.monotonic() + _GATE_SECONDS
        while number <= doom["gate"] and time.monotonic() < deadline:
            if plan.with_suffix(f".{moment}-{doom['gate']}").exists():
                break
            time.sleep(0.01)
        if number in doom["deaths"]:
            trace("died", moment, _label)
            _die(doom["whom"])
        elif doom["whom"] == "worker" and number <= doom["gate"]:
            time.sleep(_GATE_SECONDS)  # it dies with its worker


def _arrive(plan: Path, moment: str) -> int:
    """How many have come to this moment, this one included."""
    number = 1
    while True:
        try:
            plan.with_suffix(f".{moment}-{number}").touch(exist_ok=False)
        except FileExistsError:
            number += 1
        else:
            return number


def _die(whom: str) -> None:
    """At once, as a machine that is switched off would. whom: this process, or the worker with all of its processes."""
    doomed = [psutil.Process()]
    if whom == "worker":
        main = psutil.Process().parent()
        doomed = [main, *(each for each in main.children(recursive=True) if each.pid != os.getpid()), *doomed]
    for each in doomed:
        each.send_signal(signal.SIGKILL)


def place_deaths() -> None:
    """For the shop's tasks.py: have this process notice the moments."""
    from django.db import connection

    from django_app.ledger import outcomes, services
    from tasks.runtime import endings, publishing, results, tracing

    assert "tests.environment" not in sys.modules, "this process has another database and another broker by now"

    def notice(owner: Any, name: str, *, before: str = "", after: str = "") -> None:
        real = getattr(owner, name)

        @functools.wraps(real)
        def call(*args: Any, **options: Any) -> Any:
            # What belongs to another run, such as the callback of a chord that failed, is inside of a transaction.
            if before and not connection.in_atomic_block:
                reach(before)
            result = real(*args, **options)
            if after and connection.in_atomic_block == (after == ENDING):
                reach(after)
            return result

        setattr(owner, name, call)

    run = tracing.Claiming._run

    def run_of_a_label(self: Any, claim: Any, uuid: str, args: Any, kwargs: Any, *rest: Any) -> Any:
        acting_for(kwargs.get("label") or "")
        try:
            reach(CLAIMED)
            return run(self, claim, uuid, args, kwargs, *rest)
        finally:
            acting_for("")

    tracing.Claiming._run = run_of_a_label
    for name in ("mark_as_done", "mark_as_failure", "mark_as_retry", "end_quietly"):
        notice(results.LedgerBackend, name, before=RAN)
    for name in ("finish", "release", "set_aside"):
        notice(outcomes, name, after=ENDING)
    if connection.vendor == "postgresql":
        # It is a transaction of its own: what dies before it leaves what dies at its end does.
        notice(outcomes, "finish_at_once", before=ENDING)
    for name in ("end", "release", "set_aside"):
        notice(endings, name, after=ENDED)
    notice(publishing, "publish", before=COMMITTED)
    notice(services, "mark_published", before=PUBLISHED)


# The shop ------------------------------------------------------------------------------------------------------------


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
        from tests.faults.plant import Worker

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

    def doom(
        self, label: str, moment: str, deaths: tuple[int, ...] = (1,), whom: str = "child", *, gate: int = 0
    ) -> None:
        """Have processes die when something of this label comes to a moment: the first that comes, the second...

        gate: so many wait for each other there, and go on, or die, together. whom: "child" or "worker".
        """
        plan = self.folder / "dooms" / f"{label.replace('/', '+')}.json"
        plan.parent.mkdir(exist_ok=True)
        dooms = json.loads(plan.read_text()) if plan.exists() else []
        dooms.append({"moment": moment, "deaths": deaths, "whom": whom, "gate": gate})
        plan.write_text(json.dumps(dooms))

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
        from tests.faults.plant import Trace

        if not self.trace_file.exists():
            return []
        lines = [line.split("\t") for line in self.trace_file.read_text().splitlines()]
        return [Trace(name, task, arg, int(pid), float(at)) for name, task, arg, pid, at in lines if name == what]

    def queue(self, name: str = "default") -> Any:
        return self.server.sqs.queues[f"s-{name}"]

    def depth(self, name: str = "default") -> int:
        """Messages in the queue: waiting, in flight and delayed."""
        return sum(self.server.sqs.counts(self.queue(name)).values())

    def left(self) -> dict[str, int]:
        """Messages in each queue that is not empty, dead letters included."""
        return {name: count for name in self.server.sqs.queues if (count := self.depth(name.removeprefix("s-")))}

    def await_empty(self, seconds: float = 60, name: str = "default") -> None:
        wait_for(lambda: self.depth(name) == 0, f"the end of all work in queue {name}", seconds)

    def orders(self) -> list[str]:
        """What the messages in the queue are about."""
        return [str(json.loads(json.loads(m.body)["body"])[0][0]) for m in self.queue().ready]


def lease_of(seconds: float) -> str:
    """Lines of settings that shorten the lease. In place, so that it does not matter who has imported it before."""
    return f"from tasks import topology\nobject.__setattr__(topology.TOPOLOGY, 'lease_seconds', {seconds})\n"


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
