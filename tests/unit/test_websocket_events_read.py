"""Events of a WebSocket API, read, and the scope that becomes of them."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverless.websockets import events, scopes
from serverless.websockets.errors import EventError, RequestError, WebsocketsError
from tests.lambda_events import recorded

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
CONTEXT = ["eventType", "connectionId", "identity", "stage", "domainName", "disconnectStatusCode", "disconnectReason"]
FIELDS = ["headers", "multiValueHeaders", "queryStringParameters", "multiValueQueryStringParameters", "body"]


def asked(**query: Any) -> events.Event:
    made = recorded("websocket_connect")
    made["multiValueQueryStringParameters"] = query
    return events.parse(made)


def test_recorded_events_are_read():
    connect = events.parse(recorded("websocket_connect"))
    assert (connect.kind, connect.connection_id, connect.stage) == ("CONNECT", "L0SM9cOFvHcCIhw=", "dev")
    assert connect.query == {"path": ("/ws/runs/7/",), "token": ("eyJ1IjoxfQ:1tGH8x:c2ln",)}
    assert connect.source_address == "203.0.113.7"
    message = events.parse(recorded("websocket_message"))
    assert events.received(message) == {"type": "websocket.receive", "text": '{"type": "sync"}'}
    left = events.disconnected(events.parse(recorded("websocket_disconnect")))
    assert left == {"type": "websocket.disconnect", "code": 1001, "reason": "Going away"}


def test_events_with_single_values_only_are_read_as_well():
    made = recorded("websocket_connect")
    del made["multiValueHeaders"], made["multiValueQueryStringParameters"]
    assert events.scope(events.parse(made)) == events.scope(events.parse(recorded("websocket_connect")))


@pytest.mark.parametrize("code", [None, -1, 0, "1001", True, 1.5])
def test_a_close_code_that_is_none_is_an_abnormal_end(code: Any):
    made = recorded("websocket_disconnect")
    made["requestContext"]["disconnectStatusCode"] = code
    assert events.parse(made).close_code == 1006


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (None, "event of type NoneType: it is not an object"),
        ([], "event of type list"),
        ({}, "event with no fields: it has no requestContext.connectionId"),
        ({"requestContext": {"connectionId": 5}, "b": 1}, "event with b, requestContext: it has no"),
        (
            {"requestContext": {"connectionId": "A=", "eventType": "OPEN"}},
            'eventType "OPEN" is none of CONNECT, MESSAGE',
        ),
        ({"requestContext": {"connectionId": "A="}}, 'eventType "None" is none of'),
        ({"requestContext": {"connectionId": "", "eventType": "MESSAGE"}}, "API Gateway's ids have 16"),
    ],
)
def test_what_no_websocket_api_sends_is_refused_without_telling_its_contents(event: Any, words: str):
    with pytest.raises(EventError) as refused:
        events.parse(event)
    assert words in str(refused.value)


@given(
    json_values,
    st.sampled_from([*CONTEXT, *FIELDS, "requestContext", "isBase64Encoded"]),
    st.sampled_from(["connect", "message", "disconnect"]),
)
def test_whatever_stands_in_a_field_an_event_is_read_or_refused(value: Any, field: str, name: str):
    made = recorded(f"websocket_{name}")
    (made["requestContext"] if field in CONTEXT else made)[field] = value
    try:
        event = events.parse(made)
        events.scope(event)
        events.received(event)
        events.disconnected(event)
    except WebsocketsError:
        return
    assert event.connection_id


@given(json_values)
def test_whatever_an_event_is_it_is_read_or_refused(value: Any):
    with pytest.raises(EventError):
        events.parse(value)


@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda name: name != "path"), st.lists(st.text(), min_size=1, max_size=3), max_size=4
    )
)
def test_the_query_is_what_was_asked_without_the_path(query: dict[str, list[str]]):
    sent = recorded("websocket_connect") | {"multiValueQueryStringParameters": {"path": ["/ws/"], **query}}
    made = events.scope(events.parse(sent))
    told = parse_qsl(made["query_string"].decode(), keep_blank_values=True, errors="strict")
    assert told == [(_sent(name), _sent(value)) for name, values in query.items() for value in values]
    assert made["path"] == "/ws/"


def _sent(text: str) -> str:
    """Half a surrogate pair cannot be sent, and is a question mark."""
    return text.encode(errors="replace").decode()


@pytest.mark.parametrize("paths", [["ws/"], [""], ["/a", "/b"], [" /a"], ["https://x/"]])
def test_a_path_must_be_one_and_begin_with_a_slash(paths: list[str]):
    with pytest.raises(RequestError, match="Write wss://HOST/STAGE"):
        events.scope(asked(path=paths))


def test_no_path_is_the_root():
    assert events.scope(asked())["path"] == "/"


def test_a_path_is_text_and_its_raw_form_is_escaped():
    made = events.scope(asked(path=["/ws/ä b/"]))
    assert (made["path"], made["raw_path"]) == ("/ws/ä b/", b"/ws/%C3%A4%20b/")


def test_subprotocols_of_several_headers_are_one_list():
    made = recorded("websocket_connect")
    made["multiValueHeaders"]["sec-websocket-protocol"] = ["a, b", "c,"]
    assert events.scope(events.parse(made))["subprotocols"] == ["a", "b", "c"]


@pytest.mark.parametrize("body", ["not base64", "A", "ä", "AA=A"])
def test_a_binary_message_that_is_no_base64_is_refused(body: str):
    made = recorded("websocket_message") | {"body": body, "isBase64Encoded": True}
    with pytest.raises(RequestError, match="is no base64"):
        events.received(events.parse(made))


# What is kept of a scope


class User:
    def __init__(self, pk: Any, *, is_authenticated: bool = True) -> None:
        self.pk = pk
        self.is_authenticated = is_authenticated


def kept(**added: Any) -> dict[str, Any]:
    scope = events.scope(events.parse(recorded("websocket_connect")))
    return scopes.restored(scopes.keep(scope, {**scope, **added}, "v1"))


def test_a_kept_scope_has_no_cookies_no_query_and_no_headers_but_a_few():
    scope = kept(cookies={"sessionid": "s"}, session={"a": 1}, url_route={"args": []}, path_remaining="")
    assert scope["query_string"] == b""
    assert {name for name, _ in scope["headers"]} == {b"accept-language", b"host", b"origin", b"user-agent"}
    assert {"cookies", "session", "url_route", "path_remaining", "user"}.isdisjoint(scope)
    assert scope["subprotocols"] == ["v1"]


@given(st.dictionaries(st.text(min_size=1), json_values, max_size=4))
def test_what_was_added_to_a_scope_comes_back_where_json_can_keep_it(added: dict[str, Any]):
    scope = kept(**{f"x-{name}": value for name, value in added.items()})
    for name, value in scope.items():
        if name.startswith("x-"):
            assert value == added[name[2:]]
    assert "x-object" not in kept(**{"x-object": object()})


def test_the_request_itself_cannot_be_overwritten_by_what_was_added():
    assert kept(type="http", path="/other")["path"] == "/ws/runs/7/"
    assert kept(type="http")["type"] == "websocket"


def test_a_user_who_has_signed_in_is_kept_by_key_and_no_other_is():
    assert repr(kept(user=User(7))["user"]) == "KeptUser('7')"
    assert kept(user=User(7))["user"].is_authenticated
    for nobody in (User(7, is_authenticated=False), User(None), None):
        assert "user" not in kept(user=nobody) or kept(user=nobody)["user"] is None
    assert kept(user="ada")["user"] == "ada"


def test_a_scope_that_is_too_large_names_what_makes_it_so():
    with pytest.raises(WebsocketsError, match='the largest is "claims"'):
        kept(claims="x" * 40_000, small=1)


def test_the_extension_tells_the_connection_and_leaves_others_alone():
    scope = events.scope(events.parse(recorded("websocket_connect"))) | {"extensions": {"other": {}}}
    made = scopes.with_extension(scope, "A=", is_resumed=True)
    assert made["extensions"] == {"other": {}, "aws.websocket": {"connection_id": "A=", "is_resumed": True}}
    assert json.dumps(scope["extensions"]) == '{"other": {}}'
