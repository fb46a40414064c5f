"""The backend: DATABASES["default"]["ENGINE"] = "django_app.postgresql".

OPTIONS["cloudqueue_secret"]: the secret with user and password. OPTIONS["cloudqueue_iam"]: sign in by IAM as USER.
"""

from __future__ import annotations

from typing import Any

import psycopg
import structlog
from django.db.backends.postgresql import base

from serverless import database

log = structlog.get_logger(__name__)

_secrets: dict[str, database.Secret] = {}


def secret(name: str) -> database.Secret:
    """The process's copy of a secret."""
    return _secrets.setdefault(name, database.Secret(name))


def forget_secrets() -> None:
    for each in _secrets.values():
        each.forget()


class DatabaseWrapper(base.DatabaseWrapper):
    """Asks for the credentials as a connection is opened, and once more if they are refused."""

    def get_connection_params(self) -> dict[str, Any]:
        params: dict[str, Any] = super().get_connection_params()
        secret_name, is_iam = params.pop("cloudqueue_secret", ""), params.pop("cloudqueue_iam", False)
        if is_iam:
            params["password"] = database.iam_password(params["host"], int(params["port"]), params["user"])
        elif secret_name:
            params.update(_of(secret(secret_name).credentials()))
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        try:
            return super().get_new_connection(conn_params)
        except psycopg.OperationalError:
            name = self.settings_dict["OPTIONS"].get("cloudqueue_secret", "")
            if not name:
                raise
            refused = database.Credentials(conn_params["user"], conn_params["password"])
            present = secret(name).credentials(not_these=refused)
            if present == refused:
                raise
            log.info("database_secret_rotated", secret=name)
        return super().get_new_connection({**conn_params, **_of(present)})


def _of(credentials: database.Credentials) -> dict[str, str]:
    return {"user": credentials.user, "password": credentials.password}
