"""Settings and secrets that are kept in AWS, read once into the environment when a process starts.

SSM's Parameter Store and Secrets Manager are read below one prefix, such as /cloudqueue/production: the last part of a
name is the variable's. What the environment has already stays: a value given to one function or container is its own.
The environment of a function holds no more than 4 KB and is shown to all who may look at it; these are neither.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from botocore.config import Config

from serverless import aws

_NAME = re.compile(r"[A-Z][A-Z0-9_]*\Z")
_PREFIX = re.compile(r"(/[A-Za-z0-9_.-]+)+\Z")
#: A start must fail quickly where the network leads nowhere, and has as yet done nothing that could be lost.
_CONFIG = Config(connect_timeout=2, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 2})


class ParametersError(RuntimeError):
    """The settings could not be read. source: the service. prefix: what was asked for."""

    def __init__(self, source: str, prefix: str, rule: str, remedy: str) -> None:
        super().__init__(f'SETTINGS_PREFIX="{prefix}": {source}: {rule}. {remedy}')
        self.source = source
        self.prefix = prefix


def load(prefix: str, environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Read what stands below the prefix into the environment; the names of those that were set.

    "": nothing is asked. Raises ParametersError.
    """
    if not prefix:
        return []
    if not _PREFIX.match(prefix):
        raise ParametersError("settings", prefix, "a prefix is a path such as /cloudqueue/production", "Correct it.")
    found: dict[str, str] = {}
    for source, read in (("SSM", _parameters), ("Secrets Manager", _secrets)):
        for name, value in _read(source, prefix, read):
            variable = name.removeprefix(f"{prefix}/")
            if not _NAME.match(variable):
                raise ParametersError(
                    source, prefix, f'"{name}" does not end in the name of a variable', "Rename or move it."
                )
            if variable in found:
                raise ParametersError(source, prefix, f'"{variable}" stands in both services', "Delete one of them.")
            found[variable] = value
    if not found:
        raise ParametersError(
            "settings", prefix, "nothing is kept there", "Correct it, or apply infra/terraform first."
        )
    missing = {variable: value for variable, value in found.items() if variable not in environment}
    environment.update(missing)
    return sorted(missing)


def _read(source: str, prefix: str, read: Callable[[str], Iterator[tuple[str, str]]]) -> list[tuple[str, str]]:
    try:
        return list(read(prefix))
    except aws.ERRORS as error:
        remedy = "See that the role may read below that prefix, and that the network leads to the service."
        raise ParametersError(source, prefix, f"reading failed ({error})", remedy) from error


def _parameters(prefix: str) -> Iterator[tuple[str, str]]:
    pages = _client("ssm").get_paginator("get_parameters_by_path")
    for page in pages.paginate(Path=f"{prefix}/", WithDecryption=True):
        for parameter in page["Parameters"]:
            yield parameter["Name"], parameter["Value"]


def _secrets(prefix: str) -> Iterator[tuple[str, str]]:
    asked = {"Filters": [{"Key": "name", "Values": [f"{prefix}/"]}]}
    while True:
        answer = _client("secretsmanager").batch_get_secret_value(**asked)
        for failure in answer.get("Errors", ()):
            remedy = "See that the role may read and decrypt it."
            raise ParametersError("Secrets Manager", prefix, f"{failure.get('SecretId')} is not given", remedy)
        for secret in answer.get("SecretValues", ()):
            # The filter is by words.
            if secret["Name"].startswith(f"{prefix}/") and "SecretString" in secret:
                yield secret["Name"], secret["SecretString"]
        if not answer.get("NextToken"):
            return
        asked = {**asked, "NextToken": answer["NextToken"]}


def _client(service: str) -> Any:
    return aws.client(service, "settings", config=_CONFIG)  # type: ignore[call-overload]
