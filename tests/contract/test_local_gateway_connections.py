"""`@connections` of the local gateway, by boto3 as the layer uses it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError

from tests.local_gateway import PATIENCE_SECONDS, STAGE, Gateway, Recorder, running
from tests.waiting import wait_for

SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=local"}


@pytest.fixture
def function() -> Recorder:
    return Recorder()


@pytest.fixture
def gateway(function: Recorder) -> Iterator[Gateway]:
    with running(function, buffer_bytes=64 << 10) as made:
        yield made


@pytest.fixture
def api(gateway: Gateway) -> Any:
    return gateway.connections()


def refused(call: Any, **arguments: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as raised:
        call(**arguments)
    response = raised.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def connection_id(function: Recorder) -> str:
    return function.last("$connect")["connectionId"]


def test_what_is_posted_reaches_its_client_alone(gateway, function, api):
    with gateway.client() as first:
        of_first = connection_id(function)
        with gateway.client() as second:
            api.post_to_connection(ConnectionId=of_first, Data='{"for": "é"}'.encode())
            api.post_to_connection(ConnectionId=connection_id(function), Data=b"second")
            assert first.receive() == '{"for": "é"}'
            assert second.receive() == "second"


def test_a_message_of_the_largest_size_arrives_in_frames_that_cut_no_letter(gateway, function, api):
    text = "aé€😀" * ((128 << 10) // 10)
    with gateway.client() as client:
        api.post_to_connection(ConnectionId=connection_id(function), Data=text.encode())
        assert client.receive() == text
        assert client.frames == 4 + 1


def test_a_larger_message_is_refused_and_the_socket_goes_on(gateway, function, api):
    with gateway.client() as client:
        known = connection_id(function)
        assert refused(api.post_to_connection, ConnectionId=known, Data=b"x" * (128 << 10) + b"x") == (
            413,
            "PayloadTooLargeException",
        )
        api.post_to_connection(ConnectionId=known, Data=b"x" * (128 << 10))
        assert len(client.receive()) == 128 << 10


def test_a_body_that_never_ends_is_not_read_to_its_end(function):
    with (
        running(function, handshake_seconds=PATIENCE_SECONDS) as gateway,
        gateway.client() as client,
        socket.create_connection(("127.0.0.1", gateway.port)) as sender,
    ):
        path = f"/{STAGE}/@connections/{connection_id(function)}"
        sender.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {1 << 40}\r\n\r\n".encode())
        try:
            for _ in range(24):
                sender.sendall(b"x" * (1 << 20))
        except ConnectionError:
            pass
        else:
            pytest.fail("24 MB of a message were taken")
        assert client.pong(b"alive") == b"alive"


def test_bytes_that_are_no_text_are_refused(gateway, function, api):
    with gateway.client():
        assert refused(api.post_to_connection, ConnectionId=connection_id(function), Data=b"\xff\xfe")[0] == 400


@pytest.mark.parametrize("operation", ["post_to_connection", "get_connection", "delete_connection"])
@pytest.mark.parametrize("unknown", ["L0SM9cOFvHcCIhw=", "never", "a/b", "é"])
def test_a_connection_that_is_unknown_is_gone(api, operation, unknown):
    arguments = {"Data": b"x"} if operation == "post_to_connection" else {}
    assert refused(getattr(api, operation), ConnectionId=unknown, **arguments) == (410, "GoneException")


def test_one_that_has_ended_is_gone(gateway, function, api):
    with gateway.client() as client:
        known = connection_id(function)
        client.close()
    wait_for(lambda: gateway.count() == 0, "the end")
    assert refused(api.post_to_connection, ConnectionId=known, Data=b"x") == (410, "GoneException")


def test_one_whose_connect_is_not_answered_yet_is_gone(gateway, function, api):
    answered: list[tuple[int, str]] = []

    def post_too_early(event: dict[str, Any]) -> dict[str, int]:
        known = event["requestContext"]["connectionId"]
        answered.append(refused(api.post_to_connection, ConnectionId=known, Data=b"early"))
        return {"statusCode": 200}

    function.answers["$connect"] = post_too_early
    with gateway.client() as client:
        assert answered == [(410, "GoneException")]
        api.post_to_connection(ConnectionId=connection_id(function), Data=b"later")
        assert client.receive() == "later"


def test_deleting_closes_it_and_tells_the_function(gateway, function, api):
    with gateway.client() as client:
        known = connection_id(function)
        assert api.delete_connection(ConnectionId=known)["ResponseMetadata"]["HTTPStatusCode"] == 204
        assert refused(api.post_to_connection, ConnectionId=known, Data=b"x")[0] == 410
        assert client.end() == (1000, "Connection Closed Normally")
    wait_for(lambda: function.of("$disconnect", known), "being told")
    assert function.last("$disconnect")["disconnectStatusCode"] == 1000
    assert refused(api.delete_connection, ConnectionId=known) == (410, "GoneException")


def test_it_is_described(gateway, function, api):
    began = datetime.now(UTC)
    with gateway.client(headers={"User-Agent": "a browser"}):
        known = connection_id(function)
        first = api.get_connection(ConnectionId=known)
        api.post_to_connection(ConnectionId=known, Data=b"x")
        second = api.get_connection(ConnectionId=known)
    assert first["Identity"] == {"SourceIp": "127.0.0.1", "UserAgent": "a browser"}
    assert began - timedelta(seconds=1) < first["ConnectedAt"] <= first["LastActiveAt"] < second["LastActiveAt"]
    assert first["ConnectedAt"] == second["ConnectedAt"]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer x"}, {"Origin": "https://elsewhere.example"}])
def test_without_a_signature_nothing_is_done(gateway, function, headers):
    with gateway.client() as client:
        url = f"{gateway.url}/@connections/{connection_id(function)}"
        for method in ("POST", "GET", "DELETE"):
            answer = httpx.request(method, url, headers=headers)
            assert answer.status_code == 403
            assert answer.headers["x-amzn-errortype"] == "MissingAuthenticationTokenException"
        assert client.pong(b"alive") == b"alive"


@pytest.mark.parametrize(
    "path", ["/", "/dev/@connections/x", f"/{STAGE}/@connection/x", f"/{STAGE}/connections/x", "/%2e%2e/@connections/x"]
)
def test_another_stage_or_path_is_forbidden(gateway, path):
    answer = httpx.get(f"http://127.0.0.1:{gateway.port}{path}", headers=SIGNED)
    assert (answer.status_code, answer.json()) == (403, {"message": "Forbidden"})


def test_another_method_is_forbidden(gateway, function):
    with gateway.client():
        url = f"{gateway.url}/@connections/{connection_id(function)}"
        assert httpx.put(url, headers=SIGNED).status_code == 403
        assert httpx.get(url, headers=SIGNED).status_code == 200


def test_an_address_with_a_plain_at_sign_is_the_same(gateway, function):
    """boto3 sends %40connections; people with curl do not."""
    with gateway.client() as client:
        for prefix in ("@connections", "%40connections"):
            url = f"{gateway.url}/{prefix}/{connection_id(function)}"
            assert httpx.post(url, content=prefix, headers=SIGNED).status_code == 200
            assert client.receive() == prefix


def test_a_client_that_reads_nothing_is_told_of_with_429_and_holds_up_nobody(gateway, function, api):
    with gateway.client(buffer_bytes=4096) as slow:
        of_slow = connection_id(function)
        with gateway.client() as quick:
            of_quick = connection_id(function)

            def is_full() -> bool:
                try:
                    api.post_to_connection(ConnectionId=of_slow, Data=b"x" * (128 << 10))
                except ClientError as error:
                    assert error.response["Error"]["Code"] == "LimitExceededException"
                    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 429
                    return True
                return False

            for _ in range(1000):
                if is_full():
                    break
            else:
                pytest.fail("128 MB were taken for a client that reads nothing")
            for number in range(20):
                api.post_to_connection(ConnectionId=of_quick, Data=json.dumps(number).encode())
                assert quick.receive_json() == number
        # Once it reads, it gets what was taken, and may get more.
        assert slow.receive() == "x" * (128 << 10)

        def reads_on() -> bool:
            if is_full():
                slow.receive()
                return False
            return True

        wait_for(reads_on, "room in the buffer")


def test_one_that_reads_nothing_can_be_deleted(function):
    with running(function, buffer_bytes=64 << 10, close_seconds=0.2) as gateway, gateway.client(buffer_bytes=4096):
        api, known = gateway.connections(), connection_id(function)

        def post_for_ever() -> None:
            for _ in range(1000):
                api.post_to_connection(ConnectionId=known, Data=b"x" * (128 << 10))

        assert refused(post_for_ever) == (429, "LimitExceededException")
        api.delete_connection(ConnectionId=known)
        wait_for(lambda: function.of("$disconnect", known), "being told")
        assert function.last("$disconnect")["disconnectStatusCode"] == 1000


def test_many_threads_may_post_to_one_client_and_no_message_is_mixed_up(function):
    sent = [f"{number}:" + str(number) * 40_000 for number in range(10)]
    with running(function) as gateway, gateway.client() as client, ThreadPoolExecutor(len(sent)) as pool:
        api, known = gateway.connections(), connection_id(function)
        posts = [pool.submit(api.post_to_connection, ConnectionId=known, Data=text.encode()) for text in sent]
        assert {client.receive() for _ in sent} == set(sent)
        assert {post.result(PATIENCE_SECONDS)["ResponseMetadata"]["HTTPStatusCode"] for post in posts} == {200}
