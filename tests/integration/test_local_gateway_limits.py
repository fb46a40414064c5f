"""The local gateway ends sockets when API Gateway would, and tells the function why."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from wsproto.events import BytesMessage

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


# Limits


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 128 << 10])
def test_a_message_in_frames_that_are_small_enough_is_whole(gateway, function, size):
    text = "x" * size
    with gateway.client() as client:
        client.send("", [text[start : start + (32 << 10)] for start in range(0, size, 32 << 10)])
        wait_for(lambda: function.of("$default"), "the message")
    assert function.of("$default")[0]["body"] == text


def test_a_letter_may_be_cut_by_frames(gateway, function):
    with gateway.client() as client:
        data = "é€😀".encode()
        for number, byte in enumerate(data):
            first = 0x01 if number == 0 else 0x80 if number == len(data) - 1 else 0x00
            client.send_raw(bytes([first, 0x81, 0, 0, 0, 0, byte]))
            assert client.pong(b"in between") == b"in between"
        wait_for(lambda: function.of("$default"), "the message")
    assert function.of("$default")[0]["body"] == "é€😀"


@pytest.mark.parametrize(
    "frames",
    [["x" * ((32 << 10) + 1)], ["é" * ((16 << 10) + 1)], ["x" * (32 << 10)] * 4 + ["x"]],
    ids=["frame", "bytes, not letters", "message"],
)
def test_what_is_too_large_ends_its_socket(gateway, function, frames):
    with gateway.client() as other, gateway.client() as client:
        client.send("", frames)
        assert client.end() == (1009, "Message too long")
        assert ended(function) == (1009, "Message too long")
        assert function.of("$default") == []
        assert other.pong(b"alive") == b"alive"


def test_a_binary_message_ends_its_socket(gateway, function):
    with gateway.client() as client:
        client.send_event(BytesMessage(data=b"\0\1"))
        assert client.end()[0] == 1003
    assert ended(function)[0] == 1003
    assert function.of("$default") == []


def test_a_silent_socket_is_closed(function):
    with running(function, idle_seconds=0.2) as gateway, gateway.client() as client:
        assert client.end() == (1001, "Going away")
        assert ended(function) == (1001, "Going away")


def test_messages_in_either_direction_keep_it_open_and_pings_do_not(function):
    with running(function, idle_seconds=1.0) as gateway, gateway.client() as told, gateway.client() as telling:
        first, second = (event["requestContext"]["connectionId"] for event in function.of("$connect"))
        with gateway.client() as pinging:
            third, api, longest = function.last("$connect")["connectionId"], gateway.connections(), 0.0
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not function.of("$disconnect", third) and longest < 0.5:
                began = time.monotonic()
                assert began < deadline, "pings keep it open"
                api.post_to_connection(ConnectionId=first, Data=b"x")
                assert told.receive() == "x"
                telling.send("x")
                if pinging.closed is None:
                    pinging.ping()
                longest = max(longest, time.monotonic() - began)
            if longest >= 0.5:
                pytest.skip("this machine is too busy to keep a socket from being idle for a second")
            assert pinging.closed == (1001, "Going away")
        assert len(function.of("$default", second)) > 4
        assert not function.of("$disconnect", first) + function.of("$disconnect", second)


def test_no_socket_grows_older_than_it_may(function):
    with running(function, age_seconds=0.5) as gateway, gateway.client() as client:
        api, known = gateway.connections(), function.last("$connect")["connectionId"]

        deadline = time.monotonic() + PATIENCE_SECONDS

        def post_for_ever() -> None:
            while time.monotonic() < deadline:
                api.post_to_connection(ConnectionId=known, Data=b"x")
                client.receive()

        with pytest.raises(ClientError, match="GoneException"):
            post_for_ever()
        assert client.end() == (1001, "Going away")
        assert ended(function) == (1001, "Going away")


# The end


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "Going away"), (3000, "é" * 60), (4999, "bye")])
def test_the_clients_goodbye_is_told(gateway, function, code, reason):
    with gateway.client() as client:
        assert client.close(code, reason) == (code, reason)
    assert ended(function) == (code, reason)


def test_a_goodbye_without_a_code_is_told_as_1005(gateway, function):
    with gateway.client() as client:
        client.send_raw(b"\x88\x80\0\0\0\0")
        client.end()
    assert ended(function) == (1005, "Client-side close frame status not set")


@pytest.mark.parametrize("how", ["vanish", "hang up"])
def test_a_client_that_is_gone_is_told_as_1006(gateway, function, how):
    client = gateway.client()
    client.vanish() if how == "vanish" else client.socket.close()
    assert ended(function) == (1006, "Connection Closed Abnormally")
    assert gateway.count() == 0


def test_a_client_that_gives_up_before_it_is_let_in_is_told_as_gone(gateway, function):
    release = threading.Event()

    def slow(event: dict[str, Any]) -> dict[str, int]:
        release.wait(PATIENCE_SECONDS)
        return {"statusCode": 200}

    function.answers["$connect"] = slow
    client = gateway.client(is_waiting=False)
    wait_for(lambda: function.of("$connect"), "the question")
    client.vanish()
    release.set()
    assert ended(function) == (1006, "Connection Closed Abnormally")


def test_a_client_that_does_not_answer_a_goodbye_is_hung_up_on(function):
    with running(function, idle_seconds=0.2, close_seconds=0.2) as gateway, gateway.client() as client:
        # It reads nothing, so its side of the goodbye never comes.
        assert ended(function) == (1001, "Going away")
        assert client.end() == (1001, "Going away")
        assert client.socket.recv(10) == b""


def test_what_fails_at_the_end_fails_alone(gateway, function):
    function.answers["$disconnect"] = raises
    with gateway.client() as client:
        client.close()
    ended(function)
    with gateway.client() as client:
        assert client.status == 101


def test_stopping_says_goodbye_and_tells_the_function_of_each(function):
    with running(function) as gateway:
        clients = [gateway.client() for _ in range(5)]
        gateway.stop()
        assert [client.end() for client in clients] == [(1001, "Going away")] * 5
        for client in clients:
            client.socket.close()
        assert len(function.of("$disconnect")) == 5


def test_stopping_does_not_wait_for_a_function_for_ever(function):
    release = threading.Event()
    function.answers["$disconnect"] = lambda event: release.wait(PATIENCE_SECONDS)
    try:
        with running(function) as gateway, gateway.client() as client:
            gateway.stop(seconds=0.2)
            assert client.end()[0] == 1001
    finally:
        release.set()
