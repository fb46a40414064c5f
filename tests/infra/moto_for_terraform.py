"""The local cloud, with what moto 5.2 lacks for what Terraform makes.

Run by the tests as `python -m tests.infra.moto_for_terraform`, with the options of serverless.local.cloud. Each patch has a
test in test_moto_for_terraform.py that fails once moto no longer needs it.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from tests.infra import calls, moto_apis, moto_services, replays

ALLOWED = "RedriveAllowPolicy"


def apply() -> None:
    """Patch moto in this process."""
    from moto.iam.access_control import IAMPolicyStatement, PermissionResult
    from moto.sqs.models import Queue, SQSBackend

    _pass_for_https(IAMPolicyStatement, PermissionResult.NEUTRAL)
    _tell_redrive_as_it_was_set(Queue)
    _tell_who_may_dead_letter(Queue, SQSBackend)
    _keep_what_is_not_set(Queue)
    moto_services.apply()
    moto_apis.apply()


def _pass_for_https(statement: Any, neutral: Any) -> None:
    """A bucket's policy refuses whatever a condition that does not hold stands beside, so that nothing gets in.

    This cloud speaks http; what refuses that alone is passed over.
    """
    judge = statement.is_action_permitted

    @functools.wraps(judge)
    def is_action_permitted(self: Any, *given: Any, **more: Any) -> Any:
        if self._statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}:
            return neutral
        return judge(self, *given, **more)

    statement.is_action_permitted = is_action_permitted


def _tell_redrive_as_it_was_set(queue: Any) -> None:
    """RedrivePolicy comes back with other blanks, which the provider takes for a change."""
    told = queue.attributes.fget

    def attributes(self: Any) -> dict[str, Any]:
        found: dict[str, Any] = told(self)
        if found.get("RedrivePolicy"):
            found["RedrivePolicy"] = json.dumps(json.loads(found["RedrivePolicy"]), separators=(",", ":"))
        return found

    queue.attributes = property(attributes)


def _tell_who_may_dead_letter(queue: Any, backend: Any) -> None:
    """RedriveAllowPolicy is taken and never told, so that the provider waits for it until its time is over."""
    told = queue.attributes.fget

    def attributes(self: Any) -> dict[str, Any]:
        found: dict[str, Any] = told(self)
        if getattr(self, "redrive_allow_policy", None):
            found[ALLOWED] = self.redrive_allow_policy
        return found

    get = backend.get_queue_attributes

    @functools.wraps(get)
    def get_queue_attributes(self: Any, queue_name: str, attribute_names: list[str]) -> dict[str, Any]:
        known = [name for name in attribute_names if name != ALLOWED]
        found = dict(get(self, queue_name, known)) if known else {}
        every = self.get_queue(queue_name).attributes
        if ALLOWED in attribute_names and ALLOWED in every:
            found[ALLOWED] = every[ALLOWED]
        return found

    queue.attributes = property(attributes)
    backend.get_queue_attributes = get_queue_attributes


def _keep_what_is_not_set(queue: Any) -> None:
    """SetQueueAttributes takes a policy that it is not given for one that is to be removed."""
    set_attributes = queue._set_attributes

    def _set_attributes(self: Any, attributes: dict[str, Any], now: float | None = None) -> None:
        if "Policy" not in attributes and getattr(self, "_policy_json", None):
            attributes = {**attributes, "Policy": json.dumps(self._policy_json)}
        set_attributes(self, attributes, now)

    queue._set_attributes = _set_attributes


if __name__ == "__main__":
    from cheroot.server import HTTPServer

    from serverless.local import cloud

    # The provider has connections of its own for each service, more than the ten that are kept.
    HTTPServer.keep_alive_conn_limit = 1000
    apply()
    calls.record()
    make = cloud.application
    cloud.application = lambda *given: replays.Replaying(make(*given))
    cloud.main()
