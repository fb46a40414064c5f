"""What was asked of the local cloud, by the actions that IAM calls it: for the rights of whoever deploys.

RECORDED_CALLS names a file; each action that was asked for stands in it, once a line.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

VARIABLE = "RECORDED_CALLS"
#: Of moto's names, where IAM's first part is another one.
_PREFIXES = {"apigatewayv2": "apigateway", "awslambda": "lambda", "sesv2": "ses", "monitoring": "cloudwatch"}
#: Of calls, where the permission is named otherwise. A budget has two, to look and to change.
_ACTIONS = {"s3:HeadBucket": "s3:ListBucket", "s3:HeadObject": "s3:GetObject"}


def record() -> None:
    """Record from now on, in this process, if a file is named."""
    file = os.environ.get(VARIABLE)
    if not file:
        return
    from moto.core.responses import BaseResponse
    from moto.s3.responses import S3Response

    seen: set[str] = set()

    def note(action: str) -> None:
        # Whoever has read the file removes it, to see what comes after.
        if not Path(file).exists():
            seen.clear()
        if action not in seen:
            seen.add(action)
            with Path(file).open("a") as handle:
                handle.write(f"{action}\n")

    call, authorize = BaseResponse.call_action, S3Response._authenticate_and_authorize_s3_action

    @functools.wraps(call)
    def call_action(self: Any) -> Any:
        prefix = _PREFIXES.get(self.service_name, self.service_name)
        # API Gateway's permissions are methods, on paths.
        note(f"apigateway:{self.method}" if prefix == "apigateway" else f"{prefix}:{self._get_action()}")
        return call(self)

    @functools.wraps(authorize)
    def authorize_s3(self: Any, *given: Any, **more: Any) -> Any:
        note(f"s3:{self.data.get('Action')}")
        return authorize(self, *given, **more)

    BaseResponse.call_action = call_action  # type: ignore[method-assign]
    S3Response._authenticate_and_authorize_s3_action = authorize_s3  # type: ignore[method-assign]


def take(file: Path) -> set[str]:
    """What was asked for since the last time, by the names of permissions."""
    found = file.read_text().split() if file.exists() else []
    file.unlink(missing_ok=True)
    return {_permission(action) for action in found}


def _permission(action: str) -> str:
    service, _, call = action.partition(":")
    if service == "budgets" and "Tag" not in call:
        return "budgets:ViewBudget" if call.startswith("Describe") else "budgets:ModifyBudget"
    return _ACTIONS.get(action, action)
