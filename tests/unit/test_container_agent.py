"""What a worker asks of ECS's agent, and how it reads what that says: a real server plays the agent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from serverless.container import agent


@contextmanager
def agent_that_says(
    status: int, body: bytes, seconds: float = 0.0
) -> Iterator[tuple[str, list[tuple[str, str, bytes]]]]:
    """An ECS agent's address, and what it was asked: method, path, body."""
    asked: list[tuple[str, str, bytes]] = []
    release = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            asked.append((self.command, self.path, self.rfile.read(int(self.headers.get("Content-Length") or 0))))
            release.wait(seconds)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_GET = _answer  # noqa: N815 - as http.server calls them

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api/1234", asked
    finally:
        release.set()
        server.shutdown()
        server.server_close()


TASK = "arn:aws:ecs:us-west-2:111122223333:task/1234567890abcdef0"


def protection(enabled: bool) -> dict:
    return {"protection": {"ExpirationDate": "2022-10-06T02:29:16Z", "ProtectionEnabled": enabled, "TaskArn": TASK}}


def test_protection_is_asked_for_as_the_agent_wants_it():
    with agent_that_says(200, json.dumps(protection(True)).encode()) as (uri, asked):
        assert agent.protect(uri, True, minutes=7).granted
    ((method, path, body),) = asked
    assert (method, path) == ("PUT", "/api/1234/task-protection/v1/state")
    assert json.loads(body) == {"ProtectionEnabled": True, "ExpiresInMinutes": 7}
    with agent_that_says(200, json.dumps(protection(False)).encode()) as (uri, asked):
        assert agent.protect(uri, False).granted
    assert json.loads(asked[0][2]) == {"ProtectionEnabled": False}


@pytest.mark.parametrize(
    ("status", "said", "unwanted", "why"),
    [
        (200, protection(False), False, "not understood"),
        (200, {"failure": {"Arn": TASK, "Detail": None, "Reason": "TASK_NOT_VALID"}}, False, "TASK_NOT_VALID"),
        (200, {"failure": {"Arn": TASK, "Detail": "", "Reason": "DEPLOYMENT_BLOCKED"}}, True, "DEPLOYMENT_BLOCKED"),
        (
            400,
            {"requestID": "1", "error": {"Arn": TASK, "Code": "AccessDeniedException", "Message": "not authorized"}},
            False,
            "AccessDeniedException: not authorized",
        ),
        (504, {"error": {"Arn": TASK, "Code": "RequestCanceled", "Message": "Timed out"}}, False, "RequestCanceled"),
        (200, {"failure": "odd"}, False, "not understood"),
        (200, [], False, "not an object"),
        (200, None, False, "not an object"),
    ],
)
def test_a_refusal_is_read_with_its_reason(status, said, unwanted, why):
    with agent_that_says(status, json.dumps(said).encode()) as (uri, _):
        answer = agent.protect(uri, True)
    assert (answer.granted, answer.unwanted) == (False, unwanted)
    assert why in answer.why


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff\xfe", b"{"])
def test_an_agent_that_talks_nonsense_is_a_refusal_and_no_error(body):
    with agent_that_says(200, body) as (uri, _):
        assert not agent.protect(uri, True).granted
        assert agent.task_memory_bytes(uri) is None


def test_an_agent_that_is_not_there_or_silent_is_a_refusal_and_no_error(monkeypatch):
    monkeypatch.setattr(agent, "_SECONDS", 0.2)
    assert "ConnectionRefusedError" in agent.protect("http://127.0.0.1:9/api", True).why
    assert "not an address" in agent.protect("ftp://x", True).why
    with agent_that_says(200, b"{}", seconds=60) as (uri, _):
        assert "TimeoutError" in agent.protect(uri, True).why


def test_the_tasks_memory_is_read_from_its_metadata():
    with agent_that_says(200, json.dumps({"TaskARN": TASK, "Limits": {"CPU": 0.5, "Memory": 1024}}).encode()) as (
        uri,
        asked,
    ):
        assert agent.task_memory_bytes(uri) == 1 << 30
    assert asked[0][:2] == ("GET", "/api/1234/task")
    with agent_that_says(200, b'{"TaskARN": "x"}') as (uri, _):
        assert agent.task_memory_bytes(uri) is None


def test_outside_of_ecs_there_is_no_agent():
    assert (agent.address({}), agent.metadata_address({})) == ("", "")
    assert agent.address({"ECS_AGENT_URI": "http://169.254.170.2/api/1/"}) == "http://169.254.170.2/api/1"
