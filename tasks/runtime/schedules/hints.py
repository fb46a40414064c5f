"""What to say of a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: object, known: Iterable[object], otherwise: str = "") -> str:
    """A question for the nearest known name. otherwise: what to say where none is near; default: which are known."""
    names = sorted(str(each) for each in known)
    found = difflib.get_close_matches(str(name), names, 1)
    if found:
        return f'Did you mean "{found[0]}"?'
    return otherwise or f"Known are {', '.join(names)}."
