"""Compare recorded tasks with stock Celery and django-celery-results on Postgres; what each part of the ledger costs.

    .ci/with-postgres .venv/bin/python -m tests.bench.ledger_speed [--measure consume,parts] [--rounds 5]
        [--tasks 2000] [--task-ms 0,5] [--latency-ms 5] [--concurrency 4] [--contenders stock,ours,unrecorded]
        [--python-extra PATH] [--repeats 200] [--json]

Round k runs every contender once, each time in another order, each with a worker of its own, an empty table and a fake
SQS of its own. Figures are medians over rounds; ratios are taken within a round against `stock`, and then their median.
stock is compared if --python-extra names an interpreter that has requirements/bench.in, or this one has
django-celery-results.

consume: recorded tasks a second from a backlog, and what a task costs: CPU of the worker with all its processes, CPU of
the database server, bytes of its log, commits, connections, requests to SQS. Needs CLOUDQUEUE_TEST_DATABASE_URL.
parts: statements, round trips, commits, calls of functions and milliseconds of each part of a recorded task's life, on
SQLite, and on Postgres if CLOUDQUEUE_TEST_DATABASE_URL names one.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg

from tests.bench.broker_speed import importable, numbers, summary
from tests.bench.contenders import ACCOUNT, CELERY_FLAGS, PREFETCH, QUEUE, Contender, Setup, stock_environment
from tests.bench.contenders.processes import (
    POLL_SECONDS,
    ROOT,
    Fake,
    await_,
    cpu_seconds,
    environment,
    fake_sqs,
    interpreter,
    working,
)

DEFAULT = ("stock", "ours", "unrecorded")
#: Seconds from loading the backlog to its becoming visible: at least what loading takes.
LOAD_DELAY_SECONDS = 2
#: Tasks in one group of the backlog.
GROUP_TASKS = 500

# Both projects -------------------------------------------------------------------------------------------------------

TASKS = """
import time

from celery import shared_task


@shared_task
def noop(milliseconds=0.0):
    if milliseconds:
        time.sleep(milliseconds / 1000)
"""

OUR_SETTINGS = """
from django_app.settings import *

INSTALLED_APPS = [*INSTALLED_APPS, "bench"]
"""

#: The fastest that could be found: one write a task, on a connection that is kept.
STOCK_SETTINGS = """
import os
from urllib.parse import urlsplit

_url = urlsplit(os.environ["DATABASE_URL"])
SECRET_KEY = "bench"
USE_TZ = True
INSTALLED_APPS = ["django_celery_results", "bench"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _url.path[1:],
        "USER": _url.username,
        "PASSWORD": _url.password,
        "HOST": _url.hostname,
        "PORT": _url.port,
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""

STOCK_APP = """
import json
import os

from celery import Celery

app = Celery("stock")
app.conf.update(
    broker_url="sqs://",
    broker_transport_options={
        "region": "us-east-1",
        "predefined_queues": {"bench": {"url": os.environ["BENCH_ENDPOINT"] + "/000000000000/bench"}},
        "wait_time_seconds": 20,
        **json.loads(os.environ["BENCH_TRANSPORT_OPTIONS"]),
    },
    result_backend="django-db",
    task_default_queue="bench",
    task_acks_late=True,
    worker_prefetch_multiplier=int(os.environ["BENCH_PREFETCH"]),
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
    # Without it, Celery opens a connection for each task.
    CELERY_DB_REUSE_MAX=1_000_000,
)
app.autodiscover_tasks()
"""

STOCK_PRODUCER = (
    "import django; django.setup(); from stock_app import app; app.set_current(); from bench.tasks import noop"
)
OUR_PRODUCER = "import django; django.setup(); from bench.tasks import noop"


@dataclass(frozen=True)
class Project:
    """A contender with its database.

    app: of its worker. queue: what it consumes. setup: makes its tables. empties: tables that a round begins without.
    done: counts what has ended well. producer: code that imports the task. options: with which the task is sent.
    """

    contender: Contender
    app: str
    settings: str
    queue: str
    setup: tuple[str, ...]
    empties: tuple[str, ...]
    done: str
    producer: str
    options: str = ""


def celery_worker(app: str, queue: str) -> Callable[[Setup], list[str]]:
    return lambda setup: [
        *("-m", "celery", "-A", app, "--quiet", "worker", f"--pool={setup.pool}", f"--queues={queue}"),
        *(f"--concurrency={setup.concurrency}", *CELERY_FLAGS),
    ]


def ours_environment(setup: Setup) -> dict[str, str]:
    return {
        "SECRET_KEY": "bench",
        "BROKER_URL": "sqs://",
        "RESULT_BACKEND": "tasks.runtime.results:LedgerBackend",
        "QUEUE_URL_PREFIX": f"{setup.url}/{ACCOUNT}/",
        # Both log nothing: a line an outcome is not what is measured.
        "LOG_LEVEL": "ERROR",
    }


def is_stock_here() -> bool:
    return importable("django_celery_results")


def ours(
    name: str, options: str = "", done: str = "SELECT count(*) FROM ledger_run WHERE state = 'succeeded'"
) -> Project:
    return Project(
        contender=Contender(
            name=name,
            held=lambda setup: f"{PREFETCH} a slot",
            needs="tasks.celery",
            worker=celery_worker("tasks", "default"),
            producer=(),
            environment=ours_environment,
        ),
        app="tasks",
        settings="our_settings",
        queue="default",
        setup=("manage.py", "migrate", "-v0"),
        empties=("ledger_run", "ledger_attempt"),
        done=done,
        producer=OUR_PRODUCER,
        options=options,
    )


def stock() -> Project:
    return Project(
        contender=Contender(
            name="stock",
            held=lambda setup: f"{setup.prefetch} a slot",
            needs="django_celery_results",
            worker=celery_worker("stock_app", QUEUE),
            producer=(),
            environment=stock_environment,
            extra=not is_stock_here(),
        ),
        app="stock_app",
        settings="stock_settings",
        queue=QUEUE,
        setup=("-m", "django", "migrate", "-v0"),
        empties=("django_celery_results_taskresult",),
        done="SELECT count(*) FROM django_celery_results_taskresult WHERE status = 'SUCCESS'",
        producer=STOCK_PRODUCER,
    )


PROJECTS = {
    "stock": stock(),
    "ours": ours("ours"),
    "unrecorded": ours("unrecorded", "recorded=False", "SELECT NULL"),
}


def write_projects(folder: Path) -> None:
    """The app of both, and the settings of each."""
    package = folder / "bench"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tasks.py").write_text(TASKS)
    (folder / "our_settings.py").write_text(OUR_SETTINGS)
    (folder / "stock_settings.py").write_text(STOCK_SETTINGS)
    (folder / "stock_app.py").write_text(STOCK_APP)


# Databases -----------------------------------------------------------------------------------------------------------


@contextmanager
def database(server_url: str, *, is_kept: bool = False) -> Iterator[str]:
    """A Postgres database on that server while the block runs, or for longer; its URL."""
    name = f"bench_{secrets.token_hex(6)}"
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        try:
            yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
        finally:
            if not is_kept:
                server.execute(f"DROP DATABASE {name} WITH (FORCE)")


class Server:
    """The Postgres server of a database: what it has done so far."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        try:
            self._postmaster = psutil.Process(self._connection.info.backend_pid).parent()
        except psutil.NoSuchProcess:  # on another machine
            self._postmaster = None

    def one(self, query: str) -> Any:
        row = self._connection.execute(query).fetchone()
        return row[0] if row else None

    def empty(self, tables: Sequence[str]) -> None:
        self._connection.execute(f"TRUNCATE {', '.join(tables)}")

    def cpu_seconds(self) -> float:
        """Of all its processes, those that have ended included; 0 where it is elsewhere."""
        if self._postmaster is None:
            return 0.0
        own = self._postmaster.cpu_times()
        living = 0.0
        for child in self._postmaster.children():
            try:
                times = child.cpu_times()
            except psutil.NoSuchProcess:
                continue
            living += times.user + times.system
        return own.user + own.system + own.children_user + own.children_system + living

    def log_bytes(self) -> int:
        return int(self.one("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))

    def counts(self) -> tuple[int, int]:
        """(commits, connections) so far in this database, of connections that have ended."""
        self._connection.execute("SELECT pg_stat_force_next_flush()") if self._has_flush else None
        found = self._connection.execute(
            "SELECT xact_commit, sessions FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
        assert found is not None
        return found[0], found[1]

    @property
    def _has_flush(self) -> bool:
        return self._connection.info.server_version >= 150_000

    def await_alone(self) -> None:
        """Until all other connections to this database have ended, and so have told what they did."""
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        await_(lambda: self.one(others) == 0, 30, "the end of the worker's connections")

    def close(self) -> None:
        self._connection.close()


# Consuming -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a contender runs."""

    project: Project
    folder: Path
    database_url: str
    extra: str | None

    @property
    def python(self) -> str:
        return interpreter(self.project.contender, self.extra)

    def variables(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.database_url,
            "DJANGO_SETTINGS_MODULE": self.project.settings,
            "PYTHONPATH": os.pathsep.join([str(self.folder), str(ROOT)]),
        }

    def run(self, *arguments: str, url: str = "http://127.0.0.1:9") -> str:
        """Run Python; what it prints. url: of the SQS."""
        variables = {**environment(self.project.contender, Setup(url)), **self.variables()}
        done = subprocess.run(
            [self.python, *arguments], cwd=ROOT, env=variables, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)[:100]}: {done.stderr[-2000:]}")
        return done.stdout


def enqueue(place: Place, fake: Fake, tasks: int, task_ms: float) -> list[dict[str, Any]]:
    """Send so many tasks as the contender does; their messages, taken out of the queue again."""
    project = place.project
    place.run(
        "-c",
        f"{project.producer}\nfrom celery import group\n"
        f"for left in range({tasks}, 0, -{GROUP_TASKS}):\n"
        f"    group(noop.s({task_ms}) for _ in range(min(left, {GROUP_TASKS}))).apply_async({project.options})",
        url=fake.url,
    )
    entries: list[dict[str, Any]] = []
    while len(entries) < tasks:
        found = fake.call(
            "ReceiveMessage", QueueUrl=fake.queue, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        ).get("Messages", [])
        if not found:
            raise RuntimeError(f"{project.contender.name} sent {len(entries)} messages of {tasks}")
        for message in found:
            kept = {"MessageAttributes": message["MessageAttributes"]} if "MessageAttributes" in message else {}
            entries.append({"MessageBody": message["Body"], **kept})
        handles = [{"Id": str(at), "ReceiptHandle": each["ReceiptHandle"]} for at, each in enumerate(found)]
        fake.call("DeleteMessageBatch", QueueUrl=fake.queue, Entries=handles)
    return entries


def consume_once(
    place: Place, server: Server, setup: Setup, *, tasks: int, task_ms: float, latency_ms: float, most_seconds: float
) -> dict[str, float]:
    """One worker that empties a queue, from the first message deleted to the last, or for at most so many seconds."""
    project, contender = place.project, place.project.contender
    server.empty(project.empties)
    with fake_sqs() as fake:
        fake.queue = f"{fake.url}/{ACCOUNT}/{project.queue}"
        fake.call("CreateQueue", QueueName=project.queue, Attributes={"VisibilityTimeout": "600"})
        entries = enqueue(place, fake, tasks, task_ms)
        server.await_alone()
        commits, connections = server.counts()
        setup = Setup(fake.url, setup.pool, setup.concurrency, setup.prefetch)
        with working(contender, setup, fake, place.extra, **place.variables()) as processes:
            fake.load(entries, LOAD_DELAY_SECONDS)
            fake.counts(latency_seconds=latency_ms / 1000, reset=True)
            await_(lambda: fake.counts().get("messages_deleted", 0) > 0, 30, f"{contender.name} ends its first task")
            before, began = fake.counts(), time.monotonic()
            used, database_used, logged = cpu_seconds(processes), server.cpu_seconds(), server.log_bytes()
            while True:
                after, now = fake.counts(), time.monotonic()
                if after["messages_deleted"] >= tasks or now - began > most_seconds:
                    break
                time.sleep(POLL_SECONDS)
            used, database_used = cpu_seconds(processes) - used, server.cpu_seconds() - database_used
            logged = server.log_bytes() - logged
        server.await_alone()
    ended = server.one(project.done)
    if ended is not None and ended < after["messages_deleted"]:
        raise RuntimeError(f"{contender.name} acknowledged {after['messages_deleted']} tasks and recorded {ended}")
    done = after["messages_deleted"] - before["messages_deleted"]
    all_commits, all_connections = server.counts()
    return {
        "tasks_a_second": done / (now - began),
        "cpu_ms_a_task": used * 1000 / done,
        "database_cpu_ms_a_task": database_used * 1000 / done,
        "log_bytes_a_task": logged / done,
        # With the worker's start and what it does by itself.
        "commits_a_task": (all_commits - commits) / after["messages_deleted"],
        "connections_a_task": (all_connections - connections) / after["messages_deleted"],
        "requests_a_task": (after["requests"] - before["requests"]) / done,
        "tasks": done,
    }


def consume(
    *,
    server_url: str,
    rounds: int = 5,
    tasks: int = 2000,
    task_ms: float = 0.0,
    latency_ms: float = 5.0,
    concurrency: int = 4,
    contenders: Sequence[str] = DEFAULT,
    python_extra: str | None = None,
    most_seconds: float = 8.0,
) -> dict[str, Any]:
    """Tasks a second from a backlog, with prefork, and what a task costs.

    most_seconds: after which a slow contender is stopped; its figures are those of the tasks done until then.
    """
    setup = Setup("", "prefork", concurrency)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_projects(folder)
        places, servers = {}, {}
        for name in contenders:
            url = stack.enter_context(database(server_url))
            places[name] = Place(PROJECTS[name], folder, url, python_extra)
            places[name].run(*PROJECTS[name].setup)
            servers[name] = Server(url)
            stack.callback(servers[name].close)
        for number in range(rounds):
            shift = number % len(contenders)
            for name in [*contenders[shift:], *contenders[:shift]]:
                once = consume_once(
                    places[name],
                    servers[name],
                    setup,
                    tasks=tasks,
                    task_ms=task_ms,
                    latency_ms=latency_ms,
                    most_seconds=most_seconds,
                )
                found[name].append(once)
    return {
        "task_ms": task_ms,
        "latency_ms": latency_ms,
        "concurrency": concurrency,
        "rounds": rounds,
        "contenders": {name: summary(found, name) for name in contenders},
    }


# Parts ---------------------------------------------------------------------------------------------------------------

_CONTROL = ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "PREPARE")
GROUP = 100


@dataclass(frozen=True)
class Cost:
    """What a piece of work asked of the database.

    trips: statements with BEGIN, COMMIT and savepoints, each of which is a round trip.
    commits: transactions that wrote, a statement outside of any included.
    """

    reads: int
    writes: int
    trips: int
    commits: int

    @property
    def statements(self) -> int:
        return self.reads + self.writes


def cost_of(queries: Sequence[str]) -> Cost:
    """queries: as Django's connection logs them."""
    reads = writes = commits = 0
    is_open = has_written = False
    for query in queries:
        word = word_of(query)
        if word == "BEGIN":
            is_open, has_written = True, False
        elif word == "COMMIT":
            commits += has_written
            is_open = has_written = False
        elif word in _CONTROL:
            continue
        elif word == "SELECT":
            reads += 1
        else:
            writes += 1
            has_written = True
            commits += not is_open
    # Part of a transaction that others begin and end.
    commits += is_open and has_written
    return Cost(reads, writes, len(queries), commits)


def word_of(query: str) -> str:
    """What a query does; of a prepared one, what that does; of several in one, what the first does that writes."""
    word, _, rest = query.partition(" ")
    if word == "EXECUTE":
        return word_of(prepared()[rest.partition("(")[0]])
    if word == "WITH":
        return next(each for each in query.split() if each in ("UPDATE", "INSERT", "DELETE"))
    return word.rstrip(";").upper()


def prepared() -> dict[str, str]:
    """The ledger's written-out statements, by the names under which they are prepared."""
    from django_app.ledger import claims, outcomes, services, statements, workflows

    return {
        each._name: each._texts["postgresql"]
        for module in (claims, outcomes, services, workflows)
        for each in vars(module).values()
        if isinstance(each, statements.Statement)
    }


@contextmanager
def asking(queries: list[str]) -> Iterator[None]:
    """Add what this thread's connection is asked in the block."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as captured:
        yield
    queries += [each["sql"] for each in captured.captured_queries]


def send(task: Any, number: int = 1, chord_of: Any = None) -> list[str]:
    """Enqueue so many, one by one if one, else as a group; or as the header of a chord. Their ids."""
    from celery import chord, group

    if chord_of is not None:
        return [each.id for each in chord([task.s() for _ in range(number)], chord_of.s()).apply_async().parent.results]
    if number == 1:
        return [task.delay().id]
    return [each.id for each in group(task.s() for _ in range(number)).apply_async().results]


def messages(ids: Sequence[str]) -> list[tuple[str, Any, Any, dict[str, Any]]]:
    """For each run what a worker's child gets of its message: id, args, kwargs, request."""
    from kombu.utils.json import loads

    from django_app.ledger.models import Run
    from tasks.runtime import publishing

    found = []
    for run in Run.objects.filter(pk__in=ids):
        body, options = publishing.unpack(run.message)
        args, kwargs, embed = loads(body)
        request = {**options["headers"], **embed, "delivery_info": {"routing_key": run.queue}, "hostname": "bench"}
        found.append((run.pk, args, kwargs, {**request, "is_eager": False}))
    return found


@contextmanager
def keeping_connection() -> Iterator[None]:
    """Keep this thread's connection between tasks, as workers do."""
    from django.db import connection

    before = connection.settings_dict["CONN_MAX_AGE"]
    connection.close()
    connection.settings_dict["CONN_MAX_AGE"] = None
    connection.ensure_connection()
    try:
        yield
    finally:
        connection.settings_dict["CONN_MAX_AGE"] = before
        connection.close()


def tracer(task: Any) -> Callable[..., Any]:
    """What a worker's child calls to run a message of that task, the claim included."""
    from celery.app.trace import build_tracer

    from tasks.celery import app
    from tasks.runtime.tracing import Claiming

    return Claiming(app, task, build_tracer(task.name, task, app.loader, "bench", app=app))


Pairs = dict[str, list[tuple[float, float]]]


@contextmanager
def probing(read: Callable[[], float], found: Pairs, parts: dict[str, tuple[Any, str]]) -> Iterator[None]:
    """Read a meter before and after each call of these functions, and add both to what was found of the part.

    parts: module and name of the function, by part. One that stands within another counts in both.
    """
    with ExitStack() as undo:
        for part, (module, name) in parts.items():
            original = getattr(module, name)
            setattr(module, name, probed(original, read, found.setdefault(part, [])))
            undo.callback(setattr, module, name, original)
        yield


def probed(original: Callable[..., Any], read: Callable[[], float], found: list[tuple[float, float]]) -> Any:
    def around(*args: Any, **kwargs: Any) -> Any:
        before = read()
        try:
            return original(*args, **kwargs)
        finally:
            found.append((before, read()))

    return around


def live(task: Any, read: Callable[[], float], repeats: int) -> tuple[Pairs, dict[str, int]]:
    """Enqueue and run recorded tasks in this process; the meter around each part, and how many tasks one call is for."""
    from django_app.ledger import claims, services, workflows
    from tasks.runtime import endings, publishing

    enqueueing = {
        "record": (services, "record"),
        "publish": (publishing, "publish"),
        "mark": (services, "mark_published"),
    }
    running = {"claim": (claims, "claim"), "outcome": (endings, "end")}
    found: Pairs = {}
    run = tracer(task)

    def named(parts: dict[str, tuple[Any, str]], suffix: str) -> dict[str, tuple[Any, str]]:
        return {f"{part}{suffix}": place for part, place in parts.items()}

    for _ in range(repeats):
        with probing(read, found, enqueueing):
            ids = send(task)
        for message in messages(ids):
            with probing(read, found, running):
                run(*message)
    for _ in range(max(1, repeats // 20)):
        with probing(read, found, named(enqueueing, ", group of 100")):
            send(task, GROUP)
        chord_running = named(running, " of a chord's part") | {"chord part": (workflows, "return_part")}
        # One is left, so that the chord does not end.
        for message in messages(send(task, GROUP, chord_of=task))[1 : 1 + repeats // 10]:
            with probing(read, found, chord_running):
                run(*message)
    return found, {part: GROUP if "group of" in part else 1 for part in found}


def part_costs(repeats: int) -> dict[str, dict[str, float]]:
    """By part: statements, round trips, commits, calls of functions, milliseconds and CPU of them, medians, all a task.

    CPU is this process's, not the server's. What stands in a transaction of others commits nothing. Publishing is what a
    group's or a task's messages take without the mark. Django is set up, and the broker is there.
    """
    from bench.tasks import noop
    from django.db import connection, reset_queries

    live(noop, time.perf_counter, 20)
    timed, tasks = live(noop, time.perf_counter, repeats)
    used, _ = live(noop, time.thread_time, repeats)
    with counting_calls() as calls:
        called, _ = live(noop, calls, 20)
    connection.force_debug_cursor = True
    reset_queries()
    asked, _ = live(noop, lambda: len(connection.queries_log), 20)
    log = [each["sql"] for each in connection.queries_log]
    connection.force_debug_cursor = False
    figures = {}
    for part, number in tasks.items():
        costs = [cost_of(log[int(before) : int(after)]) for before, after in asked[part]]
        figures[part] = {
            "statements": statistics.median(each.statements for each in costs) / number,
            "trips": statistics.median(each.trips for each in costs) / number,
            "commits": statistics.median(each.commits for each in costs) / number,
            "calls": statistics.median(after - before for before, after in called[part]) / number,
            "ms": statistics.median(after - before for before, after in timed[part]) * 1000 / number,
            "cpu_ms": statistics.median(after - before for before, after in used[part]) * 1000 / number,
        }
        if part.startswith("chord part"):
            figures[part]["commits"] = 0
    for part in [part for part in figures if part.startswith("publish")]:
        mark = figures[part.replace("publish", "mark")]
        figures[part] = {name: value - mark[name] for name, value in figures[part].items()}
    return figures


@contextmanager
def counting_calls() -> Iterator[Callable[[], float]]:
    """Count this thread's calls of functions, in Python and in C; what reads how many there were."""
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            count += 1

    sys.setprofile(profile)
    try:
        yield lambda: count
    finally:
        sys.setprofile(None)


def parts(*, server_url: str | None, repeats: int = 200) -> dict[str, dict[str, dict[str, float]]]:
    """part_costs on SQLite, and on Postgres if there is a server, each in a process of its own."""
    code = (
        "import django, json; django.setup()\n"
        f"from tests.bench.ledger_speed import keeping_connection, part_costs\nwith keeping_connection():\n    print(json.dumps(part_costs({repeats})))"
    )
    found = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_projects(folder)
        urls = {"sqlite": f"sqlite:///{folder / 'db.sqlite3'}"}
        if server_url is not None:
            urls["postgres"] = stack.enter_context(database(server_url))
        for kind, url in urls.items():
            place = Place(PROJECTS["ours"], folder, url, None)
            place.run(*place.project.setup)
            with fake_sqs() as fake:
                fake.call("CreateQueue", QueueName="default")
                found[kind] = json.loads(place.run("-c", code, url=fake.url).splitlines()[-1])
    return found


# Command line --------------------------------------------------------------------------------------------------------


def show_consume(found: dict[str, Any]) -> None:
    settings = ", ".join(f"{key} {value}" for key, value in found.items() if key != "contenders")
    print(f"\nconsume: {settings}")
    for name, figures in found["contenders"].items():
        ratios = figures.pop("ratios", {})
        print(f"  {name}")
        for key, value in figures.items():
            ratio = f"  (x{ratios[key]:.2f})" if key in ratios and name != "stock" else ""
            print(f"    {key:24} {value:.4g}{ratio}")


def show_parts(found: dict[str, dict[str, dict[str, float]]]) -> None:
    """Counts as on the last database; milliseconds of each."""
    counts = found[list(found)[-1]]
    heads = " ".join(f"{kind:>9} ms {'CPU ms':>7}" for kind in found)
    print(f"\n{'part':32}{'statements':>11}{'trips':>8}{'commits':>9}{'calls':>8} {heads}")
    for part, each in counts.items():
        times = " ".join(f"{found[kind][part]['ms']:12.3f} {found[kind][part]['cpu_ms']:7.3f}" for kind in found)
        print(
            f"{part:32}{each['statements']:11.2f}{each['trips']:8.2f}{each['commits']:9.2f}{each['calls']:8.0f} {times}"
        )


def present(names: Sequence[str], python_extra: str | None) -> tuple[str, ...]:
    """Those that can run here; says loudly which cannot."""
    able = [name for name in names if not PROJECTS[name].contender.extra or python_extra is not None]
    for name in set(names) - set(able):
        print(
            f"NOT COMPARED: {name}, since no --python-extra names an interpreter with requirements/bench.in",
            file=sys.stderr,
        )
    return tuple(able)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", default="consume,parts")
    parser.add_argument("--contenders", default=",".join(DEFAULT))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--task-ms", type=numbers, default=(0.0, 5.0), help="that a task sleeps")
    parser.add_argument("--latency-ms", type=float, default=5.0, help="that the fake SQS adds to a request")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--most-seconds", type=float, default=8.0, help="of consuming, a contender and round")
    parser.add_argument("--repeats", type=int, default=200, help="of each part")
    parser.add_argument("--python-extra", help="an interpreter with requirements/bench.in")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    # Ended from outside, it still ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    server_url = os.environ.get("CLOUDQUEUE_TEST_DATABASE_URL")
    found: dict[str, Any] = {}
    for measure in options.measure.split(","):
        if measure == "parts":
            found[measure] = parts(server_url=server_url, repeats=options.repeats)
            if not options.json:
                show_parts(found[measure])
        elif measure == "consume":
            if server_url is None:
                raise SystemExit("consume needs CLOUDQUEUE_TEST_DATABASE_URL: run it by .ci/with-postgres")
            found[measure] = []
            for task_ms in options.task_ms:
                found[measure].append(
                    consume(
                        server_url=server_url,
                        rounds=options.rounds,
                        tasks=options.tasks,
                        task_ms=task_ms,
                        latency_ms=options.latency_ms,
                        concurrency=options.concurrency,
                        contenders=present(options.contenders.split(","), options.python_extra),
                        python_extra=options.python_extra,
                        most_seconds=options.most_seconds,
                    )
                )
                if not options.json:
                    show_consume(found[measure][-1])
        else:
            raise SystemExit(f"unknown measure {measure!r}: see --help")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
