"""The same consumers under a server that holds the sockets itself: uvicorn, as anybody starts it, and Redis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest
from django.conf import settings as site
from django.db import connection
from django.test import Client as Browser
from django.urls import reverse

from django_app.ledger.models import Run
from django_app.realtime import announce, pushing
from serverless.local.stack import free_port
from tests.conftest import ROOT
from tests.environment import DATABASE_URL
from tests.integration.test_console_access import client_of, person, run
from tests.local_gateway import Client
from tests.realtime_sockets import PATIENCE_SECONDS
from tests.waiting import wait_for

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.redis]


class Server:
    """uvicorn with the site, at its usual level of logging."""

    def __init__(self, folder: Path, redis: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "log"
        name = str(connection.settings_dict["NAME"])
        is_file = DATABASE_URL.startswith("sqlite")
        database = f"sqlite:///{name}" if is_file else urlunsplit(urlsplit(DATABASE_URL)._replace(path=f"/{name}"))
        variables = {
            "SECRET_KEY": site.SECRET_KEY,
            "DATABASE_URL": database,
            "SOCKETS_URL": redis,
            "PUBLIC_URL": self.url,
            "EXTRA_HOSTS": "localhost",
            "PATH": os.environ["PATH"],
        }
        command = [sys.executable, "-m", "uvicorn", "django_app.asgi:application", f"--port={self.port}"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=subprocess.STDOUT)

    def wait(self) -> None:
        wait_for(lambda: self._process.poll() is not None or answers_http(self.url), "the server")
        assert self._process.poll() is None, self.log()

    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def address(self, browser: Browser, path: str, host: str = "127.0.0.1") -> str:
        """As a page asks for it."""
        cookies = {site.SESSION_COOKIE_NAME: browser.session.session_key, "csrftoken": "x" * 32}
        url = f"http://{host}:{self.port}{reverse('realtime:address')}"
        answer = httpx.post(url, data={"path": path}, cookies=cookies, headers={"x-csrftoken": "x" * 32}, timeout=60)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["url"])

    def open(self, url: str, origin: str | None = None) -> Client:
        parts = urlsplit(url)
        assert (parts.scheme, parts.port) == ("ws", self.port)
        return Client(self.port, target=f"{parts.path}?{parts.query}", headers={"Origin": origin or self.url})


def answers_http(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def server(redis_url: str, tmp_path: Path, settings: Any) -> Iterator[Server]:
    settings.SOCKETS_URL = redis_url
    config = {"hosts": [{"address": redis_url, "socket_timeout": 30}]}
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": config}
    }
    made = Server(tmp_path, redis_url)
    try:
        made.wait()
        yield made
    finally:
        made.stop()
        assert pushing.flush(PATIENCE_SECONDS)


def test_a_browser_watches_a_run_and_its_token_is_in_no_log(server: Server):
    browser = client_of(person("nobody", "alice"))
    shown = run(id="a/b ä", requested_by="alice")
    url = server.address(browser, "/ws/runs/a%2Fb%20%C3%A4/")
    with server.open(url) as socket:
        assert socket.status == 101
        socket.send('{"type": "sync"}')
        assert socket.receive_json()["seq"] == 0
        Run.objects.filter(pk=shown.pk).update(sequence=3, progress_done=1)
        announce.run_changed(shown.pk)
        told = socket.receive_json()
        assert (told["id"], told["seq"], told["done"]) == (shown.pk, 3, 1)
        socket.send("[" * 5000)
        assert socket.receive_json()["type"] == "error"
        # A second one is refused, and a page of another site.
        for again, origin in (
            (url, None),
            (server.address(browser, "/ws/runs/a%2Fb%20%C3%A4/"), "http://evil.example"),
        ):
            with server.open(again, origin) as other:
                assert other.status == 403
        browser.logout()
        assert socket.receive_json() == {"type": "bye", "why": "signed_out"}
        assert socket.end()[0] == 1000
    # What is refused is logged last.
    wait_for(lambda: server.log().count("403") >= 2, "the server's line")
    lines = server.log()
    assert '"WebSocket /ws/runs/a/b%20%C3%A4/?..." [accepted]' in lines
    assert urlsplit(url).query.partition("=")[2] not in lines
    assert "token=" not in lines
    refused = [json.loads(line) for line in lines.splitlines() if "socket_refused" in line]
    assert [line["reason"] for line in refused] == [
        "of its token: it has been used",
        "it is opened by a page that is not ours",
    ]


def test_a_page_that_is_visited_by_another_name_has_its_socket_there(server: Server):
    browser = client_of(person("viewer"))
    url = server.address(browser, "/ws/console/", host="localhost")
    assert url.startswith(f"ws://localhost:{server.port}/ws/console/?token=")
    with server.open(url, origin=f"http://localhost:{server.port}") as socket:
        socket.send('{"type": "sync"}')
        assert socket.receive_json()["kind"] == "console"
        announce.console_changed(["runs"], 5)
        assert socket.receive_json()["seq"] == 5
