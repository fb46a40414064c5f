"""The fake SQS behind HTTP: asyncio, one process, SQS's JSON protocol."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from serverless.fakesqs import queues
from serverless.fakesqs.faults import Fault
from serverless.fakesqs.queues import FakeSQS, Message, Queue, SQSError

_CONTROL_PATH = "/_control"
_BATCHES = {
    "SendMessageBatch": "SendMessage",
    "DeleteMessageBatch": "DeleteMessage",
    "ChangeMessageVisibilityBatch": "ChangeMessageVisibility",
}
#: The error types of the JSON protocol, where they differ from the codes of the former one.
_JSON_TYPES = {
    "AWS.SimpleQueueService.NonExistentQueue": "QueueDoesNotExist",
    "AWS.SimpleQueueService.EmptyBatchRequest": "EmptyBatchRequest",
    "AWS.SimpleQueueService.TooManyEntriesInBatchRequest": "TooManyEntriesInBatchRequest",
    "AWS.SimpleQueueService.InvalidBatchEntryId": "InvalidBatchEntryId",
    "AWS.SimpleQueueService.BatchEntryIdsNotDistinct": "BatchEntryIdsNotDistinct",
    "AWS.SimpleQueueService.BatchRequestTooLong": "BatchRequestTooLong",
}


class Server:
    """One fake SQS on a port of 127.0.0.1.

    latency_seconds: added to each request, half before and half after it is carried out.
    duplicate_share: the part of received messages that is handed out a second time, as standard queues may.
    reorder: hand messages out in any order, as standard queues may.
    faults: what goes wrong; the first that hits a request counts.
    refused_keys: access key ids that are answered with 403 ExpiredToken, as after a rotation of credentials.
    counts: requests by operation, and `messages_sent`, `messages_received`, `messages_deleted`, `empty_receives`,
        `billed_units`, `bytes_in`, `bytes_out`, `connections`.
    """

    def __init__(self, port: int = 0, seed: int = 0) -> None:
        self.port = port
        self.sqs = FakeSQS()
        self.sqs.on_ready = self._wake
        self.latency_seconds = 0.0
        self.duplicate_share = 0.0
        self.reorder = False
        self.faults: list[Fault] = []
        self.refused_keys: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.random = random.Random(seed)
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        self.sqs.url = f"{self.url}/{queues.ACCOUNT_ID}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None  # noqa: S101 - entered before
        self._server.close()
        for writer in list(self._connections):
            writer.transport.abort()

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    # HTTP ------------------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts["connections"] += 1
        self._connections.add(writer)
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
            pass
        except asyncio.CancelledError:
            # The server stops while a request waits; asyncio would log the task of a connection that ends so.
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; False ends the connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = head.split("\r\n")
        path = lines[0].split(" ")[1]
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        if headers.get("expect") == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if path.startswith(_CONTROL_PATH):
            self._write(writer, 200, self._control(json.loads(body) if body else {}))
            return True
        operation = headers.get("x-amz-target", "").rpartition(".")[2]
        self.counts["bytes_in"] += len(head) + len(body)
        self.counts["requests"] += 1
        self.counts[operation] += 1
        key = headers.get("authorization", "").partition("Credential=")[2].partition("/")[0]
        if key in self.refused_keys:
            fault: Fault | None = Fault(operation, "error", 403, "ExpiredToken")
        else:
            fault = next((each for each in self.faults if each.strikes(operation, self.random)), None)
        await self._pause()
        return await self._answer(writer, operation, json.loads(body or b"{}"), fault)

    async def _answer(
        self, writer: asyncio.StreamWriter, operation: str, request: dict[str, Any], fault: Fault | None
    ) -> bool:
        kind = fault.kind if fault else ""
        if kind == "black_hole":
            await asyncio.Event().wait()
        if kind == "reset":
            writer.transport.abort()
            return False
        try:
            if fault is not None and kind == "error":
                raise SQSError(fault.code, "A fault that the test asked for.", fault.status)
            status, answer = 200, await self._carry_out(operation, request, fault if kind == "partial" else None)
        except SQSError as error:
            kind_of_error = _JSON_TYPES.get(error.code, error.code)
            status, answer = error.status, {"__type": f"com.amazonaws.sqs#{kind_of_error}", "message": error.message}
        await self._pause()
        if kind == "lost_answer":
            writer.transport.abort()
            return False
        self._write(writer, status, answer, cut=kind == "cut")
        if kind == "cut":
            await writer.drain()
            writer.transport.abort()
            return False
        return True

    def _write(self, writer: asyncio.StreamWriter, status: int, answer: dict[str, Any], cut: bool = False) -> None:
        body = json.dumps(answer).encode()
        self.counts["bytes_out"] += len(body)
        head = (
            f"HTTP/1.1 {status} X\r\nContent-Type: application/x-amz-json-1.0\r\n"
            f"x-amzn-RequestId: fake\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        writer.write(head + (body[: len(body) // 2] if cut else body))

    async def _pause(self) -> None:
        if self.latency_seconds:
            await asyncio.sleep(self.latency_seconds / 2)

    # Operations ------------------------------------------------------------------------------------------------------

    async def _carry_out(self, operation: str, request: dict[str, Any], partial: Fault | None) -> dict[str, Any]:
        self.counts["billed_units"] += queues.billed_units(
            sum(map(queues.entry_bytes, request.get("Entries", [request])))
        )
        if operation in _BATCHES:
            return self._batch(_BATCHES[operation], request, partial)
        if operation == "ReceiveMessage":
            return await self._receive(request)
        if operation in ("SendMessage", "DeleteMessage", "ChangeMessageVisibility"):
            return self._one(operation, self.sqs.queue(request["QueueUrl"]), request)
        handler = getattr(self, f"_on_{operation}", None)
        if handler is None:
            raise SQSError("InvalidAction", f'The fake SQS does not know the operation "{operation}".')
        answer: dict[str, Any] = handler(request)
        return answer

    def _one(self, operation: str, queue: Queue, entry: dict[str, Any]) -> dict[str, Any]:
        if operation == "SendMessage":
            message = self.sqs.send(queue, entry, self.now())
            self.counts["messages_sent"] += 1
            self._wake_later(queue)
            return {"MessageId": message.id, "MD5OfMessageBody": _md5(message.body)}
        if operation == "DeleteMessage":
            self.sqs.delete(queue, entry["ReceiptHandle"])
            self.counts["messages_deleted"] += 1
        else:
            self.sqs.change_visibility(queue, entry["ReceiptHandle"], entry["VisibilityTimeout"], self.now())
            self._wake_later(queue)
        return {}

    def _batch(self, operation: str, request: dict[str, Any], partial: Fault | None) -> dict[str, Any]:
        queue, entries = self.sqs.queue(request["QueueUrl"]), request["Entries"]
        queues.check_batch(entries)
        done, failed = [], []
        for entry in entries:
            try:
                if partial is not None and self.random.random() < partial.share:
                    raise SQSError(
                        partial.code, "A fault that the test asked for.", 400 if partial.sender_fault else 500
                    )
                done.append({"Id": entry["Id"], **self._one(operation, queue, entry)})
            except SQSError as error:
                sender = error.status < 500
                failed.append({"Id": entry["Id"], "Code": error.code, "Message": error.message, "SenderFault": sender})
        return {name: listed for name, listed in (("Successful", done), ("Failed", failed)) if listed}

    async def _receive(self, request: dict[str, Any]) -> dict[str, Any]:
        queue = self.sqs.queue(request["QueueUrl"])
        wait = request.get("WaitTimeSeconds", queue.setting("ReceiveMessageWaitTimeSeconds", 0))
        if not 0 <= wait <= queues.LONGEST_WAIT_SECONDS:
            raise SQSError("InvalidParameterValue", f"WaitTimeSeconds={wait} must be between 0 and 20.")
        deadline = self.now() + wait
        while True:
            if self.reorder and len(queue.ready) > 1 and not queue.fifo:
                self.random.shuffle(queue.ready)
            most, visibility = request.get("MaxNumberOfMessages", 1), request.get("VisibilityTimeout")
            messages = self.sqs.receive(queue, most, visibility, self.now())
            if messages or self.now() >= deadline:
                break
            await self._await_change(queue, deadline)
        self.counts["messages_received" if messages else "empty_receives"] += max(1, len(messages))
        asked = {*request.get("AttributeNames", ()), *request.get("MessageSystemAttributeNames", ())}
        answers = [_as_json(message, asked) for message in messages]
        for message in messages:
            if not queue.fifo and self.random.random() < self.duplicate_share:
                queue.ready.append(
                    Message(
                        message.id,
                        message.body,
                        message.attributes,
                        message.group,
                        None,
                        message.sent_at,
                        message.receives,
                    )
                )
        return {"Messages": answers} if answers else {}

    async def _await_change(self, queue: Queue, deadline: float) -> None:
        event = asyncio.Event()
        self._waiting[queue.name].add(event)
        until = min(deadline, self.sqs.next_change(queue) or deadline)
        try:
            await asyncio.wait_for(event.wait(), max(0.0, until - self.now()) + 0.001)
        except TimeoutError:
            pass
        finally:
            self._waiting[queue.name].discard(event)

    def _wake(self, queue: Queue) -> None:
        for event in self._waiting[queue.name]:
            event.set()

    def _wake_later(self, queue: Queue) -> None:
        """A poll that waits must learn that something will come back sooner than it thought."""
        if self.sqs.next_change(queue) is not None:
            self._wake(queue)

    def _on_CreateQueue(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - SQS's names
        queue = self.sqs.create_queue(request["QueueName"], request.get("Attributes"))
        return {"QueueUrl": self.sqs.url + queue.name}

    def _on_GetQueueUrl(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"QueueUrl": self.sqs.url + self.sqs.queue(request["QueueName"]).name}

    def _on_ListQueues(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        prefix = request.get("QueueNamePrefix", "")
        return {"QueueUrls": [self.sqs.url + name for name in sorted(self.sqs.queues) if name.startswith(prefix)]}

    def _on_GetQueueAttributes(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        queue = self.sqs.queue(request["QueueUrl"])
        self.sqs.tick(queue, self.now())
        counts = self.sqs.counts(queue)
        known = {
            "VisibilityTimeout": "30",
            "DelaySeconds": "0",
            **queue.attributes,
            "QueueArn": queue.arn,
            "ApproximateNumberOfMessages": str(counts["visible"]),
            "ApproximateNumberOfMessagesNotVisible": str(counts["in_flight"]),
            "ApproximateNumberOfMessagesDelayed": str(counts["delayed"]),
        }
        names = request.get("AttributeNames") or []
        return {"Attributes": {name: value for name, value in known.items() if "All" in names or name in names}}

    def _on_SetQueueAttributes(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.sqs.queue(request["QueueUrl"]).attributes.update(request.get("Attributes", {}))
        return {}

    def _on_PurgeQueue(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.sqs.purge(self.sqs.queue(request["QueueUrl"]))
        return {}

    def _on_DeleteQueue(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        del self.sqs.queues[self.sqs.queue(request["QueueUrl"]).name]
        return {}

    # Control ---------------------------------------------------------------------------------------------------------

    def _control(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """For a fake in another process: set what is given, answer with counts and depths.

        wanted: latency_seconds, duplicate_share, reorder; faults, a list of Fault's fields; refused_keys, a list of
        access key ids; reset, to zero the counts.
        """
        if wanted.get("reset"):
            self.counts.clear()
        for name in ("latency_seconds", "duplicate_share", "reorder"):
            if name in wanted:
                setattr(self, name, wanted[name])
        if "refused_keys" in wanted:
            self.refused_keys = set(wanted["refused_keys"])
        if "faults" in wanted:
            self.faults = [Fault(**fields) for fields in wanted["faults"]]
        depths = {name: self.sqs.counts(queue) for name, queue in self.sqs.queues.items()}
        return {"counts": dict(self.counts), "queues": depths}


@contextmanager
def running(port: int = 0, seed: int = 0) -> Iterator[Server]:
    """A server in a thread of its own while the block runs. Its attributes may be set from outside."""
    server = Server(port, seed)
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with server:
            ready.set()
            await stop.wait()
        # Requests that never get an answer (black holes, long polls).
        pending = asyncio.all_tasks() - {asyncio.current_task()}
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    def work() -> None:
        loop.run_until_complete(serve())
        loop.close()

    thread = threading.Thread(target=work, name="fakesqs", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def _as_json(message: Message, asked: set[str]) -> dict[str, Any]:
    """asked: names of system attributes, or All."""
    attributes = {
        "ApproximateReceiveCount": str(message.receives),
        "SentTimestamp": str(int(message.sent_at * 1000)),
    }
    if message.group:
        attributes["MessageGroupId"] = message.group
    if message.source_arn:
        attributes["DeadLetterQueueSourceArn"] = message.source_arn
    answer: dict[str, Any] = {
        "MessageId": message.id,
        "ReceiptHandle": message.receipt,
        "MD5OfBody": _md5(message.body),
        "Body": message.body,
    }
    if "All" not in asked:
        attributes = {name: value for name, value in attributes.items() if name in asked}
    if attributes:
        answer["Attributes"] = attributes
    if message.attributes:
        answer["MessageAttributes"] = message.attributes
    return answer


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


async def _main(port: int) -> None:
    async with Server(port) as server:
        print(f"ready {server.url}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A fake SQS on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    try:
        asyncio.run(_main(parser.parse_args().port))
    except KeyboardInterrupt:
        pass
