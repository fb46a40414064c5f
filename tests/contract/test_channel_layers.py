"""What Channels promises of a layer, of ours and of those that processes with sockets use: one suite over all."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import InMemoryChannelLayer
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer

from serverless.websockets import names
from tests.waiting import wait_for
from tests.websocket_api import Api, running_api

pytestmark = pytest.mark.usefixtures("old_connections_may_be_closed")

#: Seconds within which a message that was sent is there.
PATIENCE_SECONDS = 10
CAPACITY = 5


class Recorder(AsyncWebsocketConsumer):
    """Sends each message that it gets to its socket, whole."""

    async def note_taken(self, message):
        text = json.dumps(message)
        if isinstance(message["value"], list):
            message["value"].append("changed by the one who got it")
        await self.send(text)


application = Recorder.as_asgi()


class Stage:
    """A layer, and how one receives from it. What a layer lacks, its stage says."""

    checks_names = True
    checks_messages = True
    says_full = True
    forgets_members = True
    gives_each_its_own = True

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    async def open(self) -> str:
        """A channel that receives."""
        return await self.layer.new_channel()

    async def next(self, channel: str) -> dict[str, Any]:
        return await asyncio.wait_for(self.layer.receive(channel), PATIENCE_SECONDS)

    async def fill(self, channel: str) -> None:
        """Nothing more fits into the channel."""
        for _ in range(CAPACITY):
            await self.layer.send(channel, {"type": "note.taken", "value": "fills"})


class Gatewayed(Stage):
    """Ours: channels are connections, and what they receive is what their consumer sends to the client."""

    def __init__(self, api: Api) -> None:
        super().__init__(api.layer)
        self._api = api
        self._read: dict[str, int] = {}

    async def open(self) -> str:
        return names.channel_name((await self._api.connected("/")).id)

    async def next(self, channel: str) -> dict[str, Any]:
        number = self._read.get(channel, 0)
        self._read[channel] = number + 1
        # The sender has delivered when send() returns.
        return json.loads(self._api.connections.texts(names.connection_id(channel))[number])

    async def fill(self, channel: str) -> None:
        self._api.connections.answers[names.connection_id(channel)] = 429


class Queued(Stage):
    """Redis keeps lists, one for all channels of a process: what `new_channel` gives is full when another one is."""

    # Members in one process get one and the same dict.
    gives_each_its_own = False

    async def open(self) -> str:
        return f"worker.{os.urandom(6).hex()}"


class Published(Stage):
    """Redis publishes and keeps nothing: no capacity, no expiry, and it takes every name and message."""

    checks_names = checks_messages = says_full = forgets_members = False


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server of this test process's own."""
    server = shutil.which("redis-server")
    if server is None:
        assert os.environ.get("CI") != "true", "redis-server is missing: CI needs it, or channels_redis is not tested"
        pytest.skip("redis-server is missing: channels_redis is NOT tested. Install it: apt-get install redis-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "no"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([server, *options], stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: process.poll() is not None or answers(port), "redis-server", 20)
        assert process.poll() is None, (folder / "log").read_text()
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(20)


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as asked:
            asked.sendall(b"PING\r\n")
            return asked.recv(5) == b"+PONG"
    except OSError:
        return False


Maker = Callable[..., Stage]


@pytest.fixture(
    params=[
        "gateway",
        "memory",
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("redis-pubsub", marks=pytest.mark.redis),
    ]
)
def make(request: pytest.FixtureRequest, settings) -> Iterator[Maker]:
    """Makes the stage of a layer; options: of the layer. To be called once."""
    if request.param == "gateway":
        request.getfixturevalue("cloud")
        with ExitStack() as opened:
            yield lambda **options: Gatewayed(
                opened.enter_context(running_api(settings, f"{__name__}.application", **options))
            )
        return
    if request.param == "memory":
        yield lambda **options: Stage(InMemoryChannelLayer(capacity=CAPACITY, **options))
        return
    url = request.getfixturevalue("redis_url")
    # redis-py 8 gives up reading after 5 s, which is how long channels_redis lets the server wait for a message:
    # https://github.com/redis/redis-py/issues/4091
    hosts = [{"address": url, "socket_timeout": 30}]
    # Keys of this test alone.
    options = {"hosts": hosts, "prefix": f"test{os.urandom(4).hex()}"}
    if request.param == "redis":
        yield lambda **more: Queued(RedisChannelLayer(capacity=CAPACITY, **options, **more))
    else:
        yield lambda **more: Published(RedisPubSubChannelLayer(**options))


@pytest.fixture
def stage(make: Maker) -> Stage:
    return make()


def awaited(scenario: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that awaits, in an event loop of its own."""

    @functools.wraps(scenario)
    def run(**fixtures: Any) -> None:
        async_to_sync(scenario)(**fixtures)

    return run


def note(value: Any = None) -> dict[str, Any]:
    return {"type": "note.taken", "value": value}


async def gets_nothing_before(stage: Stage, channel: str, marker: str) -> None:
    """The next message of the channel is one that is sent to it now."""
    await stage.layer.send(channel, note(marker))
    assert await stage.next(channel) == note(marker)


@awaited
async def test_names_of_channels_are_valid_and_never_the_same(stage: Stage):
    channels = [await stage.open() for _ in range(5)] + [await stage.layer.new_channel() for _ in range(5)]
    assert len(set(channels)) == 10
    if stage.checks_names:
        for channel in channels:
            assert stage.layer.require_valid_channel_name(channel)


@awaited
async def test_a_message_reaches_its_channel_and_no_other(stage: Stage):
    one, other = await stage.open(), await stage.open()
    await stage.layer.send(one, note("for one"))
    assert await stage.next(one) == note("for one")
    await gets_nothing_before(stage, other, "for the other")


@awaited
async def test_messages_of_one_channel_stay_in_order(stage: Stage):
    channel = await stage.open()
    for number in range(CAPACITY):
        await stage.layer.send(channel, note(number))
    assert [(await stage.next(channel))["value"] for _ in range(CAPACITY)] == list(range(CAPACITY))


@pytest.mark.parametrize(
    "value", [None, True, -7, 2.5, "Zürich 🚲", "", [1, [2, {}]], {"a": {"b": None}}, "x" * 20_000]
)
@awaited
async def test_values_arrive_as_they_were_sent(stage: Stage, value: Any):
    channel = await stage.open()
    await stage.layer.send(channel, note(value))
    assert await stage.next(channel) == note(value)


@awaited
async def test_a_group_reaches_each_member_once_and_nobody_else(stage: Stage):
    members, outsider = [await stage.open() for _ in range(3)], await stage.open()
    for channel in (*members, members[0]):
        await stage.layer.group_add("a-group.of_all", channel)
    await stage.layer.group_send("a-group.of_all", note("to all"))
    for channel in members:
        assert await stage.next(channel) == note("to all")
    for channel in (*members, outsider):
        await gets_nothing_before(stage, channel, "later")


@awaited
async def test_members_do_not_share_the_message(stage: Stage):
    channels, sent = [await stage.open() for _ in range(2)], note(["as it was"])
    for channel in channels:
        await stage.layer.group_add("group", channel)
    await stage.layer.group_send("group", sent)
    for channel in channels:
        got = await stage.next(channel)
        assert got == note(["as it was"])
        if stage.gives_each_its_own:
            got["value"].append("changed")
    assert sent == note(["as it was"])


@awaited
async def test_one_channel_may_be_in_many_groups_and_leaves_them_singly(stage: Stage):
    channel = await stage.open()
    for group in ("first", "second"):
        await stage.layer.group_add(group, channel)
    await stage.layer.group_discard("first", channel)
    await stage.layer.group_send("first", note("first"))
    await stage.layer.group_send("second", note("second"))
    assert await stage.next(channel) == note("second")


@awaited
async def test_leaving_a_group_that_one_is_not_in_is_no_error(stage: Stage):
    channel = await stage.open()
    await stage.layer.group_discard("group", channel)
    await stage.layer.group_add("group", channel)
    await stage.layer.group_discard("group", channel)
    await stage.layer.group_discard("group", channel)
    await stage.layer.group_send("group", note("to nobody"))
    await gets_nothing_before(stage, channel, "later")


@awaited
async def test_a_group_without_members_takes_messages(stage: Stage):
    await stage.layer.group_send("nobody", note())


@pytest.mark.parametrize("name", ["a b", "ü!x", "a/b", "", "x" * 100, "a!b!c", 5, None, b"bytes"])
@awaited
async def test_names_that_channels_does_not_allow_are_refused_everywhere(stage: Stage, name: Any):
    if not stage.checks_names:
        pytest.skip("this layer takes any name")
    channel = await stage.open()
    for call in (
        stage.layer.send(name, note()),
        stage.layer.group_add("group", name),
        stage.layer.group_discard("group", name),
        stage.layer.group_add(name, channel),
        stage.layer.group_discard(name, channel),
        stage.layer.group_send(name, note()),
    ):
        with pytest.raises(TypeError, match="name must be a valid unicode string"):
            await call


@pytest.mark.parametrize("message", ["text", None, ["type"], {"type": "note.taken", "__asgi_channel__": "x"}], ids=str)
@awaited
async def test_what_is_no_message_is_refused(stage: Stage, message: Any):
    if not stage.checks_messages:
        pytest.skip("this layer takes anything")
    with pytest.raises((AssertionError, TypeError)):
        await stage.layer.send(await stage.open(), message)


@awaited
async def test_a_full_channel_is_told_to_the_one_who_sends_to_it(stage: Stage):
    if not stage.says_full:
        pytest.skip("this layer drops messages in silence")
    channel = await stage.open()
    await stage.fill(channel)
    with pytest.raises(ChannelFull):
        await stage.layer.send(channel, note("too much"))


@awaited
async def test_a_full_member_of_a_group_is_passed_over_and_the_others_are_served(stage: Stage):
    if not stage.says_full:
        pytest.skip("this layer drops messages in silence")
    full, others = await stage.open(), [await stage.open() for _ in range(2)]
    for channel in (full, *others):
        await stage.layer.group_add("group", channel)
    await stage.fill(full)
    await stage.layer.group_send("group", note("to all"))
    for channel in others:
        assert await stage.next(channel) == note("to all")


@awaited
async def test_a_flush_empties_every_group(stage: Stage):
    channel = await stage.open()
    await stage.layer.group_add("group", channel)
    await stage.layer.flush()
    await stage.layer.group_send("group", note("before"))
    again = await stage.open()
    await stage.layer.group_add("group", again)
    await stage.layer.group_send("group", note("after"))
    assert await stage.next(again) == note("after")


@awaited
async def test_a_membership_ends_by_itself(make: Maker):
    stage = make(group_expiry=1)
    if not stage.forgets_members:
        pytest.skip("this layer never ends a membership by itself")
    channel = await stage.open()
    await stage.layer.group_add("group", channel)
    await stage.layer.group_send("group", note("in time"))
    assert await stage.next(channel) == note("in time")

    async def is_member() -> bool:
        await stage.layer.group_send("group", note("still a member"))
        await stage.layer.send(channel, note("marker"))
        if await stage.next(channel) == note("marker"):
            return False
        assert await stage.next(channel) == note("marker")
        return True

    async with asyncio.timeout(PATIENCE_SECONDS):
        while await is_member():
            await asyncio.sleep(0.1)


@awaited
async def test_threads_with_event_loops_of_their_own_send_to_one_group(stage: Stage):
    """As Celery's tasks do, by async_to_sync."""
    channel = await stage.open()
    await stage.layer.group_add("group", channel)

    def send(number: int) -> None:
        async_to_sync(stage.layer.group_send)("group", note(number))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert sorted([(await stage.next(channel))["value"] for _ in threads]) == [0, 1, 2, 3]


@awaited
async def test_waiting_for_a_message_can_be_given_up(stage: Stage):
    """Channels cancels it when a consumer ends."""
    waiting = asyncio.ensure_future(stage.layer.receive(await stage.layer.new_channel()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
