"""A worker as a container's process: ECS's agent protects it, lets it go, fails it; a stop is over before ECS kills."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.faults.clerk import Clerk, clerk_of
from tests.faults.plant import Worker
from tests.faults.shop import Shop, open_shop
from tests.waiting import wait_for

pytestmark = pytest.mark.faults

TASKS = """
import os, signal, time
from celery import shared_task
from tests.faults.shop import trace


@shared_task(bind=True)
def work(self, number, seconds=0.0):
    trace("began", self.request.id, number)
    time.sleep(seconds)
    trace("ran", self.request.id, number)


@shared_task(bind=True)
def deaf(self, seconds):
    # As within a library that is at work, where no signal is heard.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    trace("began", self.request.id)
    time.sleep(seconds)
    trace("ran", self.request.id)


@shared_task(bind=True)
def inspect_process(self):
    from serverless import aws

    for _ in range(600):
        warm = {service for pid, service, _ in aws._clients if pid == os.getpid()}
        if {"s3", "sqs"} <= warm:
            break
        time.sleep(0.1)
    with open("/proc/self/oom_score_adj") as handle:
        trace("warm", self.request.id, f"{sorted(warm)} {handle.read().strip()}")
"""

#: As short as they can be tried; test_container_protection has the real ones. In place, as tests.faults.shop shortens
#: leases.
SHORT = """
from serverless.container import keeper
from serverless.container.protection import Rules
keeper.RULES = Rules(receiving={receiving}, waiting=3.0, again=1.0, again_at_most=2.0, staying=2.0)
"""


@dataclass
class EcsAgent:
    """ECS's agent, as far as a worker speaks to it. Each answer is what the test sets.

    asked: (time.monotonic(), whether it is to be protected). on_unprotect: called before it is answered.
    """

    asked: list[tuple[float, bool]] = field(default_factory=list)
    refusal: dict[str, object] | None = None
    may_answer: threading.Event = field(default_factory=threading.Event)
    on_unprotect: Callable[[], object] = lambda: None
    uri: str = ""

    def answer(self, wanted: bool) -> tuple[int, dict[str, object]]:
        if not wanted:
            self.on_unprotect()
        self.asked.append((time.monotonic(), wanted))
        self.may_answer.wait(60)
        if self.refusal is not None:
            return 400, self.refusal
        return 200, {"protection": {"ExpirationDate": None, "ProtectionEnabled": wanted, "TaskArn": "arn:aws:ecs:x"}}

    def times(self, wanted: bool) -> list[float]:
        return [at for at, each in self.asked if each is wanted]


@contextmanager
def running_agent() -> Iterator[EcsAgent]:
    made = EcsAgent()
    made.may_answer.set()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            assert self.path == "/api/task/task-protection/v1/state"
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = made.answer(said["ProtectionEnabled"])
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made.uri = f"http://127.0.0.1:{server.server_port}/api/task"
    try:
        yield made
    finally:
        made.may_answer.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def agent() -> Iterator[EcsAgent]:
    with running_agent() as made:
        yield made


@pytest.fixture(scope="module")
def open_all_day(tmp_path_factory: pytest.TempPathFactory, stack_database_url: str) -> Iterator[tuple[Shop, Clerk]]:
    folder = tmp_path_factory.mktemp("shop")
    settings = SHORT.format(receiving="float(os.environ.get('SHOP_RECEIVING', 4.0))")
    with open_shop(folder, stack_database_url, TASKS, f"import os\n{settings}") as shop, clerk_of(shop) as clerk:
        yield shop, clerk


@pytest.fixture
def clerk(open_all_day: tuple[Shop, Clerk]) -> Clerk:
    return open_all_day[1]


@pytest.fixture
def shop(open_all_day: tuple[Shop, Clerk]) -> Iterator[Shop]:
    """A shop without workers, messages and runs."""
    shop, clerk = open_all_day
    clerk.do("[model.objects.all().delete() for model in (Attempt, Run, Worker)] and None")
    shop.trace_file.unlink(missing_ok=True)
    yield shop
    for worker in shop.workers:
        # Not killed: its long polls would go on for a moment, and bring a message of the next test to nobody.
        if not worker.ended():
            worker.stop(signal.SIGQUIT, 60)
        worker.kill()
    shop.workers.clear()
    for queue in shop.server.sqs.queues.values():
        queue.ready.clear()
        queue.hidden.clear()


def start_container(shop: Shop, *arguments: str, concurrency: int = 1, **variables: str) -> Worker:
    """The container's process for the general pool, ready to work."""
    log = shop.folder / f"container-{time.monotonic_ns()}.log"
    command = [sys.executable, "-m", "serverless.entrypoints.worker", "--pool=general", f"--concurrency={concurrency}"]
    with log.open("wb") as handle:
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=ROOT,
            env={**shop.environment, "LOG_FORMAT": "json", **variables},
            stdout=handle,
            stderr=subprocess.STDOUT,
        )
    worker = Worker(process, log)
    shop.workers.append(worker)
    wait_for(lambda: " ready." in worker.text() or worker.ended(), "the worker", 120)
    assert not worker.ended(), worker.text()
    return worker


def enqueue(clerk: Clerk, count: int, seconds: float = 0.0, first: int = 0) -> None:
    clerk.do(f"[work.delay(number, {seconds}).id for number in range({first}, {first + count})] and None")


def running(shop: Shop) -> int:
    return len(shop.traces("began")) - len(shop.traces("ran"))


def visible(shop: Shop) -> int:
    queue, now = shop.queue(), time.monotonic()
    return len(queue.ready) + sum(until <= now for until, _ in list(queue.hidden.values()))


def receives(shop: Shop) -> int:
    return shop.server.counts["ReceiveMessage"]


def test_nothing_is_received_before_the_task_is_protected(shop, clerk, agent):
    agent.may_answer.clear()
    enqueue(clerk, 3)
    before = receives(shop)
    start_container(shop, ECS_AGENT_URI=agent.uri)
    wait_for(lambda: agent.asked, "the question")
    assert receives(shop) == before
    agent.may_answer.set()
    shop.await_empty()
    assert agent.asked[0][1] is True
    assert len(shop.traces("ran")) == 3


def test_a_busy_worker_lets_go_of_its_task_again_and_again_and_holds_nothing_when_it_does(shop, clerk, agent):
    held: list[tuple[int, int]] = []
    agent.on_unprotect = lambda: held.append((running(shop), shop.depth() - visible(shop)))
    enqueue(clerk, 150, 0.1)
    start_container(shop, ECS_AGENT_URI=agent.uri)
    wait_for(lambda: len(agent.times(True)) >= 3, "two rounds", 120)
    assert held[:2] == [(0, 0)] * 2
    shop.await_empty(120)
    assert sorted(int(trace.argument) for trace in shop.traces("ran")) == list(range(150))
    assert len(shop.traces("began")) == 150


def test_what_has_not_begun_goes_back_at_once_and_what_runs_is_finished(shop, clerk, agent):
    enqueue(clerk, 6, 8.0)
    start_container(shop, ECS_AGENT_URI=agent.uri)
    wait_for(lambda: running(shop) == 1, "the first task")
    assert visible(shop) == 0
    wait_for(lambda: visible(shop) == 5, "the five that it had fetched ahead", 60)
    assert (running(shop), len(agent.times(False))) == (1, 0)
    wait_for(lambda: agent.times(False), "the end of protection", 60)
    assert len(shop.traces("ran")) == 1
    wait_for(lambda: running(shop) == 1, "the second task, after nobody had stopped the worker", 60)
    assert clerk.do("list(Run.objects.values_list('crashes', flat=True).distinct())") == [0]


def test_a_newer_release_in_the_same_pool_makes_it_let_go(shop, clerk, agent):
    patient = {"ECS_AGENT_URI": agent.uri, "SHOP_RECEIVING": "3600"}
    old = start_container(shop, RELEASE="1", **patient)
    wait_for(lambda: len(agent.times(True)) == 1, "protection")
    # Under a name of its own, as each container has one.
    shop.start_worker(RELEASE="2")
    wait_for(lambda: agent.times(False), "the end of protection", 90)
    assert '"newer_release": "2"' in old.text()
    wait_for(lambda: len(agent.times(True)) == 2, "protection again, since nobody has stopped it", 60)


def test_an_agent_that_fails_stops_no_work_and_is_complained_of_once(shop, clerk, agent):
    agent.refusal = {"error": {"Code": "AccessDeniedException", "Message": "not authorized"}}
    enqueue(clerk, 3)
    worker = start_container(shop, ECS_AGENT_URI=agent.uri)
    shop.await_empty()
    wait_for(lambda: len(agent.asked) >= 3, "further tries", 60)
    assert worker.text().count("AccessDeniedException: not authorized") == 1
    agent.refusal = None
    wait_for(lambda: "works again after" in worker.text(), "the end of the complaint", 60)
    assert agent.times(False) == [] or agent.times(False)[0] > agent.times(True)[2]


def test_a_worker_that_waits_for_its_stop_ends_at_once(shop, agent):
    worker = start_container(shop, ECS_AGENT_URI=agent.uri)
    wait_for(lambda: agent.times(False), "the end of protection", 60)
    worker.tell(signal.SIGTERM)
    assert worker.process.wait(60) == 0
    assert len(agent.times(True)) == 1


def test_outside_of_ecs_nobody_asks(shop, clerk):
    enqueue(clerk, 1)
    worker = start_container(shop)
    shop.await_empty()
    assert "task_protection" not in worker.text()


# A stop --------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_into_the_stop_timeout_is_cut_off_and_goes_back_at_once(shop, clerk):
    enqueue(clerk, 1, 120.0)
    worker = start_container(shop, "--stop-timeout=8")
    wait_for(lambda: running(shop) == 1, "the task")
    worker.tell(signal.SIGTERM)
    assert worker.process.wait(60) == 0
    assert "drain_cuts_off" in worker.text()
    assert visible(shop) == 1
    assert shop.traces("ran") == []
    # Whoever gets it may begin at once, and need not wait for the end of a lease; a deploy is no crash.
    run = clerk.do("Run.objects.values('state', 'crashes', 'lease_until', 'past_attempts__outcome').get()")
    assert run == {"state": "queued", "crashes": 0, "lease_until": None, "past_attempts__outcome": "returned"}


def test_nobody_is_at_work_on_a_run_that_is_given_back(shop, clerk):
    clerk.do("deaf.delay(120.0).id")
    worker = start_container(shop, "--stop-timeout=8")
    wait_for(lambda: running(shop) == 1, "the task")
    child = psutil.Process(shop.traces("began")[0].pid)
    worker.tell(signal.SIGTERM)
    wait_for(lambda: clerk.do("Run.objects.get().state") == "queued", "that it is given back", 60)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert worker.process.wait(60) == 0
    assert visible(shop) == 1


def test_a_second_sigterm_cuts_nothing_off(shop, clerk):
    enqueue(clerk, 1, 6.0)
    worker = start_container(shop)
    wait_for(lambda: running(shop) == 1, "the task")
    worker.tell(signal.SIGTERM)
    wait_for(lambda: "Warm shutdown" in worker.text(), "the stop")
    worker.tell(signal.SIGTERM)
    assert worker.process.wait(90) == 0
    assert len(shop.traces("ran")) == 1
    assert shop.depth() == 0


# Children ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="the kernel's choice of a victim is Linux's")
def test_children_have_their_clients_and_are_what_the_kernel_ends_first(shop, clerk):
    clerk.do("inspect_process.delay().id")
    worker = start_container(shop)
    wait_for(lambda: shop.traces("warm"), "the task", 60)
    (warm,) = shop.traces("warm")
    services, _, score = warm.argument.rpartition(" ")
    assert {"s3", "sqs"} <= set(json.loads(services.replace("'", '"')))
    assert score == "500"
    main = Path(f"/proc/{worker.process.pid}/oom_score_adj").read_text().strip()
    assert int(main) < 500
    assert psutil.pid_exists(worker.process.pid)
