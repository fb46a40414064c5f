"""What people may see of a task's arguments: secrets left out, and cut to size. Pure but for the pattern's setting."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

REDACTED = "[redacted]"
_LONGEST_TEXT = 200
_MOST_ITEMS = 50
_DEEPEST = 6
#: Of all, as JSON.
LONGEST_SHOWN = 4000


@lru_cache(maxsize=8)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def shown(args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str], pattern: str) -> str:
    """Arguments as JSON that can be shown: {"args": [...], "kwargs": {...}}.

    names: of the positional parameters, so that they are redacted as keywords are.
    pattern: what is left out: every value whose key it is found in, at any depth.
    """
    find = _compiled(pattern).search
    budget = [500]
    positional = [
        REDACTED if index < len(names) and find(names[index]) else _shown(value, find, 0, budget)
        for index, value in enumerate(list(args)[:_MOST_ITEMS])
    ]
    if len(args) > _MOST_ITEMS:
        positional.append(f"... {len(args) - _MOST_ITEMS} more")
    text = json.dumps({"args": positional, "kwargs": _shown(dict(kwargs), find, 0, budget)}, ensure_ascii=False)
    if len(text) > LONGEST_SHOWN:
        return json.dumps({"args": ["... too long to show"], "kwargs": {}})
    return text


def _shown(value: Any, find: Any, depth: int, budget: list[int]) -> Any:
    budget[0] -= 1
    if budget[0] < 0:
        return "..."
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_TEXT else f"{value[:_LONGEST_TEXT]}... {len(value)} characters"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping):
        if depth >= _DEEPEST:
            return f"<{len(value)} entries>"
        items = list(value.items())
        told = {
            str(key)[:_LONGEST_TEXT]: REDACTED if find(str(key)) else _shown(each, find, depth + 1, budget)
            for key, each in items[:_MOST_ITEMS]
        }
        if len(items) > _MOST_ITEMS:
            told["..."] = f"{len(items) - _MOST_ITEMS} more"
        return told
    if isinstance(value, list | tuple | set | frozenset):
        if depth >= _DEEPEST:
            return f"<{len(value)} items>"
        listed = list(value)
        entries = [_shown(each, find, depth + 1, budget) for each in listed[:_MOST_ITEMS]]
        if len(listed) > _MOST_ITEMS:
            entries.append(f"... {len(listed) - _MOST_ITEMS} more")
        return entries
    return _shown(str(value), find, depth, budget)
