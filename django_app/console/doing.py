"""What an action is, and how it is told its fields: by JSON, or by a form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from django_app.console.errors import InvalidError
from django_app.console.filters import nearest
from django_app.console.roles import Role
from django_app.console.services.acting import Actor, Done
from tasks.runtime import retrying

Kind = Literal["text", "flag", "number", "texts", "list", "object"]
_MOST_TEXTS = 500
_LARGEST_NUMBER = 2**31 - 1


@dataclass(frozen=True)
class Field:
    """What an action is told.

    kind: texts: a list of them; list, object: JSON, as text from a form. longest: characters of a text.
    """

    about: str
    kind: Kind = "text"
    required: bool = False
    longest: int = 255
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Action:
    """Something that can be done.

    do: takes the actor and the values of the fields. target: what the audit log calls its object.
    of: what it acts on, by which is judged who may know of it: one run; one schedule; failures; the installation as a
    whole.
    is_atomic: what it does and what is written about it are one transaction.
    """

    name: str
    about: str
    role: Role
    fields: Mapping[str, Field]
    do: Callable[[Actor, dict[str, Any]], Done]
    target: Callable[[dict[str, Any]], str]
    of: Literal["run", "schedule", "failures", "installation"]
    is_atomic: bool = True


def checked(action: Action, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an action's fields. Raises InvalidError."""
    values: dict[str, Any] = {}
    for name in raw:
        if name not in action.fields:
            raise InvalidError("field", name, f"{action.name} has none of that name", nearest(name, [*action.fields]))
    for name, field in action.fields.items():
        value = raw.get(name)
        if value is None or value == "":
            if field.required:
                raise InvalidError("field", name, f"{action.name} needs it: {field.about}", "Give it.")
            continue
        values[name] = value_of(name, field, value)
    return values


def value_of(name: str, field: Field, value: Any) -> Any:
    """One field's value as it is. Raises InvalidError where it is none that the field may have."""
    match field.kind:
        case "text":
            _check_text(name, field, value)
        case "number":
            _check_number(name, value)
        case "texts":
            _check_texts(name, field, value)
        case _:
            kind, rule, remedy = _JSON_KINDS[field.kind]
            if not isinstance(value, kind):
                raise InvalidError(name, value, rule, remedy)
    return value


_JSON_KINDS: dict[str, tuple[type, str, str]] = {
    "flag": (bool, "it is neither true nor false", "Write one of them."),
    "list": (list, "it is no list", "Write a JSON list, [] for none."),
    "object": (dict, "it is no object", "Write a JSON object, {} for none."),
}


def _check_number(name: str, value: Any) -> None:
    # True is an int.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST_NUMBER:
        raise InvalidError(name, value, "it is no whole number from 0 on", "Write one, such as 30.")


def _check_texts(name: str, field: Field, value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise InvalidError(name, value, "it is no list of texts", "Leave it out for all.")
    if not value:
        raise InvalidError(name, "", "none is chosen", "Choose at least one.")
    if len(value) > _MOST_TEXTS:
        raise InvalidError(name, len(value), f"at most {_MOST_TEXTS} are taken at once", "Give fewer.")
    for each in value:
        _check_text(name, field, each)


def _check_text(name: str, field: Field, value: Any) -> None:
    if not isinstance(value, str):
        raise InvalidError(name, value, "it is no text", "Write it as one.")
    if len(value) > field.longest:
        raise InvalidError(
            name, value[:40], f"it has {len(value)} characters, and {field.longest} are allowed", "Shorten it."
        )
    if "\x00" in value:
        raise InvalidError(name, value.replace("\x00", "\\0"), "it holds a NUL character", "Leave that out.")
    if field.choices and value not in field.choices:
        raise InvalidError(name, value, "it is not one of those known", nearest(value, list(field.choices)))


def from_form(action: Action, form: Mapping[str, Any]) -> dict[str, Any]:
    """An HTML form's fields as JSON has them. form: a QueryDict. Raises InvalidError for what is no JSON."""
    return {name: read_field(name, field, form) for name, field in action.fields.items() if name in form}


def read_field(name: str, field: Field, form: Mapping[str, Any]) -> Any:
    """One field of a form as JSON has it. Raises InvalidError for what is no JSON, or no number."""
    text = form[name]
    match field.kind:
        case "flag":
            return text in ("on", "true", "1")
        case "texts":
            # A form for chosen ones has an empty one beside them, so that none chosen is not taken for all.
            return [each for each in form.getlist(name) if each]  # type: ignore[attr-defined]
        case "list" | "object":
            return read_json(name, text, field.longest)
        case "number":
            return int(text) if text.isascii() and text.isdigit() and len(text) < 11 else text
        case _:
            return text


def read_json(name: str, text: str, longest: int = retrying.LONGEST_EDITED) -> Any:
    """JSON, strictly: neither NaN nor Infinity. Raises InvalidError."""
    if len(text) > longest:
        raise InvalidError(name, text[:40], f"it has {len(text)} characters, and {longest} are allowed", "Shorten it.")
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        rule = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise InvalidError(name, text[:40], f"it is not JSON: {rule}", "Mend that place.") from None
    except (ValueError, RecursionError) as error:
        raise InvalidError(name, text[:40], f"it is not JSON: {error}", "Mend it.") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
