"""How data of tasks is shown: as text that cannot pass for anything else, cut to size.

Templates escape it as well; this is about what escaping leaves: characters that turn the direction of a line, that
cannot be seen, or that end it.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from kombu.utils.json import loads

from django_app.ledger import redaction
from django_app.ledger.models import Run
from django_app.ledger.states import State

_LONGEST_RESULT = 4000
_INLINE, _IN_S3 = "=", "s3:"
#: Characters that have no look of their own: controls, format (direction among it), surrogates, private, separators.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def plain(value: object, longest: int = 200) -> str:
    """One line of text. What cannot be seen is written as its number: "\\u202e"."""
    text = str(value)
    cut = text[:longest]
    shown = "".join(_visible(each) for each in cut)
    return shown if len(text) <= longest else f"{shown}… {len(text)} characters"


def lines(value: object, longest: int = 20_000) -> str:
    """Text of several lines, of whose end as much is kept as fits."""
    text = str(value).replace("\r\n", "\n")
    shown = "".join(each if each in "\n\t" else _visible(each) for each in text[-longest:])
    return shown if len(text) <= longest else f"… {len(text) - longest} characters before\n{shown}"


def _visible(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) not in _UNSEEN:
        return character
    number = ord(character)
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def arguments(run: Run) -> str:
    """The redacted copy, as JSON over several lines; as it is where it is no JSON."""
    if not run.arguments:
        return ""
    try:
        return lines(json.dumps(json.loads(run.arguments), indent=2, ensure_ascii=False))
    except (ValueError, RecursionError):
        return lines(run.arguments)


def schedule_arguments(parts: Mapping[str, Any]) -> str:
    """What a schedule gives its task, without secrets: as JSON over several lines."""
    told = {name: value for name, value in parts.items() if name != "options" or value}
    return lines(json.dumps(told, indent=2, ensure_ascii=False))


def parsed_arguments(run: Run) -> Any:
    """The redacted copy as data; None where there is none, or it is no JSON."""
    try:
        return json.loads(run.arguments)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True)
class Result:
    """What may be shown of a result. value: redacted and cut as arguments are; note: why there is no value."""

    value: Any = None
    note: str = ""

    @property
    def text(self) -> str:
        return lines(json.dumps(self.value, indent=2, ensure_ascii=False), _LONGEST_RESULT)


def result(run: Run) -> Result | None:
    """Of a run that succeeded, or that tells of itself; None where there is none. An error stands elsewhere."""
    if not run.result or (run.state in (State.FAILED, State.DEAD, State.REVOKED, State.EXPIRED, State.SKIPPED)):
        return None
    if run.result.startswith(_IN_S3):
        return Result(note="It is too long for the database and lies in S3.")
    try:
        # As a client would read it: what stands for bytes, or for an object, is shown as that.
        told = loads(run.result.removeprefix(_INLINE))
        shown = redaction.shown([told], {}, (), settings.REDACTED_ARGUMENTS)
        return Result(json.loads(shown)["args"][0])
    except Exception:  # decoders of kombu's types raise what they like
        return Result(note="It cannot be read.")
