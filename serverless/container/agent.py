"""The ECS container agent: it protects this task, and knows how much memory it has.

Both addresses are put into a container's environment by ECS, on Fargate too; elsewhere there are none. The task's role
needs ecs:GetTaskProtection and ecs:UpdateTaskProtection, and the network a way to ECS.
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-scale-in-protection-endpoint.html
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from serverless.container.protection import Answer

#: The agent itself asks ECS, and tries again.
_SECONDS = 10.0
#: More protected tasks than the service wants tasks.
_UNWANTED = "DEPLOYMENT_BLOCKED"
_MOST_BYTES = 1 << 20


def address(environment: Mapping[str, str] = os.environ) -> str:
    """The agent's, "" outside of ECS."""
    return environment.get("ECS_AGENT_URI", "").rstrip("/")


def metadata_address(environment: Mapping[str, str] = os.environ) -> str:
    """Of the task's metadata, "" outside of ECS."""
    return environment.get("ECS_CONTAINER_METADATA_URI_V4", "").rstrip("/")


def protect(uri: str, wanted: bool, minutes: int = 10) -> Answer:
    """Have this task protected, or no longer. Never raises.

    minutes: after which ECS lifts it by itself, 1 to 2880.
    """
    body: dict[str, Any] = {"ProtectionEnabled": wanted}
    if wanted:
        body["ExpiresInMinutes"] = minutes
    try:
        said = _ask(f"{uri}/task-protection/v1/state", "PUT", json.dumps(body))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(False, why=f"{type(error).__name__}: {error}")
    return _read(said, wanted)


def task_memory_bytes(uri: str) -> int | None:
    """The memory of the whole task; None where the agent does not say. Never raises."""
    try:
        mebibytes = _ask(f"{uri}/task", "GET")["Limits"]["Memory"]
        return int(mebibytes) << 20
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None


def _read(said: dict[str, Any], wanted: bool) -> Answer:
    """An answer holds one of `protection`, `failure` (of ECS) and `error` (of the agent, or on the way)."""
    protection = said.get("protection")
    if isinstance(protection, dict) and protection.get("ProtectionEnabled") is wanted:
        return Answer(True)
    failure = said.get("failure") or said.get("error") or {}
    if not isinstance(failure, dict):
        failure = {}
    reason = str(failure.get("Reason") or failure.get("Code") or "")
    detail = str(failure.get("Detail") or failure.get("Message") or "")
    why = ": ".join(part for part in (reason, detail) if part) or f"not understood: {str(said)[:200]}"
    return Answer(False, unwanted=_UNWANTED in why, why=why)


def _ask(url: str, method: str, body: str | None = None) -> dict[str, Any]:
    """The answer's object, whatever its status. Raises OSError, HTTPException and ValueError."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f'"{url}" is not an address of the agent')
    # Not urllib's opener: it would go through a proxy that the environment names.
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_SECONDS)
    try:
        connection.request(method, parts.path, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        said = json.loads(answer.read(_MOST_BYTES))
    finally:
        connection.close()
    if not isinstance(said, dict):
        raise ValueError(f"status {answer.status}, not an object: {str(said)[:200]}")
    return said
