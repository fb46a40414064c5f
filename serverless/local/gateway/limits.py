"""What a WebSocket API grants, and how long this one waits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The first six are API Gateway's.

    message_bytes, frame_bytes: of the client; a message to it is cut into frames. idle_seconds: without any message,
    in either direction; pings are none. age_seconds: of a connection. function_seconds: of one event.
    Source: https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-execution-service-websocket-limits-table.html

    buffer_bytes: what may wait for a client that reads slowly; AWS has such a limit and does not tell it.
    handshake_seconds: in which a request must have come. keep_alive_seconds: between two requests to `@connections`.
    close_seconds: in which a client should answer that its socket is closed. at_once: messages of one connection that
    are in hand; what else it sends waits.
    """

    message_bytes: int = 128 << 10
    frame_bytes: int = 32 << 10
    address_characters: int = 4096
    idle_seconds: float = 600.0
    age_seconds: float = 7200.0
    function_seconds: float = 29.0

    buffer_bytes: int = 512 << 10
    handshake_seconds: float = 10.0
    keep_alive_seconds: float = 300.0
    close_seconds: float = 5.0
    at_once: int = 16
