"""Bodies that are too large for a message: kept in S3, with a claim check in the message.

The envelope keeps headers and properties; in place of the body stands

    "claim-check": {"bucket": ..., "key": "claim-checks/30d/<queue>/<uuid>", "bytes": 1234567, "sha256": ...}

Nothing deletes an object but the bucket's lifecycle: a message may be delivered again, or be dead-lettered, long after.
"""

from __future__ import annotations

import hashlib
import math
import uuid
from typing import Any

from botocore.exceptions import ClientError

from serverless import aws
from serverless.broker.envelope import shorten
from serverless.broker.errors import ClaimCheckError
from serverless.broker.options import ClaimCheckOptions, Options, QueueOptions

KEY = "claim-check"
#: A dead-letter queue keeps a message for 14 days at most, counted from when it was first sent on a standard queue and
#: anew on a FIFO queue; both are allowed for.
_DEAD_LETTER_DAYS = 14
_GONE = {"NoSuchKey", "404", "NotFound", "NoSuchBucket"}


class ClaimChecks:
    """Puts bodies into S3 and fetches them, inside one bucket and prefix."""

    def __init__(self, options: Options, checks: ClaimCheckOptions) -> None:
        self._checks = checks
        self._region = options.region

    @property
    def place(self) -> str:
        return f"s3://{self._checks.bucket}/{self._checks.prefix}"

    @property
    def threshold_bytes(self) -> int:
        return self._checks.threshold_bytes

    @property
    def _s3(self) -> Any:
        return aws.client("s3", f"broker {self._region}", region_name=self._region)

    def check_in(self, envelope: dict[str, Any], queue: QueueOptions, delay_seconds: float) -> dict[str, Any]:
        """The envelope with its body put aside. Raises ClaimCheckError for one that is too large even so."""
        body = (envelope["body"] or "").encode()
        if len(body) > self._checks.largest_bytes:
            raise ClaimCheckError(
                f'queue "{queue.name}": a body of {len(body)} bytes exceeds claim_check.largest_bytes='
                f"{self._checks.largest_bytes}. Put the data into S3 yourself and send its key, or raise the limit."
            )
        key = f"{self._checks.prefix}{self._days(queue, delay_seconds)}d/{queue.name}/{uuid.uuid4()}"
        self._s3.put_object(Bucket=self._checks.bucket, Key=key, Body=body)
        claim = {"bucket": self._checks.bucket, "key": key, "bytes": len(body), "sha256": _sha256(body)}
        return {**envelope, "body": None, KEY: claim}

    def _days(self, queue: QueueOptions, delay_seconds: float) -> int:
        needed = math.ceil(delay_seconds / 86400) + queue.retention_days + _DEAD_LETTER_DAYS
        for days in self._checks.retention_days:
            if days >= needed:
                return days
        raise ClaimCheckError(
            f'queue "{queue.name}": the body must be kept for {needed} days (delay, queue, dead-letter queue), longer '
            f"than the longest of claim_check.retention_days={list(self._checks.retention_days)}. Add a longer class, "
            "with its lifecycle rule, or delay the task by less."
        )

    def fetch(self, envelope: dict[str, Any]) -> dict[str, Any]:
        """The envelope with its body back. Raises ClaimCheckError for good, aws.ERRORS for what may pass."""
        claim = envelope[KEY]
        try:
            bucket, key, size, digest = claim["bucket"], claim["key"], int(claim["bytes"]), claim["sha256"]
        except (TypeError, KeyError, ValueError):
            raise ClaimCheckError(f"the claim check is malformed: {shorten(claim)}") from None
        prefix = self._checks.prefix
        if bucket != self._checks.bucket or not isinstance(key, str) or not key.startswith(prefix) or ".." in key:
            raise ClaimCheckError(
                f"the claim check points outside s3://{self._checks.bucket}/{prefix}: {shorten(claim)}"
            )
        if not 0 <= size <= self._checks.largest_bytes:
            raise ClaimCheckError(
                f"the claim check's size exceeds {self._checks.largest_bytes} bytes: {shorten(claim)}"
            )
        try:
            body = self._s3.get_object(Bucket=bucket, Key=key)["Body"].read(size + 1)
        except ClientError as error:
            if error.response["Error"]["Code"] in _GONE:
                raise ClaimCheckError(f"the message's body is gone: s3://{bucket}/{key} does not exist.") from None
            raise
        if len(body) != size or _sha256(body) != digest:
            raise ClaimCheckError(f"the object s3://{bucket}/{key} is not what was put there: size or hash differ.")
        return {**envelope, "body": body.decode()}


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
