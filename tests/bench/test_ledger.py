"""What the ledger may cost: hard gates on statements, commits, calls and connections. docs/benchmarks.md."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from celery import shared_task
from django.db import connection, transaction

from django_app.ledger.models import Attempt, Run
from django_app.ledger.states import Outcome, State
from tasks.celery import app
from tests.bench import ledger_speed
from tests.bench.ledger_speed import Cost
from tests.conftest import ROOT
from tests.environment import DATABASE_URL
from tests.faults.shop import open_shop
from tests.waiting import wait_for

PREFORK = 4
in_database = pytest.mark.usefixtures("kept")


@shared_task(name="tests.bench.recorded")
def recorded(argument: object = None) -> None:
    """Nothing, so that what is counted is the ledger."""


@shared_task(name="tests.bench.unrecorded", recorded=False)
def unrecorded() -> None:
    """As above, and not recorded."""


@pytest.fixture(autouse=True)
def empty_queues() -> Iterator[None]:
    yield
    with app.connection_for_write() as broker:
        for queue in app.amqp.queues.values():
            queue(broker.default_channel).purge()


@pytest.fixture
def kept(transactional_db: None) -> Iterator[None]:
    """A database, and a connection that is kept."""
    with ledger_speed.keeping_connection():
        yield


def cost(work: Callable[[], object]) -> Cost:
    queries: list[str] = []
    with ledger_speed.asking(queries):
        work()
    return ledger_speed.cost_of(queries)


def run_cost(run_id: str) -> Cost:
    """What running a run's message asks of the database in the process that runs it, the claim included."""
    [message] = ledger_speed.messages([run_id])
    tracer = ledger_speed.tracer(recorded)
    return cost(lambda: tracer(*message))


def inserts(rows: int) -> int:
    """Statements for so many rows: SQLite takes 999 parameters in one."""
    if connection.vendor != "sqlite":
        return 1
    return math.ceil(rows / (999 // len(Run._meta.concrete_fields)))


# Enqueueing ----------------------------------------------------------------------------------------------------------


@in_database
def test_enqueueing_outside_of_a_transaction_costs_an_insert_and_a_mark():
    assert cost(recorded.delay) == Cost(reads=0, writes=2, trips=2, commits=2)


@in_database
def test_enqueueing_in_a_transaction_costs_an_insert_in_it_and_a_mark_after_it():
    def work() -> None:
        with transaction.atomic():
            recorded.delay()

    assert cost(work) == Cost(reads=0, writes=2, trips=4, commits=2)


@in_database
def test_ten_tasks_in_one_transaction_are_marked_together():
    def work() -> None:
        with transaction.atomic():
            for _ in range(10):
                recorded.delay()

    found = cost(work)
    assert (found.reads, found.writes, found.commits) == (0, 11, 2), found


@in_database
def test_a_group_of_a_hundred_costs_an_insert_and_a_mark():
    found = cost(lambda: ledger_speed.send(recorded, 100))
    assert (found.reads, found.writes, found.commits) == (0, inserts(100) + 1, 2), found
    assert Run.objects.filter(state=State.QUEUED).count() == 100


@in_database
def test_what_is_not_recorded_asks_nothing_of_the_database():
    assert cost(unrecorded.delay) == Cost(0, 0, 0, 0)


# Running -------------------------------------------------------------------------------------------------------------


@in_database
def test_running_a_task_costs_a_write_before_it_and_a_write_after_it():
    [run_id] = ledger_speed.send(recorded)
    queries: list[str] = []
    [message] = ledger_speed.messages([run_id])
    tracer = ledger_speed.tracer(recorded)
    with ledger_speed.asking(queries):
        tracer(*message)
    # Only Postgres ends a run and its attempt in one.
    after = ["UPDATE"] if connection.vendor == "postgresql" else ["BEGIN", "UPDATE", "INSERT", "COMMIT"]
    assert [ledger_speed.word_of(query) for query in queries] == ["UPDATE", *after]
    assert ledger_speed.cost_of(queries).commits == 2
    assert Run.objects.get().state == State.SUCCEEDED
    assert Attempt.objects.get().outcome == Outcome.SUCCEEDED


@in_database
def test_a_chords_part_costs_two_writes_more_in_the_same_transaction():
    ids = ledger_speed.send(recorded, 3, chord_of=recorded)
    found = run_cost(ids[0])
    assert (found.reads, found.commits) == (0, 2), found
    assert found.writes == (4 if connection.vendor == "postgresql" else 5), found
    assert found.trips == found.writes + 2, found


@in_database
def test_running_what_is_not_recorded_asks_nothing_of_the_database():
    tracer = ledger_speed.tracer(unrecorded)
    assert cost(lambda: tracer("some-id", (), {}, {"id": "some-id", "recorded": False})) == Cost(0, 0, 0, 0)


@in_database
def test_a_message_that_comes_twice_costs_a_write_that_finds_nothing_and_a_read():
    [run_id] = ledger_speed.send(recorded)
    run_cost(run_id)
    before = Run.objects.values().get()
    assert run_cost(run_id) == Cost(reads=1, writes=1, trips=2, commits=1)
    assert Run.objects.values().get() == before


@in_database
def test_a_message_that_says_that_it_comes_again_costs_one_read():
    [run_id] = ledger_speed.send(recorded)
    run_cost(run_id)
    [(uuid, args, kwargs, request)] = ledger_speed.messages([run_id])
    request["delivery_info"]["sqs_message"] = {"Attributes": {"ApproximateReceiveCount": "2"}}
    tracer = ledger_speed.tracer(recorded)
    assert cost(lambda: tracer(uuid, args, kwargs, request)) == Cost(reads=1, writes=0, trips=1, commits=0)


@in_database
def test_calls_of_functions_a_task():
    on_postgres = connection.vendor == "postgresql"
    most = {"record": 240, "mark": 220, "claim": 320, "outcome": 330 if on_postgres else 480}
    most["record, group of 100"] = 900 if on_postgres else 22_000
    with ledger_speed.counting_calls() as calls:
        found, _ = ledger_speed.live(recorded, calls, 10)
    counted = {part: statistics.median(after - before for before, after in found[part]) for part in most}
    assert all(counted[part] <= most[part] for part in most), counted


# Connections ---------------------------------------------------------------------------------------------------------

SHOP = """
import time

from celery import shared_task


@shared_task
def nap():
    time.sleep(0.02)
"""


def open_connections(process: psutil.Process, database_url: str) -> int:
    """Connections of one process to the database: sockets to Postgres, or the opened file."""
    if database_url.startswith("sqlite:///"):
        path = database_url.removeprefix("sqlite:///")
        return sum(each.path == path for each in process.open_files())
    port = psycopg.conninfo.conninfo_to_dict(database_url)["port"]
    return sum(bool(each.raddr) and str(each.raddr.port) == port for each in process.net_connections("tcp"))


def test_a_worker_holds_a_connection_a_child_and_one_for_its_steward_and_keeps_them(tmp_path, stack_database_url):
    with open_shop(tmp_path, stack_database_url, SHOP) as shop:
        worker = shop.start_worker(concurrency=PREFORK)
        main = psutil.Process(worker.process.pid)

        def held() -> tuple[int, list[int], list[int]]:
            """By the main process, its children, its steward."""
            pool, children = worker.pool(), main.children(recursive=True)
            return (
                open_connections(main, stack_database_url),
                [open_connections(each, stack_database_url) for each in children if each in pool],
                [open_connections(each, stack_database_url) for each in children if each not in pool],
            )

        shop.run("group(nap.s() for _ in range(100)).delay()")
        shop.await_empty()
        wait_for(lambda: held() == (0, [1] * PREFORK, [1]), f"a connection each, and none more; it is {held()}", 10)
        if stack_database_url.startswith("postgres"):
            before = sessions(stack_database_url)
            shop.run("group(nap.s() for _ in range(100)).delay()")
            shop.await_empty()
            after = sessions(stack_database_url)
            # Nobody has come or gone in between.
            assert len(before) == PREFORK + 1
            assert before == after


def sessions(database_url: str) -> set[tuple[int, str]]:
    """Connections of others to that database: process of the server, and when they came."""
    with psycopg.connect(database_url) as own:
        rows = own.execute(
            "SELECT pid, backend_start::text FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return set(rows.fetchall())


# Speed ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def bench_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with requirements/bench.txt: BENCH_PYTHON, or one that CI makes."""
    if ledger_speed.is_stock_here():
        return sys.executable
    if os.environ.get("BENCH_PYTHON"):
        return os.environ["BENCH_PYTHON"]
    if not os.environ.get("CI"):
        pytest.skip(
            "BENCH_PYTHON names no interpreter with requirements/bench.txt, so there is nothing to compare with"
        )
    folder = tmp_path_factory.mktemp("bench") / "venv"
    uv = Path(sys.executable).with_name("uv")
    python = str(folder / "bin" / "python")
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder], check=True)
    subprocess.run(
        [uv, "pip", "install", "-q", "--python", python, "--require-hashes", "-r", ROOT / "requirements" / "bench.txt"],
        check=True,
    )
    return python


@pytest.mark.slow
@pytest.mark.parametrize("task_ms", [0.0, 5.0])
def test_recorded_tasks_are_twice_as_fast_as_stock_with_django_celery_results(bench_python, task_ms):
    if not DATABASE_URL.startswith("postgres"):
        pytest.skip(
            "it compares on Postgres: .ci/with-postgres .venv/bin/python -m pytest -m slow tests/bench/test_ledger.py"
        )
    found = ledger_speed.consume(
        server_url=DATABASE_URL, rounds=3, tasks=1000, task_ms=task_ms, most_seconds=4, python_extra=bench_python
    )["contenders"]
    print(found)
    ours = found["ours"]
    assert ours["ratios"]["tasks_a_second"] >= 2
    # A connection for each child and the steward, whatever the number of tasks, and those that tell of its end.
    assert ours["connections_a_task"] * 1000 <= 20
    assert ours["commits_a_task"] <= 2.5
