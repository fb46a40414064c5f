"""What people may see of a task's arguments: secrets left out, and cut to size. Pure but for the pattern's setting."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

REDACTED = "[redacted]"
_LONGEST_TEXT = 200
MOST_ITEMS = 50
_DEEPEST = 6
_LONGEST_NUMBER_BITS = 512
#: Of all, as JSON.
LONGEST_SHOWN = 4000


#: Classes that are shown as they print themselves.
_SPOKEN = datetime.date | datetime.time | datetime.timedelta | decimal.Decimal | uuid.UUID


@lru_cache(maxsize=8)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def shown(args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str], pattern: str) -> str:
    """Arguments as JSON that can be shown: {"args": [...], "kwargs": {...}}.

    names: of the positional parameters, so that they are redacted as keywords are.
    pattern: what is left out: every value whose key it is found in, at any depth.
    """
    find = _compiled(pattern).search
    try:
        text = _told(args, kwargs, names, find)
    except Exception:  # an argument's own code: what can be sent must not fail for being shown
        return json.dumps({"args": ["... cannot be shown"], "kwargs": {}})
    if len(text) > LONGEST_SHOWN:
        return json.dumps({"args": ["... too long to show"], "kwargs": {}})
    return text


def _told(args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str], find: Any) -> str:
    budget = [500]
    positional = [
        REDACTED if index < len(names) and find(names[index]) else _shown(value, find, 0, budget)
        for index, value in enumerate(list(args)[:MOST_ITEMS])
    ]
    if len(args) > MOST_ITEMS:
        positional.append(f"... {len(args) - MOST_ITEMS} more")
    text = json.dumps({"args": positional, "kwargs": _shown(dict(kwargs), find, 0, budget)}, ensure_ascii=False)
    # Half of a surrogate pair is JSON, and no text that a database takes.
    return text.encode("utf-8", "replace").decode()


def _shown(value: Any, find: Any, depth: int, budget: list[int]) -> Any:
    budget[0] -= 1
    if budget[0] < 0:
        return "..."
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        if depth >= _DEEPEST:
            return f"<{len(value)} entries>"
        items = list(value.items())
        told = {
            str(key)[:_LONGEST_TEXT]: REDACTED if find(str(key)) else _shown(each, find, depth + 1, budget)
            for key, each in items[:MOST_ITEMS]
        }
        if len(items) > MOST_ITEMS:
            told["..."] = f"{len(items) - MOST_ITEMS} more"
        return told
    if isinstance(value, list | tuple | set | frozenset):
        if depth >= _DEEPEST:
            return f"<{len(value)} items>"
        listed = list(value)
        entries = [_shown(each, find, depth + 1, budget) for each in listed[:MOST_ITEMS]]
        if len(listed) > MOST_ITEMS:
            entries.append(f"... {len(listed) - MOST_ITEMS} more")
        return entries
    if hasattr(value, "__json__"):
        return _shown(value.__json__(), find, depth, budget)
    return _plain(value)


def _plain(value: Any) -> Any:
    """What holds no other values."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        bits = value.bit_length()
        return value if bits <= _LONGEST_NUMBER_BITS else f"<number of {bits} bits>"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    # "__proxy__": a lazily translated text. What an object of another class says of itself may hold anything.
    if isinstance(value, str | _SPOKEN) or type(value).__name__ == "__proxy__":
        text = value if isinstance(value, str) else str(value)
        return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}... {len(text)} characters"
    return f"<{type(value).__name__}>"
