"""The shop of test_canvas.py: its tasks, and the process in which tests enqueue them and wait for what becomes of them.

Tasks leave notes in the file CANVAS_NOTES, a line of JSON each: key, what, detail. A test's notes have its own key.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import django
from celery import Task, chord, group, shared_task
from celery.canvas import StampingVisitor
from celery.result import AsyncResult, ResultBase
from django.db import transaction

from serverless import aws
from tasks.topology import TOPOLOGY
from tests.waiting import wait_for

if TYPE_CHECKING:
    from serverless.fakesqs import Server
    from tests.faults.plant import Worker

#: Seconds until a test that waits for a result has failed.
PATIENCE_SECONDS = 20
_COUNTS = [f"ApproximateNumberOfMessages{suffix}" for suffix in ("", "NotVisible", "Delayed")]


class OutOfStockError(Exception):
    """There are not as many."""

    class WorldwideError(Exception):
        """Nobody has any."""


class PickyError(Exception):
    """Cannot be made anew from its own arguments."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class Unwritable:
    """No JSON."""

    def __repr__(self) -> str:
        return "<unwritable>"


ERRORS = {
    "own": OutOfStockError("apples", 3),
    "nested": OutOfStockError.WorldwideError({"apples": 0}),
    "builtin": KeyError("pear"),
    "picky": PickyError("no", "way"),
    "unwritable": OutOfStockError(Unwritable()),
}


def leave_note(key: str, what: str, detail: object = None) -> None:
    """One line, whole even when many processes write."""
    descriptor = os.open(os.environ["CANVAS_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, f"{json.dumps([key, what, detail])}\n".encode())
    finally:
        os.close(descriptor)


def notes(key: str) -> Iterator[tuple[str, Any]]:
    """(what, detail) of the notes under that key, in the order in which they were left."""
    path = Path(os.environ["CANVAS_NOTES"])
    for line in path.read_text().splitlines() if path.exists() else ():
        at, what, detail = json.loads(line)
        if at == key:
            yield what, detail


# Tasks -------------------------------------------------------------------------------------------------------------


@shared_task
def give(value: Any = None) -> Any:
    return value


@shared_task
def add(x: Any, y: Any) -> Any:
    return x + y


@shared_task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@shared_task
def note(value: Any, key: str, what: str = "ran") -> Any:
    """Leave a note of the value and hand it on."""
    leave_note(key, what, value)
    return value


@shared_task(ignore_result=True)
def note_quietly(value: Any, key: str) -> Any:
    leave_note(key, "ran", value)
    return value


@shared_task
def fail(*_: Any, error: str = "own") -> None:
    raise ERRORS[error]


@shared_task
def give_unwritable(*_: Any) -> Any:
    return Unwritable()


@shared_task(bind=True)
def describe(self: Task, *_: Any) -> dict[str, Any]:
    """What the task's request says of where it stands, and its stamps."""
    request = self.request
    names = ("id", "root_id", "parent_id", "group", "group_index", "retries", "stamped_headers", "stamps")
    return {name: getattr(request, name, None) for name in names}


@shared_task(bind=True)
def note_stamps(self: Task, *arguments: Any) -> None:
    """arguments: those of a callback or of an old errback, then the key."""
    leave_note(arguments[-1], "stamps", self.request.stamps)


@shared_task
def report_id(task_id: str) -> None:
    """An errback of the old style, sent as a task: its one argument is the id of what failed."""
    leave_note(task_id, "old errback")


@shared_task
def report_error(request: Any, error: Exception, trace: Any, key: str) -> None:
    """An errback of the new style, called where the failure is noticed."""
    leave_note(key, "new errback", [request.id, repr(error)])


@shared_task(bind=True, max_retries=5)
def insist(self: Task, value: Any, times: int, countdown: float = 0) -> Any:
    """Give the value at the try after so many."""
    if self.request.retries < times:
        raise self.retry(exc=OutOfStockError("not yet", self.request.retries), countdown=countdown)
    return value


@shared_task(bind=True, track_started=True)
def wait_for_leave(self: Task, key: str, state: str = "", **meta: Any) -> str:
    """Show a state, then wait until a note allows to end."""
    if state:
        self.update_state(state=state, meta=meta)
    wait_for(lambda: ("leave", None) in notes(key), "leave to end", PATIENCE_SECONDS)
    return "left"


REPLACEMENTS: dict[str, Any] = {
    "task": lambda x: add.s(x, 1),
    "chain": lambda x: add.s(x, 1) | add.s(2),
    "group": lambda x: group(give.s(x), add.s(x, 1)),
    "chain that ends in a group": lambda x: give.s(x) | group(add.s(1), add.s(2)),
    "chord": lambda x: chord([give.s(x), add.s(x, 1)], total.s()),
    "failure": lambda x: fail.s(),
}


@shared_task(bind=True)
def replace(self: Task, value: Any, by: str) -> Any:
    return self.replace(REPLACEMENTS[by](value))


@shared_task(bind=True)
def replace_in_a_transaction(self: Task, value: Any, by: str) -> Any:
    """What ends the task after `replace` is an exception, so the block is rolled back."""
    with transaction.atomic():
        return self.replace(REPLACEMENTS[by](value))


@shared_task(bind=True)
def replace_in_turn(self: Task, times: int) -> Any:
    return self.replace(replace_in_turn.s(times - 1)) if times else "at last"


@shared_task(bind=True)
def extend_chord(self: Task, value: int) -> int:
    """Add a part, ten times as much, to the chord that the task is a part of."""
    self.add_to_chord(give.s(value * 10))
    return value


@shared_task
def start_chord(numbers: list[int], in_transaction: bool) -> Any:
    """A chord from within a task; gives the ids of its body and of its header."""
    with transaction.atomic() if in_transaction else nullcontext():
        result = chord([give.s(number) for number in numbers], total.s()).apply_async()
    return [result.id, result.parent.id]


@shared_task
def start_tree(depth: int) -> Any:
    """A group of two from within a task, each doing the same, and give the results."""
    return group(start_tree.s(depth - 1), start_tree.s(depth - 1)).apply_async() if depth else "leaf"


class Stamps(StampingVisitor):
    """Stamps each signature with a word and with its task's name."""

    def __init__(self, word: str) -> None:
        self.word = word

    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {"word": self.word, "of": sig.task.rpartition(".")[2], "stamped_headers": ["word", "of"]}

    def on_callback(self, callback: Any, **headers: Any) -> dict[str, Any]:
        return {"as": "callback"}

    def on_errback(self, errback: Any, **headers: Any) -> dict[str, Any]:
        return {"as": "errback"}


# The process that enqueues -----------------------------------------------------------------------------------------


@dataclass
class Desk:
    """What a test has in its hands. inside: whether it enqueues in a transaction. key: of its own notes."""

    inside: bool
    key: str = field(default_factory=lambda: uuid4().hex)

    def start(self, canvas: Any, *arguments: Any, **options: Any) -> Any:
        """Enqueue and give the result."""
        with transaction.atomic() if self.inside else nullcontext():
            return canvas.apply_async(arguments, **options)

    def get(self, canvas: Any, propagate: bool = True) -> Any:
        """Wait for what becomes of a result, or of a signature that is started first."""
        result = canvas if isinstance(canvas, ResultBase) else self.start(canvas)
        return result.get(timeout=PATIENCE_SECONDS, interval=0.02, propagate=propagate)

    def error(self, canvas: Any) -> Any:
        """Wait for the exception that it ends in."""
        error = self.get(canvas, propagate=False)
        assert isinstance(error, BaseException), error
        return error

    def done(self, key: str = "", what: str = "ran") -> list[Any]:
        """The details of all notes, when no message is left in the queues that could lead to more."""
        wait_for(self._queues_are_empty, "the end of all messages", PATIENCE_SECONDS)
        return [detail for each, detail in notes(key or self.key) if each == what]

    def state(self, result: AsyncResult, state: str) -> AsyncResult:
        """Wait until the result shows that state."""
        wait_for(lambda: result.state == state, f"state {state}", PATIENCE_SECONDS)
        return result

    def allow_to_leave(self) -> None:
        leave_note(self.key, "leave")

    def _queues_are_empty(self) -> bool:
        urls = [f"{os.environ['QUEUE_URL_PREFIX']}{name}" for name in TOPOLOGY.queues]
        answers = [aws.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=_COUNTS) for url in urls]
        return all(int(count) == 0 for answer in answers for count in answer["Attributes"].values())


def serve(descriptor: int) -> None:
    """Run the bodies of tests, as they are asked for by name, and answer each with its traceback, or ""."""
    django.setup()
    tests = _tests()
    channel = Connection(descriptor)
    while True:
        try:
            name, inside = channel.recv()
        except EOFError:
            return
        desk = Desk(inside)
        try:
            getattr(tests, name).body(desk)
        except BaseException:
            channel.send(traceback.format_exc())
        else:
            channel.send("")
        finally:
            # What a failed test has left waiting would keep the next ones from the worker.
            desk.allow_to_leave()


def _tests() -> ModuleType:
    """test_canvas.py, its assertions rewritten so that they show their values when they fail, as pytest has them."""
    from _pytest.assertion.rewrite import rewrite_asserts

    path = Path(__file__).with_name("test_canvas.py")
    source = path.read_bytes()
    tree = ast.parse(source)
    rewrite_asserts(tree, source)
    module = sys.modules[f"{__package__}.{path.stem}"] = ModuleType(f"{__package__}.{path.stem}")
    module.__file__ = str(path)
    exec(compile(tree, path, "exec"), module.__dict__)  # noqa: S102 - our own file
    return module


@dataclass
class Shop:
    """The tests' side of it: a worker, and the process that serves."""

    server: Server
    worker: Worker
    channel: Connection

    def perform(self, name: str, inside: bool) -> None:
        """Run that test's body where tasks are enqueued. Fails with its traceback, and with the worker's last words."""
        self.channel.send((name, inside))
        ended = self.channel.poll(6 * PATIENCE_SECONDS)
        failure = self.channel.recv() if ended else f"{name} did not end"
        lines = [line[:500] for line in self.worker.text().splitlines()[-15:]]
        assert not failure, "\n".join([failure, "The worker's log ends:", *lines])


@contextmanager
def open_canvas_shop(folder: Path, database_url: str) -> Iterator[Shop]:
    """A shop with these tasks; all that it started is ended with the block."""
    # They set the environment of a test process, and the process that serves has one of its own.
    from tests.faults.shop import open_shop

    here, there = Pipe()
    with open_shop(folder, database_url, f"from {__name__} import *  # noqa: F403\n") as shop:
        # JSON, for a traceback that is drawn for people takes its second.
        shop.environment |= {"CANVAS_NOTES": str(folder / "notes"), "LOG_FORMAT": "json"}
        if backend := os.environ.get("CANVAS_RESULT_BACKEND"):
            # The ledger's claims and another backend's results do not go together.
            shop.environment |= {"RESULT_BACKEND": backend, "RECORD_RUNS": "0"}
            shop.environment["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")
        worker = shop.start_worker(concurrency=2)
        server = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve({there.fileno()})"],
            cwd=Path(__file__).parents[2],
            env=shop.environment,
            pass_fds=[there.fileno()],
        )
        there.close()
        try:
            yield Shop(shop.server, worker, here)
        finally:
            server.kill()
            server.wait(10)
            here.close()
