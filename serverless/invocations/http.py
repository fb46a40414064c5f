"""HTTP by way of Lambda events: apig-wsgi around an application, with what it leaves to be settled.

Of paths: API Gateway puts its stage before them; the prefix is told, never guessed, and only whole segments count.
Of headers: names with an underscore are dropped, as every server does, since WSGI could not tell X_Forwarded_Proto from
the header that the proxy sets. Of answers: two headers of one name, text that is not UTF-8, and what is too large for
Lambda have an answer everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from apig_wsgi import DEFAULT_NON_BINARY_CONTENT_TYPE_PREFIXES, make_lambda_handler

#: Bytes of JSON that a function may return, and that a load balancer takes of it.
MOST_BYTES = 6 << 20
MOST_BYTES_LOAD_BALANCER = 1 << 20
#: What apig-wsgi adds to a body at most, with status and headers apart.
_ENVELOPE_BYTES = 200
_BODILESS = ("204", "304")
#: Makes apig-wsgi send a body as base64, and says to clients what holds without it.
_AS_BINARY = ("Content-Encoding", "identity")

Json = dict[str, Any]


class LambdaContext(Protocol):
    """What Lambda tells of an invocation."""

    @property
    def aws_request_id(self) -> str: ...

    def get_remaining_time_in_millis(self) -> int: ...


class HttpAdapter:
    """Answers HTTP events with a WSGI application.

    prefix: what the public address has before the application's own paths, such as "/dev"; "" for none.
    trusted_proxies: how many proxies of one's own, such as CloudFront, stand before API Gateway or the load balancer;
        the client's address is taken from X-Forwarded-For as the last of them saw it.
    """

    def __init__(self, application: WSGIApplication, *, prefix: str = "", trusted_proxies: int = 0) -> None:
        self._application = application
        self._prefix = prefix.rstrip("/")
        self._trusted_proxies = trusted_proxies
        self._answer = make_lambda_handler(self._serve, binary_support=True)

    def __call__(self, event: Json, context: LambdaContext) -> Json:
        answer = self._answer(_cleaned(event), context)
        if _is_from_load_balancer(event):
            answer["statusDescription"] = f"{answer['statusCode']} Answered"
        most = MOST_BYTES_LOAD_BALANCER if _is_from_load_balancer(event) else MOST_BYTES
        return answer if _fits(answer, most) else _too_large(answer, most)

    def _serve(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """What apig-wsgi calls: the application with a corrected environ, its answer corrected."""
        self._correct(environ)
        told: list[tuple[str, list[tuple[str, str]]]] = []
        written: list[bytes] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
            if exc_info is not None and told:
                # Some of it may have been taken for the answer already.
                raise exc_info[1].with_traceback(exc_info[2])
            told[:] = [(status, headers)]
            return written.append

        result = self._application(environ, start)
        try:
            written.extend(result)
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        status, headers = told[0]
        body = b"".join(written)
        if environ["REQUEST_METHOD"] == "HEAD" or status.startswith(_BODILESS):
            body = b""
        headers = _joined(headers)
        if _claims_text(headers) and not _is_utf8(body):
            headers.append(_AS_BINARY)
        if "multiValueHeaders" not in environ["apig_wsgi.full_event"]:
            headers = _with_names_of_their_own(headers)
        start_response(status, headers)
        return [body]

    def _correct(self, environ: WSGIEnvironment) -> None:
        event, context = environ["apig_wsgi.full_event"], environ["apig_wsgi.context"]
        path = unquote_to_bytes(_path(event, self._prefix)).decode("latin-1")
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = self._prefix, path
        environ["REMOTE_ADDR"] = self._client_address(event, environ)
        # apig-wsgi joins with commas what came in several headers, and repeats what v2 tells twice.
        cookies = event.get("cookies") or _values(event, "cookie")
        environ.pop("HTTP_COOKIE", None)
        if cookies:
            environ["HTTP_COOKIE"] = "; ".join(cookies)
        for name in ("HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"):
            # They have names of their own.
            environ.pop(name, None)
        environ["SERVER_PORT"] = environ["SERVER_PORT"] or ("443" if environ["wsgi.url_scheme"] == "https" else "80")
        # Whatever a client sends: by this one the function's log lines are found.
        environ["HTTP_X_REQUEST_ID"] = context.aws_request_id

    def _client_address(self, event: Json, environ: WSGIEnvironment) -> str:
        """Nothing of what the client itself may write into X-Forwarded-For counts."""
        hops = [hop.strip() for hop in environ.get("HTTP_X_FORWARDED_FOR", "").split(",") if hop.strip()]
        seen = _source_address(event) or (hops[-1] if hops else "127.0.0.1")
        if self._trusted_proxies:
            return hops[-self._trusted_proxies - 1] if len(hops) > self._trusted_proxies else seen
        return seen


def _path(event: Json, prefix: str) -> str:
    """The path behind the prefix, still as it was sent."""
    if event.get("version") == "2.0":
        sent = [event["rawPath"]]
    else:
        # v1 has the stage in the one of its context alone; a custom domain's base path stands in both.
        sent = [(event.get("requestContext") or {}).get("path") or event["path"], event["path"]]
    for path in sent:
        if prefix and (path == prefix or path.startswith(f"{prefix}/")):
            return path[len(prefix) :] or "/"
    return sent[-1] or "/"


def _source_address(event: Json) -> str:
    context = event.get("requestContext") or {}
    known = context.get("http") if event.get("version") == "2.0" else context.get("identity")
    return str((known or {}).get("sourceIp") or "")


def _cleaned(event: Json) -> Json:
    """Without headers that WSGI would take for others."""
    return {
        **event,
        **{
            field: {name: value for name, value in event[field].items() if "_" not in name}
            for field in ("headers", "multiValueHeaders")
            if event.get(field)
        },
    }


def _values(event: Json, name: str) -> list[str]:
    for given, values in (event.get("multiValueHeaders") or {}).items():
        if given.lower() == name:
            return list(values)
    return [value for given, value in (event.get("headers") or {}).items() if given.lower() == name]


def _joined(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Headers of one name as one, but for cookies: v2 and load balancers know one value a name."""
    cookies, others = [], dict[str, tuple[str, str]]()
    for name, value in headers:
        key = name.lower()
        if key == "set-cookie":
            # Django leaves a space before them.
            cookies.append((name, value.strip()))
        elif key in others:
            others[key] = (others[key][0], f"{others[key][1]}, {value}")
        else:
            others[key] = (name, value)
    return [*others.values(), *cookies]


def _with_names_of_their_own(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Set-Cookie, SET-cookie, ...: a load balancer that takes one value a name takes several cookies like that.

    v2 has a list for them, which apig-wsgi fills whatever their case.
    """
    name = "set-cookie"
    letters = [place for place, letter in enumerate(name) if letter.isalpha()]
    told, number = [], 0
    for given, value in headers:
        if given.lower() != name:
            told.append((given, value))
            continue
        upper = {place for bit, place in enumerate(letters) if number >> bit & 1}
        told.append(("".join(x.upper() if place in upper else x for place, x in enumerate(name)), value))
        number += 1
    return told


def _claims_text(headers: list[tuple[str, str]]) -> bool:
    given = {name.lower(): value for name, value in headers}
    is_text = given.get("content-type", "").startswith(DEFAULT_NON_BINARY_CONTENT_TYPE_PREFIXES)
    return is_text and not given.get("content-encoding")


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_from_load_balancer(event: Mapping[str, Any]) -> bool:
    return "elb" in (event.get("requestContext") or {})


def _fits(answer: Json, most: int) -> bool:
    # A byte of JSON a character at least, six at most: few answers need to be counted in full.
    size = len(answer["body"])
    if size * 6 + _ENVELOPE_BYTES + len(str(answer)) - size < most:
        return True
    return len(json.dumps(answer)) <= most


def _too_large(answer: Json, most: int) -> Json:
    text = (
        f"The answer to this request is larger than the {most >> 20} MiB that AWS Lambda can return here. "
        "Give a presigned link to a file in S3 instead.\n"
    )
    headers = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"}
    told: Json = {"statusCode": 413, "isBase64Encoded": False, "body": text}
    if "multiValueHeaders" in answer:
        told["multiValueHeaders"] = {name: [value] for name, value in headers.items()}
    else:
        told["headers"] = headers
    if "statusDescription" in answer:
        told["statusDescription"] = "413 Answered"
    return told
