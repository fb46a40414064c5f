"""The settings of a stage: zappa_settings.json with what Terraform has made merged into it. Pure.

The file holds no account ids and no secrets; both are refused, since it stands in the repository. What Zappa leaves
unsafe where nothing is said must be said.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serverless.deploying.errors import DeployError
from serverless.deploying.outputs import Outputs

Json = dict[str, Any]

#: What Zappa does unless it is told, and what it must be told: docs/lambda.md has the reasons.
SAFE: Json = {
    "debug": False,
    "manage_roles": False,
    "keep_warm": False,
    "touch": False,
    "cors": False,
    "slim_handler": False,
    "async_resources": False,
    "log_level": "WARNING",
    "lambda_handler": "serverless.entrypoints.web.lambda_handler",
}
_ACCOUNT = re.compile(r"(?<!\d)\d{12}(?!\d)")
_SECRET = re.compile(r"passw|secret|token|api_?key|credential|private", re.IGNORECASE)
#: Names like those of secrets that name where one is kept.
_NO_SECRETS = {"DATABASE_SECRET", "SETTINGS_PREFIX"}


def read(path: Path) -> dict[str, Json]:
    """The file's stages. Raises DeployError."""
    try:
        stages: Any = json.loads(path.read_text())
    except ValueError as error:
        raise DeployError(f"{path.name} is not JSON: {error}. Correct it.") from error
    if not isinstance(stages, dict) or not all(isinstance(each, dict) for each in stages.values()):
        raise DeployError(f"{path.name} must hold one object for each stage. Correct it.")
    return stages


def resolve(stages: Mapping[str, Json], name: str) -> Json:
    """A stage with what it extends. Raises DeployError for one that is not there, or must not be deployed."""
    if name not in stages or name == "base":
        near = difflib.get_close_matches(name, [each for each in stages if each != "base"], 1)
        hint = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(sorted(set(stages) - {'base'}))}."
        raise DeployError(f'STAGE="{name}" is not in zappa_settings.json: {hint}')
    chain: list[str] = []
    at: str | None = name
    while at is not None:
        if at in chain or at not in stages:
            raise DeployError(f'zappa_settings.json: "{chain[-1]}" extends "{at}", which leads nowhere. Correct it.')
        chain.append(at)
        at = stages[at].get("extends")
    found: Json = {}
    for each in reversed(chain):
        found.update(stages[each])
    found.pop("extends", None)
    check(name, found)
    return found


def check(name: str, stage: Json) -> None:
    """Raises DeployError for what must not stand in the file, or must."""
    for key, wanted in SAFE.items():
        if stage.get(key) != wanted:
            raise DeployError(
                f'zappa_settings.json: stage "{name}": {key}={json.dumps(stage.get(key))} must be '
                f"{json.dumps(wanted)}, see docs/lambda.md. Correct it."
            )
    if stage.get("environment_variables"):
        raise DeployError(
            f'zappa_settings.json: stage "{name}": environment_variables would lie in the package in clear. '
            "Use aws_environment_variables, and SSM for secrets."
        )
    number = _ACCOUNT.search(json.dumps(stage))
    if number:
        raise DeployError(
            f'zappa_settings.json: stage "{name}" holds "{number[0]}", which looks like an account id. '
            "Name roles and queues by name; Terraform's outputs bring the rest."
        )
    for variable in stage.get("aws_environment_variables", {}):
        if _SECRET.search(variable) and variable not in _NO_SECRETS:
            raise DeployError(
                f'zappa_settings.json: stage "{name}": {variable} looks like a secret. '
                "Put it into SSM or Secrets Manager below SETTINGS_PREFIX."
            )
    for event in stage.get("events", []):
        if not event.get("kwargs", {}).get("event"):
            raise DeployError(
                f'zappa_settings.json: stage "{name}": event "{event.get("name")}" has no "kwargs": {{"event": NAME}}, '
                "and the function would refuse it. Add it, with a NAME of EVENT_HANDLERS."
            )


def merged(name: str, stage: Json, outputs: Outputs, release: str) -> Json:
    """What Zappa is given: the stage with what Terraform made. release: of the package, for logs and workers."""
    settings = {**stage, "aws_region": outputs.region, "s3_bucket": outputs.artifacts_bucket}
    settings["aws_environment_variables"] = {
        **stage.get("aws_environment_variables", {}),
        **outputs.environment,
        "PUBLIC_URL": outputs.public_url,
        "RELEASE": release,
    }
    if outputs.static_bucket:
        settings["aws_environment_variables"]["STATIC_URL"] = f"{outputs.static_url.rstrip('/')}/"
    if outputs.role_name:
        settings["role_name"] = outputs.role_name
    if not settings.get("role_name"):
        raise DeployError(f'stage "{name}" has no role: set role_name, or have Terraform give web_role_name.')
    if outputs.subnet_ids:
        settings["vpc_config"] = {
            "SubnetIds": list(outputs.subnet_ids),
            "SecurityGroupIds": list(outputs.security_group_ids),
            # In a VPC a function has no public IPv4 address; Terraform's subnets always have IPv6 as well.
            "Ipv6AllowedForDualStack": True,
        }
    if outputs.dead_letter_arn:
        settings["dead_letter_arn"] = outputs.dead_letter_arn
    return settings


def function_name(name: str, stage: Json) -> str:
    """As Zappa calls it."""
    return re.sub(r"[^a-z0-9]+", "-", f"{stage['project_name']}-{name}".lower()).strip("-")
