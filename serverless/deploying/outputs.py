"""What Terraform has made for a stage, as `terraform output -json` tells it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from serverless.deploying.errors import DeployError

_REQUIRED = ("region", "artifacts_bucket", "public_url")


@dataclass(frozen=True)
class Outputs:
    """public_url: where the site will be reached; an input of Terraform's, never discovered.

    environment: variables of the function, none of them secret. dead_letter_arn: where events go that failed for good.
    static_bucket, static_url: where static files are copied to and served from; without them, the function serves them.
    """

    region: str = ""
    artifacts_bucket: str = ""
    public_url: str = ""
    role_name: str = ""
    subnet_ids: tuple[str, ...] = ()
    security_group_ids: tuple[str, ...] = ()
    dead_letter_arn: str = ""
    static_bucket: str = ""
    static_url: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


#: Terraform's names, where they differ from ours.
NAMES = {
    "role_name": "web_role_name",
    "subnet_ids": "web_subnet_ids",
    "security_group_ids": "web_security_group_ids",
    "dead_letter_arn": "async_dead_letter_arn",
    "environment": "web_environment",
}


def read(path: Path) -> Outputs:
    """A file with Terraform's outputs. Raises DeployError."""
    try:
        return parse(path.read_text(), path.name)
    except FileNotFoundError as error:
        raise DeployError(
            f"{path} is not there. Write it with: terraform -chdir=infra/terraform output -json > {path}"
        ) from error


def parse(text: str, source: str) -> Outputs:
    """Raises DeployError."""
    try:
        told: Any = json.loads(text)
        values = {name: each["value"] for name, each in told.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DeployError(f"{source} is not what `terraform output -json` prints. Write it anew.") from error
    found: dict[str, Any] = {}
    for each in fields(Outputs):
        value = values.get(NAMES.get(each.name, each.name))
        if value is not None:
            found[each.name] = tuple(value) if isinstance(value, list) else value
    outputs = Outputs(**found)
    missing = [NAMES.get(name, name) for name in _REQUIRED if not getattr(outputs, name)]
    if missing:
        raise DeployError(f"{source} lacks {', '.join(missing)}. Apply infra/terraform for this stage first.")
    if bool(outputs.static_bucket) != bool(outputs.static_url):
        raise DeployError(f"{source}: static_bucket and static_url go together. Give both or none.")
    if urlsplit(outputs.public_url).scheme != "https":
        raise DeployError(f'{source}: public_url="{outputs.public_url}" must begin with https://. Correct the input.')
    return outputs
