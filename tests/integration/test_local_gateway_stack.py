"""The local gateway as a part of `make up`."""

from __future__ import annotations

from typing import Any

import boto3
import pytest

from serverless.local.cloud import ACCESS_KEY_ID, NAMES_ARGUMENTS, REGION, SECRET_ACCESS_KEY
from serverless.local.stack import Stack, is_listening
from serverless.websockets import table
from tests.local_gateway import Client, connections_api
from tests.waiting import wait_for


@pytest.fixture
def dynamodb(stack: Stack) -> Any:
    return boto3.client(
        "dynamodb",
        endpoint_url=stack.cloud_url,
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=SECRET_ACCESS_KEY,
    )


def connect(stack: Stack, url: str, origin: str) -> Client:
    """url: of a socket, as the site gives it."""
    host, _, target = url.removeprefix("ws://").partition("/")
    assert host == f"127.0.0.1:{stack.gateway_port}"
    return Client(stack.gateway_port, target=f"/{target}", headers={"Origin": origin})


def address(visitor: Any, path: str) -> str:
    answer = visitor.post("/realtime/address/", {"path": path})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["url"])


def test_the_table_of_sockets_is_there_and_forgets(dynamodb):
    name = NAMES_ARGUMENTS["sockets_table"]
    assert dynamodb.describe_table(TableName=name)["Table"]["TableStatus"] == "ACTIVE"
    assert dynamodb.describe_time_to_live(TableName=name)["TimeToLiveDescription"] == {
        "TimeToLiveStatus": "ENABLED",
        "AttributeName": table.TTL_ATTRIBUTE,
    }


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_page_that_was_opened_by_either_name_gets_its_socket(stack, visitor, host):
    page = visitor.new_dataset()
    socket_path = page.replace("/datasets/", "/ws/datasets/")
    with connect(stack, address(visitor, socket_path), stack.origin.replace("127.0.0.1", host)) as client:
        assert client.status == 101
        client.send('{"type": "sync"}')
        assert client.receive_json()["type"] == "state"
        client.send('{"type": "ping"}')
        assert client.receive_json() == {"type": "pong"}


def test_the_page_of_another_site_gets_none(stack, visitor):
    page = visitor.new_dataset().replace("/datasets/", "/ws/datasets/")
    with connect(stack, address(visitor, page), "http://elsewhere.example") as client:
        assert client.status == 403


def test_nobody_gets_one_without_an_address_of_the_site(stack, visitor):
    page = visitor.new_dataset().replace("/datasets/", "/ws/datasets/")
    for query in (f"?path={page}", f"?path={page}&token=made-up", "?path=/ws/nothing/", ""):
        with connect(stack, f"{stack.sockets_url}{query}", stack.origin) as client:
            assert client.status in (403, 404)


def test_a_gateway_that_crashed_is_where_it_was(stack, visitor):
    page = visitor.new_dataset().replace("/datasets/", "/ws/datasets/")
    gateway = stack.child("gateway")
    with connect(stack, address(visitor, page), stack.origin) as before:
        first = gateway.process.pid
        gateway.process.kill()
        assert before.end()[0] == 1006

    def is_back() -> bool:
        stack.watch()
        return gateway.process.pid != first and is_listening(stack.gateway_port)

    wait_for(is_back, "another gateway", 120)
    with connect(stack, address(visitor, page), stack.origin) as after:
        assert after.status == 101


def test_a_message_reaches_a_browser_from_any_process(stack, visitor):
    """Whoever knows SOCKETS_URL knows where `@connections` is."""
    api = connections_api(stack.environment["SOCKETS_URL"].replace("ws:", "http:"))
    with pytest.raises(api.exceptions.GoneException):
        api.post_to_connection(ConnectionId="L0SM9cOFvHcCIhw=", Data=b"x")


@pytest.mark.parametrize(
    ("overrides", "has_gateway"),
    [
        ({}, True),
        ({"SOCKETS_URL": ""}, False),
        ({"SOCKETS_URL": "redis://127.0.0.1:6379/0"}, False),
        ({"DEBUG": "1"}, True),
    ],
)
def test_whoever_wants_other_sockets_or_none_gets_no_gateway(tmp_path, overrides, has_gateway):
    assert Stack(tmp_path, overrides=overrides).has_gateway == has_gateway
