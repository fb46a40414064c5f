"""Whatever a client sends, its own socket goes on and so do all others."""

from __future__ import annotations

import base64
import json

import pytest
from asgiref.sync import async_to_sync
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.websocket_api import Api, event, running_api

pytestmark = pytest.mark.usefixtures("old_connections_may_be_closed")

MOST_BYTES = 128 << 10


class Careless(AsyncJsonWebsocketConsumer):
    """Does with a frame what consumers do, and checks nothing."""

    async def connect(self):
        await self.channel_layer.group_add("all", self.channel_name)
        self.room = "kept"
        await self.accept()

    async def receive_json(self, content):
        self.last = content
        if content == "ping":
            await self.send_json({"pong": self.room})
        await self.channel_layer.group_send("all", {"type": content["type"], "content": content})

    async def news_come(self, message):
        await self.send_json(message["content"]["value"] * 2)


application = Careless.as_asgi()

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)
# Not "close": a consumer that lets clients choose the type lets them close its group's sockets, under daphne as well.
typed = st.builds(
    lambda kind, rest: {**rest, "type": kind},
    st.sampled_from(
        [
            *("news.come", "connect", "disconnect", "websocket.connect", "websocket.disconnect", "websocket.receive"),
            *("_private", "send", "accept", "dispatch", "channel_layer.flush", "__class__", "as_asgi", ""),
        ]
    )
    | values,
    st.dictionaries(st.text(), values, max_size=3),
)
texts = st.one_of(
    st.text(),
    st.text(st.characters(categories=["Cs", "Cc", "Lu"])),
    values.map(json.dumps),
    typed.map(json.dumps),
    st.sampled_from(["{", "[" * 100_000, '{"a":' * 10_000, "9" * 10_000, "1e999", "NaN", '"\\ud800"', "\0", "", " "]),
    st.integers(1, MOST_BYTES).map(lambda size: "x" * size),
    st.integers(1, MOST_BYTES // 2).map(lambda size: json.dumps({"type": "news.come", "value": "x" * size})),
    st.integers(1, 5000).map(lambda depth: "[" * depth + "]" * depth),
)
frames = st.tuples(texts, st.just(False)) | st.tuples(
    st.binary().map(lambda raw: base64.b64encode(raw).decode()) | texts, st.just(True)
)


@pytest.fixture
def api(cloud, settings):
    with running_api(settings, f"{__name__}.application") as made:
        yield made


def test_no_frame_breaks_the_handler_its_socket_or_another(api: Api):
    async def connected():
        return await api.connected("/"), await api.connected("/")

    one, other = async_to_sync(connected)()

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    @given(frames)
    def sent(frame: tuple[str, bool]) -> None:
        text, is_base64 = frame
        answer = api.gateway(event("message", one.id, body=text, isBase64Encoded=is_base64))
        assert answer["statusCode"] in {200, 400, 500}
        for socket in (one, other):
            before = len(socket.received())
            async_to_sync(socket.say)("ping")
            assert socket.received()[before] == {"pong": "kept"}

    sent()
    assert api.connections.closed == []
