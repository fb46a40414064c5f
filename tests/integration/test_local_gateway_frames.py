"""Whatever a client sends, its own socket ends at worst: the gateway and all others go on."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.local_gateway import PATIENCE_SECONDS, Client, Gateway, Recorder, masked, running
from tests.waiting import wait_for

TEXT, CLOSE, PING, FIN = 0x1, 0x8, 0x9, 0x80
FUZZ = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def function() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def gateway(function: Recorder) -> Iterator[Gateway]:
    with running(function) as made:
        yield made


@pytest.fixture(scope="module")
def witness(gateway: Gateway) -> Iterator[Client]:
    """Another client, who must not notice anything."""
    with gateway.client() as made:
        yield made


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param(masked(FIN | 0x3, b"x"), 1002, id="reserved opcode"),
        pytest.param(masked(FIN | 0xF, b""), 1002, id="reserved control opcode"),
        pytest.param(masked(FIN | 0x40 | TEXT, b"x"), 1002, id="compressed, which was not agreed"),
        pytest.param(masked(FIN | 0x10 | TEXT, b"x"), 1002, id="reserved bit"),
        pytest.param(b"\x81\x01x", 1002, id="not masked"),
        pytest.param(masked(PING, b"x"), 1002, id="ping in parts"),
        pytest.param(masked(FIN | PING, b"x" * 126), 1002, id="long ping"),
        pytest.param(masked(FIN, b"x"), 1002, id="continues nothing"),
        pytest.param(masked(TEXT, b"a") + masked(FIN | TEXT, b"b"), 1002, id="second message inside the first"),
        pytest.param(masked(FIN | TEXT, b"\xff"), 1007, id="no UTF-8"),
        pytest.param(masked(TEXT, b"\xc3") + masked(FIN, b"("), 1007, id="no UTF-8, by two frames"),
        pytest.param(masked(FIN | TEXT, b"\xed\xa0\x80"), 1007, id="half a surrogate pair"),
        pytest.param(masked(FIN | TEXT, b"\xc3"), 1007, id="half a letter"),
        pytest.param(masked(FIN | TEXT, b"", b"\xff" + b"\xff" * 8), 1002, id="longer than there are numbers"),
        pytest.param(masked(FIN | TEXT, b"x" * 33_000, b"\xff\x7f" + b"\xff" * 7), 1009, id="endless"),
        pytest.param(masked(FIN | TEXT, b"", b"\xfe\0\1"), 1002, id="short length in a long form"),
        pytest.param(masked(FIN | TEXT, b"", b"\xff" + b"\0" * 8), 1002, id="no length in the longest form"),
        pytest.param(masked(FIN | CLOSE, b"x"), 1002, id="half a close code"),
        pytest.param(masked(FIN | CLOSE, b"\x03\xe7"), 1002, id="close code 999"),
        pytest.param(masked(FIN | CLOSE, b"\x03\xee"), 1002, id="close code 1006"),
        pytest.param(masked(FIN | CLOSE, b"\x27\x10"), 1002, id="close code 10000"),
        pytest.param(masked(FIN | CLOSE, b"\x03\xe8\xff"), 1007, id="close reason is no UTF-8"),
        pytest.param(masked(0x2, b"x"), 1003, id="first part of something binary"),
    ],
)
def test_a_malformed_frame_ends_its_socket_with_the_code_for_it(gateway, function, witness, frames, code):
    with gateway.client() as client:
        known = function.last("$connect")["connectionId"]
        client.send_raw(frames)
        assert client.end()[0] == code
    wait_for(lambda: function.of("$disconnect", known), "$disconnect")
    assert function.last("$disconnect")["disconnectStatusCode"] == code
    assert function.of("$default", known) == []
    assert witness.pong(b"alive") == b"alive"


#: One frame, more or less as it should be.
_FRAMES = st.builds(
    lambda first, mask, length, payload: bytes([first]) + (length or bytes([mask | len(payload)])) + payload,
    first=st.integers(0, 255),
    mask=st.sampled_from([0x80, 0x80, 0x80, 0]),
    length=st.sampled_from(
        [b"", b"", b"", b"\xfe\0\x7e", b"\xfe\xff\xff", b"\xff" + b"\0" * 4 + b"\1" * 4, b"\xff" * 9]
    ),
    payload=st.binary(max_size=120),
)


@FUZZ
@given(frames=st.lists(st.one_of(_FRAMES, st.binary(max_size=40)), min_size=1, max_size=8), is_polite=st.booleans())
@example(frames=[masked(FIN | TEXT, b"x"), masked(FIN | CLOSE, b""), masked(FIN | TEXT, b"after")], is_polite=True)
def test_no_bytes_after_the_handshake_harm_anybody_else(gateway, function, witness, frames, is_polite):
    client = gateway.client()
    with client:
        assert client.status == 101
        known = function.last("$connect")["connectionId"]
        try:
            for frame in frames:
                client.send_raw(frame)
            if is_polite:
                client.socket.shutdown(socket.SHUT_WR)
                while client.socket.recv(65536):
                    pass
        except ConnectionError:
            # It was hung up on.
            pass
    wait_for(lambda: function.of("$disconnect", known), "$disconnect")
    assert len(function.of("$disconnect", known)) == 1
    assert witness.pong(b"alive") == b"alive"


@FUZZ
@given(
    sent=st.one_of(
        st.binary(min_size=1, max_size=300),
        st.builds(
            lambda head, tail: head + tail,
            st.sampled_from(
                [
                    b"GET /local HTTP/1.1\r\n",
                    b"GET /local HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
                    b"POST /local/@connections/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
                    b"POST /local/@connections/%00%ff HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
                ]
            ),
            st.binary(max_size=100),
        ),
    )
)
@example(sent=b"GET /local HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n")
@example(sent=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
def test_no_bytes_before_the_handshake_harm_anybody_else(gateway, witness, sent):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE_SECONDS) as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while more := connection.recv(65536):
                answer += more
        except ConnectionError:
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert witness.pong(b"alive") == b"alive"


def test_bytes_that_come_one_by_one_are_a_handshake_and_a_message_all_the_same(gateway, function):
    head = "GET /local HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
    head += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    said = "dripped, in " + random.Random(1).choice(["é", "€", "😀"]) * 50
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head.encode():
            connection.sendall(bytes([byte]))
        # The sample of RFC 6455, section 1.3.
        assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in connection.recv(65536)
        for byte in masked(FIN | TEXT, said.encode()):
            connection.sendall(bytes([byte]))
        wait_for(lambda: [event for event in function.of("$default") if event["body"] == said], "the message")


def test_a_message_that_comes_with_the_handshake_is_not_lost(gateway, function):
    head = b"GET /local HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(head + masked(FIN | TEXT, b"at once"))
        wait_for(lambda: [event for event in function.of("$default") if event["body"] == "at once"], "the message")


def _grown_by(before: int) -> int:
    return psutil.Process(os.getpid()).memory_info().rss - before


@pytest.mark.parametrize(
    ("first", "then", "megabytes"),
    [
        pytest.param(b"", masked(FIN | PING, b"x" * 125) * 1000, 32, id="pings whose answers nobody reads"),
        pytest.param(b"\x83\x80\0\0\0\0", b"x" * 131_000, 128, id="anything after an error"),
        pytest.param(b"\x01\x80\0\0\0\0", b"\x00\x80\0\0\0\0" * 20_000, 5, id="parts of nothing"),
    ],
)
def test_a_flood_fills_no_memory(gateway, witness, first, then, megabytes):
    before = psutil.Process(os.getpid()).memory_info().rss
    with gateway.client(buffer_bytes=4096) as client:
        client.send_raw(first)
        try:
            for _ in range((megabytes << 20) // len(then)):
                client.send_raw(then)
            # Once this is answered, all of it was read.
            client.ping(b"end")
        except ConnectionError:
            # It was hung up on.
            pass
        assert witness.pong(b"alive") == b"alive"
        assert _grown_by(before) < 5 << 20
