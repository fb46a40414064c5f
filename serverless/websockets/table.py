"""Connections and groups in one DynamoDB table, without an index.

| pk | sk | holds |
|---|---|---|
| C#<connection> | META | what is kept of the connection |
| G#<group> | C#<connection> | a membership, as group_send reads it |
| C#<connection> | G#<group> | the same, as it is found when the connection ends |

Each row has `expires_at`, which DynamoDB's time to live deletes within days; until then it is passed over when read.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from serverless import aws
from serverless.websockets.calls import Timeouts, pause
from serverless.websockets.errors import TableBusyError

TTL_ATTRIBUTE = "expires_at"
#: API Gateway closes every socket after two hours; ten minutes are for clocks and late events.
LIFETIME_SECONDS = 2 * 3600 + 600
#: As many as one BatchGetItem takes.
READ_BATCH = 100

_WRITE_BATCH = 25
#: Without an answer to any key, 50 and 100 ms apart: a push must not wait for long.
_READ_TRIES = 3
#: Up to 3 s in all: what is not written would be a member that is not told.
_WRITE_TRIES = 6
_META = "META"

Row = dict[str, Any]
Key = dict[str, Any]


def definition(name: str) -> dict[str, Any]:
    """What `create_table` takes. Its time to live is switched on for TTL_ATTRIBUTE, by a call of its own."""
    return {
        "TableName": name,
        "AttributeDefinitions": [
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
        ],
        "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        "BillingMode": "PAY_PER_REQUEST",
    }


@dataclass(frozen=True)
class Connection:
    """What is kept of one connection.

    scope, state: JSON. connected_at: seconds since 1970. is_ready: whether `$connect` has been answered.
    has_outbox: whether connect() sent something that still waits.
    """

    id: str
    scope: str = "{}"
    state: str = "{}"
    connected_at: float = 0.0
    is_ready: bool = False
    has_outbox: bool = False


@dataclass(frozen=True)
class Found:
    """connections: those that exist, by id. unread: ids that DynamoDB did not answer about."""

    connections: Mapping[str, Connection]
    unread: frozenset[str]


class Table:
    """The table by name. Blocks; safe from many threads and in forked children, since it holds no connection.

    now: the clock, in seconds since 1970.
    """

    def __init__(
        self,
        name: str,
        timeouts: Timeouts,
        connections: int,
        *,
        endpoint_url: str | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._timeouts = timeouts
        self._connections = connections
        self._endpoint_url = endpoint_url
        self._now = now

    def client(self) -> Any:
        return self._timeouts.client(
            "dynamodb", endpoint_url=self._endpoint_url, connections=self._connections, repeats_itself=True
        )

    # Connections

    def begin(self, connection_id: str, scope: str) -> None:
        """Note a connection that is being made; it gets no messages yet."""
        now = self._now()
        item = _meta(connection_id) | {
            "scope": {"S": scope},
            "connected_at": {"N": f"{now:.3f}"},
            TTL_ATTRIBUTE: _number(now + LIFETIME_SECONDS),
        }
        self._ask("put_item", TableName=self.name, Item=item)

    def open(self, connection_id: str, scope: str, state: str, outbox: Sequence[str]) -> bool:
        """From now on it gets messages. False if it has ended in the meantime."""
        values = {
            "scope": {"S": scope},
            "state": {"S": state},
            "is_ready": {"BOOL": True},
            **({"outbox": {"L": [{"S": text} for text in outbox]}} if outbox else {}),
        }
        return self._change(connection_id, values)

    def save_state(self, connection_id: str, state: str) -> bool:
        """The last one to save wins. False if the connection has ended: a late event must not bring it back."""
        return self._change(connection_id, {"state": {"S": state}})

    def take_outbox(self, connection_id: str) -> list[str]:
        """What connect() sent, given once, whichever of two messages asks first."""
        answer = self._ask(
            "update_item",
            TableName=self.name,
            Key=_meta(connection_id),
            UpdateExpression="REMOVE outbox",
            ConditionExpression="attribute_exists(outbox)",
            ReturnValues="UPDATED_OLD",
        )
        if answer is None:
            return []
        return [text["S"] for text in answer["Attributes"]["outbox"]["L"]]

    def find(self, ids: Iterable[str]) -> Found:
        """Those of these connections that exist and have not expired."""
        found: dict[str, Connection] = {}
        unread: set[str] = set()
        for batch in _batches(dict.fromkeys(ids), READ_BATCH):
            keys: list[Key] = [_meta(connection_id) for connection_id in batch]
            tries = 0
            while keys and tries < _READ_TRIES:
                asked = {self.name: {"Keys": keys, "ConsistentRead": True}}
                answer = self._ask("batch_get_item", RequestItems=asked)
                rows = answer["Responses"].get(self.name, [])
                found |= {row["pk"]["S"][2:]: _connection(row) for row in rows if self._is_alive(row)}
                keys = answer.get("UnprocessedKeys", {}).get(self.name, {}).get("Keys", [])
                if keys and not rows:
                    # Throttled; rows that only did not fit into one answer are asked for at once.
                    pause(tries)
                    tries += 1
            unread |= {key["pk"]["S"][2:] for key in keys}
        return Found(found, frozenset(unread))

    def forget(self, connection_id: str) -> None:
        """Delete a connection, and its membership in every group. Safe to repeat."""
        keys: list[Key] = []
        for row in self._rows(f"C#{connection_id}"):
            keys.append(_key(row["pk"]["S"], row["sk"]["S"]))
            if row["sk"]["S"].startswith("G#"):
                keys.append(_key(row["sk"]["S"], row["pk"]["S"]))
        self._delete(keys)

    # Groups

    def join(self, group: str, connection_id: str, lifetime_seconds: float) -> None:
        """Make a connection a member, or renew its membership."""
        expires = {TTL_ATTRIBUTE: _number(self._now() + lifetime_seconds)}
        self._write([{"PutRequest": {"Item": key | expires}} for key in _membership(group, connection_id)])

    def leave(self, group: str, *ids: str) -> None:
        """End memberships. Those that are none are no error."""
        self._delete([key for connection_id in ids for key in _membership(group, connection_id)])

    def members(self, group: str, start: Key | None = None) -> tuple[list[str], Key | None]:
        """One page of a group's members, at most 1 MB of rows, and where the next page starts; None: nowhere."""
        rows, after = self._page(f"G#{group}", start)
        return [row["sk"]["S"][2:] for row in rows if self._is_alive(row)], after

    def empty(self) -> None:
        """Delete every row."""
        start: Key | None = None
        while True:
            more = {"ExclusiveStartKey": start} if start else {}
            page = self._ask("scan", TableName=self.name, ProjectionExpression="pk, sk", ConsistentRead=True, **more)
            self._delete(page["Items"])
            start = page.get("LastEvaluatedKey")
            if not start:
                return

    # Calls

    def _is_alive(self, row: Row) -> bool:
        return float(row[TTL_ATTRIBUTE]["N"]) > self._now()

    def _rows(self, pk: str) -> Iterator[Row]:
        rows, start = self._page(pk, None)
        yield from rows
        while start:
            rows, start = self._page(pk, start)
            yield from rows

    def _page(self, pk: str, start: Key | None) -> tuple[list[Row], Key | None]:
        page = self._ask(
            "query",
            TableName=self.name,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": pk}},
            ConsistentRead=True,
            **({"ExclusiveStartKey": start} if start else {}),
        )
        return page["Items"], page.get("LastEvaluatedKey")

    def _change(self, connection_id: str, values: Mapping[str, Any]) -> bool:
        answer = self._ask(
            "update_item",
            TableName=self.name,
            Key=_meta(connection_id),
            UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in values),
            ConditionExpression="attribute_exists(pk)",
            ExpressionAttributeNames={f"#{name}": name for name in values},
            ExpressionAttributeValues={f":{name}": value for name, value in values.items()},
        )
        return answer is not None

    def _delete(self, keys: Iterable[Key]) -> None:
        self._write([{"DeleteRequest": {"Key": key}} for key in keys])

    def _write(self, requests: Iterable[Any]) -> None:
        for batch in _batches(requests, _WRITE_BATCH):
            left = batch
            for attempt in range(_WRITE_TRIES):
                answer = self._ask("batch_write_item", RequestItems={self.name: left})
                left = answer.get("UnprocessedItems", {}).get(self.name, [])
                if not left:
                    break
                pause(attempt)
            else:
                raise TableBusyError(self.name, len(left))

    def _ask(self, operation: str, **request: Any) -> Any:
        """The answer; None if a condition did not hold."""
        try:
            return getattr(self.client(), operation)(**request)
        except ClientError as error:
            aws.renew_credentials(error)
            if error.response.get("Error", {}).get("Code") == "ConditionalCheckFailedException":
                return None
            raise


def _key(pk: str, sk: str) -> Key:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def _meta(connection_id: str) -> Key:
    return _key(f"C#{connection_id}", _META)


def _membership(group: str, connection_id: str) -> tuple[Key, Key]:
    return _key(f"G#{group}", f"C#{connection_id}"), _key(f"C#{connection_id}", f"G#{group}")


def _number(seconds: float) -> dict[str, str]:
    return {"N": str(int(seconds))}


def _connection(row: Row) -> Connection:
    return Connection(
        id=row["pk"]["S"][2:],
        scope=row["scope"]["S"],
        state=row.get("state", {}).get("S", "{}"),
        connected_at=float(row["connected_at"]["N"]),
        is_ready=row.get("is_ready", {}).get("BOOL", False),
        has_outbox="outbox" in row,
    )


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while batch := list(itertools.islice(rest, size)):
        yield batch
