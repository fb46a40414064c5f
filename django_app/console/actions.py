"""The table of what people can do: by name, with the role that it takes and the fields that it needs.

Pages and the API go through `perform`, which asks for the right, does it, and writes it down.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from django.db import transaction

from django_app.console import audit
from django_app.console.access import Access, visible_runs
from django_app.console.doing import Action, Field, checked
from django_app.console.errors import NotAllowedError, NotVisibleError, RefusalError
from django_app.console.roles import Role
from django_app.console.schedule_actions import SCHEDULE_ACTIONS
from django_app.console.services import letters, queues, runs, workers
from django_app.console.services.acting import Actor, Done
from django_app.console.services.schedule_finding import is_known

log = structlog.get_logger(__name__)

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
        *SCHEDULE_ACTIONS,
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
        audit.write(actor.name, action.name, target, _asked(action, values) | about, audit.Outcome.BEGUN)
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


def _asked(action: Action, values: dict[str, Any]) -> dict[str, Any]:
    """What a redrive or a discard is asked for; of other actions the target says it."""
    if "messages" not in action.fields:
        return {}
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
    if action.of == "schedule" and not is_known(access, values["schedule"]):
        raise NotVisibleError
    if not access.may(action.role):
        raise NotAllowedError(action.role.name.lower())
