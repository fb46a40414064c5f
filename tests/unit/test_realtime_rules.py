"""Rules of the sockets: names of groups, origins, what is logged, how they are configured, what is loaded when."""

from __future__ import annotations

import importlib
import json
import logging
import re
import subprocess
import sys
from typing import Any

import pytest
from channels.layers import BaseChannelLayer
from django.core.exceptions import ImproperlyConfigured
from hypothesis import HealthCheck, example, given, strategies
from hypothesis import settings as limits

from django_app import env
from django_app.realtime import feeds, groups
from django_app.realtime.admission import is_ours
from django_app.realtime.logs import WithoutQuery
from tests.conftest import ROOT
from tests.test_architecture import loaded_by

anything = strategies.text(strategies.characters(exclude_categories=()))


@given(anything, anything)
@example("\ud800", "\ud801")
def test_groups_have_names_that_channels_allows_and_no_two_share_one(one: str, other: str):
    layer = BaseChannelLayer()
    names = [named(each) for named in (groups.run, groups.user, groups.session) for each in {one, other}]
    for name in (*names, groups.CONSOLE):
        assert layer.require_valid_group_name(name)
    assert len(set(names)) == len(names)


@given(anything)
@example("ws/runs/%s/" % ("x" * 300))
def test_any_path_leads_to_a_feed_or_to_none(path: str):
    found = feeds.find(path)
    assert found is None or path.startswith("/ws/")


@given(strategies.text(strategies.characters(exclude_characters="\x00"), min_size=1))
def test_any_id_has_a_path(pk: str):
    found = feeds.find(f"/ws/runs/{pk}/")
    assert found is not None
    assert found.group == groups.run(pk)


# Origins -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("public", "extra", "ours", "others"),
    [
        (
            "https://site.example",
            ["also.example", ".wild.example", "*"],
            ["https://site.example", "https://SITE.example:443", "https://also.example", "https://a.wild.example"],
            ["http://site.example", "https://site.example:8443", "https://www.site.example", "https://evil.example"],
        ),
        (
            "http://127.0.0.1:8000",
            ["localhost", "[::1]"],
            ["http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000"],
            ["http://127.0.0.1", "http://localhost", "http://localhost:8001", "https://localhost:8000"],
        ),
    ],
)
def test_an_origin_is_one_of_the_sites_own(settings, public: str, extra: list[str], ours: list[str], others: list[str]):
    settings.PUBLIC_ORIGIN = public
    settings.ALLOWED_HOSTS = [public.partition("://")[2].partition(":")[0], *extra]
    for origin in ours:
        assert is_ours([origin.encode()]), origin
        assert not is_ours([origin.encode()] * 2), "twice is once too often"
        assert not is_ours([origin.encode() + b"/"])
    for origin in others:
        assert not is_ours([origin.encode()]), origin
    assert not is_ours([])


@limits(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(strategies.binary() | strategies.text("htps:/@[]testrv.0123456789 \\%#?").map(str.encode))
def test_no_origin_breaks_the_check(settings, origin: bytes):
    settings.PUBLIC_ORIGIN, settings.ALLOWED_HOSTS = "http://testserver", ["testserver"]
    assert not is_ours([origin]) or re.fullmatch(rb"http://testserver\.?(:(80)?)?", origin)


# Logs ----------------------------------------------------------------------------------------------------------------


def test_a_servers_lines_lose_their_query_strings():
    record = logging.LogRecord("uvicorn.error", logging.INFO, "", 0, '%s - "WebSocket %s" %d', (), None)
    record.args = ("127.0.0.1:5", "/ws/runs/7/?token=secret&x=1", 403)
    assert WithoutQuery().filter(record)
    assert record.getMessage() == '127.0.0.1:5 - "WebSocket /ws/runs/7/?..." 403'
    record.args = {"named": "/?token"}  # type: ignore[assignment]
    assert WithoutQuery().filter(record)
    assert record.args == {"named": "/?token"}


# Configuration -------------------------------------------------------------------------------------------------------

URL = "wss://a1b2.execute-api.eu-central-1.amazonaws.com/prod"
TELL = """
import json
from django_app import settings
print(json.dumps({
    "layers": settings.CHANNEL_LAYERS,
    "connect": [str(each) for each in settings.CONTENT_SECURITY_POLICY["DIRECTIVES"]["connect-src"]],
}))
"""


def configured(**variables: str) -> dict[str, Any]:
    """What settings make of the environment, in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-c", TELL],
        cwd=ROOT,
        env={"SECRET_KEY": "x", "PATH": "", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_without_an_address_of_sockets_there_is_no_layer():
    assert configured() == {"layers": {}, "connect": ["'self'"]}


@pytest.mark.parametrize(
    ("variables", "table", "api"),
    [
        ({}, "cloudqueue-sockets", URL.replace("wss", "https")),
        ({"SOCKETS_TABLE": "own", "SOCKETS_API_URL": "https://api.example/x/"}, "own", "https://api.example/x"),
    ],
)
def test_api_gateway_has_the_sockets_where_the_address_is_one_of_its(variables: dict[str, str], table: str, api: str):
    told = configured(SOCKETS_URL=f"{URL}/", **variables)
    layer = told["layers"]["default"]
    assert layer["BACKEND"] == "serverless.websockets.layer.GatewayChannelLayer"
    assert (layer["CONFIG"]["table"], layer["CONFIG"]["endpoint_url"]) == (table, api)
    assert told["connect"] == ["'self'", URL.removesuffix("/prod")]


def test_the_local_gateway_is_one_as_well():
    told = configured(SOCKETS_URL="ws://127.0.0.1:5005/local")
    assert told["layers"]["default"]["CONFIG"]["endpoint_url"] == "http://127.0.0.1:5005/local"
    assert told["connect"] == ["'self'", "ws://127.0.0.1:5005"]


def test_servers_hold_the_sockets_where_the_address_is_one_of_redis():
    told = configured(
        SOCKETS_URL="rediss://:pass@redis.example:6380/2",
        PUBLIC_URL="https://site.example:8443/dev",
        EXTRA_HOSTS="also.example,.wild.example",
    )
    layer = told["layers"]["default"]
    assert layer["BACKEND"] == "channels_redis.pubsub.RedisPubSubChannelLayer"
    hosts = [{"address": "rediss://:pass@redis.example:6380/2", "socket_timeout": 30}]
    assert layer["CONFIG"]["hosts"] == hosts
    assert told["connect"] == ["'self'", "wss://site.example:8443", "wss://also.example:8443"]


def reading(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    """What is said of a wrong environment."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    try:
        with pytest.raises(ImproperlyConfigured) as raised:
            importlib.reload(env)
    finally:
        monkeypatch.undo()
        importlib.reload(env)
    return str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://a1b2.execute-api.eu-central-1.amazonaws.com/prod",
        "a1b2.execute-api.eu-central-1.amazonaws.com",
        "wss:///prod",
        "wss://host:port/prod",
        "wss://host:99999/prod",
        "wss://[::1/prod",
        "wss://host/prod?path=/",
        "wss://host/prod#x",
        "wss://user@host/prod",
        "redis:///0",
        "memory://",
        "yes",
    ],
)
def test_an_address_that_is_none_of_sockets_is_refused_with_what_it_could_be(monkeypatch, url: str):
    said = reading(monkeypatch, SOCKETS_URL=url)
    assert said.startswith('SOCKETS_URL="')
    assert "wss://ID.execute-api.REGION.amazonaws.com/STAGE" in said
    assert "redis://HOST:6379/0" in said


def test_a_password_in_a_wrong_address_is_not_shown(monkeypatch):
    said = reading(monkeypatch, SOCKETS_URL="redis://:hun/ter2@host:6379x/0")
    assert "hun" not in said
    assert "ter2" not in said


@pytest.mark.parametrize(
    ("name", "value"),
    [("SOCKET_TOKEN_SECONDS", "0"), ("SOCKET_TOKEN_SECONDS", "3601"), ("PUSH_EVERY_SECONDS", "-1")],
)
def test_seconds_that_make_no_sense_are_refused_by_name(monkeypatch, name: str, value: str):
    assert reading(monkeypatch, **{name: value}).startswith(f"{name}={value} is not from ")


# What is loaded ------------------------------------------------------------------------------------------------------

SITE = (
    "import os; os.environ['SECRET_KEY'] = 'x'; os.environ['SOCKETS_URL'] = 'wss://a.example/dev'; "
    "from django_app.wsgi import application; from django.urls import get_resolver; get_resolver().reverse_dict"
)


def test_the_web_side_starts_without_channels_even_where_there_are_sockets():
    loaded = loaded_by(SITE)
    assert "django" in loaded
    assert loaded.isdisjoint({"channels", "channels_redis", "redis", "daphne", "uvicorn"})


def test_sockets_load_no_server():
    loaded = loaded_by(f"{SITE}; import django_app.asgi")
    assert "channels" in loaded
    assert loaded.isdisjoint({"channels_redis", "redis", "daphne", "uvicorn", "polars", "matplotlib"})
