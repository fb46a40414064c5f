"""How long a task's progress takes to those who watch: from `self.progress(...)` to a WebSocket client.

    python -m tests.bench.realtime_latency --viewers 1 10 --updates 60

One worker on SQLite, or on CLOUDQUEUE_TEST_DATABASE_URL; sockets at the local gateway, whose connections are in the
local cloud. All clients are of one process, and all processes share the machine and its clock. docs/benchmarks.md has
what it found.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import websocket

from serverless.local import stack
from tests.faults.shop import ROOT, Shop, open_shop
from tests.waiting import wait_for

TASKS = """
import os
import time

from celery import shared_task


@shared_task(bind=True)
def report(self, updates, seconds, gate):
    while not os.path.exists(gate):
        time.sleep(0.05)
    for number in range(1, updates + 1):
        # The last one ends the run, and is told with its end.
        self.progress(number, updates + 1, repr(time.time()))
        time.sleep(seconds)
"""
TOKENS = """
import datetime
from django.contrib.auth import get_user_model
from django.utils import timezone
from django_app.realtime import tokens

admin, _ = get_user_model().objects.get_or_create(username="admin", defaults={"is_superuser": True})
until = timezone.now() + datetime.timedelta(hours=1)
print(json.dumps([tokens.issue(admin, "a session", until, path) for path in json.loads(os.environ["PATHS"])]))
"""
ORIGIN = "http://testserver"
#: More than what the saving of progress leaves out.
_PAUSE_SECONDS = 0.6
_PATIENCE_SECONDS = 60


class Viewer(threading.Thread):
    """A client. seconds: of each update that it was told, how old it was. question: how long its first answer took."""

    def __init__(self, url: str, path: str, token: str) -> None:
        super().__init__(daemon=True)
        query = urlencode({"path": path, "token": token})
        self._socket = websocket.create_connection(f"{url}?{query}", origin=ORIGIN, timeout=_PATIENCE_SECONDS)
        self.seconds: list[float] = []
        self.has_ended = False
        began = time.perf_counter()
        self._socket.send(json.dumps({"type": "sync"}))
        self._hear(json.loads(self._socket.recv()), time.time())
        self.question = time.perf_counter() - began

    def run(self) -> None:
        with contextlib.closing(self._socket):
            while not self.has_ended:
                self._hear(json.loads(self._socket.recv()), time.time())

    def _hear(self, told: dict[str, Any], now: float) -> None:
        self.has_ended = told.get("is_final", True)
        if told.get("note") and not self.has_ended:
            self.seconds.append(now - float(told["note"]))


@contextmanager
def running_site(folder: Path, database_url: str) -> Iterator[tuple[Shop, str]]:
    """A shop whose runs can be watched, and the address of its sockets."""
    from tests.conftest import run_cloud

    with run_cloud(folder / "cloud", ORIGIN) as cloud, open_shop(folder, database_url, TASKS) as shop:
        port = stack.free_port()
        url = f"ws://127.0.0.1:{port}/local"
        shop.environment |= {
            "SOCKETS_URL": url,
            "SOCKETS_TABLE": _make_table(cloud),
            "AWS_ENDPOINT_URL_DYNAMODB": cloud,
            "PUBLIC_URL": ORIGIN,
        }
        gateway = shop.start("-m", "serverless.local.gateway", f"--port={port}", "--stage=local")
        try:
            wait_for(lambda: stack.is_listening(port), "the gateway")
            yield shop, url
        finally:
            gateway.terminate()
            gateway.wait(30)


def _make_table(cloud: str) -> str:
    code = "from tests.websocket_api import make_table; print(make_table())"
    environment = {**os.environ, "AWS_ENDPOINT_URL": cloud, "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    environment["DJANGO_SETTINGS_MODULE"] = "django_app.settings"
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return made.stdout.strip()


def measure(shop: Shop, url: str, viewers: int, updates: int) -> dict[str, float]:
    """Milliseconds from sender to client, over all updates at all viewers; question: from a client and back."""
    run_id = f"report-{viewers}-{time.time_ns()}"
    path = f"/ws/runs/{run_id}/"
    gate = shop.folder / f"{run_id}.gate"
    shop.run(f"report.apply_async(({updates}, {_PAUSE_SECONDS}, {str(gate)!r}), task_id={run_id!r})")
    paths = json.dumps([path] * viewers)
    tokens = json.loads(shop.run(TOKENS, PATHS=paths).stdout.splitlines()[-1])
    watching = [Viewer(url, path, token) for token in tokens]
    for viewer in watching:
        viewer.start()
    gate.touch()
    for viewer in watching:
        viewer.join(_PATIENCE_SECONDS + updates * _PAUSE_SECONDS)
        assert viewer.has_ended, "a viewer has not seen the end"
    ordered = sorted(seconds for viewer in watching for seconds in viewer.seconds)
    found = {
        "p50": statistics.median(ordered),
        "p95": ordered[math.ceil(0.95 * len(ordered)) - 1],
        "most": ordered[-1],
        "question": statistics.median(viewer.question for viewer in watching),
    }
    told = {name: round(seconds * 1000, 1) for name, seconds in found.items()}
    return {"viewers": viewers, "updates": len(ordered), **told}


def run(viewers: Sequence[int], updates: int, database_url: str = "") -> list[dict[str, float]]:
    """One after the other, for each number of viewers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running_site(folder, database_url or f"sqlite:///{folder / 'db.sqlite3'}") as (shop, url):
            shop.start_worker()
            # The first push of a process takes longer, and is not what is asked for here.
            measure(shop, url, 1, 3)
            return [measure(shop, url, number, updates) for number in viewers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--viewers", type=int, nargs="+", default=[1, 10], help="of one run, at once")
    parser.add_argument("--updates", type=int, default=60, help="that the run reports")
    options = parser.parse_args()
    os.environ.setdefault("SECRET_KEY", "of a benchmark")
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    found = run(options.viewers, options.updates, os.environ.get("CLOUDQUEUE_TEST_DATABASE_URL", ""))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
