"""The HTTP side of one TCP connection: requests in, answers out, and what is left when it becomes a WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import h11

_READ_BYTES = 64 << 10
#: Larger ones are not even read to their end.
_MOST_BODY_BYTES = 1 << 20
_MOST_HEADER_BYTES = 16 << 10


@dataclass(frozen=True)
class Request:
    """path: unescaped. query: as it was sent. headers: with their names as the client spells them."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    address: str
    body: bytes = b""

    def header(self, name: str) -> str:
        """All values of that name, by commas; "" for none. name: in lower case."""
        return ", ".join(value for found, value in self.headers if found.lower() == name)

    @property
    def is_upgrade(self) -> bool:
        return self.header("upgrade").lower() == "websocket"


@dataclass(frozen=True)
class Answer:
    """body: JSON; None for an empty one. error: what boto3 makes an exception of."""

    status: int
    body: Any = None
    error: str = ""


class BadRequestError(Exception):
    """What came is no request that can be answered otherwise than with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Front:
    """Reads and answers one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_HEADER_BYTES)

    @property
    def left(self) -> bytes:
        """What came behind the last request."""
        return bytes(self._http.trailing_data[0])

    async def request(self) -> Request | None:
        """The next one; None where there is no further. Raises BadRequestError."""
        try:
            if self._http.states[h11.CLIENT] is h11.DONE:
                self._http.start_next_cycle()
            head = await self._event()
            if not isinstance(head, h11.Request):
                return None
            if sum(len(name) + len(value) for name, value in head.headers) > _MOST_HEADER_BYTES:
                raise BadRequestError(431, "Request Header Fields Too Large")
            body = await self._body()
        except h11.RemoteProtocolError as error:
            raise BadRequestError(error.error_status_hint, str(error)) from None
        path, _, query = head.target.decode("ascii").partition("?")
        return Request(
            method=head.method.decode("ascii"),
            path=unquote(path),
            query=query,
            headers=tuple(
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers.raw_items()
            ),
            address=str((self._writer.get_extra_info("peername") or ("",))[0]),
            body=body,
        )

    async def _event(self) -> Any:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(await self._reader.read(_READ_BYTES))

    async def _body(self) -> bytes:
        if self._http.they_are_waiting_for_100_continue:
            self._writer.write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        body = b""
        while isinstance(event := await self._event(), h11.Data):
            body += event.data
            if len(body) > _MOST_BODY_BYTES:
                raise BadRequestError(413, "Request Entity Too Large")
        return body

    async def answer(self, answer: Answer) -> bool:
        """Send it; whether another request may follow."""
        content = b"" if answer.body is None else json.dumps(answer.body).encode()
        headers = [("Content-Type", "application/json")]
        if answer.status != 204:
            headers.append(("Content-Length", str(len(content))))
        if answer.error:
            headers.append(("x-amzn-ErrorType", answer.error))
        if answer.status == 426:
            headers.append(("Sec-WebSocket-Version", "13"))
        if self._http.states[h11.SERVER] not in (h11.IDLE, h11.SEND_RESPONSE, h11.SEND_BODY):
            return False
        self._send(h11.Response(status_code=answer.status, headers=headers))
        if content:
            self._send(h11.Data(data=content))
        self._send(h11.EndOfMessage())
        await self._writer.drain()
        return bool(self._http.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE})

    def switch(self, headers: Sequence[tuple[str, str]]) -> None:
        """Answer that from now on it is a WebSocket."""
        self._send(h11.InformationalResponse(status_code=101, headers=list(headers), reason=b"Switching Protocols"))

    def _send(self, event: Any) -> None:
        self._writer.write(self._http.send(event) or b"")
