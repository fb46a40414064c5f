"""Lambda's events: which are answered, which are refused aloud, and HTTP through each door."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverless.invocations import HttpAdapter, Kind, UnroutableError, kind_of, name_of
from serverless.invocations.http import MOST_BYTES, MOST_BYTES_LOAD_BALANCER
from tests.lambda_events import DOORS, Context, answered, recorded, request

# Kinds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", DOORS)
def test_http_comes_in_by_each_door(door):
    assert kind_of(recorded(door)) == Kind.HTTP


def test_a_command_stands_alone():
    assert kind_of({"manage": "migrate --check"}) == Kind.MANAGE
    for event in ({"manage": "migrate", "raw_command": "1"}, {"manage": ["migrate"]}):
        with pytest.raises(UnroutableError, match="one text"):
            kind_of(event)


@pytest.mark.parametrize("name", ["eventbridge_rule", "eventbridge_scheduler"])
def test_an_event_is_known_by_the_name_that_it_carries(name):
    assert kind_of(recorded(name)) == Kind.NAMED
    assert name_of(recorded(name)) == "housekeeping"


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (recorded("sqs"), "no records of aws:sqs"),
        (recorded("s3"), "no records of aws:s3"),
        (recorded("sns"), "no records of aws:sns"),
        ({"Records": []}, "no records of an unknown service"),
        ({"Records": "x"}, "no records of an unknown service"),
        (recorded("eventbridge_rule_of_others"), "the rule that sent it gives no name"),
        (recorded("websocket_connect"), "of a WebSocket API"),
        ({"command": "os.system"}, "not run by name"),
        ({"raw_command": "import os"}, "not run by name"),
        ({"kwargs": {"event": ["housekeeping"]}}, "no known kind"),
        ({"requestContext": {"authorizer": {}}}, "requestContext of no known kind"),
        ({"event": ""}, "no known kind"),
        ({}, "no fields: it is of no known kind"),
        (None, "not an object"),
        ("migrate", "not an object"),
        ([], "not an object"),
    ],
)
def test_everything_else_is_refused_with_the_reason(event, reason):
    with pytest.raises(UnroutableError, match=reason):
        kind_of(event)


def test_a_refusal_tells_names_and_no_values():
    with pytest.raises(UnroutableError) as caught:
        kind_of({"password": "hunter2", **{f"field{number}": 1 for number in range(20)}})
    assert "hunter2" not in str(caught.value)
    assert "..." in str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.dictionaries(
                st.sampled_from(
                    [
                        "requestContext",
                        "http",
                        "elb",
                        "Records",
                        "kwargs",
                        "event",
                        "manage",
                        "version",
                        "httpMethod",
                        "path",
                        "detail-type",
                    ]
                ),
                inner,
            )
            | st.lists(inner)
        ),
        max_leaves=8,
    )
)
def test_whatever_comes_is_of_a_kind_or_refused(event):
    try:
        assert kind_of(event) in Kind
    except UnroutableError as error:
        assert str(error)


@pytest.mark.parametrize("door", DOORS)
def test_the_events_that_we_make_have_the_fields_of_recorded_ones(door):
    """Else what holds for them would say nothing of AWS."""
    there = recorded(door)
    made = request(door, path="/datasets/", query="page=2", headers=[("Cookie", "a=1"), ("User-Agent", "x")], body=b"x")
    assert set(made) - {"body", "pathParameters"} == set(there) - {"body", "pathParameters"}
    assert set(made["requestContext"]) <= set(there["requestContext"])
    for field in set(made) & {"isBase64Encoded", "headers", "multiValueHeaders", "queryStringParameters", "cookies"}:
        assert type(made[field]) is type(there[field])


# HTTP ----------------------------------------------------------------------------------------------------------------


class Site:
    """A WSGI application that keeps what it was asked and answers what it is told to."""

    def __init__(self, body: bytes = b"", headers=(), status: str = "200 OK") -> None:
        self.environ: dict = {}
        self.sent = b""
        self.answer = (status, list(headers), body)
        self.is_closed = False

    def __call__(self, environ, start_response):
        self.environ, self.sent = environ, environ["wsgi.input"].read()
        status, headers, body = self.answer
        start_response(status, headers)
        return Closing(self, body)


class Closing(io.BytesIO):
    def __init__(self, site: Site, body: bytes) -> None:
        super().__init__(body)
        self.site = site

    def close(self) -> None:
        self.site.is_closed = True
        super().close()


def ask(site: Site, door: str, *, prefix: str = "", trusted_proxies: int = 0, **asked):
    adapter = HttpAdapter(site, prefix=prefix, trusted_proxies=trusted_proxies)
    return answered(json.loads(json.dumps(adapter(request(door, **asked), Context()))))


@pytest.mark.parametrize("door", DOORS)
def test_what_was_recorded_is_what_the_application_sees(door):
    site = Site(b"hello", [("Content-Type", "text/plain")])
    event = recorded(door)
    prefix = "/dev" if "gateway" in door else ""
    status, headers, body = answered(HttpAdapter(site, prefix=prefix)(event, Context()))
    assert (status, body) == (200, b"hello")
    assert ("content-type", "text/plain") in headers
    seen = site.environ
    assert (seen["REQUEST_METHOD"], seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("GET", prefix, "/datasets/")
    assert seen["REMOTE_ADDR"] == "203.0.113.7"
    assert seen["wsgi.url_scheme"] == "https"
    assert seen["SERVER_PORT"] == "443"
    assert {each.strip() for each in seen["HTTP_COOKIE"].split(";")} >= {"csrftoken=one", "sessionid=two"}
    assert seen["HTTP_X_REQUEST_ID"] == Context().aws_request_id
    if door != "load_balancer":
        assert seen["QUERY_STRING"] == "page=2&q=a&q=b"
    assert site.is_closed


@pytest.mark.parametrize("door", DOORS)
def test_two_cookies_stay_two(door):
    cookies = ["a=1; Path=/; HttpOnly", "b=2; Expires=Wed, 25 Nov 2026 12:00:00 GMT", "c=3"]
    site = Site(b"", [("Content-Type", "text/html"), *(("Set-Cookie", each) for each in cookies)])
    _, headers, _ = ask(site, door)
    assert [value for name, value in headers if name == "set-cookie"] == cookies


@pytest.mark.parametrize("door", DOORS)
def test_other_headers_of_one_name_are_joined(door):
    site = Site(b"", [("Vary", "Cookie"), ("vary", "Accept"), ("Content-Type", "text/html")])
    _, headers, _ = ask(site, door)
    assert [value for name, value in headers if name == "vary"] == ["Cookie, Accept"]


@pytest.mark.parametrize("door", ["api_gateway_v1", "api_gateway_v2"])
@pytest.mark.parametrize(
    ("stage", "path", "prefix", "seen"),
    [
        ("dev", "/developers/", "/dev", ("/dev", "/developers/")),
        ("dev", "/", "/dev", ("/dev", "/")),
        ("dev", "/dev/", "/dev", ("/dev", "/dev/")),
        ("", "/developers/", "", ("", "/developers/")),
        # A base path of a custom domain stands where a stage would.
        ("app", "/x", "/app", ("/app", "/x")),
    ],
)
def test_the_stage_is_taken_off_as_a_whole_segment(door, stage, path, prefix, seen):
    site = Site()
    ask(site, door, stage=stage, path=path, prefix=prefix)
    assert (site.environ["SCRIPT_NAME"], site.environ["PATH_INFO"]) == seen


def test_a_stage_without_a_slash_is_the_root():
    event = request("api_gateway_v2", path="", stage="dev")
    site = Site()
    HttpAdapter(site, prefix="/dev")(event, Context())
    assert site.environ["PATH_INFO"] == "/"


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("path", ["/café/ü", "/日本/", "/a b", "/100%25", "/semi;colon=1", "/plus+plus"])
def test_paths_arrive_as_they_are_meant(door, path):
    site = Site()
    ask(site, door, path=path)
    assert site.environ["PATH_INFO"].encode("latin-1").decode() == path


@pytest.mark.parametrize("door", ["api_gateway_v1", "api_gateway_v2"])
def test_a_path_that_aws_has_unescaped_arrives_as_well(door):
    event = request(door, path="/x")
    for place in (event, event.get("requestContext", {})):
        for field in ("path", "rawPath"):
            if field in place:
                place[field] = "/café"
    site = Site()
    HttpAdapter(site)(event, Context())
    assert site.environ["PATH_INFO"].encode("latin-1").decode() == "/café"


@pytest.mark.parametrize("door", DOORS)
def test_a_header_with_an_underscore_cannot_pose_as_the_proxys(door):
    site = Site()
    ask(site, door, headers=[("X_Forwarded_Proto", "http"), ("X_Request_Id", "mine"), ("X-Own", "kept")])
    assert site.environ["HTTP_X_FORWARDED_PROTO"] == "https"
    assert site.environ["HTTP_X_REQUEST_ID"] == Context().aws_request_id
    assert site.environ["HTTP_X_OWN"] == "kept"


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        # The client itself wrote 9.9.9.9; behind it stands what AWS saw.
        (0, "9.9.9.9", "203.0.113.7"),
        (1, "9.9.9.9, 198.51.100.1", "198.51.100.1"),
        (3, "198.51.100.1", "203.0.113.7"),
    ],
)
def test_the_address_is_what_a_trusted_hop_saw(door, proxies, forwarded, address):
    site = Site()
    ask(site, door, trusted_proxies=proxies, headers=[("X-Forwarded-For", forwarded)])
    assert site.environ["REMOTE_ADDR"] == address


def test_cookies_that_came_in_several_headers_are_one():
    event = recorded("api_gateway_v1")
    event["multiValueHeaders"]["Cookie"] = ["a=1", "b=2"]
    site = Site()
    HttpAdapter(site)(event, Context())
    assert site.environ["HTTP_COOKIE"] == "a=1; b=2"


@pytest.mark.parametrize("door", DOORS)
def test_bytes_come_and_go_unchanged(door):
    data = bytes(range(256)) * 4
    site = Site(data, [("Content-Type", "image/png")])
    _, _, body = ask(site, door, method="POST", body=data, headers=[("Content-Type", "application/octet-stream")])
    assert site.sent == data
    assert site.environ["CONTENT_LENGTH"] == str(len(data))
    assert site.environ["CONTENT_TYPE"] == "application/octet-stream"
    assert body == data


@pytest.mark.parametrize("door", DOORS)
def test_text_that_is_not_utf8_goes_unchanged(door):
    site = Site("Ärger".encode("latin-1"), [("Content-Type", "text/csv; charset=latin-1")])
    assert ask(site, door)[2] == "Ärger".encode("latin-1")


@pytest.mark.parametrize("door", DOORS)
def test_head_and_not_modified_have_no_body(door):
    assert ask(Site(b"body"), door, method="HEAD")[2] == b""
    assert ask(Site(b"body", status="304 Not Modified"), door)[2] == b""


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", ["text/plain", "image/png"])
def test_an_answer_that_lambda_cannot_return_is_a_clear_413(door, kind):
    most = MOST_BYTES_LOAD_BALANCER if door.startswith("load_balancer") else MOST_BYTES
    fitting = most - 1000 if kind == "text/plain" else most * 3 // 4 - 1000
    assert ask(Site(b"x" * fitting, [("Content-Type", kind)]), door)[0] == 200
    status, headers, body = ask(Site(b"x" * (fitting + 2000), [("Content-Type", kind)]), door)
    assert status == 413
    assert ("content-type", "text/plain; charset=utf-8") in headers
    assert f"larger than the {most >> 20} MiB".encode() in body


def test_what_json_lengthens_counts_as_lengthened():
    quotes = Site(b'"' * (MOST_BYTES * 2 // 3), [("Content-Type", "text/plain")])
    assert ask(quotes, "api_gateway_v2")[0] == 413


def test_an_application_that_fails_is_heard_of_and_closed():
    def application(environ, start_response):
        raise TypeError("as itself")

    with pytest.raises(TypeError, match="as itself"):
        HttpAdapter(application)(recorded("api_gateway_v1"), Context())
