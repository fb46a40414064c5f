"""zappa_settings.json: what is unsafe in it, what is secret, and what does not fit together.

Whether a stage is safe says serverless.deploying.stages, which a deploy asks as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string

from django_app.checks.findings import Finding
from django_app.checks.project import Project
from serverless.broker.options import Options
from tasks.runtime.schedules.hints import nearest

FILE = "zappa_settings.json"
#: Seconds after which API Gateway answers in the function's stead.
GATEWAY_SECONDS = 29
#: What Zappa takes if a stage does not say.
_ZAPPAS_SECONDS = 30
#: Names of our own that no pattern of serverless.deploying.stages knows.
_SECRET_NAMES = frozenset({"RUN_KEYS"})
_SECRET_VALUES = {
    "a password in an address": re.compile(r"://[^/\s:@]*:[^/\s@]+@"),
    "an access key of AWS": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a key of Fernet": re.compile(r"(?<![\w-])[\w-]{43}=(?![\w=])"),
    "a token": re.compile(r"\b(?:gh[pousr]_\w{36}|github_pat_\w{50,}|xox[abprs]-[\w-]{10,}|[sr]k_live_\w{16,})"),
}


def unsafe(project: Project) -> Iterator[Finding]:
    """E018: a stage that must not be deployed."""
    deploying = _deploying()
    path = project.folder / FILE
    if deploying is None or not path.exists():
        return
    try:
        stages = deploying.read(path)
    except deploying.DeployError as error:
        yield _finding("E018", str(error))
        return
    for name in stages:
        if name == "base":
            continue
        try:
            deploying.resolve(stages, name)
        except deploying.DeployError as error:
            yield _finding("E018", str(error))
        except (AttributeError, TypeError, KeyError, ValueError) as error:
            yield _finding("E018", f'stage "{name}" is no stage of Zappa: {error}. Correct it.')


def secrets(project: Project) -> Iterator[Finding]:
    """E019: a secret, by its looks; the finding does not repeat it."""
    for path, value in _texts(_raw(project), ()):
        kinds = [kind for kind, pattern in _SECRET_VALUES.items() if pattern.search(value)]
        if path[-1] in _SECRET_NAMES and value:
            kinds.append("keys that open recorded messages")
        if kinds:
            yield Finding(
                "E019",
                FILE,
                f"{'.'.join(path)} holds {kinds[0]}. The file stands in the repository, and a function's variables are "
                "shown to whoever may look at it.",
                "Change the secret, since it is known now, and put the new one into SSM or Secrets Manager below "
                "SETTINGS_PREFIX.",
            )


def events(project: Project) -> Iterator[Finding]:
    """E020: an event that nothing handles."""
    for name, stage in _resolved(project).items():
        for event in stage.get("events", ()):
            handler = (event.get("kwargs") or {}).get("event")
            if handler is None:
                continue  # E018 tells
            if not isinstance(handler, str) or handler not in settings.EVENT_HANDLERS:
                yield _finding(
                    "E020",
                    f'stage "{name}": event "{event.get("name")}" names "{handler}", which is no name of '
                    f"EVENT_HANDLERS, and the function would refuse it. {nearest(handler, settings.EVENT_HANDLERS)}",
                )
    for handler, path in settings.EVENT_HANDLERS.items():
        try:
            import_string(path)
        except Exception as error:
            text = f'"{handler}" is "{path}", which cannot be imported: {error}.'
            yield Finding("E020", "EVENT_HANDLERS", text, "Correct it.")


def timeouts(project: Project) -> Iterator[Finding]:
    """E021: a function that works on after its front door has answered, or ends before what it waits for."""
    options = project.app.conf.broker_transport_options or {}
    publish_seconds = options.get("publish_seconds", Options().publish_seconds)
    for name, stage in _resolved(project).items():
        seconds = stage.get("timeout_seconds", _ZAPPAS_SECONDS)
        if not isinstance(seconds, int | float):
            yield _finding("E021", f'stage "{name}": timeout_seconds={seconds!r} is no number. Write 29.')
        elif seconds > GATEWAY_SECONDS and stage.get("apigateway_enabled", True):
            yield _finding(
                "E021",
                f'stage "{name}": timeout_seconds={seconds} exceeds {GATEWAY_SECONDS}, after which API Gateway answers '
                "504 while the function works on, and is paid for. Lower it; what takes longer is a task.",
            )
        elif seconds <= publish_seconds:
            yield _finding(
                "E021",
                f'stage "{name}": timeout_seconds={seconds} is not above publish_seconds={publish_seconds:g}, which '
                "sending a message may take while SQS does not answer: the function would be ended before it can say "
                "so. "
                f"Raise it to {GATEWAY_SECONDS}, or lower publish_seconds in the broker's options.",
            )


def _finding(number: str, told: str) -> Finding:
    """Of a text that ends with its remedy."""
    text, _, remedy = told.removeprefix(f"{FILE}: ").rpartition(". ")
    return Finding(number, FILE, f"{text}." if text else remedy, remedy if text else "Correct it.")


def _deploying() -> Any:
    """By name: it stands a floor above, and a package holds neither it nor the file."""
    try:
        return import_module("serverless.deploying.stages")
    except ModuleNotFoundError:
        return None


@cache
def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {}  # E018 tells


def _raw(project: Project) -> Any:
    path: Path = project.folder / FILE
    return _parsed(path.read_text("utf-8")) if path.exists() else {}


def _resolved(project: Project) -> dict[str, dict[str, Any]]:
    """Stages that may be deployed, with what they extend."""
    deploying, raw = _deploying(), _raw(project)
    found = {}
    for name in raw if deploying is not None and isinstance(raw, dict) else ():
        try:
            found[name] = deploying.resolve(raw, name)
        except (deploying.DeployError, AttributeError, TypeError, KeyError, ValueError):
            continue  # E018 tells, or it is base
    return found


def _texts(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """All texts below a value, with the way to them."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _texts(each, (*path, str(key)))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _texts(each, (*path, str(number)))
    elif isinstance(value, str) and path:
        yield path, value
