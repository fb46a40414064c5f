"""A small plant for fault tests: a fake SQS, queues with dead-letter queues, real worker processes, and a trace."""

from __future__ import annotations

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
from typing import Any, NamedTuple

import psutil

from serverless import fakesqs
from serverless.fakesqs import Server
from serverless.fakesqs.queues import ACCOUNT_ID, Queue
from tests.conftest import ROOT
from tests.waiting import wait_for

LEASE_SECONDS = 3


class Trace(NamedTuple):
    """One line that a task left."""

    what: str
    task_id: str
    argument: str
    pid: int
    at: float


@dataclass
class Worker:
    """One Celery worker's process and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def tell(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> bool:
        return self.process.poll() is not None

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 40) -> int:
        """Tell it to stop and wait; its exit code."""
        self.tell(number)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """End it and its pool at once, as a machine that is switched off would."""
        try:
            processes = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for each in processes:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(10)

    def children(self) -> list[psutil.Process]:
        """Its child processes: those of a prefork pool, and its steward."""
        return psutil.Process(self.process.pid).children()

    def pool(self) -> list[psutil.Process]:
        """Its child processes (prefork)."""
        return [each for each in self.children() if "tasks.runtime.steward" not in each.cmdline()]


@dataclass
class Plant:
    """Queues `work` and others on a fake SQS in this process, whose faults, clocks and counts the test sets.

    options: broker_transport_options that differ. config: further Celery settings. variables: of the environment.
    """

    server: Server
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    queues: dict[str, dict[str, Any]] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)
    endpoint_url: str = ""
    variables: dict[str, str] = field(default_factory=dict)

    def add_queue(
        self, name: str = "work", max_receives: int = 20, with_dead_letters: bool = True, **options: Any
    ) -> Queue:
        """Make a queue and its dead-letter queue, and declare it to the broker. options: such as prefetch."""
        suffix = ".fifo" if name.endswith(".fifo") else ""
        dead = f"{name.removesuffix('.fifo')}-dead{suffix}"
        attributes = {"VisibilityTimeout": "30"}
        options["url"] = self._url(name)
        if with_dead_letters:
            target = self.server.sqs.create_queue(dead)
            policy = {"deadLetterTargetArn": target.arn, "maxReceiveCount": max_receives}
            attributes["RedrivePolicy"] = json.dumps(policy)
            options = {"dead_letter_url": self._url(dead), "max_receives": max_receives, **options}
        self.queues[name] = options
        return self.server.sqs.create_queue(name, attributes)

    def _url(self, name: str) -> str:
        return f"{self.server.url}/{ACCOUNT_ID}/{name}"

    @property
    def trace_file(self) -> Path:
        return self.folder / "trace"

    def environment(self) -> dict[str, str]:
        """For a process of tests.faults.app."""
        options = {
            "region": "us-east-1",
            "wait_time_seconds": 1,
            "lease_seconds": LEASE_SECONDS,
            "predefined_queues": self.queues,
            **self.options,
        }
        return {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "FAULT_OPTIONS": json.dumps(options),
            "FAULT_CONFIG": json.dumps(self.config),
            "FAULT_TRACE": str(self.trace_file),
            "AWS_ENDPOINT_URL": self.endpoint_url or self.server.url,
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            **self.variables,
        }

    def send(self, code: str, **variables: str) -> str:
        """Run Python in a producer's process, with `app` and the tasks imported; what it printed."""
        done = subprocess.run(
            [sys.executable, "-c", f"from tests.faults.app import *\n{code}"],
            cwd=ROOT,
            env={**self.environment(), **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start_worker(
        self,
        pool: str = "prefork",
        concurrency: int = 2,
        queues: str = "",
        arguments: tuple[str, ...] = (),
        **variables: str,
    ) -> Worker:
        """A worker that is ready to work. queues: comma-separated; default: all."""
        log = self.folder / f"worker-{len(self.workers)}.log"
        command = [sys.executable, "-m", "celery", "-A", "tests.faults.app", "--quiet", "worker", f"--pool={pool}"]
        command += [f"--concurrency={concurrency}", "--loglevel=INFO", f"--queues={queues or ','.join(self.queues)}"]
        command += [f"--hostname=w{len(self.workers)}@%h", "--without-gossip", "--without-mingle", *arguments]
        with log.open("wb") as handle:
            process = subprocess.Popen(
                command, cwd=ROOT, env={**self.environment(), **variables}, stdout=handle, stderr=subprocess.STDOUT
            )
        worker = Worker(process, log)
        self.workers.append(worker)
        wait_for(lambda: " ready." in worker.text() or worker.ended(), "the worker", 60)
        assert not worker.ended(), worker.text()
        return worker

    def traces(self, what: str = "ran") -> list[Trace]:
        if not self.trace_file.exists():
            return []
        lines = [line.split("\t") for line in self.trace_file.read_text().splitlines()]
        return [Trace(name, task, arg, int(pid), float(at)) for name, task, arg, pid, at in lines if name == what]

    def depth(self, name: str = "work") -> int:
        """Messages in the queue: waiting, in flight and delayed."""
        return sum(self.server.sqs.counts(self.server.sqs.queues[name]).values())

    @property
    def lease_seconds(self) -> int:
        return self.options.get("lease_seconds", LEASE_SECONDS)

    def visible(self, name: str = "work") -> int:
        """Messages that a receive would bring now. The fake shows what is no longer hidden only when it is asked."""
        queue, now = self.server.sqs.queues[name], time.monotonic()
        return len(queue.ready) + sum(until <= now for until, _ in list(queue.hidden.values()))

    def in_flight(self, name: str = "work") -> int:
        """Messages that some worker holds, or that are hidden."""
        now = time.monotonic()
        return sum(until > now for until, _ in list(self.server.sqs.queues[name].hidden.values()))

    def dead_letters(self, name: str = "work") -> list[dict[str, Any]]:
        """Bodies and attributes in the queue's dead-letter queue."""
        dead = self.server.sqs.queues[f"{name}-dead"]
        return [{"body": message.body, "attributes": message.attributes} for message in dead.ready]

    def await_empty(self, name: str = "work", seconds: float = 60) -> None:
        wait_for(lambda: self.depth(name) == 0, f"the end of all work in queue {name}", seconds)

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()


@contextmanager
def plant(folder: Path, seed: int = 0) -> Iterator[Plant]:
    """A plant without queues or workers; all that it started is ended with the block."""
    with fakesqs.running(seed=seed) as server:
        made = Plant(server, folder)
        try:
            yield made
        finally:
            made.close()
