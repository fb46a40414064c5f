"""Real workers whose runs are watched: what their viewers are told, and that the tasks do not notice.

The shop's database is the one that faults are tested on; sockets are in DynamoDB's fake, and `@connections` is played.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.bench.test_ledger import open_connections
from tests.faults.shop import Shop, lease_of, open_shop
from tests.waiting import wait_for
from tests.websocket_api import STAGE, Connections, make_table

pytestmark = pytest.mark.faults

TASKS = """
import time

from celery import shared_task


@shared_task(bind=True)
def walk(self, steps=3, seconds=0.05):
    for number in range(1, steps + 1):
        self.progress(number, steps, f"step {number}")
        time.sleep(seconds)


@shared_task(bind=True, time_limit=1)
def stuck(self):
    self.progress(1, 2, "stuck")
    time.sleep(60)
"""
#: Opens a socket for each path, as an administrator, and lets it ask for the state. Prints their ids.
OPEN = """
import datetime
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.utils import timezone
from django_app.realtime import tokens
from serverless.websockets.gateway import Gateway
from tests.websocket_api import Socket, connect_event, event

admin, _ = get_user_model().objects.get_or_create(username="admin", defaults={"is_superuser": True})
gateway, ids = Gateway.from_settings(), []
for path in json.loads(os.environ["PATHS"]):
    token = tokens.issue(admin, "a session", timezone.now() + datetime.timedelta(hours=1), path)
    ids.append(Socket(None).id)
    headers = {"Origin": "http://testserver"}
    answer = async_to_sync(gateway.handle)(connect_event(ids[-1], path, query={"token": token}, headers=headers))
    assert answer["statusCode"] == 200, answer
    assert async_to_sync(gateway.handle)(event("message", ids[-1], body='{"type": "sync"}'))["statusCode"] == 200
print(json.dumps(ids))
"""


class Watched:
    """A shop whose runs can be watched."""

    def __init__(self, shop: Shop, connections: Connections) -> None:
        self.shop, self.connections = shop, connections

    def open(self, *run_ids: str) -> list[str]:
        """The ids of new sockets, one for each run."""
        paths = json.dumps([f"/ws/runs/{run_id}/" for run_id in run_ids])
        ids: list[str] = json.loads(self.shop.run(OPEN, PATHS=paths).stdout.splitlines()[-1])
        for each in ids:
            wait_for(lambda each=each: self.told(each), "the answer to its question")
        return ids

    def enqueue(self, call: str, *run_ids: str) -> None:
        self.shop.run(f"for run_id in {run_ids!r}:\n    {call}")

    def told(self, connection_id: str) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.connections.texts(connection_id)]

    def await_end(self, *connection_ids: str) -> None:
        for each in connection_ids:
            wait_for(
                lambda each=each: any(told["is_final"] for told in self.told(each)),
                f"the end, after {self.told(each)[-1:]}",
                120,
            )

    def seconds(self, run_ids: Sequence[str]) -> list[float]:
        """How long these runs' last attempts took, by the ledger."""
        rows = f"Run.objects.filter(pk__in={list(run_ids)!r}).values_list('started_at', 'finished_at')"
        found: list[float] = self.shop.ask(f"[(b - a).total_seconds() for a, b in {rows}]")
        assert len(found) == len(run_ids)
        return found


@pytest.fixture
def watched(cloud: str, tmp_path: Path, stack_database_url: str) -> Iterator[Watched]:
    connections = Connections()
    with open_shop(tmp_path, stack_database_url, TASKS, lease_of(6)) as shop:
        shop.environment |= {
            "SOCKETS_URL": connections.url.replace("http", "ws"),
            "SOCKETS_TABLE": make_table(),
            "AWS_ENDPOINT_URL_DYNAMODB": cloud,
            "PUBLIC_URL": "http://testserver",
        }
        yield Watched(shop, connections)
    connections.close()


def check(told: list[dict[str, Any]]) -> None:
    """Whatever happens: nothing goes backwards once the client has dropped what is old, and the end is the last."""
    numbers = [each["seq"] for each in told]
    newest = [each for number, each in enumerate(told) if each["seq"] > max(numbers[:number], default=-1)]
    done = [each["done"] or 0 for each in newest]
    assert done == sorted(done), done
    assert [each["is_final"] for each in newest] == [False] * (len(newest) - 1) + [True]


def test_a_viewer_sees_the_first_and_the_last_and_at_most_two_a_second(watched):
    watched.enqueue("walk.apply_async((60, 0.05), task_id=run_id)", "walk")
    [viewer] = watched.open("walk")
    began = time.monotonic()
    worker = watched.shop.start_worker()
    watched.await_end(viewer)
    told = watched.told(viewer)
    check(told)
    states = [each["state"] for each in told]
    assert states[0] == "queued"
    assert states[1] == "running"
    assert set(states[2:-1]) == {"running"}
    # The first, which the claim's own may have been told with, and the last.
    assert (told[1]["done"] or 1) < 60
    assert (told[-1]["state"], told[-1]["done"], told[-1]["total"]) == ("succeeded", 60, 60)
    assert len(told) <= 3 + (time.monotonic() - began) / 0.5
    assert "Traceback" not in worker.text()


def test_a_child_has_a_second_connection_while_it_pushes_and_not_for_long(watched, stack_database_url):
    worker = watched.shop.start_worker()
    [pid] = [each.pid for each in worker.pool()]

    def held() -> int:
        return open_connections(psutil.Process(pid), stack_database_url)

    # SQLite keeps the file of a connection that is closed for the next one, as long as there is another.
    least = 1 if stack_database_url.startswith("postgres") else 2
    for name in ("first", "second"):
        watched.enqueue("walk.apply_async((20, 0.1), task_id=run_id, countdown=4)", name)
        [viewer] = watched.open(name)
        watched.await_end(viewer)
        assert held() <= 2
        wait_for(lambda: held() <= least, "the end of the second one")


@pytest.mark.parametrize("trouble", ["hung", "refused"])
def test_tasks_take_as_long_as_ever_while_nobody_can_be_reached(watched, trouble):
    """A push that hangs takes seconds, and each of these runs would wait for several."""
    well, ill = [f"well-{number}" for number in range(10)], [f"ill-{number}" for number in range(10)]
    watched.enqueue("walk.apply_async(task_id=run_id)", *well)
    viewers = watched.open(*well)
    worker = watched.shop.start_worker()
    watched.await_end(*viewers)
    worker.stop()
    watched.enqueue("walk.apply_async(task_id=run_id)", *ill)
    watched.connections.hung.update(watched.open(*ill))
    if trouble == "refused":
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        watched.shop.environment["SOCKETS_API_URL"] = f"http://127.0.0.1:{port}/{STAGE}"
    watched.shop.start_worker()
    watched.shop.await_empty(120)
    assert watched.shop.ask("Run.objects.filter(state='succeeded').count()") == 20
    before, after = (statistics.median(watched.seconds(ids)) for ids in (well, ill))
    # A slow machine may be busy with something else; a push that hangs takes more than 20 times as long as the task.
    assert after < 5 * before + 0.5, (before, after)


def test_a_child_that_is_killed_leaves_viewers_with_the_truth(watched):
    watched.enqueue("walk.apply_async((40, 0.1), task_id=run_id)", "walk")
    [viewer] = watched.open("walk")
    worker = watched.shop.start_worker()
    wait_for(lambda: len(watched.told(viewer)) >= 4, "some progress")
    [child] = worker.pool()
    os.kill(child.pid, signal.SIGKILL)
    watched.await_end(viewer)
    told = watched.told(viewer)
    check(told)
    assert "lost" in [each["state"] for each in told]
    assert (told[-1]["state"], told[-1]["attempts"], told[-1]["done"]) == ("succeeded", 2, 40)


def test_what_only_the_main_process_sees_is_told_too(watched):
    """Its steward records it, and tells it."""
    watched.enqueue("stuck.apply_async(task_id=run_id)", "stuck")
    [viewer] = watched.open("stuck")
    watched.shop.start_worker()
    watched.await_end(viewer)
    told = watched.told(viewer)
    check(told)
    assert told[-1]["state"] == "failed"
    assert "TimeLimitExceeded" in told[-1]["error"]


def test_children_that_end_after_each_task_wait_until_its_end_is_told(watched):
    ids = [f"walk-{number}" for number in range(4)]
    watched.enqueue("walk.apply_async((2, 0.01), task_id=run_id)", *ids)
    viewers = watched.open(*ids)
    # A machine that is slow may need more than the quarter of a second.
    watched.shop.start_worker("--max-tasks-per-child=1", concurrency=2, PUSH_WAIT_SECONDS="60")
    watched.await_end(*viewers)
    for viewer in viewers:
        check(watched.told(viewer))
        assert watched.told(viewer)[-1]["state"] == "succeeded"


def test_children_that_end_after_each_task_end_also_where_nobody_can_be_reached(watched):
    ids = [f"walk-{number}" for number in range(4)]
    watched.enqueue("walk.apply_async((2, 0.01), task_id=run_id)", *ids)
    watched.connections.hung.update(watched.open(*ids))
    watched.shop.start_worker("--max-tasks-per-child=1")
    wait_for(lambda: watched.shop.ask("Run.objects.filter(state='succeeded').count()") == 4, "the ends", 120)


def test_what_nobody_watches_pushes_nothing_and_opens_no_second_connection(watched, stack_database_url):
    worker = watched.shop.start_worker(concurrency=2)
    watched.enqueue("walk.apply_async((2, 0.01), task_id=run_id)", *(f"run-{number}" for number in range(20)))
    watched.shop.await_empty()
    assert watched.connections.posts == []
    pids = [each.pid for each in worker.pool()]
    assert [open_connections(psutil.Process(pid), stack_database_url) for pid in pids] == [1] * len(pids)
