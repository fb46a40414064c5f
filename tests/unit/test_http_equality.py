"""HTTP by way of Lambda is HTTP: an application sees and answers through each door what it does on Django's server."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from urllib.parse import parse_qsl, quote, urlencode

import pytest
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serverless.invocations import HttpAdapter
from tests.lambda_events import DOORS, Context, answered, request

_OF_THE_SERVER = {"HTTP_HOST", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_PORT"}
_OF_THE_SERVER |= {"HTTP_X_AMZN_TRACE_ID", "HTTP_X_REQUEST_ID", "HTTP_ACCEPT_ENCODING"}


def echo(environ, start_response):
    """Tells what it sees, and answers as it is told to by the query."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    seen = {
        "method": environ["REQUEST_METHOD"],
        "path": environ["PATH_INFO"],
        "query": parse_qsl(environ["QUERY_STRING"], keep_blank_values=True),
        "headers": {
            name: value for name, value in environ.items() if name.startswith("HTTP_") and name not in _OF_THE_SERVER
        },
        "type": environ.get("CONTENT_TYPE") or "text/plain",
        "body": environ["wsgi.input"].read(length).hex() if length else "",
    }
    told = dict(seen["query"])
    headers = [("Content-Type", "application/json"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    start_response(f"{told.get('status', '200')} Told", headers)
    return [json.dumps(seen).encode()]


class Quiet(WSGIRequestHandler):
    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    made = ThreadedWSGIServer(("127.0.0.1", 0), Quiet)
    made.set_app(echo)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield made.server_address[:2]
    made.shutdown()
    made.server_close()


def by_server(address, *, method, path, query, headers, body):
    connection = http.client.HTTPConnection(*address, timeout=10)
    try:
        connection.putrequest(method, f"{quote(path)}{'?' + query if query else ''}", skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value.encode("latin-1"))
        if body:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        answer = connection.getresponse()
        cookies = [value for name, value in answer.getheaders() if name.lower() == "set-cookie"]
        return answer.status, cookies, answer.read()
    finally:
        connection.close()


def by_door(door, **asked):
    status, headers, body = answered(HttpAdapter(echo)(request(door, **asked), Context()))
    return status, [value for name, value in headers if name == "set-cookie"], body


TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x2FFF, exclude_categories=["Cs"]), max_size=12)
PATHS = TEXT.map(lambda text: "/" + text.lstrip("/"))
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=4)
NAMES = st.from_regex(r"X-[A-Z][a-z]{1,8}(-[A-Z][a-z]{1,5})?", fullmatch=True)
# A server takes blanks at the ends off, and so does Lambda.
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=12)
REQUESTS = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]),
        "path": PATHS,
        "pairs": PAIRS,
        "headers": st.dictionaries(NAMES, VALUES, max_size=4),
        "cookies": st.lists(st.from_regex(r"[a-z]{1,5}=[a-z0-9]{0,6}", fullmatch=True), max_size=3),
        "body": st.binary(max_size=200),
    }
)


@pytest.mark.parametrize("door", DOORS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=REQUESTS, status=st.sampled_from(["200", "201", "204", "302", "404", "500"]))
def test_every_door_equals_the_development_server(server, door, requests, status):
    pairs = [*((name, value) for name, value in requests["pairs"] if name != "status"), ("status", status)]
    if door == "load_balancer":
        # It knows one value a name.
        pairs = list(dict(pairs).items())
    elif door in ("api_gateway_v1", "load_balancer_multi_value"):
        # Values of a name come together.
        pairs = sorted(pairs, key=lambda pair: [name for name, _ in pairs].index(pair[0]))
    method, cookies = requests["method"], requests["cookies"]
    asked = {
        "method": method,
        "path": requests["path"],
        "query": urlencode(pairs),
        "headers": [*requests["headers"].items(), *([("Cookie", "; ".join(cookies))] if cookies else [])],
        "body": requests["body"] if method in ("POST", "PUT", "PATCH") else b"",
    }
    if asked["body"]:
        asked["headers"].append(("Content-Type", "application/octet-stream"))
    there, here = by_server(server, **asked), by_door(door, **asked)
    assert here[:2] == there[:2]
    if method != "HEAD" and status != "204":
        seen, expected = json.loads(here[2]), json.loads(there[2])
        assert seen == expected
