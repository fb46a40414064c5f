"""A process of the shop that answers at once; and a database that can be taken away from its workers."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tests.conftest import ROOT
from tests.faults.shop import _PRELUDE, Shop

_LOOP = """
import traceback
from datetime import timedelta
from django.utils import timezone
from django.db.models.functions import Now
from django_app.ledger import claims, fleet, housekeeping
from django_app.ledger.states import FINAL
from tasks.celery import app
for line in sys.stdin:
    code = json.loads(line)
    try:
        try:
            compiled = compile(code, "<clerk>", "eval")
        except SyntaxError:
            exec(compile(code, "<clerk>", "exec"), globals())
            answer = {"value": None}
        else:
            answer = {"value": eval(compiled, globals())}
    except BaseException:
        answer = {"error": traceback.format_exc()}
    print("answer " + json.dumps(answer, default=str), flush=True)
"""


_PATIENCE_SECONDS = 120.0


class Clerk:
    """Runs code in one process with the shop's models, tasks, `app`, `claims` and `fleet`."""

    def __init__(self, shop: Shop) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PRELUDE + _LOOP],
            cwd=ROOT,
            env={**shop.environment, "LOG_LEVEL": "WARNING"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, code: str) -> Any:
        """Run statements, or give the value of an expression, by way of JSON."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        deadline = threading.Timer(_PATIENCE_SECONDS, self._process.kill)
        deadline.start()
        try:
            print(json.dumps(code), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
            while line and not line.startswith("answer "):
                line = self._process.stdout.readline()
        finally:
            deadline.cancel()
        assert line, f"the clerk's process has ended, or had no answer for {_PATIENCE_SECONDS:g} s"
        answer = json.loads(line.removeprefix("answer "))
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)


@contextmanager
def clerk_of(shop: Shop) -> Iterator[Clerk]:
    made = Clerk(shop)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def database_like(database_url: str, folder: Path) -> Iterator[str]:
    """Another database: a file in the folder, or one on the same server that is dropped afterwards."""
    if database_url.startswith("sqlite"):
        yield f"sqlite:///{folder / 'another.sqlite3'}"
        return
    import psycopg

    name = f"cloudqueue_{secrets.token_hex(6)}"
    with psycopg.connect(database_url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
    try:
        yield urlunsplit(urlsplit(database_url)._replace(path=f"/{name}"))
    finally:
        with psycopg.connect(database_url, autocommit=True) as server:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


class Line:
    """The way from the shop's workers to the database. On Postgres a proxy; on SQLite, somebody who locks it."""

    def __init__(self, database_url: str) -> None:
        self._target = urlsplit(database_url)
        self.is_sqlite = self._target.scheme == "sqlite"
        self.url = database_url
        self._open: set[socket.socket] = set()
        self._locker: subprocess.Popen[str] | None = None
        self._listener: socket.socket | None = None
        self._port = 0
        if not self.is_sqlite:
            self._listen()
            host = f"{self._target.username}@127.0.0.1:{self._port}"
            self.url = urlunsplit(self._target._replace(netloc=host))

    def _listen(self) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection((self._target.hostname or "127.0.0.1", self._target.port or 5432))
            except OSError:
                return
            self._open |= {near, far}
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """From now on the workers do not reach the database; on SQLite nobody can write to it."""
        if self.is_sqlite:
            code = (
                "import sqlite3, sys\n"
                f"base = sqlite3.connect({self._target.path!r}, timeout=30, isolation_level=None)\n"
                "base.execute('BEGIN IMMEDIATE')\nprint('locked', flush=True)\nsys.stdin.read()"
            )
            self._locker = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert self._locker.stdout is not None
            assert self._locker.stdout.readline() == "locked\n"
            return
        assert self._listener is not None
        # Closing alone does not wake a thread that accepts.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open = set()

    def mend(self) -> None:
        if self._locker is not None:
            self._locker.kill()
            self._locker.wait(10)
            self._locker = None
        elif not self.is_sqlite:
            self._listen()

    def close(self) -> None:
        if self._locker is not None:
            self.mend()
        elif not self.is_sqlite:
            self.cut()
