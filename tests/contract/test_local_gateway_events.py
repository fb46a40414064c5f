"""The events that the local gateway makes have the fields that API Gateway's have, and mean the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from serverless.websockets import events
from serverless.websockets.events import Kind
from tests.lambda_events import recorded
from tests.local_gateway import Gateway, Recorder, running
from tests.waiting import wait_for

BROWSER = {
    name: value
    for name, value in recorded("websocket_connect")["headers"].items()
    if not name.startswith(("X-", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Host"))
}


@pytest.fixture
def function() -> Recorder:
    return Recorder()


@pytest.fixture
def gateway(function: Recorder) -> Iterator[Gateway]:
    with running(function) as made:
        yield made


def shape(value: Any) -> Any:
    """Its keys and types."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return type(value).__name__


@pytest.fixture
def life(gateway: Gateway, function: Recorder) -> Recorder:
    """All events of one connection of a browser."""
    with gateway.client(target="/local?path=/ws/runs/7/&token=eyJ1IjoxfQ:1tGH8x:c2ln", headers=BROWSER) as client:
        assert client.status == 101
        client.send('{"type": "sync"}')
        wait_for(lambda: function.of("$default"), "the message")
        client.close(1001, "Going away")
    wait_for(lambda: function.of("$disconnect"), "the end")
    return function


@pytest.mark.parametrize(
    ("route", "name"),
    [("$connect", "websocket_connect"), ("$default", "websocket_message"), ("$disconnect", "websocket_disconnect")],
)
def test_an_event_has_the_fields_of_a_recorded_one(life, route, name):
    assert shape(life.of(route)[0]) == shape(recorded(name))


def test_what_the_recorded_connection_says_is_said_of_this_one(life):
    made, known = life.of("$connect")[0], recorded("websocket_connect")
    assert made["queryStringParameters"] == known["queryStringParameters"]
    assert made["multiValueQueryStringParameters"] == known["multiValueQueryStringParameters"]
    assert {name: made["headers"][name] for name in BROWSER} == BROWSER
    assert made["requestContext"]["identity"]["userAgent"] == known["requestContext"]["identity"]["userAgent"]
    assert life.of("$default")[0]["body"] == recorded("websocket_message")["body"]
    ended = recorded("websocket_disconnect")["requestContext"]
    assert life.last("$disconnect")["disconnectStatusCode"] == ended["disconnectStatusCode"]
    assert life.last("$disconnect")["disconnectReason"] == ended["disconnectReason"]


def test_all_events_of_a_connection_tell_the_same_of_it(life, gateway):
    contexts = [event["requestContext"] for event in life.events]
    for key in ("connectionId", "connectedAt", "stage", "domainName", "apiId", "identity"):
        assert len({str(context[key]) for context in contexts}) == 1, key
    assert len({context["requestId"] for context in contexts}) == 3
    assert re.fullmatch(r"[\w-]{15}=", contexts[0]["connectionId"])
    assert re.fullmatch(r"\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000", contexts[0]["requestTime"])
    assert contexts[0]["domainName"] == f"127.0.0.1:{gateway.port}"


def test_the_library_reads_them(life):
    connected, said, ended = (events.parse(life.of(route)[0]) for route in ("$connect", "$default", "$disconnect"))
    assert [event.kind for event in (connected, said, ended)] == [Kind.CONNECT, Kind.MESSAGE, Kind.DISCONNECT]
    scope = events.scope(connected)
    assert scope["path"] == "/ws/runs/7/"
    assert scope["query_string"] == b"token=eyJ1IjoxfQ%3A1tGH8x%3Ac2ln"
    assert scope["client"] == ["127.0.0.1", 0]
    assert dict(scope["headers"])[b"origin"] == b"https://cloudqueue.example"
    assert (ended.close_code, ended.close_reason) == (1001, "Going away")


def test_what_a_proxy_would_say_is_not_taken_from_the_client(gateway, function):
    claims = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "X-Forwarded-Port": "1", "TE": "trailers"}
    with gateway.client(headers={**claims, "Host": "localhost:9", "Origin": "http://localhost:8000"}):
        headers = function.of("$connect")[0]["headers"]
    assert headers["X-Forwarded-For"] == "203.0.113.9, 127.0.0.1"
    assert headers["X-Forwarded-Proto"] == "http"
    assert headers["X-Forwarded-Port"] == "9"
    assert headers["Host"] == "localhost:9"
    assert headers["Origin"] == "http://localhost:8000"
    assert not {name.lower() for name in headers} & {"te", "upgrade", "connection"}


def test_several_values_of_a_parameter_are_all_told(gateway, function):
    with gateway.client(target="/local/?a=1&a=2&b=%C3%A9+x&empty="):
        event = function.of("$connect")[0]
    assert event["queryStringParameters"] == {"a": "2", "b": "é x", "empty": ""}
    assert event["multiValueQueryStringParameters"] == {"a": ["1", "2"], "b": ["é x"], "empty": [""]}


def test_without_a_query_no_parameters_are_told(gateway, function):
    with gateway.client(headers={"User-Agent": None}):
        event = function.of("$connect")[0]
    assert "queryStringParameters" not in event
    assert "multiValueQueryStringParameters" not in event
    assert event["requestContext"]["identity"] == {"sourceIp": "127.0.0.1"}
