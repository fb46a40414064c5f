"""What is kept of a consumer between two events: its attributes, where JSON gives back exactly what it was given. Pure.

Exactly: None, booleans, integers, finite floats, text, lists of those and dicts of those by text. A tuple, a set, a
date, a model or a subclass of str would come back as something else, or not at all, and so is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

#: Bytes of JSON that are kept for one connection. A row of DynamoDB has 400 KB, and each push reads it.
MOST_BYTES = 64 << 10
#: Lists and dicts within each other.
MOST_DEPTH = 50
#: What Channels itself sets on a consumer at each event.
NOT_STATE = frozenset({"scope", "channel_layer", "channel_name", "channel_receive", "base_send"})


def is_kept(value: object, depth: int = 0) -> bool:
    """Whether JSON gives it back as it was."""
    kind = type(value)
    if value is None or kind is bool or kind is int:
        return True
    if kind is float:
        return math.isfinite(value)  # type: ignore[arg-type]
    if kind is str:
        return _is_utf8(value)  # type: ignore[arg-type]
    if depth >= MOST_DEPTH:
        # Whatever holds itself ends here as well.
        return False
    if kind is list:
        return all(is_kept(item, depth + 1) for item in value)  # type: ignore[attr-defined]
    if kind is dict:
        return all(
            type(key) is str and _is_utf8(key) and is_kept(item, depth + 1)
            for key, item in value.items()  # type: ignore[attr-defined]
        )
    return False


def pieces(attributes: Mapping[str, Any]) -> dict[str, str]:
    """The JSON of each attribute that can be kept."""
    return {
        name: json.dumps(value, separators=(",", ":"), allow_nan=False)
        for name, value in attributes.items()
        if name not in NOT_STATE and is_kept(value)
    }


def text(kept: Mapping[str, str]) -> str:
    """One JSON object of such pieces."""
    return "{" + ",".join(f"{json.dumps(name)}:{piece}" for name, piece in kept.items()) + "}"


def attributes(state: str) -> dict[str, Any]:
    """What was kept."""
    found: dict[str, Any] = json.loads(state)
    return found


def _is_utf8(value: str) -> bool:
    """Half a surrogate pair is text to Python and to nobody else."""
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
