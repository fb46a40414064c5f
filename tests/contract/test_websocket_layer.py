"""What only our channel layer does: sockets that API Gateway holds, on the local cloud."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError
from channels.exceptions import ChannelFull, MessageTooLarge
from channels.generic.websocket import AsyncJsonWebsocketConsumer

from serverless import aws
from serverless.websockets import events, names, scopes
from serverless.websockets.errors import ChannelNameError, OptionError
from serverless.websockets.layer import GatewayChannelLayer
from serverless.websockets.table import LIFETIME_SECONDS, TTL_ATTRIBUTE
from tests.lambda_events import recorded
from tests.waiting import wait_for
from tests.websocket_api import Api, Clock, running_api

pytestmark = pytest.mark.usefixtures("old_connections_may_be_closed")


class Viewer(AsyncJsonWebsocketConsumer):
    """One who watches a run."""

    async def connect(self):
        await self.channel_layer.group_add("run", self.channel_name)
        await self.accept()
        await self.send_json("welcome")

    async def receive_json(self, content):
        await self.send_json({"echo": content})

    async def run_progress(self, message):
        await self.send_json(message.get("value"))

    async def run_said(self, message):
        await self.send(message["text"])

    running = most_running = 0

    async def run_counted(self, message):
        Viewer.running += 1
        Viewer.most_running = max(Viewer.running, Viewer.most_running)
        await self.send_json("counted")
        Viewer.running -= 1

    async def run_fails(self, message):
        if message["who"] == self.channel_name:
            raise RuntimeError("this viewer fails")
        await self.send_json("served")

    async def run_again(self, message):
        self.rounds = getattr(self, "rounds", 0) + 1
        await self.channel_layer.group_send("run", message)


application = Viewer.as_asgi()
#: Of connections that are made without their consumer.
SCOPE = scopes.keep(events.scope(events.parse(recorded("websocket_connect"))), {}, None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api(cloud, settings, clock: Clock) -> Iterator[Api]:
    with running_api(settings, f"{__name__}.application", now=clock) as made:
        yield made


def awaited(scenario: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(scenario)
    def run(**fixtures: Any) -> None:
        async_to_sync(scenario)(**fixtures)

    return run


def progress(value: Any) -> dict[str, Any]:
    return {"type": "run.progress", "value": value}


def push(api: Api, value: Any) -> None:
    """As a Celery task does it."""
    async_to_sync(api.layer.group_send)("run", progress(value))


def viewers(api: Api, count: int) -> list[str]:
    """Ids of connections that are open, made without their consumer."""
    made = [f"viewer{number:05}" for number in range(count)]
    for connection_id in made:
        api.layer.table.begin(connection_id, SCOPE)
        api.layer.table.open(connection_id, SCOPE, "{}", [])
        api.layer.table.join("run", connection_id, 3600)
    return made


def asked(api: Api) -> Counter[str]:
    """How often each operation is asked of DynamoDB from now on."""
    counted: Counter[str] = Counter()
    hooks = api.layer.table.client().meta.events
    hooks.register("before-call.dynamodb", lambda model, **_: counted.update([model.name]))
    return counted


def throttle(api: Api, operation: str) -> None:
    def refuse(request: Any, **_: Any) -> AWSResponse:
        body = b'{"__type": "com.amazonaws.dynamodb.v20120810#ThrottlingException", "message": "Rate exceeded"}'
        return AWSResponse(request.url, 400, {}, _Body(body))

    api.layer.table.client().meta.events.register(f"before-send.dynamodb.{operation}", refuse)


class _Body:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def stream(self) -> Iterator[bytes]:
        yield self.content


def is_known(api: Api, connection_id: str) -> bool:
    return any(connection_id in key for row in api.rows() for key in row)


# Sockets that are gone, or not open yet


@awaited
async def test_a_socket_that_is_gone_is_forgotten_with_all_its_memberships(api: Api, clock: Clock):
    gone, here = await api.connected("/"), await api.connected("/")
    await api.layer.group_add("other", names.channel_name(gone.id))
    api.connections.answers[gone.id] = 410
    clock.now += 31
    await api.layer.group_send("run", progress(1))
    assert not is_known(api, gone.id)
    assert is_known(api, here.id)
    assert here.received() == [1]
    # To its own channel as well: no error, since nobody can know.
    await api.layer.send(names.channel_name(gone.id), progress(2))
    assert api.connections.requests[gone.id] == 1


@awaited
async def test_a_socket_that_may_not_be_open_yet_is_not_forgotten(api: Api, clock: Clock):
    """API Gateway opens it after $connect was answered, and answers 410 until then."""
    socket = await api.connected("/")
    api.connections.answers[socket.id] = 410
    clock.now += 29
    await api.layer.group_send("run", progress(1))
    await api.layer.send(names.channel_name(socket.id), progress(2))
    del api.connections.answers[socket.id]
    await api.layer.group_send("run", progress(3))
    assert socket.received() == [3]


@awaited
async def test_a_connection_that_is_still_being_made_is_neither_posted_to_nor_forgotten(api: Api):
    api.layer.table.begin("early", SCOPE)
    api.layer.table.join("run", "early", 3600)
    await api.layer.group_send("run", progress(1))
    await api.layer.send(names.channel_name("early"), progress(1))
    assert api.connections.requests["early"] == 0
    assert is_known(api, "early")


@awaited
async def test_rows_that_have_expired_do_not_count_though_dynamodb_has_not_deleted_them(api: Api, clock: Clock):
    socket = await api.connected("/")
    await socket.say("hello")
    clock.now += LIFETIME_SECONDS
    api.layer.table.join("run", socket.id, 3600)
    await api.layer.group_send("run", progress(1))
    await api.layer.send(names.channel_name(socket.id), progress(1))
    assert socket.received() == ["welcome", {"echo": "hello"}]
    # A client that is still there had better connect anew.
    assert (await socket.say("hello"))["statusCode"] == 410
    assert api.connections.closed == [socket.id]


@awaited
async def test_every_row_says_when_dynamodb_may_delete_it(api: Api, clock: Clock):
    await api.connected("/")
    rows = api.layer.table.client().scan(TableName=api.layer.table.name)["Items"]
    assert len(rows) == 3
    assert {row[TTL_ATTRIBUTE]["N"] for row in rows} == {str(int(clock.now) + LIFETIME_SECONDS)}


@awaited
async def test_members_without_a_connection_are_deleted_when_a_message_finds_them(api: Api):
    """A message's event may end after the $disconnect of its connection, and have joined a group."""
    api.layer.table.join("run", "late", 3600)
    await api.layer.group_send("run", progress(1))
    assert not is_known(api, "late")


def test_what_a_late_event_saves_does_not_bring_a_connection_back(api: Api):
    assert api.layer.table.save_state("late", '{"a":1}') is False
    assert api.layer.table.open("late", "{}", "{}", []) is False
    assert api.rows() == set()


@awaited
async def test_what_connect_sent_is_given_to_one_of_two_first_messages(api: Api):
    socket = await api.connected("/")
    await asyncio.gather(*(socket.say(number) for number in range(4)))
    assert socket.received().count("welcome") == 1
    assert len(socket.received()) == 5


@awaited
async def test_of_messages_that_overlap_the_last_to_save_wins(api: Api):
    """A consumer's attributes are for what does not change once it has connected; counts belong in the database."""
    socket = await api.connected("/")
    for state in ('{"seen":1}', '{"seen":2}'):
        assert api.layer.table.save_state(socket.id, state)
    assert api.layer.table.find([socket.id]).connections[socket.id].state == '{"seen":2}'


# AWS says no, or nothing


@awaited
async def test_a_throttled_push_is_tried_once_more_and_then_the_channel_is_full(api: Api, caplog):
    slow, other = await api.connected("/"), await api.connected("/")
    api.connections.answers[slow.id] = 429
    with pytest.raises(ChannelFull):
        await api.layer.send(names.channel_name(slow.id), progress(1))
    assert api.connections.requests[slow.id] == 2
    with caplog.at_level(logging.INFO):
        await api.layer.group_send("run", progress(2))
    assert other.received() == [2]
    assert f"{slow.id} is slow, dropped" in caplog.text
    assert is_known(api, slow.id)


@pytest.mark.parametrize("operation", ["BatchGetItem", "Query"])
def test_a_throttled_table_is_a_full_channel_to_one_and_a_dropped_message_to_a_group(api: Api, operation: str, caplog):
    (one,) = viewers(api, 1)
    throttle(api, operation)
    if operation == "BatchGetItem":
        with pytest.raises(ChannelFull):
            async_to_sync(api.layer.send)(names.channel_name(one), progress(1))
    push(api, 1)
    assert "dropped, DynamoDB throttles" in caplog.text
    assert api.connections.posts == []


def test_an_error_of_api_gateway_is_not_tried_again_and_stops_no_other_viewer(api: Api, caplog):
    """It may have sent the message all the same: at most once."""
    broken, *others = viewers(api, 4)
    api.connections.answers[broken] = 500
    push(api, 1)
    assert [api.connections.texts(other) for other in others] == [["1"]] * 3
    assert api.connections.requests[broken] == 1
    assert f"delivery to {broken} failed" in caplog.text
    with pytest.raises(ClientError):
        async_to_sync(api.layer.send)(names.channel_name(broken), progress(1))


def test_a_push_whose_answer_is_lost_is_not_sent_twice(api: Api):
    lost, other = viewers(api, 2)
    api.connections.lost.add(lost)
    push(api, 1)
    assert api.connections.texts(lost) == ["1"]
    assert api.connections.texts(other) == ["1"]


def test_api_gateway_that_cannot_be_reached_is_tried_again_and_told(cloud, settings, caplog):
    with running_api(settings, f"{__name__}.application", connect_timeout=0.2) as api:
        (one,) = viewers(api, 1)
        api.connections.close()
        with pytest.raises(aws.ERRORS, match="Could not connect to the endpoint"):
            async_to_sync(api.layer.send)(names.channel_name(one), progress(1))
        push(api, 1)
        assert f"delivery to {one} failed" in caplog.text


def test_a_viewer_that_hangs_holds_a_task_up_for_no_longer_than_the_timeout(cloud, settings):
    with running_api(settings, f"{__name__}.application", read_timeout=0.3) as api:
        hung, *others = viewers(api, 3)
        push(api, "warm")
        api.connections.hung.add(hung)
        started = time.monotonic()
        push(api, 1)
        # One try of 0.3 s; the rest is room for a busy machine.
        assert time.monotonic() - started < 3
        assert [api.connections.texts(other) for other in others] == [['"warm"', "1"]] * 2
        assert api.connections.requests[hung] == 2


# Many viewers


def test_a_group_is_served_several_at_once_and_never_more_than_so_many(cloud, settings):
    with running_api(settings, f"{__name__}.application", max_concurrency=4, read_timeout=30) as api:
        many = viewers(api, 10)
        api.connections.hung.update(many)
        counted = {"type": "run.counted"}
        pushing = threading.Thread(target=async_to_sync(api.layer.group_send), args=("run", counted))
        pushing.start()
        wait_for(lambda: api.connections.at_once == 4, "four requests at once", 20)
        api.connections.release.set()
        pushing.join(20)
        assert sorted(posted for posted, _ in api.connections.posts) == many
        assert api.connections.most_at_once == Viewer.most_running == 4


def test_connections_are_read_a_hundred_at_a_time(api: Api):
    many = viewers(api, 230)
    counted = asked(api)
    push(api, 1)
    assert sorted(posted for posted, _ in api.connections.posts) == many
    assert counted == {"Query": 1, "BatchGetItem": 3}


def test_a_group_of_more_than_a_megabyte_is_read_to_its_end(api: Api):
    many = viewers(api, 12)
    for connection_id in many:
        # A row may have 400 KB; names that are long make many rows large as well.
        key = {"pk": {"S": "G#run"}, "sk": {"S": f"C#{connection_id}"}}
        expires = {TTL_ATTRIBUTE: {"N": "9999999999"}}
        api.layer.table.client().put_item(
            TableName=api.layer.table.name, Item={**key, **expires, "padding": {"S": "x" * 200_000}}
        )
    counted = asked(api)
    push(api, 1)
    assert sorted(posted for posted, _ in api.connections.posts) == many
    assert counted["Query"] >= 3


def test_keys_that_dynamodb_left_unread_are_asked_for_again(api: Api):
    many = viewers(api, 5)
    left = iter([3, 2, 0])

    def leave_some(parsed: dict[str, Any], **_: Any) -> None:
        (name, rows), count = next(iter(parsed["Responses"].items())), next(left)
        skipped, parsed["Responses"][name] = rows[:count], rows[count:]
        if skipped:
            keys = [{"pk": row["pk"], "sk": row["sk"]} for row in skipped]
            parsed["UnprocessedKeys"] = {name: {"Keys": keys, "ConsistentRead": True}}

    api.layer.table.client().meta.events.register("after-call.dynamodb.BatchGetItem", leave_some)
    push(api, 1)
    assert sorted(posted for posted, _ in api.connections.posts) == many


def test_members_whose_keys_stay_unread_are_passed_over_and_stay_members(api: Api, caplog):
    many = viewers(api, 3)

    def leave_one(parsed: dict[str, Any], **_: Any) -> None:
        name, rows = next(iter(parsed["Responses"].items()))
        parsed["Responses"][name] = [row for row in rows if row["pk"]["S"] != f"C#{many[0]}"]
        keys = [{"pk": {"S": f"C#{many[0]}"}, "sk": {"S": "META"}}]
        parsed["UnprocessedKeys"] = {name: {"Keys": keys, "ConsistentRead": True}}

    api.layer.table.client().meta.events.register("after-call.dynamodb.BatchGetItem", leave_one)
    push(api, 1)
    assert sorted(posted for posted, _ in api.connections.posts) == many[1:]
    assert "1 members not read, dropped" in caplog.text
    assert ("G#run", f"C#{many[0]}") in api.rows()
    with pytest.raises(ChannelFull):
        async_to_sync(api.layer.send)(names.channel_name(many[0]), progress(1))


def test_more_members_than_one_write_takes_are_forgotten(api: Api):
    for number in range(40):
        api.layer.table.join(f"group{number}", "much-in", 3600)
    counted = asked(api)
    api.layer.table.forget("much-in")
    assert api.rows() == set()
    # 80 rows, 25 to a request.
    assert counted["BatchWriteItem"] == 4


# Handlers


@awaited
async def test_a_handler_that_fails_is_logged_and_the_others_are_served(api: Api, caplog):
    failing, other = await api.connected("/"), await api.connected("/")
    message = {"type": "run.fails", "who": names.channel_name(failing.id)}
    await api.layer.group_send("run", message)
    assert other.received() == ["served"]
    assert "this viewer fails" in caplog.text
    await api.layer.send(names.channel_name(failing.id), message)
    await api.layer.send(names.channel_name(other.id), {"type": "nobody.handles"})
    assert "No handler for message type nobody.handles" in caplog.text
    await api.layer.group_send("run", progress(2))
    assert failing.received() == [2]


@awaited
async def test_a_message_that_is_too_large_is_told_to_who_sends_to_one_and_logged_for_a_group(api: Api, caplog):
    socket = await api.connected("/")
    fitting = "x" * (128 * 1024 - 2)
    await api.layer.send(names.channel_name(socket.id), progress(fitting))
    assert socket.received() == [fitting]
    with pytest.raises(MessageTooLarge, match="131073 bytes is larger than the 131072"):
        await api.layer.send(names.channel_name(socket.id), progress(fitting + "x"))
    await api.layer.group_send("run", progress(fitting + "x"))
    assert "let the client fetch the rest by HTTP" in caplog.text
    # Bytes count, not characters.
    with pytest.raises(MessageTooLarge, match="140000 bytes"):
        await api.layer.send(names.channel_name(socket.id), {"type": "run.said", "text": "ä" * 70_000})
    assert api.connections.requests[socket.id] == 1


@awaited
async def test_a_handler_that_sends_to_its_own_group_without_an_end_is_stopped(api: Api, caplog):
    await api.connected("/")
    async with asyncio.timeout(20):
        await api.layer.group_send("run", {"type": "run.again"})
    assert "a handler must not send to a group that it is in without an end" in caplog.text


# Channels


@pytest.mark.parametrize("channel", ["plain", "specific.inmemory!abc", "apigw.ws!", "apigw.ws!_zz", "apigw.ws!_41"])
@awaited
async def test_channels_of_other_layers_are_refused_in_plain_words(api: Api, channel: str):
    for call in (
        api.layer.send(channel, progress(1)),
        api.layer.group_add("run", channel),
        api.layer.group_discard("run", channel),
    ):
        with pytest.raises(ChannelNameError, match="use channels_redis where a process receives"):
            await call


@awaited
async def test_nobody_can_be_reached_at_a_channel_that_was_made_outside_of_an_event(api: Api):
    with pytest.raises(ChannelNameError, match=r'channel "specific.nowhere!\w+" does not begin with'):
        await api.layer.send(await api.layer.new_channel(), progress(1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"table": ""}, "table='' is not a name"),
        ({"endpoint_url": "wss://x/dev"}, "endpoint_url='wss://x/dev' is not an http address"),
        ({"group_expiry": 0}, "group_expiry=0 is not more than 0 seconds"),
        ({"connect_timeout": 0}, "connect_timeout=0 is not more than 0 seconds"),
        ({"read_timeout": -1}, "read_timeout=-1 is not more than 0 seconds"),
        ({"max_concurrency": 0}, "max_concurrency=0 is not 1 or more"),
        ({"retries": -1}, "retries=-1 is not 0 or more"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any], words: str):
    with pytest.raises(OptionError) as refused:
        GatewayChannelLayer(**{"table": "t", "endpoint_url": "https://x/dev", **options})
    assert words in str(refused.value)


# Processes, threads, loops


def test_many_threads_push_at_once_each_in_a_loop_of_its_own(api: Api):
    many = viewers(api, 5)
    threads = [threading.Thread(target=lambda n=number: [push(api, n) for _ in range(3)]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert Counter(posted for posted, _ in api.connections.posts) == dict.fromkeys(many, 24)


def test_a_forked_child_pushes_though_its_parent_did_before(api: Api):
    """As prefork workers of Celery do; a socket that both used would mix up their answers."""
    (one,) = viewers(api, 1)
    push(api, "parent")
    children = []
    for number in range(2):
        child = os.fork()
        if not child:
            # It waits for ever where it took its parent's threads for its own.
            signal.alarm(20)
            try:
                push(api, number)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    push(api, "parent again")
    for child in children:
        ended: list[int] = []

        def has_ended(child: int = child, ended: list[int] = ended) -> bool:
            pid, status = os.waitpid(child, os.WNOHANG)
            ended.append(status)
            return pid == child

        wait_for(has_ended, "the end of a child", 30)
        assert ended[-1] == 0
    assert sorted(api.connections.texts(one)) == ['"parent again"', '"parent"', "0", "1"]


def test_clients_are_there_before_the_first_push_when_they_are_warmed_up(api: Api):
    aws.forget_clients()
    api.layer.warm_up()
    made = [api.layer.table.client(), api.layer.sockets.client()]
    push(api, 1)
    assert made == [api.layer.table.client(), api.layer.sockets.client()]


def test_motos_own_connections_take_a_post(cloud, settings):
    """They answer 200 for connections that nobody has seen, which is why these tests play them."""
    with running_api(settings, f"{__name__}.application") as api:
        layer = GatewayChannelLayer(
            table=api.layer.table.name, endpoint_url=cloud, application=f"{__name__}.application"
        )
        assert layer.sockets.post("never-seen=", "hello") is True
        layer.sockets.close("never-seen=")
