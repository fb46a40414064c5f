"""The Celery app of the fault tests: tasks that leave a trace, on the broker as any project would use it.

FAULT_OPTIONS holds broker_transport_options as JSON, FAULT_CONFIG further settings; FAULT_TRACE names the file that
tasks append to, a line each: what, task id, argument, process id, time.time(). FAULT_LINGER: seconds that the task
`linger` takes in this worker. FAULT_BLOCK: seconds that the event loop is blocked on receiving the task `block`.
FAULT_CLOCK: a file with seconds by which time.time() is wrong, so that the clock can jump.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time

from celery import Celery, signals
from celery.backends.base import DisabledBackend
from celery.exceptions import Reject

from serverless.broker import BatchPublishing, bulk

_true_time = time.time


def _shifted_time() -> float:
    with open(os.environ["FAULT_CLOCK"], encoding="utf-8") as handle:
        return _true_time() + float(handle.read() or 0)


if "FAULT_CLOCK" in os.environ:
    time.time = _shifted_time


class App(BatchPublishing, Celery):
    pass


app = App("faults")
app.conf.update(
    broker_url="sqs://",
    broker_transport="serverless.broker:Transport",
    broker_transport_options=json.loads(os.environ["FAULT_OPTIONS"]),
    broker_connection_retry_on_startup=True,
    task_default_queue="work",
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    worker_enable_remote_control=False,
    **json.loads(os.environ.get("FAULT_CONFIG", "{}")),
)


def trace(what: str, task_id: str, argument: object = "") -> None:
    """One line, whole even when many processes write."""
    line = f"{what}\t{task_id}\t{argument}\t{os.getpid()}\t{time.time()}\n".encode()
    descriptor = os.open(os.environ["FAULT_TRACE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


@app.task(bind=True)
def note(self, argument: object = "") -> None:
    """Leave a trace."""
    trace("ran", self.request.id, argument)


@app.task(bind=True)
def nap(self, seconds: float, argument: object = "") -> None:
    """Take a while; traces its beginning and its end."""
    trace("began", self.request.id, argument)
    time.sleep(seconds)
    trace("ran", self.request.id, argument)


@app.task(bind=True)
def linger(self, argument: object = "") -> None:
    """Take as long as this worker is told to, unlike its neighbours."""
    trace("began", self.request.id, argument)
    time.sleep(float(os.environ.get("FAULT_LINGER", "0")))
    trace("ran", self.request.id, argument)


@app.task(bind=True)
def block(self, argument: object = "") -> None:
    """Block the event loop of the worker that receives it, if FAULT_BLOCK says so."""
    trace("ran", self.request.id, argument)


@app.task(bind=True)
def crash(self, times: int, argument: object = "") -> None:
    """Kill its own process the first so many times that it is received."""
    trace("began", self.request.id, argument)
    receives = int(self.request.properties["delivery_info"]["sqs_message"]["Attributes"]["ApproximateReceiveCount"])
    if receives <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    trace("ran", self.request.id, argument)


@app.task
def spread(count: int) -> None:
    """Enqueue so many tasks from a process of the pool."""
    with bulk(app):
        for number in range(count - 1):
            note.delay(number)
    note.delay("last")


@app.task(bind=True)
def fail(self, argument: object = "") -> None:
    """Raise."""
    trace("ran", self.request.id, argument)
    raise RuntimeError("as asked")


@app.task(bind=True)
def again(self, times: int, countdown: float = 1) -> None:
    """Retry so many times."""
    trace("ran", self.request.id, self.request.retries)
    if self.request.retries < times:
        raise self.retry(countdown=countdown, max_retries=times)


@app.task
def refuse() -> None:
    """Reject its message: Celery then asks the result backend before it tells the broker."""
    raise Reject("as asked", requeue=False)


class BrokenBackend(DisabledBackend):
    """A result backend that is down."""

    def mark_as_failure(self, *_: object, **__: object) -> None:
        raise ConnectionResetError("the result backend is away")


if "FAULT_BROKEN_BACKEND" in os.environ:
    app._backend_cache = BrokenBackend(app=app)


@signals.worker_ready.connect
def trouble_the_loop(sender=None, **_: object) -> None:
    """FAULT_CANCEL_AFTER: seconds after which the last queue is cancelled. FAULT_RESTART_AFTER: after which somebody
    else's callback fails in the event loop, which Celery takes for a lost connection.
    """

    def fail_in_the_loop() -> None:
        raise ConnectionResetError("somebody else's socket")

    for name, function in (
        ("FAULT_CANCEL_AFTER", lambda: sender.call_soon(sender.cancel_task_queue, "work")),
        ("FAULT_RESTART_AFTER", lambda: sender.hub.call_soon(fail_in_the_loop)),
    ):
        if name in os.environ:
            threading.Timer(float(os.environ[name]), function).start()


@signals.task_received.connect
def block_the_loop(request=None, **_: object) -> None:
    if request.name == block.name and "FAULT_BLOCK" in os.environ:
        trace("blocked", request.id)
        time.sleep(float(os.environ["FAULT_BLOCK"]))


def on_renewal(task_ids: list[str]) -> None:
    """A lease_hook."""
    for task_id in task_ids:
        trace("renewed", task_id)


def keep(queue: str, envelope: dict, seconds: float) -> None:
    """A delay_hook."""
    trace("kept", envelope["headers"]["id"], f"{queue} {seconds:.0f}")


def on_dead_letter(task_id: str | None, reason: str) -> None:
    """A dead_letter_hook."""
    trace("dead", str(task_id), reason)
    raise RuntimeError("a hook that fails")
