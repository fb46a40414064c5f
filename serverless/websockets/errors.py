"""What can go wrong with sockets that no process holds, as exceptions that say what to do."""

from __future__ import annotations

#: Of values that anybody may send, no more than this is quoted.
_MOST_QUOTED = 120


class WebsocketsError(Exception):
    """Any error of this package."""


class OptionError(WebsocketsError, ValueError):
    """An option of the layer breaks a rule."""


class EventError(WebsocketsError, ValueError):
    """An event that is none of a WebSocket API; it raises, so that AWS keeps it where failures are kept."""


class RequestError(WebsocketsError, ValueError):
    """A client asks for a connection in a way that has no meaning; it is refused."""


class ChannelNameError(WebsocketsError, TypeError):
    """A channel that is no connection of API Gateway; a TypeError, as Channels' own errors about names are."""

    def __init__(self, channel: str, reason: str) -> None:
        super().__init__(
            f'channel "{channel}" {reason}. This layer reaches connections of API Gateway only and has no queues: '
            "use channels_redis where a process receives, such as runworker, daphne or uvicorn."
        )
        self.channel = channel


class MessageError(WebsocketsError, TypeError):
    """What is sent to a channel or a group is not a message."""

    def __init__(self, message: object) -> None:
        shown = repr(message)[:_MOST_QUOTED]
        super().__init__(
            f"message {shown} is a {type(message).__name__}, or has the key __asgi_channel__: "
            'send a dict with a "type", such as {"type": "run.progress", ...}.'
        )


class UnsupportedError(WebsocketsError, NotImplementedError):
    """A consumer asks for what API Gateway cannot do."""


class OutboxFullError(WebsocketsError, ValueError):
    """connect() sends more than can wait until the client's first message."""


class StateTooLargeError(WebsocketsError, ValueError):
    """A consumer's attributes are larger than what is kept of them between two events."""

    def __init__(self, consumer: str, state_bytes: int, most_bytes: int) -> None:
        super().__init__(
            f"consumer {consumer}: its attributes are {state_bytes} bytes of JSON, more than the {most_bytes} that are "
            "kept between two events. Keep keys in self and read the rest from the database."
        )
        self.consumer = consumer
        self.state_bytes = state_bytes


class TableBusyError(WebsocketsError):
    """DynamoDB left writes undone, however often they were repeated."""

    def __init__(self, table: str, count: int) -> None:
        super().__init__(
            f'table "{table}": {count} writes were not done, since DynamoDB throttles it. '
            "Let the client connect again, and raise the table's capacity if it has a maximum."
        )
        self.count = count
