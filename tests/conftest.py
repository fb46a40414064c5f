"""What all tests share: a local cloud, a whole stack, people who visit it.

Ports are free ones, folders are temporary and databases are made for the run, so that suites can run side by side.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import pytest
import pytest_django

from tests.environment import DATABASE_URL

if TYPE_CHECKING:
    from serverless.local.stack import Stack
    from serverless.local.visitor import Visitor

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def run_cloud(folder: Path, origin: str) -> Iterator[str]:
    """A local cloud while the block runs; its address."""
    command = [sys.executable, "-m", "serverless.local.cloud", "--origin", origin, "--folder", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready "), f"the cloud did not start: {line!r}"
        yield line.split()[1]
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def cloud_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a local cloud of this test process's own."""
    with run_cloud(tmp_path_factory.mktemp("cloud"), "http://testserver") as url:
        yield url


@pytest.fixture
def cloud(cloud_url: str, monkeypatch: pytest.MonkeyPatch, settings) -> str:
    """The local cloud, with this process's clients pointed at it."""
    from serverless import aws
    from serverless.local.cloud import NAMES_ARGUMENTS, environment

    for name, value in environment(cloud_url).items():
        monkeypatch.setenv(name, value)
    settings.FILES_BUCKET = NAMES_ARGUMENTS["bucket"]
    aws.forget_clients()
    yield cloud_url
    aws.forget_clients()


@pytest.fixture(scope="session")
def stack_database_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database for a stack: a file, or one made on the same server and dropped afterwards."""
    if DATABASE_URL.startswith("sqlite"):
        yield f"sqlite:///{tmp_path_factory.mktemp('database') / 'db.sqlite3'}"
        return
    import psycopg

    name = f"cloudqueue_{secrets.token_hex(6)}"
    with psycopg.connect(DATABASE_URL, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
    yield urlunsplit(urlsplit(DATABASE_URL)._replace(path=f"/{name}"))
    with psycopg.connect(DATABASE_URL, autocommit=True) as server:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, stack_database_url: str) -> Iterator[Stack]:
    """Cloud, web, clock and workers, as `make up` runs them, with small chunks so that work fans out."""
    from serverless.local.stack import Stack

    made = Stack(
        tmp_path_factory.mktemp("stack"),
        web_port=0,
        overrides={"CHUNK_BYTES": str(256 << 10), "DATABASE_URL": stack_database_url, "UPLOAD_LIMIT_BYTES": "40000000"},
    )
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def demo_login(stack: Stack) -> tuple[str, str]:
    """Name and password of the stack's demo user."""
    return stack.demo_login()


@pytest.fixture
def visitor(stack: Stack, demo_login: tuple[str, str]) -> Iterator[Visitor]:
    """The demo user's session at the stack's site."""
    from serverless.local.visitor import Visitor

    with Visitor(stack.url) as made:
        made.sign_in(*demo_login)
        yield made


@pytest.fixture(scope="session")
def flights() -> bytes:
    from serverless.local.flights import flights_csv

    return flights_csv()


@pytest.fixture
def old_connections_may_be_closed(django_db_blocker: pytest_django.DjangoDbBlocker) -> Iterator[None]:
    """Channels closes old database connections at each event, also those that an earlier test has left in its thread."""
    with django_db_blocker.unblock():
        yield
