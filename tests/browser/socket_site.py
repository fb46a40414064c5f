"""A site with nothing but sockets, whose every answer a test decides: addresses, accepting, speaking, falling silent."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import django_htmx
import uvicorn

from tests.waiting import wait_for

MODULES = Path(__file__).resolve().parents[2] / "django_app" / "realtime" / "static" / "realtime"
HTMX = Path(django_htmx.__file__).parent / "static" / "django_htmx" / "htmx-2.min.js"
#: What is told of the thing that is watched. The page keeps all that it hears in window.told.
PAGE = """<!doctype html><title>Watching</title><link rel="icon" href="data:,">
<p data-socket="/ws/runs/7/" data-address="/address/" ATTRIBUTES></p>
<script type="module">
import { connect } from "/modules/page.js";
window.told = { states: [], changes: [], statuses: [], polls: 0, loads: 1 };
const told = window.told;
window.watcher = connect({
  onState: (message) => told.states.push(message),
  onChanged: (message) => told.changes.push(message),
  onStatus: (status) => told.statuses.push(status),
  poll: () => (told.polls += 1),
});
</script>"""


class SocketOfTest:
    """One socket, as the site sees it. path, token: as its address said."""

    def __init__(self, site: SocketSite, query: str, send: Any) -> None:
        self.site = site
        self._send = send
        self.token = parse_qs(query).get("token", [""])[0]
        self.heard: list[dict] = []
        self.is_open = True

    def say(self, message: Any) -> None:
        """As JSON; a text or bytes as they are."""
        kind = "bytes" if isinstance(message, bytes) else "text"
        said = message if isinstance(message, str | bytes) else json.dumps(message)
        self.site.run(self._send({"type": "websocket.send", kind: said}))

    def close(self, code: int = 1001) -> None:
        self.is_open = False
        self.site.run(self._send({"type": "websocket.close", "code": code}))

    def count(self, kind: str) -> int:
        """How many messages of this type it has sent us."""
        return sum(each.get("type") == kind for each in self.heard)


class SocketSite:
    """What a test sets before, and reads afterwards.

    attributes: of the page's element. address_status, address_headers: of the answer where an address is asked for.
    address: what is told as such, if not the usual one. accepts: whether sockets are accepted; None: no answer at all.
    answers: what is said when a client says so, by type: messages, or a function of the socket that gives them.
    silent_from: sockets from this number on, counted from 0, say nothing by themselves. most_addresses: as many are given.
    state: what "sync" is answered with. others: more pages, by path: what they hold, or where they lead to.
    """

    def __init__(self) -> None:
        self.attributes: dict[str, str] = {}
        self.address_status = 200
        self.address_headers: dict[str, str] = {}
        self.address: Any = None
        self.accepts: bool | None = True
        self.silent_from: int | None = None
        self.most_addresses: int | None = None
        self.state: dict[str, Any] = {"type": "state", "kind": "run", "id": "7", "seq": 1, "is_final": False}
        self.answers: dict[str, list[Any]] = {"sync": [self.tell], "ping": [{"type": "pong"}]}
        self.others: dict[str, str | Callable[[], str]] = {}
        self.visits: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.sockets: list[SocketOfTest] = []
        self.attempts = 0
        self.pages = 0
        self.url = ""
        self.loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Any) -> Any:
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def tell(self) -> dict[str, Any]:
        return self.state

    def advance(self, **changes: Any) -> dict[str, Any]:
        """Let the thing that is watched change; its state then. Nobody is told."""
        self.state = self.state | {"seq": self.state["seq"] + 1} | changes
        return self.state

    @property
    def open(self) -> list[SocketOfTest]:
        return [each for each in self.sockets if each.is_open]

    def newest(self, number: int = 1) -> SocketOfTest:
        """The socket of that number, once it has come and has asked for the state."""
        wait_for(lambda: len(self.sockets) >= number and self.sockets[number - 1].heard, f"socket {number}")
        return self.sockets[number - 1]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self._hold(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        status, kind, headers, body = 200, "text/html", {}, ""
        if scope["path"] == "/address/":
            told = (await receive())["body"].decode()
            sent = {name.decode(): value.decode() for name, value in scope["headers"]}
            self.asked.append({"method": scope["method"], "token": sent.get("x-csrftoken"), **parse_qs(told)})
            is_given = self.most_addresses is None or len(self.asked) <= self.most_addresses
            status, kind, headers = self.address_status if is_given else 500, "application/json", self.address_headers
            usual = {"url": f"{self.url.replace('http', 'ws')}/socket?token={len(self.asked)}", "expires_in": 60}
            body = json.dumps((self.address or usual) if status == 200 else {"error": "no"})
        elif scope["path"] == "/htmx.js" or scope["path"].startswith("/modules/"):
            file = HTMX if scope["path"] == "/htmx.js" else MODULES / scope["path"].removeprefix("/modules/")
            kind, body = "text/javascript", file.read_text()
        elif scope["path"] in self.others:
            self.visits.append(scope["path"])
            other = self.others[scope["path"]]
            body = other() if callable(other) else other
            if body.startswith("/"):
                status, headers = 302, {"Location": body}
        elif scope["path"] == "/":
            self.pages += 1
            attributes = " ".join(f'data-{name}="{value}"' for name, value in self.attributes.items())
            headers = {"Set-Cookie": "csrftoken=fromthecookie"}
            body = PAGE.replace("ATTRIBUTES", attributes)
        else:
            body = "<title>Elsewhere</title><p>elsewhere"
        told_headers = {"Content-Type": kind, **headers}
        raw = [(name.encode(), value.encode()) for name, value in told_headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body.encode()})

    async def _hold(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        self.attempts += 1
        if self.accepts is None:
            while (await receive())["type"] != "websocket.disconnect":
                pass
            return
        if not self.accepts:
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        socket = SocketOfTest(self, scope["query_string"].decode(), send)
        self.sockets.append(socket)
        is_silent = self.silent_from is not None and len(self.sockets) > self.silent_from
        while (event := await receive())["type"] != "websocket.disconnect":
            message = json.loads(event["text"])
            socket.heard.append(message)
            for answer in [] if is_silent else self.answers.get(message["type"], []):
                said = answer() if callable(answer) else answer
                await send({"type": "websocket.send", "text": said if isinstance(said, str) else json.dumps(said)})
        socket.is_open = False


@contextmanager
def socket_site() -> Iterator[SocketSite]:
    """The site while the block runs."""
    site = SocketSite()
    config = uvicorn.Config(site, port=0, ws="wsproto", lifespan="off", log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)

    async def serve() -> None:
        site.loop = asyncio.get_running_loop()
        await server.serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.started, "the site of sockets")
        address = urlsplit(f"//{':'.join(map(str, server.servers[0].sockets[0].getsockname()[:2]))}")
        site.url = f"http://{address.netloc}"
        yield site
    finally:
        server.should_exit = True
        thread.join(30)
