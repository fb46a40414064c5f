"""One due time of one schedule or rule, on its way to its target. Pure."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

MINUTE = timedelta(minutes=1)
#: EventBridge's, where a target has no retry policy.
_MOST_RETRIES = 185
_LONGEST_AGE_SECONDS = 86400


@dataclass
class Firing:
    """source: "schedule" or "rule". arn: of it. due: its time.

    target: as EventBridge's API has it, as it was at that time. not_before: of the next try; later than due where the
    schedule has a flexible window, and after a failure. first_tried_at: None before the first try. error: (code,
    message) of the last one.
    """

    source: str
    arn: str
    due: datetime
    target: dict[str, Any]
    not_before: datetime
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    attempts: int = 0
    first_tried_at: datetime | None = None
    error: tuple[str, str] = ("", "")

    @property
    def name(self) -> str:
        return self.arn.rpartition("/")[2]

    @property
    def target_arn(self) -> str:
        return str(self.target["Arn"])

    @property
    def dead_letter_arn(self) -> str:
        return str(self.target.get("DeadLetterConfig", {}).get("Arn", ""))

    def message(self, attempt: int) -> str:
        """What the target is sent at that attempt, counted from 1."""
        return _input_of_schedule(self, attempt) if self.source == "schedule" else _input_of_rule(self)

    def failed(self, code: str, message: str, now: datetime) -> str:
        """Count a failed attempt; the condition that forbids another, "" if there is one, a minute later."""
        self.first_tried_at = self.first_tried_at or now
        self.attempts += 1
        self.error = (code, message)
        self.not_before = now + MINUTE
        policy = self.target.get("RetryPolicy", {})
        if self.attempts > policy.get("MaximumRetryAttempts", _MOST_RETRIES):
            return "MaximumRetryAttempts"
        age = timedelta(seconds=policy.get("MaximumEventAgeInSeconds", _LONGEST_AGE_SECONDS))
        return "MaximumEventAgeInSeconds" if self.not_before - self.first_tried_at > age else ""

    def story(self, condition: str) -> dict[str, str]:
        """What a dead letter tells in its attributes.

        Source: https://docs.aws.amazon.com/scheduler/latest/UserGuide/configuring-schedule-dlq.html
        """
        told = {
            "ERROR_CODE": self.error[0],
            "ERROR_MESSAGE": self.error[1],
            "EXHAUSTED_RETRY_CONDITION": condition,
            "RETRY_ATTEMPTS": str(self.attempts - 1),
            "TARGET_ARN": self.target_arn,
        }
        if self.source == "rule":
            return {**told, "RULE_ARN": self.arn}
        return {
            **told,
            "EXECUTION_ID": self.id,
            "IS_PAYLOAD_TRUNCATED": "false",
            "SCHEDULED_TIME": stamp(self.due),
            "SCHEDULE_ARN": self.arn,
        }

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        for name in ("due", "not_before", "first_tried_at"):
            values[name] = values[name] and values[name].isoformat()
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Firing:
        read = {**values, "error": tuple(values["error"])}
        for name in ("due", "not_before", "first_tried_at"):
            read[name] = read[name] and datetime.fromisoformat(read[name])
        return cls(**read)


def stamp(moment: datetime) -> str:
    """As EventBridge writes times: 2026-11-30T07:00:00Z."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def delay_in_window(arn: str, due: datetime, minutes: int) -> timedelta:
    """When in its flexible window a schedule fires: AWS draws; here it is the same whenever it is asked."""
    drawn = int(hashlib.sha256(f"{arn} {stamp(due)}".encode()).hexdigest()[:8], 16)
    return timedelta(minutes=drawn % minutes) if minutes else timedelta(0)


def _input_of_schedule(firing: Firing, attempt: int) -> str:
    """Keywords are replaced in the text as it is, whatever it is.

    Source: https://docs.aws.amazon.com/scheduler/latest/UserGuide/managing-schedule-context-attributes.html
    """
    values = {
        "schedule-arn": firing.arn,
        "scheduled-time": stamp(firing.due),
        "execution-id": firing.id,
        "attempt-number": str(attempt),
    }
    text = str(firing.target.get("Input", "{}"))
    return re.sub(r"<aws\.scheduler\.([a-z-]+)>", lambda found: values.get(found[1], found[0]), text)


def _input_of_rule(firing: Firing) -> str:
    if "Input" in firing.target:
        return str(firing.target["Input"])
    _, _, _, region, account, _ = firing.arn.split(":", 5)
    event = {
        "version": "0",
        "id": firing.id,
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": account,
        "time": stamp(firing.due),
        "region": region,
        "resources": [firing.arn],
        "detail": {},
    }
    if "InputPath" in firing.target:
        return json.dumps(_at(event, firing.target["InputPath"]))
    transformer = firing.target.get("InputTransformer")
    if transformer is None:
        return json.dumps(event)
    values = {name: _at(event, path) for name, path in transformer.get("InputPathsMap", {}).items()}
    return _filled(transformer["InputTemplate"], values)


def _at(event: Any, path: str) -> Any:
    """What stands at a path such as $.detail."""
    for name in path.removeprefix("$").strip(".").split("."):
        if name:
            event = event.get(name) if isinstance(event, dict) else None
    return event


def _filled(template: str, values: Mapping[str, Any]) -> str:
    """Texts are put in with their quotation marks, but for those that stand inside of a text."""

    def fill(found: re.Match[str]) -> str:
        if found["name"] is None:
            return re.sub(r"<([\w-]+)>", lambda inner: _bare(values, inner), found[0])
        return json.dumps(values[found["name"]]) if found["name"] in values else found[0]

    return re.sub(r'"(?:[^"\\]|\\.)*"|<(?P<name>[\w-]+)>', fill, template)


def _bare(values: Mapping[str, Any], found: re.Match[str]) -> str:
    if found[1] not in values:
        return found[0]
    value = values[found[1]]
    return json.dumps(value if isinstance(value, str) else json.dumps(value))[1:-1]
