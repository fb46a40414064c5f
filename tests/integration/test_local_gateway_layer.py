"""Channels consumers behind the local gateway: real sockets, the layer's table and posts, nothing played."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

from serverless.websockets.gateway import Gateway as Function
from tests.local_gateway import Client, Gateway, running
from tests.waiting import wait_for
from tests.websocket_api import make_table

pytestmark = pytest.mark.usefixtures("old_connections_may_be_closed")


@pytest.fixture
def gateway(cloud: str, settings: Any) -> Iterator[Gateway]:
    """In front of the consumers of tests.integration.test_websocket_events."""

    def handler(event: Any, context: Any) -> Any:
        # Its settings name the gateway, which is there first.
        return Function.from_settings()(event, context)

    with running(handler) as made:
        use(settings, made, make_table())
        yield made


def use(settings: Any, gateway: Gateway, table: str) -> None:
    config = {
        "table": table,
        "endpoint_url": gateway.url,
        "application": "tests.integration.test_websocket_events.application",
        "grace_seconds": 0,
    }
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "serverless.websockets.layer.GatewayChannelLayer", "CONFIG": config}
    }


def enter(gateway: Gateway, room: str) -> Client:
    return gateway.client(target=f"/local?path=/ws/rooms/{room}/")


def tell(room: str, text: str) -> None:
    """As a task does, from elsewhere."""
    layer = get_channel_layer()
    async_to_sync(layer.group_send)(f"room.{room}", {"type": "room.told", "text": text})


def test_what_connect_says_comes_with_the_first_answer(gateway):
    with enter(gateway, "7") as client:
        assert client.status == 101
        client.send("{}")
        assert client.receive_json() == {"type": "welcome", "room": "7"}
        assert client.receive_json() == {"type": "counted", "room": "7", "count": 1}


def test_a_path_without_a_consumer_is_not_found(gateway):
    with gateway.client(target="/local?path=/nowhere/") as client:
        assert client.status == 404
    with gateway.client(target="/local?path=nowhere") as client:
        assert client.status == 400


def test_a_task_reaches_all_ten_viewers_and_no_other(gateway):
    viewers = [enter(gateway, "8") for _ in range(10)]
    with enter(gateway, "9") as stranger:
        tell("8", "first")
        tell("9", "for the stranger")
        assert [viewer.receive_json()["text"] for viewer in viewers] == ["first"] * 10
        assert stranger.receive_json()["text"] == "for the stranger"
    for viewer in viewers:
        viewer.socket.close()


def test_one_viewer_who_is_gone_keeps_the_others_from_nothing(gateway):
    with enter(gateway, "8") as stays, enter(gateway, "8") as goes:
        goes.vanish()
        assert stays.receive_json() == {"type": "told", "text": "left 1006", "room": "8"}
        tell("8", "who is there?")
        assert stays.receive_json()["text"] == "who is there?"


def test_a_consumer_that_closes_is_closed(gateway):
    with enter(gateway, "8") as client:
        client.send('{"do": "close"}')
        client.receive()
        assert client.end() == (1000, "Connection Closed Normally")


def test_a_consumer_that_fails_tells_so_and_goes_on(gateway):
    with enter(gateway, "8") as client:
        client.send('{"do": "fail"}')
        assert client.receive_json()["type"] == "welcome"
        assert client.receive_json()["message"] == "Internal server error"
        client.send("{}")
        assert client.receive_json()["count"] == 1


def test_clients_of_a_gateway_that_was_killed_are_forgotten(gateway, settings):
    """Their $disconnect never comes, and a new gateway knows none of them."""
    table = get_channel_layer().table
    with enter(gateway, "8"), running(gateway.handler) as another:
        assert len(table.members("room.8")[0]) == 1
        use(settings, another, table.name)
        tell("8", "is anybody there?")
        assert table.members("room.8")[0] == []


def test_many_clients_at_once_are_all_let_in_and_all_told(gateway):
    with ThreadPoolExecutor(16) as pool:
        clients = list(pool.map(lambda _: gateway.client(target="/local?path=/ws/threads/"), range(48)))
    assert [client.status for client in clients] == [101] * 48
    async_to_sync(get_channel_layer().group_send)("threads", {"type": "lines.said", "lines": ["welcome"]})
    assert [client.receive_json() for client in clients] == [["welcome"]] * 48
    for client in clients:
        client.socket.close()
    wait_for(lambda: gateway.count() == 0, "the end of all")
