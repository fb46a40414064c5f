"""One client's WebSocket, from the upgrade to its end, under API Gateway's limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage

from serverless.local.gateway.events import Client
from serverless.local.gateway.limits import Limits

#: A flood of tiny frames takes 1.5 ms of CPU a kilobyte, and others wait for that long.
_READ_BYTES = 8 << 10

#: Code and reason of $disconnect, as API Gateway words them.
NORMAL = (1000, "Connection Closed Normally")
GOING_AWAY = (1001, "Going away")
BINARY = (1003, "Binary is not supported")
WITHOUT_CODE = (1005, "Client-side close frame status not set")
ABNORMAL = (1006, "Connection Closed Abnormally")
TOO_LARGE = (1009, "Message too long")

Ending = tuple[int, str]


class BufferFullError(Exception):
    """The client reads too slowly for what is sent to it."""


class Socket:
    """It is open until the client, a limit or close() ends it.

    on_message: called with each text of the client; what it starts may run beside others.
    """

    def __init__(
        self,
        client: Client,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limits: Limits,
        on_message: Callable[[Socket, str], asyncio.Task[None]],
    ) -> None:
        self.client = client
        self.active_at = time.time()
        self._reader = reader
        self._writer = writer
        self._limits = limits
        self._on_message = on_message
        self._protocol = Connection(ConnectionType.SERVER)
        self._began = self._active = time.monotonic()
        self._parts: list[str] = []
        self._message_bytes = self._frame_bytes = 0
        self._slots = asyncio.Semaphore(limits.at_once)
        self._timer: asyncio.TimerHandle | None = None
        self._ending: Ending | None = None
        self._is_readable = True

    @property
    def is_open(self) -> bool:
        return self._ending is None

    async def run(self, first: bytes) -> Ending:
        """Serve it until it has ended; how it did. first: what came behind the request."""
        self._watch()
        try:
            await self._take(first)
            while self._protocol.state is not ConnectionState.CLOSED:
                data = await self._reader.read(_READ_BYTES)
                if not data:
                    break
                await self._take(data)
                # What is there already is read without a pause, and others want their turn.
                await asyncio.sleep(0)
        except ConnectionError:
            pass
        finally:
            self._ending = self._ending or ABNORMAL
            if self._timer is not None:
                self._timer.cancel()
        return self._ending

    def send(self, text: str) -> None:
        """Send a message. Raises BufferFullError; a client that reads nothing must not fill the memory."""
        if not self._has_room():
            raise BufferFullError(self.client.connection_id)
        self._touch()
        for part, is_last in _frames(text, self._limits.frame_bytes):
            self._write(TextMessage(data=part, message_finished=is_last))

    def close(self, ending: Ending, seconds: float | None = None) -> None:
        """Tell the client that it ends; where the client does not answer within seconds, end it nevertheless."""
        if not self.is_open:
            return
        self._ending = ending
        self._write(CloseConnection(code=ending[0], reason=ending[1]))
        if self._timer is not None:
            self._timer.cancel()
        wait = self._limits.close_seconds if seconds is None else seconds
        self._timer = asyncio.get_running_loop().call_later(wait, self._writer.transport.abort)

    async def _take(self, data: bytes) -> None:
        if not data or not self._is_readable:
            return
        self._protocol.receive_data(data)
        for event in self._protocol.events():
            if isinstance(event, CloseConnection):
                self._end_by_client(event)
            elif not self.is_open:
                # What was on its way when the socket was closed.
                continue
            elif isinstance(event, Ping):
                if self._has_room():
                    self._write(event.response())
            elif isinstance(event, BytesMessage):
                self.close(BINARY)
            elif isinstance(event, TextMessage):
                await self._take_text(event)

    async def _take_text(self, event: TextMessage) -> None:
        """One frame, or as much of it as has come."""
        size = len(event.data.encode())
        self._frame_bytes += size
        self._message_bytes += size
        if self._frame_bytes > self._limits.frame_bytes or self._message_bytes > self._limits.message_bytes:
            self._parts = []
            self.close(TOO_LARGE)
            return
        if event.data:
            self._parts.append(event.data)
        if event.frame_finished:
            self._frame_bytes = 0
        if event.message_finished:
            text, self._parts, self._message_bytes = "".join(self._parts), [], 0
            self._touch()
            await self._slots.acquire()
            self._on_message(self, text).add_done_callback(lambda _: self._slots.release())

    def _end_by_client(self, event: CloseConnection) -> None:
        state = self._protocol.state
        if state is ConnectionState.CLOSED:
            # It has answered our own close.
            return
        if state is ConnectionState.REMOTE_CLOSING:
            self._ending = WITHOUT_CODE if event.code == WITHOUT_CODE[0] else (int(event.code), event.reason or "")
            self._write(event.response())
        elif self.is_open:
            # What it sent is no WebSocket any more. The rest is read away, lest a reset overtakes the answer.
            self._is_readable = False
            self.close((int(event.code), event.reason or ""))

    def _touch(self) -> None:
        self._active, self.active_at = time.monotonic(), time.time()

    def _watch(self) -> None:
        """End it when its time is over. One timer that is set anew when it rings, so that idle sockets cost nothing."""
        limits = self._limits
        left = min(self._active + limits.idle_seconds, self._began + limits.age_seconds) - time.monotonic()
        if left <= 0:
            self.close(GOING_AWAY)
        else:
            self._timer = asyncio.get_running_loop().call_later(left, self._watch)

    def _has_room(self) -> bool:
        return self._writer.transport.get_write_buffer_size() <= self._limits.buffer_bytes

    def _write(self, event: Event) -> None:
        self._writer.write(self._protocol.send(event))


def _frames(text: str, most_bytes: int) -> Iterator[tuple[str, bool]]:
    """A message in parts that are no larger than a frame may be, and whether each is the last. No letter is cut."""
    data = text.encode()
    start = 0
    while len(data) - start > most_bytes:
        end = start + most_bytes
        # 0b10xxxxxx continues a letter.
        while data[end] & 0xC0 == 0x80:
            end -= 1
        yield data[start:end].decode(), False
        start = end
    yield data[start:].decode(), True
