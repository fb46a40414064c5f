"""The channel name of a connection, and back. Pure.

Connection ids look like base64 (`L0SM9cOFvHcCIhw=`); channel names may hold letters, digits, hyphens, underscores and
periods, and have fewer than 100 characters. What is neither a letter, a digit nor a hyphen becomes `_` and its two hex
digits, byte by byte, so that two ids never share a name.
"""

from __future__ import annotations

import re

from serverless.websockets.errors import ChannelNameError, EventError

PREFIX = "apigw.ws!"
#: What Channels allows.
MOST_CHARACTERS = 99

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-")
_ESCAPED = re.compile(r"(?:[A-Za-z0-9-]|_[0-9a-f]{2})+\Z")


def channel_name(connection_id: str) -> str:
    """The channel of a connection. Raises EventError for an id that API Gateway would never give."""
    escaped = "".join(
        chr(byte) if byte in _PLAIN else f"_{byte:02x}" for byte in connection_id.encode("utf-8", "surrogatepass")
    )
    name = PREFIX + escaped
    if not escaped or len(name) > MOST_CHARACTERS:
        raise EventError(
            f'connection id "{connection_id[:MOST_CHARACTERS]}" makes a channel name of {len(name)} characters: '
            f"it must have from {len(PREFIX) + 1} to {MOST_CHARACTERS}. API Gateway's ids have 16."
        )
    return name


def connection_id(channel: str) -> str:
    """The connection of a channel. Raises ChannelNameError."""
    if not channel.startswith(PREFIX):
        raise ChannelNameError(channel, f'does not begin with "{PREFIX}"')
    escaped = channel[len(PREFIX) :]
    if not _ESCAPED.match(escaped):
        raise ChannelNameError(channel, "is not the name of any connection")
    raw = re.sub(rb"_([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), escaped.encode())
    found = raw.decode("utf-8", "surrogatepass") if _is_text(raw) else ""
    if not found or channel_name(found) != channel:
        # A second spelling of one connection would be a second member of its groups.
        raise ChannelNameError(channel, "is not the name of any connection")
    return found


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True
