"""The steps of a deploy, each said before it is done, and what the function is asked afterwards."""

from __future__ import annotations

import json
import mimetypes
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from serverless.deploying import stages
from serverless.deploying.errors import DeployError
from serverless.deploying.outputs import Outputs

Json = dict[str, Any]
#: Of the package.
STATIC_FOLDER = "staticfiles/"
#: The function ends after 29 s.
_SYNC_SECONDS = 15


@dataclass(frozen=True)
class Deployment:
    """A stage that is to be deployed.

    settings: what Zappa is given. folder: where they are written to. archive: the package; None to remove the stage.
    """

    stage: str
    settings: Json
    outputs: Outputs
    folder: Path
    archive: Path | None = None

    @property
    def function(self) -> str:
        return stages.function_name(self.stage, self.settings)

    @property
    def settings_file(self) -> Path:
        return self.folder / "zappa_settings.json"


class Say(Protocol):
    def __call__(self, text: str) -> None: ...


def release_of(archive: Path) -> str:
    """The hash that the package was given when it was built. Raises DeployError."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return str(json.loads(opened.read("release.json"))["release"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DeployError(f"{archive} is no package ({error}). Build it with make package.") from error


def plan(deployment: Deployment) -> list[str]:
    """What will be done, in order, in words."""
    there = is_deployed(deployment)
    settings = deployment.settings
    told = [
        *([f"copy new static files to {deployment.outputs.static_bucket}"] if deployment.outputs.static_bucket else []),
        f"{'update' if there else 'create'} the function {deployment.function} in {deployment.outputs.region} "
        f"(role {settings['role_name']}, {settings['memory_size']} MB, {settings['timeout_seconds']} s)"
        f" from {deployment.archive}, release {settings['aws_environment_variables']['RELEASE']}",
        f"{'update' if there else 'create'} its front door for {deployment.outputs.public_url}",
        *(
            f"schedule {event['kwargs']['event']}: {event.get('expression') or event.get('expressions')}"
            for event in settings.get("events", [])
        ),
        "run its migrations",
        "bring its schedules to EventBridge",
        "ask it whether it is healthy",
    ]
    return [f"{number}. {text}" for number, text in enumerate(told, 1)]


def deploy(deployment: Deployment, say: Say) -> None:
    """Bring the stage to the package. Raises DeployError at the first step that fails; it may be repeated."""
    verb = "update" if is_deployed(deployment) else "deploy"
    write_settings(deployment)
    if deployment.outputs.static_bucket:
        # First: pages of the new release name them. Those of the old one stay, which the old release's pages name.
        say(f"static files: {copy_static_files(deployment)} new ones")
    say(f"zappa {verb} {deployment.stage}")
    zappa(deployment, verb, "--zip", str(deployment.archive))
    say("migrations")
    zappa(deployment, "manage", "migrate --noinput")
    say("schedules")
    zappa(deployment, "manage", f"schedules sync --seconds {_SYNC_SECONDS}")
    say("health")
    check_health(deployment)


def undeploy(deployment: Deployment, say: Say) -> None:
    """Remove function, front door and rules; what Terraform made stays. Without a function nothing is done."""
    if not is_deployed(deployment):
        say(f"{deployment.function} is not deployed; nothing to do")
        return
    write_settings(deployment)
    say(f"zappa undeploy {deployment.stage}")
    zappa(deployment, "undeploy", "--yes")


def set_maintenance(deployment: Deployment, *, is_on: bool) -> None:
    """Have the function say that it is being worked on, or no longer. Its next invocation does. Raises DeployError."""
    client = _client(deployment, "lambda")
    try:
        known = client.get_function_configuration(FunctionName=deployment.function)
        variables = {**known.get("Environment", {}).get("Variables", {}), "MAINTENANCE": str(is_on).lower()}
        # Refused if somebody else has changed the function meanwhile.
        unchanged = {"RevisionId": known["RevisionId"]} if "RevisionId" in known else {}
        client.update_function_configuration(
            FunctionName=deployment.function, Environment={"Variables": variables}, **unchanged
        )
    except (BotoCoreError, ClientError) as error:
        raise DeployError(f"{deployment.function}: {error}. Nothing was changed; try again.") from error


def is_deployed(deployment: Deployment) -> bool:
    """Raises DeployError if that cannot be found out."""
    client = _client(deployment, "lambda")
    try:
        client.get_function_configuration(FunctionName=deployment.function)
    except client.exceptions.ResourceNotFoundException:
        return False
    except (BotoCoreError, ClientError) as error:
        raise DeployError(f"asking for {deployment.function} failed: {error}. Sign in to the account first.") from error
    return True


def write_settings(deployment: Deployment) -> None:
    deployment.folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({deployment.stage: deployment.settings}, indent=2)
    deployment.settings_file.write_text(text + "\n")


def zappa(deployment: Deployment, command: str, *arguments: str) -> None:
    """Run Zappa on the stage; its lines are ours. Raises DeployError."""
    line = [str(Path(sys.executable).with_name("zappa")), command, deployment.stage, *arguments]
    done = subprocess.run(
        [*line, "--settings_file", str(deployment.settings_file)],
        cwd=deployment.folder,
        env=_environment(os.environ),
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise DeployError(f"zappa {command} failed with status {done.returncode}; its own lines stand above.")


def copy_static_files(deployment: Deployment) -> int:
    """Copy those that are not there yet; how many. Their names carry their content's hash. Raises DeployError."""
    assert deployment.archive is not None  # noqa: S101 - a deploy has one
    bucket, client = deployment.outputs.static_bucket, _client(deployment, "s3")
    copied = 0
    try:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        there = {each["Key"] for page in pages for each in page.get("Contents", ())}
        with zipfile.ZipFile(deployment.archive) as archive:
            for name in archive.namelist():
                key = name.removeprefix(STATIC_FOLDER)
                # Compressed copies are WhiteNoise's: CloudFront compresses by itself.
                if key == name or name.endswith(("/", ".gz", ".br", "staticfiles.json")) or key in there:
                    continue
                client.put_object(
                    Bucket=bucket,
                    Key=key,
                    Body=archive.read(name),
                    ContentType=mimetypes.guess_type(key)[0] or "application/octet-stream",
                    CacheControl="public, max-age=31536000, immutable",
                )
                copied += 1
    except (BotoCoreError, ClientError) as error:
        raise DeployError(f"copying static files to {bucket} failed: {error}. Nothing was deployed.") from error
    return copied


def check_health(deployment: Deployment) -> None:
    """Ask the function itself, by the event that its front door would send. Raises DeployError."""
    address = urlsplit(deployment.outputs.public_url)
    event = {
        "version": "2.0",
        "rawPath": f"{address.path.rstrip('/')}/readyz",
        "rawQueryString": "",
        "headers": {"host": address.netloc, "x-forwarded-proto": "https"},
        "requestContext": {
            "http": {"method": "GET", "path": "/readyz", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}
        },
        "isBase64Encoded": False,
    }
    try:
        answer = _client(deployment, "lambda").invoke(FunctionName=deployment.function, Payload=json.dumps(event))
    except (BotoCoreError, ClientError) as error:
        raise DeployError(f"{deployment.function} cannot be invoked: {error}.") from error
    told = json.loads(answer["Payload"].read() or b"null")
    if answer.get("FunctionError") or not isinstance(told, dict) or told.get("statusCode") != 200:
        raise DeployError(f"{deployment.function} is deployed and not ready: {json.dumps(told)[:600]}")


def _client(deployment: Deployment, service: Any) -> Any:
    return boto3.session.Session(region_name=deployment.outputs.region).client(service)


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """Zappa looks for a virtual environment, and colours its words for terminals only if it is told one."""
    return {**given, "VIRTUAL_ENV": sys.prefix, "PYTHONWARNINGS": "ignore"}


def numbered(lines: Iterable[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
