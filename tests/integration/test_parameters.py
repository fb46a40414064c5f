"""Settings and secrets from AWS: read once, complete, and with a clear word where that fails."""

from __future__ import annotations

import socket
import time

import pytest

from serverless import aws, parameters
from serverless.parameters import ParametersError

PREFIX = "/cloudqueue/test"


@pytest.fixture
def kept(cloud):
    """Put settings there; both services are emptied afterwards."""
    ssm, secrets = aws.client("ssm"), aws.client("secretsmanager")

    def keep(name: str, value: str, *, is_secret: bool = False) -> None:
        if is_secret:
            secrets.create_secret(Name=name, SecretString=value)
        else:
            ssm.put_parameter(Name=name, Value=value, Type="SecureString")

    yield keep
    for parameter in ssm.describe_parameters()["Parameters"]:
        ssm.delete_parameter(Name=parameter["Name"])
    for secret in secrets.list_secrets()["SecretList"]:
        secrets.delete_secret(SecretId=secret["Name"], ForceDeleteWithoutRecovery=True)


def test_without_a_prefix_nothing_is_asked():
    environment: dict[str, str] = {}
    assert parameters.load("", environment) == []
    assert environment == {}


def test_all_that_stands_below_the_prefix_becomes_the_environment(kept):
    # More than one page of each service.
    for number in range(13):
        kept(f"{PREFIX}/PARAMETER_{number}", f"value {number}")
    for number in range(23):
        kept(f"{PREFIX}/SECRET_{number}", f"secret {number}", is_secret=True)
    kept("/cloudqueue/testing/OTHER", "of another installation")
    kept("/cloudqueue/testing/OTHER_SECRET", "as well", is_secret=True)
    environment = {"PARAMETER_3": "the function's own"}
    set_ = parameters.load(PREFIX, environment)
    assert len(set_) == 35
    assert "PARAMETER_3" not in set_
    assert environment["PARAMETER_3"] == "the function's own"
    assert (environment["PARAMETER_12"], environment["SECRET_22"]) == ("value 12", "secret 22")
    assert not {"OTHER", "OTHER_SECRET"} & set(environment)


@pytest.mark.parametrize(
    ("name", "told"),
    [("lower", '"/cloudqueue/test/lower" does not end in the name of a variable'), ("a/B", "does not end in the name")],
)
def test_what_is_no_variable_is_named(kept, name, told):
    kept(f"{PREFIX}/{name}", "x", is_secret=True)
    with pytest.raises(ParametersError, match=told):
        parameters.load(PREFIX, {})


def test_a_name_that_stands_in_both_services_is_refused(kept):
    kept(f"{PREFIX}/SECRET_KEY", "one")
    kept(f"{PREFIX}/SECRET_KEY", "other", is_secret=True)
    with pytest.raises(ParametersError, match='"SECRET_KEY" stands in both services'):
        parameters.load(PREFIX, {})


def test_an_empty_prefix_is_a_mistake(kept):
    with pytest.raises(ParametersError, match=r'SETTINGS_PREFIX="/cloudqueue/test": settings: nothing is kept there'):
        parameters.load(PREFIX, {})


@pytest.mark.parametrize("prefix", ["cloudqueue", "/", "/a//b", "/a b", "arn:aws:ssm:x"])
def test_a_prefix_that_is_no_path_is_refused_before_anything_is_asked(prefix):
    with pytest.raises(ParametersError, match="a prefix is a path such as /cloudqueue/production"):
        parameters.load(prefix, {})


def test_a_service_that_does_not_answer_is_said_within_seconds(cloud, monkeypatch):
    """A black hole: somebody who listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        aws.forget_clients()
        began = time.monotonic()
        with pytest.raises(ParametersError, match="SSM: reading failed"):
            parameters.load(PREFIX, {})
        assert time.monotonic() - began < 15
    aws.forget_clients()
