"""The processes of a measurement: the fake SQS, a worker, a producer. Each ends with its block, killed with its children."""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import psutil

from tests.bench.contenders import ACCOUNT, QUEUE, Contender, Setup

ROOT = Path(__file__).resolve().parents[3]
START_SECONDS = 60.0
POLL_SECONDS = 0.01
#: A started worker is idle: it used less CPU than this in so many seconds.
IDLE_CPU_SECONDS, IDLE_SECONDS = 0.03, 0.4
_ID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|\b[0-9a-f]{32}\b")


class Fake:
    """A client of a fake SQS in another process: steers it, and speaks to its queue without an SDK."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.queue = f"{url}/{ACCOUNT}/{QUEUE}"
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)

    def _post(self, path: str, document: dict[str, Any], **headers: str) -> dict[str, Any]:
        self._connection.request("POST", path, json.dumps(document).encode(), headers)
        response = self._connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        if response.status != 200:
            raise RuntimeError(f"the fake SQS answers {response.status}: {answer}")
        return answer

    def counts(self, **wanted: object) -> dict[str, int]:
        """Set what is given, such as latency_seconds or reset, and say what has been counted."""
        counted: dict[str, int] = self._post("/_control", wanted)["counts"]
        return counted

    def call(self, operation: str, **parameters: object) -> dict[str, Any]:
        return self._post("/", parameters, **{"X-Amz-Target": f"AmazonSQS.{operation}"})

    def load(self, entries: list[dict[str, Any]], delay_seconds: int) -> None:
        """Send so many messages, in batches, that become visible after a delay."""
        for first in range(0, len(entries), 10):
            batch = [
                {**entry, "Id": str(index), "DelaySeconds": delay_seconds}
                for index, entry in enumerate(entries[first : first + 10])
            ]
            self.call("SendMessageBatch", QueueUrl=self.queue, Entries=batch)


def await_(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll a condition until it holds. Raises TimeoutError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(POLL_SECONDS)


def tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """User and system time of them all. Raises psutil.NoSuchProcess if one has ended: its time would be missing."""
    times = [process.cpu_times() for process in processes]
    return sum(each.user + each.system for each in times)


def kill(process: subprocess.Popen[Any]) -> None:
    """End a process and its children at once: the fake SQS is about to go, so nothing is left to finish."""
    try:
        processes = tree(psutil.Process(process.pid))
    except psutil.NoSuchProcess:
        processes = []
    for each in processes:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            pass  # ended by itself when its parent did
    process.wait(30)
    psutil.wait_procs(processes, 30)


@contextmanager
def running(
    command: list[str], environment: dict[str, str], stdout: int, stderr: IO[str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, text=True
    )
    try:
        yield process
    finally:
        kill(process)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def inherited() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}


@contextmanager
def fake_sqs() -> Iterator[Fake]:
    """A fake SQS in a process of its own, with an empty queue, while the block runs."""
    command = [sys.executable, "-m", "serverless.fakesqs", "--port", "0"]
    with running(command, inherited(), subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("ready "):
            raise RuntimeError(f"the fake SQS did not start: {line!r}")
        fake = Fake(line.split()[1])
        fake.call("CreateQueue", QueueName=QUEUE, Attributes={"VisibilityTimeout": "600"})
        yield fake


def interpreter(contender: Contender, extra: str | None) -> str:
    if not contender.extra:
        return sys.executable
    if extra is None:
        raise ValueError(
            f"{contender.name} needs an interpreter with requirements/bench.in: name it with --python-extra"
        )
    return extra


def environment(contender: Contender, setup: Setup) -> dict[str, str]:
    return {
        **inherited(),
        "BENCH_ENDPOINT": setup.url,
        "AWS_ENDPOINT_URL": setup.url,
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        **contender.environment(setup),
    }


@contextmanager
def working(
    contender: Contender, setup: Setup, fake: Fake, extra: str | None, **variables: str
) -> Iterator[list[psutil.Process]]:
    """A worker that has started and waits for messages, while the block runs; its processes."""
    command = [interpreter(contender, extra), *contender.worker(setup)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        running(command, {**environment(contender, setup), **variables}, subprocess.DEVNULL, errors) as process,
    ):
        parent = psutil.Process(process.pid)
        fake.counts(reset=True)
        last, since = 0.0, time.monotonic()

        def idle() -> bool:
            nonlocal last, since
            if process.poll() is not None:
                errors.seek(0)
                raise RuntimeError(
                    f"{contender.name}'s worker ended with {process.returncode}: {errors.read()[-2000:]}"
                )
            try:
                used = cpu_seconds(tree(parent))
            except psutil.NoSuchProcess:
                return False
            if used - last > IDLE_CPU_SECONDS or used < last:
                last, since = used, time.monotonic()
            polls = fake.counts().get("ReceiveMessage", 0)
            return polls >= contender.pollers(setup) and time.monotonic() - since >= IDLE_SECONDS

        await_(idle, START_SECONDS, f"{contender.name}'s worker waits for messages")
        yield tree(parent)


class Producer:
    """A producer process that has sent a task already, so that it is connected."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answer()
        self.send("single", 1)
        self.send("bulk", 10)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the producer ended with {self._process.wait(30)}")
        return line

    def send(self, word: str, number: int) -> int:
        """Have it send; the calls of functions since its start. word: single, bulk or paced."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word} {number}\n")
        self._process.stdin.flush()
        return int(self._answer())


@contextmanager
def producing(
    contender: Contender, setup: Setup, fake: Fake, extra: str | None, **variables: str
) -> Iterator[Producer]:
    """A producer while the block runs."""
    command = [interpreter(contender, extra), *contender.producer]
    with running(command, {**environment(contender, setup), **variables}, subprocess.PIPE) as process:
        producer = Producer(process)
        await_(lambda: fake.counts()["messages_sent"] >= 11, 10, f"{contender.name} sends its first tasks")
        yield producer


def copies(template: str, number: int) -> list[str]:
    """So many messages like one that the library wrote, each with ids of its own."""
    try:
        text, encoded = base64.b64decode(template, validate=True).decode(), True
    except (binascii.Error, UnicodeDecodeError):
        text, encoded = template, False

    def copy() -> str:
        fresh: dict[str, str] = {}

        def other(found: re.Match[str]) -> str:
            new = uuid.uuid4()
            return fresh.setdefault(found[0], str(new) if "-" in found[0] else new.hex)

        made = _ID.sub(other, text)
        return base64.b64encode(made.encode()).decode() if encoded else made

    return [copy() for _ in range(number)]


@cache
def backlog(contender: Contender, number: int, extra: str | None) -> list[dict[str, Any]]:
    """Entries of so many no-op tasks, as the contender writes them."""
    with fake_sqs() as fake, producing(contender, Setup(fake.url), fake, extra):
        found = fake.call("ReceiveMessage", QueueUrl=fake.queue, MessageAttributeNames=["All"])["Messages"][0]
    attributes = {"MessageAttributes": found["MessageAttributes"]} if "MessageAttributes" in found else {}
    return [{"MessageBody": body, **attributes} for body in copies(found["Body"], number)]
