"""What clients say on sockets, and what sockets outlive: one suite over API Gateway's layer, Redis and memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.test import Client
from hypothesis import HealthCheck, given, strategies
from hypothesis import settings as limits

from django_app.realtime import announce
from django_app.realtime.models import Mark
from tests.integration.test_console_access import client_of, person, run
from tests.realtime_sockets import (
    SYNC,
    House,
    Visit,
    awaited,
    db,
    in_memory,
    issued,
    signed_in,
)

# Channels closes the connection of a transaction that a test would have begun.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("old_connections_may_be_closed")]

# What clients say -----------------------------------------------------------------------------------------------------

BAD_TEXTS = [
    "",
    " ",
    "null",
    "[]",
    "5",
    '"sync"',
    "{}",
    '{"type"}',
    '{"type": null}',
    '{"type": 5}',
    '{"type": ["sync"]}',
    '{"type": {"type": "sync"}}',
    '{"type": "SYNC"}',
    '{"type": "sync\\u0000"}',
    '{"type": "feed.changed"}',
    '{"type": "session.ended", "why": "signed_out"}',
    '{"type": "websocket.disconnect"}',
    '{"type": "_private"}',
    '{"type": "\\ud800"}',
    '{"type": "a"' + ', "type": "b"' * 50 + "}",
    "[" * 1000,
    "[" * 100_000,
    '{"a":' * 15_000,
    "1" * 1000,
    "1e999999",
    "x" * 127_000,
    "\x00",
    "\u202e",
    "NaN",
]
BAD_DATA = [b"", b"\x00", b'{"type": "sync"}', b"\xff\xfe", b"\x00" * 90_000]


async def is_told_what_is_wrong(visit: Visit) -> None:
    answer = await visit.hear()
    assert answer["type"] == "error"
    assert 10 < len(answer["why"]) < 300
    assert answer["why"].isprintable()


@awaited
async def test_what_makes_no_sense_is_answered_with_the_reason_and_the_socket_goes_on(house: House):
    _, client = await db(signed_in, "nobody", "alice")
    shown = await db(run, requested_by="alice")
    visit, other = [await house.visit(client, f"/ws/runs/{shown.pk}/") for _ in range(2)]
    for text in BAD_TEXTS:
        await visit.say_frame(text=text)
        await is_told_what_is_wrong(visit)
    for data in BAD_DATA:
        await visit.say_frame(data=data)
        await is_told_what_is_wrong(visit)
    assert (await visit.ask(SYNC))["id"] == shown.pk
    await other.hears_nothing()
    for each in (visit, other):
        await each.leave()


@awaited
async def test_an_error_names_what_was_sent_and_what_may_be(settings):
    with in_memory(settings) as house:
        _, client = await db(signed_in, "nobody", "alice")
        shown = await db(run, requested_by="alice")
        visit = await house.visit(client, f"/ws/runs/{shown.pk}/")
        said = []
        for text in ('{"type": "drop\\u202e"}', "{", "x" * 1001):
            await visit.say_frame(text=text)
            said.append((await visit.hear())["why"])
        await visit.leave()
    assert said == [
        'type "drop\\u202e" is neither "sync" nor "ping". Send one of them.',
        'The message is no JSON. Send {"type": "sync"} or {"type": "ping"}.',
        "The message has 1001 characters, more than 1000. Send fewer.",
    ]


values = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(),
    lambda inner: strategies.lists(inner) | strategies.dictionaries(strategies.text() | strategies.just("type"), inner),
    max_leaves=30,
)
frames = strategies.one_of(
    values.map(json.dumps),
    values.map(lambda value: json.dumps({"type": value})),
    values.map(lambda value: json.dumps({"type": value}, ensure_ascii=False)),
    strategies.text(strategies.characters(exclude_categories=())),
    strategies.binary(),
)


def is_bad(frame: str | bytes) -> bool:
    return frame not in ('{"type": "sync"}', '{"type": "ping"}')


@limits(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=strategies.lists(frames.filter(is_bad), min_size=1, max_size=12))
def test_no_frame_breaks_its_socket_or_another(house: House, sent: list[str | bytes]):
    @awaited
    async def scenario() -> None:
        client = await db(alice)
        shown = await db(run, requested_by="alice")
        visit, other = [await house.visit(client, f"/ws/runs/{shown.pk}/") for _ in range(2)]
        for frame in sent:
            await (visit.say_frame(text=frame) if isinstance(frame, str) else visit.say_frame(data=frame))
            await is_told_what_is_wrong(visit)
        await db(announce.run_changed, shown.pk)
        for each in (visit, other):
            assert (await each.hear())["id"] == shown.pk
            await each.hears_nothing()
            await each.leave()

    Mark.objects.all().delete()
    scenario()


def alice() -> Client:
    user = User.objects.filter(username="alice").first() or person("nobody", "alice")
    return client_of(user)


# Trouble --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def no_database() -> AsyncIterator[None]:
    def refuse(*_: Any) -> Any:
        raise OperationalError("the database is away")

    # Asked for in the thread whose connection it is.
    wrapped = await db(lambda: connection.execute_wrapper(refuse))
    await db(wrapped.__enter__)
    yield
    await db(wrapped.__exit__, None, None, None)


@awaited
async def test_a_socket_outlives_an_outage_of_the_database(house: House):
    _, client = await db(signed_in, "nobody", "alice")
    shown = await db(run, requested_by="alice")
    path = f"/ws/runs/{shown.pk}/"
    visit, token = await house.visit(client, path), await db(issued, client, path)
    async with no_database():
        assert await visit.ask(SYNC) == {
            "type": "error",
            "why": "The database does not answer. Ask again in a few seconds.",
        }
        await db(announce.run_changed, shown.pk)
        await visit.hears_nothing()
        assert not await house.new_visit().connect(path, token)
    assert (await visit.ask(SYNC))["id"] == shown.pk
    again = house.new_visit()
    assert await again.connect(path, token)
    for each in (visit, again):
        await each.leave()


@awaited
async def test_a_site_without_sockets_lets_nobody_in_and_tells_nobody(settings):
    with in_memory(settings) as house:
        _, client = await db(signed_in, "nobody", "alice")
        shown = await db(run, requested_by="alice")
        token = await db(issued, client, f"/ws/runs/{shown.pk}/")
    settings.CHANNEL_LAYERS = {}
    assert not await house.new_visit().connect(f"/ws/runs/{shown.pk}/", token)
    await db(announce.run_changed, shown.pk)
