"""One boto3 session a process, and its clients, built once, with timeouts that a request or a task can live with.

The endpoint, region and credentials come from the standard AWS environment (AWS_ENDPOINT_URL, AWS_REGION, roles),
so the same code talks to AWS and to the local cloud.
"""

from __future__ import annotations

import os
import threading
import time
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
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_scheduler import EventBridgeSchedulerClient
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
_EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException"}
_PASSING_CODES = {
    *("Throttling", "ThrottlingException", "TooManyRequestsException", "SlowDown", "RequestTimeout"),
    *("RequestThrottled", "RequestThrottledException", "OverLimit", "KmsThrottled"),
    *("InternalError", "InternalFailure", "ServiceUnavailable", "RequestTimeTooSkewed"),
    *("ExpiredToken", "ExpiredTokenException"),
}

#: Seconds between two readings of the credentials anew.
_RENEWAL_PAUSE_SECONDS = 10.0

_lock = threading.Lock()
_clients: dict[tuple[int, str, str], Any] = {}
_sessions: dict[int, boto3.session.Session] = {}
_renewed_at = float("-inf")


def region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or DEFAULT_REGION


@overload
def client(service: Literal["s3"], purpose: str = "", **options: Any) -> S3Client: ...
@overload
def client(service: Literal["sqs"], purpose: str = "", **options: Any) -> SQSClient: ...
@overload
def client(service: Literal["sesv2"], purpose: str = "", **options: Any) -> SESV2Client: ...
@overload
def client(service: Literal["dynamodb"], purpose: str = "", **options: Any) -> DynamoDBClient: ...
@overload
def client(service: Literal["scheduler"], purpose: str = "", **options: Any) -> EventBridgeSchedulerClient: ...
@overload
def client(service: Literal["events"], purpose: str = "", **options: Any) -> EventBridgeClient: ...
def client(service: str, purpose: str = "", **options: Any) -> Any:
    """The process's client of a service; thread-safe, and made anew in a forked child.

    A connection that parent and child share would mix their answers, hence one set of clients per process id.
    purpose: tells clients of one service apart; the first call with a purpose decides its options.
    options: of boto3's `client`, such as region_name, endpoint_url; `config` is laid over the timeouts and retries
        that all clients have.
    """
    key = (os.getpid(), service, purpose)
    found = _clients.get(key)
    if found is not None:
        return found
    with _lock:
        if key not in _clients:
            session = _sessions.setdefault(os.getpid(), boto3.session.Session(region_name=region()))
            config = _S3_CONFIG if service == "s3" else _CONFIG
            options["config"] = config.merge(options.get("config") or Config())
            _clients[key] = session.client(service, **options)  # type: ignore[call-overload]
        return _clients[key]


def renew_credentials(error: BaseException) -> bool:
    """If AWS refused the credentials as expired, forget all clients, so that the next ones read them anew.

    boto3 refreshes a role's credentials by itself; what somebody else puts into a file it reads once.
    Returns whether it forgot them; it does so at most once in ten seconds.
    """
    global _renewed_at  # noqa: PLW0603 - one clock a process
    if not isinstance(error, ClientError) or error.response.get("Error", {}).get("Code") not in _EXPIRED_CODES:
        return False
    with _lock:
        if time.monotonic() - _renewed_at < _RENEWAL_PAUSE_SECONDS:
            return False
        _renewed_at = time.monotonic()
        _clients.clear()
        _sessions.clear()
        return True


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


def forget_clients() -> None:
    """Make all clients anew when they are asked for, as a forked child must, and one that goes on from a snapshot."""
    global _lock  # noqa: PLW0603 - a lock that the parent held at the fork would stay held for ever
    _lock = threading.Lock()
    _clients.clear()
    _sessions.clear()


os.register_at_fork(after_in_child=forget_clients)
