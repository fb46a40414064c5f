"""One boto3 session a process, and its clients, built once, with timeouts that a request or a task can live with.

The endpoint, region and credentials come from the standard AWS environment (AWS_ENDPOINT_URL, AWS_REGION, roles),
so the same code talks to AWS and to the local cloud.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Literal, overload

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sesv2 import SESV2Client
    from mypy_boto3_sqs import SQSClient

#: Every error that a call of a client may raise.
ERRORS = (BotoCoreError, ClientError)

DEFAULT_REGION = "us-east-1"

_CONFIG = Config(
    connect_timeout=5,
    read_timeout=60,
    retries={"mode": "standard", "total_max_attempts": 4},
)
# POST policies and presigned addresses must be signed with version 4.
_S3_CONFIG = _CONFIG.merge(Config(signature_version="s3v4", s3={"payload_signing_enabled": False}))

_MISCONFIGURED = (NoCredentialsError, NoRegionError, ParamValidationError)
_NEVER_ASKED = (EndpointConnectionError, ConnectTimeoutError, *_MISCONFIGURED)
_PASSING_CODES = {
    *("Throttling", "ThrottlingException", "TooManyRequestsException", "SlowDown", "RequestTimeout"),
    *("InternalError", "InternalFailure", "ServiceUnavailable", "RequestTimeTooSkewed", "ExpiredToken"),
}

_lock = threading.Lock()
_clients: dict[tuple[int, str], Any] = {}
_sessions: dict[int, boto3.session.Session] = {}


def region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or DEFAULT_REGION


@overload
def client(service: Literal["s3"]) -> S3Client: ...
@overload
def client(service: Literal["sqs"]) -> SQSClient: ...
@overload
def client(service: Literal["sesv2"]) -> SESV2Client: ...
@overload
def client(service: Literal["dynamodb"]) -> DynamoDBClient: ...
def client(service: str) -> Any:
    """The process's client of a service; thread-safe, and made anew in a forked child.

    A connection that parent and child share would mix their answers, hence one set of clients per process id.
    """
    key = (os.getpid(), service)
    found = _clients.get(key)
    if found is not None:
        return found
    with _lock:
        if key not in _clients:
            session = _sessions.setdefault(os.getpid(), boto3.session.Session(region_name=region()))
            config = _S3_CONFIG if service == "s3" else _CONFIG
            _clients[key] = session.client(service, config=config)  # type: ignore[call-overload]
        return _clients[key]


def is_passing(error: BaseException | None) -> bool:
    """Whether a call is worth another try: throttling, errors on AWS's side, a connection that failed."""
    if isinstance(error, ClientError):
        answer = error.response
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or answer.get("Error", {}).get("Code") in _PASSING_CODES
    return isinstance(error, BotoCoreError) and not isinstance(error, _MISCONFIGURED)


def certainly_refused(error: BaseException | None) -> bool:
    """Whether AWS certainly did not act: it answered with a refusal, or was never reached.

    After a connection that broke, or an error on AWS's side, it may have acted.
    """
    if isinstance(error, ClientError):
        return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) < 500
    return isinstance(error, _NEVER_ASKED)


def _forget_parents_clients() -> None:
    global _lock  # noqa: PLW0603 - a lock that the parent held at the fork would stay held for ever
    _lock = threading.Lock()
    _clients.clear()
    _sessions.clear()


os.register_at_fork(after_in_child=_forget_parents_clients)
