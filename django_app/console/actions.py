"""The table of what people can do: by name, with the role that it takes and the fields that it needs.

Pages and the API go through `perform`, which asks for the right, does it, and writes it down.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from django.db import transaction

from django_app.console import audit
from django_app.console.access import Access, visible_runs
from django_app.console.errors import InvalidError, NotAllowedError, NotVisibleError, RefusalError
from django_app.console.filters import nearest
from django_app.console.roles import Role
from django_app.console.services import letters, queues, runs, workers
from django_app.console.services.acting import Actor, Done
from tasks.runtime import retrying

log = structlog.get_logger(__name__)

Kind = Literal["text", "flag", "texts", "list", "object"]
_MOST_TEXTS = 500


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
    of: what it acts on, by which is judged who may know of it: one run; failures; the installation as a whole.
    is_atomic: what it does and what is written about it are one transaction.
    """

    name: str
    about: str
    role: Role
    fields: Mapping[str, Field]
    do: Callable[[Actor, dict[str, Any]], Done]
    target: Callable[[dict[str, Any]], str]
    of: Literal["run", "failures", "installation"]
    is_atomic: bool = True


_RUN = Field("the run's id", required=True)
_QUEUE = Field("the queue's name", required=True, longest=80)
_HELD_BACK = {
    "kind": Field("what is held back", required=True, choices=queues.KINDS),
    "name": Field("the queue's or the task's name", required=True, longest=240),
}
_MESSAGES = Field("ids of messages, as the list of dead letters has them; left out: all that are there", "texts")


def _retry(actor: Actor, values: dict[str, Any]) -> Done:
    return runs.retry(actor, values["run"], values.get("args"), values.get("kwargs"))


ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        Action(
            "revoke",
            "End a run that has not begun. One at work is not begun again or, with terminate, ended.",
            Role.OPERATOR,
            {
                "run": _RUN,
                "terminate": Field("end it though it is at work", "flag"),
                "seen": Field("the state it was seen in; if it is another by now, nothing is done", longest=20),
            },
            lambda actor, values: runs.revoke(
                actor, values["run"], terminate=values.get("terminate", False), seen=values.get("seen", "")
            ),
            lambda values: f"run {values['run']}",
            of="run",
        ),
        Action(
            "retry",
            "Run once more what failed, was dead-lettered, was revoked or expired; with other arguments if you like.",
            Role.OPERATOR,
            {
                "run": _RUN,
                "args": Field('positional arguments; "[redacted]" keeps what stood there', "list", longest=120_000),
                "kwargs": Field('keyword arguments; "[redacted]" keeps what stood there', "object", longest=120_000),
            },
            _retry,
            lambda values: f"run {values['run']}",
            of="run",
        ),
        Action(
            "retry-failures",
            f"Run once more what failed in one way: the newest {runs.MOST_AT_ONCE} runs that were not retried yet.",
            Role.OPERATOR,
            {"fingerprint": Field("of the error", required=True, longest=16)},
            lambda actor, values: runs.retry_failures(actor, values["fingerprint"]),
            lambda values: f"failures {values['fingerprint']}",
            of="failures",
        ),
        Action(
            "pause",
            "Begin nothing of a queue, or of a task, any more.",
            Role.OPERATOR,
            {**_HELD_BACK, "reason": Field("why, for others to read", longest=500)},
            lambda actor, values: queues.pause(actor, values["kind"], values["name"], values.get("reason", "")),
            lambda values: f"{values['kind']} {values['name']}",
            of="installation",
        ),
        Action(
            "resume",
            "Begin what waited for the end of a pause.",
            Role.OPERATOR,
            {
                **_HELD_BACK,
                "seen": Field(
                    "when the pause that was seen began; if it is another by now, nothing is done", longest=40
                ),
            },
            lambda actor, values: queues.resume(actor, values["kind"], values["name"], values.get("seen", "")),
            lambda values: f"{values['kind']} {values['name']}",
            of="installation",
        ),
        Action(
            "stop-worker",
            "Have a worker finish what it is at, hand back the rest and end.",
            Role.OPERATOR,
            {"worker": Field("the worker's name", required=True)},
            lambda actor, values: workers.stop(actor, values["worker"]),
            lambda values: f"worker {values['worker']}",
            of="installation",
        ),
        Action(
            "redrive",
            "Work on dead letters once more.",
            Role.OPERATOR,
            {"queue": _QUEUE, "messages": _MESSAGES},
            lambda actor, values: letters.redrive(actor, values["queue"], values.get("messages")),
            lambda values: f"dead letters of {values['queue']}",
            of="installation",
            is_atomic=False,
        ),
        Action(
            "discard",
            "Delete dead letters for good.",
            Role.ADMIN,
            {"queue": _QUEUE, "messages": _MESSAGES},
            lambda actor, values: letters.discard(actor, values["queue"], values.get("messages")),
            lambda values: f"dead letters of {values['queue']}",
            of="installation",
            is_atomic=False,
        ),
    )
}


def perform(action: Action, actor: Actor, raw: Mapping[str, Any]) -> Done:
    """Do it, and write it down. raw: fields as JSON has them.

    Raises InvalidError, NotVisibleError, NotAllowedError, RefusalError.
    """
    values = checked(action, raw)
    _ask_for_the_right(action, actor.access, values)
    target = action.target(values)
    about = {"token": actor.token} if actor.token else {}
    if not action.is_atomic:
        audit.write(actor.name, action.name, target, _asked(values) | about, audit.Outcome.BEGUN)
    try:
        if action.is_atomic:
            with transaction.atomic():
                done = action.do(actor, values)
                audit.write(actor.name, action.name, target, done.detail | about)
        else:
            done = action.do(actor, values)
            audit.write(actor.name, action.name, target, done.detail | about)
    except RefusalError as refusal:
        audit.write(actor.name, action.name, target, {"why": refusal.rule} | about, audit.Outcome.REFUSED)
        raise
    except NotVisibleError:
        raise
    except Exception as error:
        log.exception("console_action_failed", action=action.name, target=target)
        audit.write(actor.name, action.name, target, {"why": type(error).__name__} | about, audit.Outcome.FAILED)
        raise
    return done


def _asked(values: dict[str, Any]) -> dict[str, Any]:
    """What a redrive or a discard is asked for."""
    messages = values.get("messages")
    return {"messages": "all" if messages is None else len(messages)}


def may(action: Action, access: Access) -> bool:
    """Whether the action is offered to somebody."""
    return access.may(action.role) and (action.of != "installation" or access.sees_installation)


def _ask_for_the_right(action: Action, access: Access, values: dict[str, Any]) -> None:
    if action.of == "installation" and not access.sees_installation:
        raise NotVisibleError
    if action.of == "run" and not visible_runs(access).filter(pk=values["run"]).exists():
        raise NotVisibleError
    if not access.may(action.role):
        raise NotAllowedError(action.role.name.lower())


# Fields --------------------------------------------------------------------------------------------------------------


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
        values[name] = _value(name, field, value)
    return values


def _value(name: str, field: Field, value: Any) -> Any:
    match field.kind:
        case "text":
            _check_text(name, field, value)
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
    raw: dict[str, Any] = {}
    for name, field in action.fields.items():
        if name not in form:
            continue
        text = form[name]
        match field.kind:
            case "flag":
                raw[name] = text in ("on", "true", "1")
            case "texts":
                # A form for chosen ones has an empty one beside them, so that none chosen is not taken for all.
                raw[name] = [each for each in form.getlist(name) if each]  # type: ignore[attr-defined]
            case "list" | "object":
                raw[name] = read_json(name, text, field.longest)
            case _:
                raw[name] = text
    return raw


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
