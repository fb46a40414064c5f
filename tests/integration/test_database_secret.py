"""Database credentials that are rotated while processes live. The last tests need Postgres; CI has it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from django.db import OperationalError, connections
from django.db.backends.postgresql.base import DatabaseWrapper as DjangosWrapper

from django_app.postgresql import base
from django_app.postgresql.base import DatabaseWrapper
from serverless import aws, database
from serverless.database import Credentials, CredentialsError, Secret
from tests.environment import DATABASE_URL

NAME = "rds!cluster-1"


def keep(user: str, password: str) -> None:
    text = json.dumps({"username": user, "password": password, "engine": "postgres"})
    client = aws.client("secretsmanager")
    try:
        client.put_secret_value(SecretId=NAME, SecretString=text)
    except client.exceptions.ResourceNotFoundException:
        client.create_secret(Name=NAME, SecretString=text)


@pytest.fixture
def secret(cloud, monkeypatch) -> Iterator[Secret]:
    monkeypatch.setattr(base, "_secrets", {})
    keep("ada", "one")
    yield base.secret(NAME)
    aws.client("secretsmanager").delete_secret(SecretId=NAME, ForceDeleteWithoutRecovery=True)


def test_a_secret_is_asked_once_and_again_when_it_is_refused(secret, monkeypatch):
    first = secret.credentials()
    assert first == Credentials("ada", "one")
    keep("ada", "two")
    assert secret.credentials() == first
    # During an outage each try to connect fails, and none of them asks.
    assert secret.credentials(not_these=first) == first
    monkeypatch.setattr(database, "_PAUSE_SECONDS", 0)
    assert secret.credentials(not_these=first) == Credentials("ada", "two")


def test_a_secret_is_asked_again_after_a_while_and_after_it_was_forgotten(secret, monkeypatch):
    secret.credentials()
    keep("ada", "two")
    base.forget_secrets()
    assert secret.credentials().password == "two"
    keep("ada", "three")
    monkeypatch.setattr(database, "_KEEP_SECONDS", 0)
    assert secret.credentials().password == "three"


@pytest.mark.parametrize("text", ["hunter2", '"hunter2"', '{"user": "hunter2"}', "[]"])
def test_what_is_no_secret_of_a_database_is_said_without_its_text(secret, text):
    aws.client("secretsmanager").put_secret_value(SecretId=NAME, SecretString=text)
    with pytest.raises(CredentialsError, match='no JSON with "username" and "password"') as caught:
        secret.credentials()
    assert "hunter2" not in str(caught.value)


def test_a_secret_that_is_not_there_is_named(cloud):
    with pytest.raises(CredentialsError, match='DATABASE_SECRET="missing": reading failed'):
        Secret("missing").credentials()


def test_a_password_of_iam_is_made_here_for_host_and_user(cloud):
    token = database.iam_password("db.example", 5432, "web")
    address = urlsplit(f"https://{token}")
    asked = parse_qs(address.query)
    assert (address.netloc, asked["DBUser"], asked["Action"]) == ("db.example:5432", ["web"], ["connect"])
    assert asked["X-Amz-Expires"] == ["900"]


def test_a_connection_by_iam_brings_a_fresh_password(cloud):
    settings = {
        **connections["default"].settings_dict,
        "NAME": "x",
        "HOST": "db.example",
        "PORT": "5432",
        "USER": "web",
    }
    settings |= {"PASSWORD": "", "OPTIONS": {"cloudqueue_iam": True, "cloudqueue_secret": ""}}
    params = DatabaseWrapper(settings).get_connection_params()
    assert params["password"].startswith("db.example:5432/?")
    assert not {"cloudqueue_iam", "cloudqueue_secret"} & set(params)


# With a real server --------------------------------------------------------------------------------------------------


@pytest.fixture
def role() -> Iterator[str]:
    """A role of the server, whose password is "one"."""
    if DATABASE_URL.startswith("sqlite"):
        pytest.skip("SQLite knows no passwords: .ci/with-postgres runs this")
    name = f"web_{secrets.token_hex(4)}"
    with psycopg.connect(DATABASE_URL, autocommit=True) as server:
        if not server.execute("SELECT 1 FROM pg_roles WHERE rolname = 'needs_password'").fetchone():
            server.execute("CREATE ROLE needs_password")
        server.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'one' IN ROLE needs_password")
    yield name
    with psycopg.connect(DATABASE_URL, autocommit=True) as server:
        server.execute(f"DROP ROLE {name}")


@pytest.fixture
def wrapper(role: str, secret: Secret) -> Iterator[DatabaseWrapper]:
    keep(role, "one")
    there = urlsplit(DATABASE_URL)
    settings = {
        **connections["default"].settings_dict,
        "NAME": there.path[1:],
        "HOST": "127.0.0.1",
        "PORT": str(there.port or 5432),
        "USER": "",
        "PASSWORD": "",
        "OPTIONS": {"cloudqueue_secret": NAME, "require_auth": "scram-sha-256"},
    }
    made = DatabaseWrapper(settings)
    yield made
    made.close()


def user_of(wrapper: DatabaseWrapper) -> str:
    with wrapper.cursor() as cursor:
        cursor.execute("SELECT current_user")
        return cursor.fetchone()[0]


def rotate(role: str, password: str) -> None:
    with psycopg.connect(DATABASE_URL, autocommit=True) as server:
        server.execute(f"ALTER ROLE {role} PASSWORD '{password}'")
    keep(role, password)


@pytest.mark.django_db
def test_connections_go_on_through_a_rotation(wrapper, role, monkeypatch):
    monkeypatch.setattr(database, "_PAUSE_SECONDS", 0)
    assert user_of(wrapper) == role
    rotate(role, "two")
    # The open one stays, the next one is refused once and asks.
    assert user_of(wrapper) == role
    wrapper.close()
    assert user_of(wrapper) == role


@pytest.mark.django_db
def test_a_password_that_is_wrong_for_good_is_said_after_one_more_question(wrapper, role, monkeypatch):
    monkeypatch.setattr(database, "_PAUSE_SECONDS", 0)
    opened = []
    real = DjangosWrapper.get_new_connection
    monkeypatch.setattr(
        DjangosWrapper, "get_new_connection", lambda self, params: opened.append(1) or real(self, params)
    )
    keep(role, "wrong")
    with pytest.raises(OperationalError, match="password authentication failed"):
        user_of(wrapper)
    assert len(opened) == 1
