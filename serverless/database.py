"""Who signs in to the database: the name and password of a secret that may be rotated at any time, or a role by IAM.

Both are asked for when a connection is opened, so that a rotation needs no deploy and no restart.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import Any

from botocore.config import Config

from serverless import aws

#: Seconds that a secret is used without asking again. One that has been rotated is asked for as soon as it fails.
_KEEP_SECONDS = 300.0
#: Pause between two questions after refusals: during an outage of the database every try to connect fails.
_PAUSE_SECONDS = 2.0
_CONFIG = Config(connect_timeout=2, read_timeout=3)


class CredentialsError(RuntimeError):
    """The secret could not be read, or is none of a database."""


@dataclass(frozen=True)
class Credentials:
    """Of one connection."""

    user: str
    password: str


class Secret:
    """A secret of Secrets Manager as RDS keeps them: JSON with username and password. Safe for threads and forks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._kept: Credentials | None = None
        self._asked_at = float("-inf")

    def credentials(self, not_these: Credentials | None = None) -> Credentials:
        """The present ones. not_these: what has just been refused. Raises CredentialsError."""
        with self._lock:
            age = time.monotonic() - self._asked_at
            is_refused = self._kept == not_these and age > _PAUSE_SECONDS
            if self._kept is None or is_refused or age > _KEEP_SECONDS:
                self._kept = self._ask()
                self._asked_at = time.monotonic()
            return self._kept

    def forget(self) -> None:
        """Ask again next time, as a process must that goes on from a snapshot."""
        with self._lock:
            self._kept = None

    def _ask(self) -> Credentials:
        client = aws.client("secretsmanager", "database", config=_CONFIG)  # type: ignore[call-overload]
        try:
            kept: Any = json.loads(client.get_secret_value(SecretId=self.name)["SecretString"])
            return Credentials(str(kept["username"]), str(kept["password"]))
        except aws.ERRORS as error:
            raise CredentialsError(
                f'DATABASE_SECRET="{self.name}": reading failed ({error}). See that the role may read it.'
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            # Its text is a secret.
            raise CredentialsError(
                f'DATABASE_SECRET="{self.name}" is no JSON with "username" and "password". Correct the secret.'
            ) from (None if isinstance(error, ValueError) else error)


def iam_password(host: str, port: int, user: str) -> str:
    """What signs that role in for the next fifteen minutes. Made here, without a call."""
    client = aws.client("rds", "database", config=_CONFIG)  # type: ignore[call-overload]
    token: str = client.generate_db_auth_token(DBHostname=host, Port=port, DBUsername=user, Region=aws.region())
    return token
