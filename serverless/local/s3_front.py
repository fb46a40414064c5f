"""What S3 enforces and moto does not: POST policies, CORS rules, range reads that read only their range.

A WSGI layer before moto. It answers browser uploads, preflights and range reads itself and leaves the rest to moto.
Sources: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html
         https://docs.aws.amazon.com/AmazonS3/latest/userguide/cors.html
"""

from __future__ import annotations

import base64
import datetime
import email.header
import fnmatch
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from wsgiref.types import StartResponse, WSGIEnvironment
from xml.sax.saxutils import escape

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from werkzeug.formparser import FormDataParser

WSGIApp = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]

#: Form fields that no policy condition has to name.
_UNCHECKED_FIELDS = {"file", "policy", "x-amz-signature", "awsaccesskeyid", "signature"}
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_PIECE_BYTES = 1 << 20


class S3Error(Exception):
    """An error in S3's own words, rendered as its XML."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class S3Front:
    """WSGI middleware around moto.

    secret_access_key: the one key that the local cloud accepts signatures of.
    """

    def __init__(self, moto: WSGIApp, secret_access_key: str) -> None:
        self.moto = moto
        self.secret_access_key = secret_access_key

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        bucket_name, _, key = environ.get("PATH_INFO", "").lstrip("/").partition("/")
        bucket = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets.get(bucket_name) if bucket_name else None
        if bucket is None:
            return self.moto(environ, start_response)
        method, origin = environ["REQUEST_METHOD"], environ.get("HTTP_ORIGIN", "")
        cors = cors_headers(bucket.cors or [], origin, method) if origin else {}
        if method == "OPTIONS":
            return self._preflight(bucket, environ, start_response)
        if method == "POST" and environ.get("CONTENT_TYPE", "").startswith("multipart/form-data"):
            return self._upload(bucket_name, environ, start_response, cors)
        if method == "GET" and "HTTP_RANGE" in environ and key:
            pieces = self._read_range(bucket_name, key, environ, start_response)
            if pieces is not None:
                return pieces
        return self.moto(environ, _with_headers(start_response, cors))

    def _preflight(self, bucket: Any, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        origin = environ.get("HTTP_ORIGIN", "")
        method = environ.get("HTTP_ACCESS_CONTROL_REQUEST_METHOD", "")
        asked = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "")
        headers = cors_headers(bucket.cors or [], origin, method, asked)
        if not headers:
            error = S3Error(403, "AccessForbidden", "CORSResponse: This CORS request is not allowed.")
            return _answer_error(start_response, error, {})
        start_response("200 OK", [*headers.items(), ("Content-Length", "0")])
        return []

    def _upload(
        self, bucket_name: str, environ: WSGIEnvironment, start_response: StartResponse, cors: dict[str, str]
    ) -> list[bytes]:
        _, form, files = FormDataParser().parse_from_environ(environ)
        try:
            if "file" not in files:
                raise S3Error(400, "InvalidArgument", "POST requires exactly one file upload per request.")
            upload = files["file"]
            fields = {name.lower(): value for name, value in form.items()}
            fields = {name: value.replace("${filename}", upload.filename or "") for name, value in fields.items()}
            size = upload.stream.seek(0, 2)
            upload.stream.seek(0)
            check_policy(fields, bucket_name, size, self.secret_access_key, datetime.datetime.now(datetime.UTC))
        except S3Error as error:
            return _answer_error(start_response, error, cors)
        stored = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket_name, fields["key"], upload.stream.read())
        # S3 sends metadata back as RFC 2047 words where it is not ASCII.
        stored.set_metadata(
            {
                name: email.header.Header(value).encode(maxlinelen=10**6)
                for name, value in fields.items()
                if name.startswith("x-amz-meta-")
            }
        )
        headers = {"ETag": stored.etag, "Content-Length": "0", **cors}
        redirect = fields.get("success_action_redirect")
        if redirect:
            parts = urlsplit(redirect)
            query = [*parse_qsl(parts.query), ("bucket", bucket_name), ("key", fields["key"]), ("etag", stored.etag)]
            headers["Location"] = urlunsplit(parts._replace(query=urlencode(query)))
            start_response("303 See Other", list(headers.items()))
        else:
            start_response("204 No Content", list(headers.items()))
        return []

    def _read_range(
        self, bucket_name: str, key: str, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes] | None:
        """moto reads the whole object for each range; this reads the range. None leaves the answer to moto."""
        wanted = _RANGE.fullmatch(environ["HTTP_RANGE"])
        stored = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].get_object(bucket_name, key)
        if wanted is None or stored is None or environ.get("HTTP_IF_MATCH", stored.etag) != stored.etag:
            return None
        start = int(wanted[1])
        size = stored.size
        stop = min(int(wanted[2]) + 1 if wanted[2] else size, size)
        if start >= stop:
            return None
        with stored.lock:
            stored._value_buffer.seek(start)
            body = stored._value_buffer.read(stop - start)
        headers = {
            "Content-Type": "binary/octet-stream",
            "Content-Length": str(len(body)),
            "Content-Range": f"bytes {start}-{stop - 1}/{size}",
            "ETag": stored.etag,
            "Accept-Ranges": "bytes",
        }
        start_response("206 Partial Content", list(headers.items()))
        return [body[at : at + _PIECE_BYTES] for at in range(0, len(body), _PIECE_BYTES)]


def check_policy(
    fields: Mapping[str, str], bucket: str, size_bytes: int, secret_access_key: str, now: datetime.datetime
) -> None:
    """Judge one POST form as S3 does. Raises S3Error with S3's code and words.

    fields: form fields by lower-case name, ${filename} already replaced.
    """
    if "policy" not in fields or "key" not in fields:
        raise S3Error(403, "AccessDenied", "Access Denied")
    _check_signature(fields, secret_access_key)
    policy = json.loads(base64.b64decode(fields["policy"]))
    expires = datetime.datetime.fromisoformat(policy["expiration"].replace("Z", "+00:00"))
    if now >= expires:
        raise S3Error(403, "AccessDenied", "Invalid according to Policy: Policy expired.")
    named = {"bucket"}
    for condition in policy["conditions"]:
        if isinstance(condition, dict):
            rules = [("eq", name, value) for name, value in condition.items()]
        elif condition[0] == "content-length-range":
            _check_size(size_bytes, int(condition[1]), int(condition[2]))
            continue
        else:
            rules = [(condition[0], condition[1].lstrip("$"), condition[2])]
        for kind, written, expected in rules:
            name = written.lower()
            named.add(name)
            actual = bucket if name == "bucket" else fields.get(name, "")
            if not (actual == expected if kind == "eq" else actual.startswith(expected)):
                raise S3Error(
                    403,
                    "AccessDenied",
                    f"Invalid according to Policy: Policy Condition failed: {json.dumps(condition)}",
                )
    extra = sorted(
        name for name in fields if name not in named | _UNCHECKED_FIELDS and not name.startswith("x-ignore-")
    )
    if extra:
        raise S3Error(403, "AccessDenied", f"Invalid according to Policy: Extra input fields: {', '.join(extra)}")


def _check_signature(fields: Mapping[str, str], secret_access_key: str) -> None:
    try:
        _, date, region, service, _ = fields["x-amz-credential"].split("/")
        given = fields["x-amz-signature"]
    except (KeyError, ValueError):
        raise S3Error(403, "AccessDenied", "Access Denied") from None
    signing = f"AWS4{secret_access_key}".encode()
    for part in (date, region, service, "aws4_request"):
        signing = hmac.new(signing, part.encode(), hashlib.sha256).digest()
    expected = hmac.new(signing, fields["policy"].encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, given):
        raise S3Error(
            403,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided.",
        )


def _check_size(size: int, least: int, most: int) -> None:
    if size > most:
        raise S3Error(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
    if size < least:
        raise S3Error(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")


def cors_headers(rules: Iterable[Any], origin: str, method: str, asked_headers: str = "") -> dict[str, str]:
    """The headers of the first rule that allows the request; none where no rule does.

    rules: moto's CORS rules of a bucket. asked_headers: as in Access-Control-Request-Headers.
    """
    wanted = [name.strip().lower() for name in asked_headers.split(",") if name.strip()]
    for rule in rules:
        allowed = [pattern.lower() for pattern in _listed(rule.allowed_headers)]
        if (
            any(fnmatch.fnmatchcase(origin, pattern) for pattern in _listed(rule.allowed_origins))
            and method in _listed(rule.allowed_methods)
            and all(any(fnmatch.fnmatchcase(name, pattern) for pattern in allowed) for name in wanted)
        ):
            headers = {
                "Access-Control-Allow-Origin": origin,
                "Access-Control-Allow-Methods": ", ".join(_listed(rule.allowed_methods)),
                "Vary": "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
            }
            if wanted:
                headers["Access-Control-Allow-Headers"] = ", ".join(wanted)
            if exposed := _listed(rule.exposed_headers):
                headers["Access-Control-Expose-Headers"] = ", ".join(exposed)
            if rule.max_age_seconds:
                headers["Access-Control-Max-Age"] = str(rule.max_age_seconds)
            return headers
    return {}


def _listed(value: str | list[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _with_headers(start_response: StartResponse, headers: dict[str, str]) -> Any:
    """Replace whatever CORS headers moto adds with the rules' own."""

    def start(status: str, given: list[tuple[str, str]], *more: Any) -> Any:
        kept = [(name, value) for name, value in given if not name.lower().startswith("access-control-")]
        return start_response(status, kept + list(headers.items()), *more)

    return start


def _answer_error(start_response: StartResponse, error: S3Error, headers: dict[str, str]) -> list[bytes]:
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{error.code}</Code>'
        f"<Message>{escape(error.message)}</Message></Error>"
    ).encode()
    reason = {400: "Bad Request", 403: "Forbidden"}[error.status]
    own = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    start_response(f"{error.status} {reason}", own + list(headers.items()))
    return [body]
