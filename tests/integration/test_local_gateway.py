"""The local gateway opens sockets and passes messages on as API Gateway does."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.local_gateway import PATIENCE_SECONDS, Gateway, Recorder, running
from tests.waiting import wait_for


@pytest.fixture
def function() -> Recorder:
    return Recorder()


@pytest.fixture
def gateway(function: Recorder) -> Iterator[Gateway]:
    with running(function) as made:
        yield made


def raises(event: dict[str, Any]) -> Any:
    raise RuntimeError("it was told to")


def ended(function: Recorder, count: int = 1) -> tuple[int, str]:
    """Code and reason of the last $disconnect, once there are so many."""
    wait_for(lambda: len(function.of("$disconnect")) >= count, "$disconnect")
    context = function.last("$disconnect")
    return context["disconnectStatusCode"], context["disconnectReason"]


# Opening


@pytest.mark.parametrize("status", [200, 204, 299])
def test_a_socket_opens_when_the_function_agrees(gateway, function, status):
    function.answers["$connect"] = {"statusCode": status}
    with gateway.client() as client:
        assert client.status == 101
        assert client.pong(b"hello") == b"hello"
        assert gateway.count() == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 429, 500, 503])
def test_a_socket_does_not_open_when_it_does_not(gateway, function, status):
    function.answers["$connect"] = {"statusCode": status}
    with gateway.client() as client:
        assert client.status == status
        assert client.body["connectionId"] == function.last("$connect")["connectionId"]
        assert client.body["requestId"] == function.last("$connect")["requestId"]
    assert gateway.count() == 0
    # Another one goes through all of it, so by then $disconnect would have come.
    function.answers.clear()
    with gateway.client() as client:
        client.close()
    ended(function)
    assert len(function.of("$disconnect")) == 1


@pytest.mark.parametrize(
    "answer", [raises, None, "200", {}, {"statusCode": "200"}, {"statusCode": 101}, {"statusCode": 600}, [200]]
)
def test_a_function_that_fails_at_connect_is_answered_502(gateway, function, answer):
    function.answers["$connect"] = answer
    with gateway.client() as client:
        assert client.status == 502
        assert client.body["message"] == "Internal server error"


def test_the_subprotocol_that_the_function_chose_is_passed_on(gateway, function):
    function.answers["$connect"] = {
        "statusCode": 200,
        "headers": {"sec-websocket-protocol": "v2", "Set-Cookie": "a=b", "X-Other": "c"},
    }
    with gateway.client(headers={"Sec-WebSocket-Protocol": "v1, v2"}) as client:
        assert client.headers["sec-websocket-protocol"] == "v2"
        assert not {"set-cookie", "x-other"} & set(client.headers)
        assert "sec-websocket-extensions" not in client.headers
    with gateway.client() as client:
        assert client.status == 101


def test_a_subprotocol_that_is_no_header_ends_the_socket_and_the_function_is_told(gateway, function):
    function.answers["$connect"] = {"statusCode": 200, "headers": {"Sec-WebSocket-Protocol": "a\r\nX-Bad: b"}}
    with gateway.client(is_waiting=False) as client:
        assert client.socket.recv(1000) == b""
    assert ended(function)[0] == 1006


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"target": "/"}, 403),
        ({"target": "/dev"}, 403),
        ({"target": "/local/ws/runs/7/"}, 403),
        ({"target": "/localhost"}, 403),
        ({"target": "/local?path=/" + "x" * 4096}, 414),
        ({"headers": {"Sec-WebSocket-Version": "8"}}, 426),
        ({"headers": {"Sec-WebSocket-Version": None}}, 426),
        ({"headers": {"Sec-WebSocket-Key": None}}, 400),
        ({"headers": {"Sec-WebSocket-Key": "c2hvcnQ="}}, 400),
        ({"headers": {"Sec-WebSocket-Key": "!" * 24}}, 400),
        ({"headers": {"Connection": "keep-alive"}}, 400),
        ({"method": "POST", "headers": {"Content-Length": "0"}}, 400),
        ({"headers": {"Cookie": "x" * 20000}}, 431),
        ({"headers": {"Host": None}}, 400),
        ({"headers": {"A b": "x"}}, 400),
        ({"method": "G\0T"}, 400),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_handshake_is_refused_before_the_function_is_asked(gateway, function, options, status):
    with gateway.client(**options) as client:
        assert client.status == status
    assert function.events == []
    with gateway.client() as client:
        assert client.status == 101


def test_a_plain_request_is_told_to_upgrade(gateway):
    answer = httpx.get(gateway.url)
    assert (answer.status_code, answer.json()) == (426, {"message": "Upgrade Required"})


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /local HTTP/1.1\r\nHost: a\r\n", b"POST /local HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"],
)
def test_a_client_that_never_finishes_its_request_is_hung_up_on(function, sent):
    with running(function, handshake_seconds=0.1) as gateway, socket.socket() as slow:
        slow.settimeout(PATIENCE_SECONDS)
        slow.connect(("127.0.0.1", gateway.port))
        slow.sendall(sent)
        assert slow.recv(1000) == b""
    assert function.events == []


# Messages


def test_messages_of_one_client_overlap(gateway, function):
    """As on AWS, which starts one function for each."""
    barrier, met = threading.Barrier(3), []

    def meet(event: dict[str, Any]) -> dict[str, int]:
        # Less than a function may take, so that one after the other they never meet.
        barrier.wait(20)
        met.append(event)
        return {"statusCode": 200}

    function.answers["$default"] = meet
    with gateway.client() as client:
        for number in range(3):
            client.send(str(number))
        wait_for(lambda: len(met) == 3, "all three at once")
    assert {event["body"] for event in met} == {"0", "1", "2"}
    assert len({event["requestContext"]["messageId"] for event in met}) == 3


def test_what_is_sent_while_many_messages_are_in_hand_waits(function):
    release, most = threading.Event(), 2

    def wait(event: dict[str, Any]) -> dict[str, int]:
        release.wait(PATIENCE_SECONDS)
        return {"statusCode": 200}

    function.answers["$default"] = wait
    with running(function, at_once=most) as gateway, gateway.client() as client, gateway.client() as other:
        for number in range(10):
            client.send(str(number))
        wait_for(lambda: len(function.of("$default")) == most, "as many as may be in hand")
        # Another client's socket goes on, and its answer comes after what the first one sent was read.
        assert other.pong(b"x") == b"x"
        assert len(function.of("$default")) == most
        release.set()
        wait_for(lambda: len(function.of("$default")) == 10, "the rest")


@pytest.mark.parametrize("answer", [{"statusCode": 500}, {"statusCode": 503}, raises, None, {"body": "x"}])
def test_a_failed_message_is_told_to_its_client_and_the_socket_goes_on(gateway, function, answer):
    function.answers["$default"] = answer
    with gateway.client() as client:
        client.send("x")
        context = function.last("$connect")
        told = client.receive_json()
        assert told == {
            "message": "Internal server error",
            "connectionId": context["connectionId"],
            "requestId": function.last("$default")["requestId"],
        }
        assert client.pong(b"alive") == b"alive"


@pytest.mark.parametrize("status", [200, 400, 403, 410, 429])
def test_no_other_answer_of_the_function_is_told(gateway, function, status):
    function.answers["$default"] = {"statusCode": status, "body": "not passed on"}
    with gateway.client() as client:
        client.send("x")
        wait_for(lambda: function.of("$default"), "the message")
        function.answers["$default"] = {"statusCode": 500}
        client.send("y")
        assert client.receive_json()["requestId"] == function.last("$default")["requestId"]


def test_a_function_that_takes_too_long_is_not_waited_for(function):
    release = threading.Event()
    function.answers["$default"] = lambda event: release.wait(PATIENCE_SECONDS)
    function.answers["$connect"] = lambda event: {"statusCode": 200}
    try:
        with running(function, function_seconds=1.0) as gateway, gateway.client() as client:
            client.send("x")
            assert client.receive_json()["message"] == "Endpoint request timed out"
            function.answers["$connect"] = function.answers["$default"]
            with gateway.client() as second:
                assert second.status == 504
    finally:
        release.set()


def test_the_function_is_told_how_much_time_it_has():
    told: list[int] = []

    def handler(event: dict[str, Any], context: Any) -> dict[str, int]:
        told.append(context.get_remaining_time_in_millis())
        assert context.aws_request_id
        return {"statusCode": 200}

    with running(handler) as gateway, gateway.client() as client:
        assert client.status == 101
    assert 0 < told[0] <= 29_000


# Logs


def test_nothing_that_is_secret_is_logged(gateway, function, caplog):
    caplog.set_level(logging.DEBUG)
    function.answers["$default"] = raises
    target = "/local?path=/ws/runs/7/&token=s3cr3t-token"
    with gateway.client(target=target, headers={"Cookie": "sessionid=s3cr3t-cookie"}) as client:
        client.send("s3cr3t-text")
        client.receive_json()
        client.close()
    ended(function)
    with gateway.client(target=target.replace("local", "dev")), gateway.client(target=target, method="G\0T"):
        pass
    function.answers["$connect"] = raises
    with gateway.client(target=target):
        pass
    assert "the function failed at $default" in caplog.text
    assert "s3cr3t" not in caplog.text
