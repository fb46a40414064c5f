"""Workflows whose processes die at each moment, a crew of workers kept at strength, and the books afterwards."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import psutil

from tests.faults.clerk import Clerk
from tests.faults.plant import Worker
from tests.faults.shop import CLAIMED, COMMITTED, ENDED, ENDING, INSIDE, PUBLISHED, RAN, WORKING, Shop

#: The shop's tasks. name: "flow/place"; label: as of tests.faults.shop, "" for those that no death is planned for.
TASKS = """
import os, time

from celery import shared_task
from celery.exceptions import Reject
from django.contrib.auth.models import Group

from tasks.runtime.once import once
from tasks.runtime.task import Task
from tests.faults.shop import INSIDE, WORKING, place_deaths, reach, trace

place_deaths()


def affect(task, given, name, key=None):
    with once(task, key) as done:
        Group.objects.create(name=f"{key or name} {os.urandom(4).hex()}")
        reach(INSIDE)
        return done(f"{'+'.join(given[0]) if given and isinstance(given[0], list) else '+'.join(given)}>{name}")


@shared_task(bind=True, base=Task)
def step(self, *given, name="", label="", seconds=0.0, key=None):
    trace("began", self.request.id, name)
    time.sleep(seconds)
    told = affect(self, given, name, key)
    reach(WORKING)
    trace("done", self.request.id, name)
    return told


@shared_task(bind=True, base=Task)
def again(self, *given, name="", label="", times=1):
    trace("began", self.request.id, name)
    reach(WORKING)
    if self.request.retries < times:
        raise self.retry(countdown=0, max_retries=times)
    return affect(self, given, name)


@shared_task(bind=True)
def swap(self, *given, name="", label=""):
    reach(WORKING)
    raise self.replace(step.s(*given, name=name))


@shared_task(bind=True)
def fail(self, *given, name="", label=""):
    trace("began", self.request.id, name)
    raise LookupError("as asked")


@shared_task(bind=True)
def misbehave(self, how, name=""):
    trace("began", self.request.id, name)
    match how:
        case "gives up":
            raise self.retry(countdown=0, max_retries=1)
        case "rejects":
            raise Reject("as asked", requeue=False)
        case "exits":
            os._exit(1)
        case "oversleeps":
            time.sleep(60)
        case "returns no JSON":
            return object()
        case "says much":
            raise LookupError("much " * 200_000)
"""

#: Lines of settings: no run is given up, and SQLite's writers, who wait for half a minute, in which an outage would be
#: over, wait for a second where the environment says so.
HARDENED = """
import os
RUN_MOST_CRASHES = 1000
if os.environ.get("SHOP_IMPATIENT") and "sqlite" in DATABASES["default"]["ENGINE"]:
    DATABASES["default"]["OPTIONS"]["timeout"] = 1
"""
IMPATIENT = {"SHOP_IMPATIENT": "1"}

#: Moments after which nothing of the attempt is done again.
RECORDED = (COMMITTED, PUBLISHED, ENDED)
MOMENTS = (CLAIMED, INSIDE, WORKING, RAN, ENDING, *RECORDED)


@dataclass(frozen=True)
class Flow:
    """A workflow. code: of its canvas. places: its runs, in order; doomed: those of its label; failed: that fail."""

    name: str
    code: str
    places: tuple[str, ...]
    doomed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return [f"{self.name}/{place}" for place in self.places]


def flow(link: str, name: str, label: str = "") -> Flow:
    """A workflow with one doomed link, of that label; default: its name. All but a single run have more behind it."""
    label = label or name

    def one(place: str, task: str = "", options: str = "") -> str:
        return f"{task or 'step'}.s(name={f'{name}/{place}'!r}, label={label if task else ''!r}{options})"

    match link:
        case "single":
            return Flow(name, one("a", "step"), ("a",), ("a",))
        case "first step":
            return Flow(name, f"chain({one('a', 'step')}, {one('b')}, {one('c')})", ("a", "b", "c"), ("a",))
        case "middle step":
            return Flow(name, f"chain({one('a')}, {one('b', 'step')}, {one('c')})", ("a", "b", "c"), ("b",))
        case "part":
            # Long enough for a duplicate to come meanwhile.
            parts = ", ".join(one(place, "step", ", seconds=0.2") for place in "abc")
            return Flow(name, f"chord([{parts}], {one('d')})", ("a", "b", "c", "d"), ("a", "b", "c"))
        case "callback":
            code = f"chain(group({one('a')}, {one('b')}), {one('c', 'step')}, {one('d')})"
            return Flow(name, code, ("a", "b", "c", "d"), ("c",))
        case "retry":
            return Flow(name, f"chain({one('a', 'again')}, {one('b')})", ("a", "b"), ("a",))
        case "replacement":
            return Flow(name, f"chain({one('a', 'swap')}, {one('b')})", ("a", "b"), ("a",))
        case "group":
            return Flow(name, f"group({one('a', 'step')}, {one('b', 'step')}, {one('c')})", ("a", "b", "c"), ("a", "b"))
        case "failing step":
            return Flow(name, f"chain({one('a')}, {one('b', 'fail')}, {one('c')})", ("a", "b", "c"), ("b",), ("b", "c"))
        case "failing part":
            code = f"chord([{one('a')}, {one('b', 'fail')}], {one('c')})"
            return Flow(name, code, ("a", "b", "c"), ("b",), ("b", "c"))
    raise LookupError(link)


@dataclass
class Crew:
    """So many workers of a shop; one that has died is replaced. arguments: of each."""

    shop: Shop
    size: int = 1
    concurrency: int = 4
    arguments: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)

    def living(self) -> list[Worker]:
        return [worker for worker in self.shop.workers if not worker.ended()]

    def keep(self) -> int:
        """Start those that are missing; how many were."""
        missing = self.size - len(self.living())
        for _ in range(missing):
            self.shop.start_worker(*self.arguments, concurrency=self.concurrency, **self.variables)
        return missing

    def dismiss(self) -> None:
        for worker in self.living():
            worker.kill()

    @contextmanager
    def replaced_by(self, **options: Any) -> Iterator[Crew]:
        """Another crew instead of this one."""
        self.dismiss()
        made = Crew(self.shop, **options)
        try:
            yield made
        finally:
            made.dismiss()

    def lose_a_child(self, randomness: random.Random) -> bool:
        """Kill one child of one worker; False if there was none."""
        children = []
        with contextlib.suppress(psutil.Error, IndexError):
            pool = randomness.choice(self.living()).pool()
            children = [each for each in pool if each.status() != psutil.STATUS_ZOMBIE]
        with contextlib.suppress(ProcessLookupError):
            if children:
                os.kill(randomness.choice(children).pid, signal.SIGKILL)
        return bool(children)


#: A round of the housekeeping, for which what was recorded three seconds ago is a minute old.
KEEP_HOUSE = """
Run.objects.filter(state='pending', publish_claimed_until__lte=timezone.now() + timedelta(seconds=57)).update(
    publish_claimed_until=timezone.now())
housekeeping.run(timezone.now())
"""


def work_off(crew: Crew, clerk: Clerk, is_over: Callable[[], object], seconds: float) -> bool:
    """Keep crew and house until it is over; False if it was not in time."""
    deadline = time.monotonic() + seconds
    while not is_over():
        if time.monotonic() > deadline:
            return False
        crew.keep()
        clerk.do(KEEP_HOUSE)
        time.sleep(0.2)
    return True


def carry_out(crew: Crew, clerk: Clerk, flows: Sequence[Flow], seconds: float) -> bool:
    """Send workflows and work off all there is; False if it was not in time."""
    runs = send(clerk, flows)
    return work_off(crew, clerk, lambda: all_ended(clerk, runs) and crew.shop.depth() == 0, seconds)


def send(clerk: Clerk, flows: Sequence[Flow]) -> int:
    """Send workflows; how many runs there will be in all when they have ended."""
    runs: int = clerk.do("Run.objects.count()") + sum(len(each.places) for each in flows)
    # What comes behind a failure has no arguments in its record.
    lasts = "\n".join(f"LAST[({each.code}).delay().id] = {each.names[-1]!r}" for each in flows)
    clerk.do(f"LAST = globals().get('LAST', {{}})\n{lasts}")
    return runs


def all_ended(clerk: Clerk, runs: int) -> bool:
    """Whether there are so many runs, and each has ended."""
    there, ended = clerk.do("[Run.objects.count(), Run.objects.filter(state__in=FINAL).count()]")
    return bool(there >= runs and there == ended)


class Ended(NamedTuple):
    """An attempt that has ended, and when."""

    number: int
    began: datetime
    ended: datetime
    outcome: str
    error: str


@dataclass
class Books:
    """What the database and the trace say, by the names of runs. attempts: see Ended."""

    runs: dict[str, list[dict[str, Any]]]
    attempts: dict[str, list[Ended]]
    effects: Counter[str]
    began: Counter[str]
    deaths: dict[str, list[str]]
    lease_seconds: float

    def lost(self, name: str) -> int:
        """How many attempts of it were lost."""
        return sum(attempt.outcome == "lost" for run in self.runs[name] for attempt in self.attempts[run["id"]])


def read_books(shop: Shop, clerk: Clerk) -> Books:
    runs: dict[str, list[dict[str, Any]]] = {}
    fields = "'id', 'state', 'arguments', 'attempts', 'crashes', 'retries', 'result', 'error'"
    last = clerk.do("globals().get('LAST', {})")
    for run in clerk.do(f"list(Run.objects.order_by('created_at').values({fields}))"):
        name = json.loads(run["arguments"])["kwargs"].get("name", "") if run["arguments"] else last.get(run["id"], "")
        runs.setdefault(name, []).append(run)
    attempts: dict[str, list[Ended]] = {run["id"]: [] for each in runs.values() for run in each}
    names = "'run', 'number', 'started_at', 'ended_at', 'outcome', 'error'"
    for run_id, number, *times, outcome, error in clerk.do(
        f"list(Attempt.objects.order_by('number').values_list({names}))"
    ):
        began, ended = map(datetime.fromisoformat, times)
        attempts[run_id].append(Ended(number, began, ended, outcome, error))
    effects = Counter(
        name.rpartition(" ")[0] for name in clerk.do("list(Group.objects.values_list('name', flat=True))")
    )
    deaths: dict[str, list[str]] = {}
    for death in shop.traces("died"):
        deaths.setdefault(death.argument, []).append(death.task_id)
    begun = Counter(trace.argument for trace in shop.traces("began"))
    lease_seconds = clerk.do("app.conf.broker_transport_options['lease_seconds']")
    return Books(runs, attempts, effects, begun, deaths, lease_seconds)


def check_flow(books: Books, flow: Flow) -> None:
    """Every run is there once, ended as it should, had its effect once, and handed it on; no two attempts overlap."""
    ends = {
        name: ["failed" if place in flow.failed else "succeeded"]
        for place, name in zip(flow.places, flow.names, strict=True)
    }
    assert {name: [run["state"] for run in books.runs.get(name, [])] for name in flow.names} == ends
    effects = {name: int(end == ["succeeded"]) for name, end in ends.items()}
    assert {name: books.effects[name] for name in flow.names} == effects
    [last] = books.runs[flow.names[-1]]
    if last["state"] == "succeeded" and not flow.code.startswith("group"):
        assert {name: last["result"].count(f">{name}") for name in flow.names} == effects, last["result"]
    for name in flow.names:
        [run] = books.runs[name]
        check_attempts(books, run)


def check_attempts(books: Books, run: dict[str, Any]) -> None:
    """Each has its record, began when the one before it had ended, and lost no lease before it was over."""
    attempts = books.attempts[run["id"]]
    assert [each.number for each in attempts] == list(range(1, run["attempts"] + 1)), (run, attempts)
    for before, after in itertools.pairwise(attempts):
        assert before.ended <= after.began, (run, attempts)
    for each in attempts:
        if "lease was over" in each.error:
            assert (each.ended - each.began).total_seconds() > books.lease_seconds - 0.01, (run, attempts)
