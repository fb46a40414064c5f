"""One S3 bucket, with the few operations that Cloudqueue needs."""

from __future__ import annotations

import email.errors
import email.header
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from botocore.exceptions import ClientError

from serverless import aws

#: The form field that carries the user's own file name; S3 puts the name in place of ${filename}.
FILENAME_FIELD = "x-amz-meta-filename"


class ObjectMissingError(LookupError):
    """The bucket holds no such object: it was deleted, or its upload never finished."""

    def __init__(self, bucket: str, key: str) -> None:
        super().__init__(f'bucket "{bucket}" holds no object "{key}": it was deleted or never uploaded.')
        self.bucket = bucket
        self.key = key


@dataclass(frozen=True)
class ObjectInfo:
    """What S3 knows of an object.

    etag: changes with the content; passed back in reads so that one job never mixes two uploads.
    filename: the user's own name for the file, or "".
    """

    size_bytes: int
    etag: str
    filename: str


@dataclass(frozen=True)
class PresignedPost:
    """An HTML form's address and hidden fields; the file field comes last and is called "file"."""

    url: str
    fields: Mapping[str, str]


class Bucket:
    """A bucket by name. Holds no connection: the process's S3 client is looked up at each call, so it is fork-safe."""

    def __init__(self, name: str) -> None:
        self.name = name

    def presigned_post(
        self,
        key: str,
        *,
        smallest_bytes: int,
        largest_bytes: int,
        expires_seconds: int,
        redirect_url: str | None = None,
    ) -> PresignedPost:
        """A form that lets its holder upload exactly one key, within a size range, for a while.

        redirect_url: where S3 sends the browser afterwards, with bucket, key and etag in the query; without it
        S3 answers 204, as a script wants it (a script may not follow a redirect across origins).
        Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html
        """
        fields = {FILENAME_FIELD: "${filename}"}
        conditions: list[Any] = [
            ["content-length-range", smallest_bytes, largest_bytes],
            ["starts-with", f"${FILENAME_FIELD}", ""],
        ]
        if redirect_url is not None:
            fields["success_action_redirect"] = redirect_url
            conditions.append({"success_action_redirect": redirect_url})
        made = aws.client("s3").generate_presigned_post(
            self.name, key, Fields=fields, Conditions=conditions, ExpiresIn=expires_seconds
        )
        return PresignedPost(made["url"], made["fields"])

    def presigned_get(self, key: str, *, filename: str, expires_seconds: int = 300) -> str:
        """An address that downloads one object under a file name, for five minutes unless told otherwise."""
        disposition = f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
        address: str = aws.client("s3").generate_presigned_url(
            "get_object",
            Params={"Bucket": self.name, "Key": key, "ResponseContentDisposition": disposition},
            ExpiresIn=expires_seconds,
        )
        return address

    def info(self, key: str) -> ObjectInfo:
        """Size, etag and the user's file name. Raises ObjectMissingError."""
        with _MissingIsAnError(self.name, key):
            head = aws.client("s3").head_object(Bucket=self.name, Key=key)
        return ObjectInfo(head["ContentLength"], head["ETag"], _decoded(head["Metadata"].get("filename", "")))

    def read(self, key: str, *, start: int = 0, stop: int | None = None, etag: str | None = None) -> bytes:
        """The bytes from start up to, not including, stop; stop=None reads to the end.

        etag: if given, an object that was replaced since then counts as missing.
        Raises ObjectMissingError.
        """
        if stop is not None and stop <= start:
            return b""
        with _MissingIsAnError(self.name, key):
            answer = aws.client("s3").get_object(**self._range(key, start, stop, etag))
            return answer["Body"].read()

    def stream(self, key: str, *, etag: str | None = None, piece_bytes: int = 4 << 20) -> Iterator[bytes]:
        """The whole object in pieces, each a request of its own.

        Raises ObjectMissingError.
        """
        size = self.info(key).size_bytes
        for start in range(0, size, piece_bytes):
            yield self.read(key, start=start, stop=min(start + piece_bytes, size), etag=etag)

    def write(self, key: str, body: bytes, *, content_type: str = "application/octet-stream") -> None:
        aws.client("s3").put_object(Bucket=self.name, Key=key, Body=body, ContentType=content_type)

    def delete_prefix(self, prefix: str) -> int:
        """Delete every object whose key starts with prefix; returns how many. Safe to repeat.

        prefix must end with "/", so that "users/1" never takes "users/10" with it.
        """
        if not prefix.endswith("/") or len(prefix) < 2:
            raise ValueError(
                f'prefix "{prefix}" must name a folder and end with "/", or it would match its neighbours.'
            )
        client, deleted = aws.client("s3"), 0
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
            keys = [item["Key"] for item in page.get("Contents", ())]
            if not keys:
                continue
            answer = client.delete_objects(
                Bucket=self.name, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            )
            if errors := answer.get("Errors"):
                raise RuntimeError(f"{len(errors)} of {len(keys)} objects under {prefix} were not deleted: {errors[0]}")
            deleted += len(keys)
        return deleted

    def keys(self, prefix: str) -> list[str]:
        """The keys under a prefix, in order. For tests and small folders."""
        pages = aws.client("s3").get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def _range(self, key: str, start: int, stop: int | None, etag: str | None) -> dict[str, Any]:
        arguments: dict[str, Any] = {"Bucket": self.name, "Key": key}
        if start or stop is not None:
            arguments["Range"] = f"bytes={start}-" if stop is None else f"bytes={start}-{stop - 1}"
        if etag:
            arguments["IfMatch"] = etag
        return arguments


def _decoded(text: str) -> str:
    """S3 sends metadata that is not ASCII as RFC 2047 words; a user's own name may look like one and be none."""
    try:
        return str(email.header.make_header(email.header.decode_header(text)))
    except (LookupError, ValueError, email.errors.HeaderParseError):
        return text


class _MissingIsAnError:
    """Turns S3's several answers for "not there (any more)" into ObjectMissingError."""

    def __init__(self, bucket: str, key: str) -> None:
        self.bucket, self.key = bucket, key

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ClientError):
            code = error.response.get("Error", {}).get("Code", "")
            if code in {"NoSuchKey", "404", "NotFound", "PreconditionFailed", "412"}:
                raise ObjectMissingError(self.bucket, self.key) from error
