"""The site as Lambda runs it: HTTP on a port of this machine, turned into events for the package.

    python -m serverless.local.front_door --zip build/cloudqueue-web.zip --port 8000 [--door rest] [--stage dev]

The function's environment is this process's own. `make lambda` starts it beside the rest of the laptop's stack.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

from serverless.local import doors
from serverless.local.doors import Door
from serverless.local.lambda_runtime import Function, LambdaError, PayloadTooLargeError

HANDLER = "serverless.entrypoints.web.lambda_handler"
#: What a load balancer, and API Gateway before it, takes of a request.
_MOST_REQUEST_BYTES = {Door.ALB: 1 << 20, Door.ALB_LISTS: 1 << 20}
#: Of this process, what is no business of the function's.
_NOT_FOR_THE_FUNCTION = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PATH", "PYTHONUNBUFFERED"}


class FrontDoor:
    """A WSGI application in front of a function. What an invocation prints is printed.

    scheme: in which the site is visited.
    """

    def __init__(self, function: Function, door: Door, stage: str = "", scheme: str = "http") -> None:
        self._function = function
        self._door = door
        self._stage = stage
        self._scheme = scheme

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status, headers, body = self._ask(environ)
        headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
        start_response(f"{status} {'OK' if status < 400 else 'Error'}", [*headers, ("Content-Length", str(len(body)))])
        return [body]

    def _ask(self, environ: WSGIEnvironment) -> tuple[int, doors.Headers, bytes]:
        prefix = f"/{self._stage}" if self._stage else ""
        target = environ["REQUEST_URI"]
        path, _, query = (target.decode("latin-1") if isinstance(target, bytes) else target).partition("?")
        if prefix and path != prefix and not path.startswith(f"{prefix}/"):
            # As API Gateway says it where there is no such stage.
            return 403, [("Content-Type", "application/json")], b'{"message":"Forbidden"}'
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if length > _MOST_REQUEST_BYTES.get(self._door, 10 << 20):
            return _refused(413, "Request Too Long")
        request = doors.Request(
            method=environ["REQUEST_METHOD"],
            path=path[len(prefix) :] or "/",
            query=query,
            headers=_headers(environ),
            body=environ["wsgi.input"].read(length) if length else b"",
            address=environ.get("REMOTE_ADDR", "127.0.0.1"),
            scheme=self._scheme,
            stage=self._stage,
        )
        try:
            answered = self._function.invoke(doors.event(self._door, request))
        except PayloadTooLargeError:
            return _refused(413, "Request Too Long")
        except LambdaError as error:
            sys.stderr.write(f"{error}\n")
            return _refused(502, "Internal server error")
        sys.stdout.write(answered.log)
        sys.stdout.flush()
        if answered.error:
            sys.stderr.write(answered.payload.decode(errors="replace") + "\n")
            return _refused(502, "Internal server error")
        try:
            return doors.answer(answered.json())
        except ValueError as error:
            sys.stderr.write(f"{error}\n")
            return _refused(502, "Internal server error")


def _refused(status: int, message: str) -> tuple[int, doors.Headers, bytes]:
    return status, [("Content-Type", "application/json")], f'{{"message":"{message}"}}'.encode()


def _headers(environ: WSGIEnvironment) -> doors.Headers:
    found = [
        (name.removeprefix("HTTP_").replace("_", "-").title(), value)
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    for name, key in (("Content-Type", "CONTENT_TYPE"), ("Content-Length", "CONTENT_LENGTH")):
        if environ.get(key):
            found.append((name, environ[key]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zip", type=Path, required=True, help="a package that was built for this machine")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--door", type=Door, choices=list(Door), default=Door.HTTP, help="what stands before Lambda")
    parser.add_argument("--stage", default="", help="API Gateway's stage, which all addresses then begin with")
    parser.add_argument("--sandboxes", type=int, default=4, help="how many requests are answered at once")
    parser.add_argument("--timeout", type=float, default=29, help="seconds that an invocation may take")
    options = parser.parse_args()

    from cheroot.wsgi import Server

    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_THE_FUNCTION}
    function = Function(
        options.zip, HANDLER, environment, timeout_seconds=options.timeout, most_sandboxes=options.sandboxes
    )
    site = FrontDoor(function, options.door, options.stage)
    server = Server(("127.0.0.1", options.port), site, numthreads=2 * options.sandboxes)
    server.prepare()
    # The first visitor need not wait, and a package that cannot start is told here.
    threading.Thread(target=_warm, args=(function,), daemon=True).start()
    print(f"ready http://127.0.0.1:{server.bind_addr[1]}", flush=True)
    try:
        server.serve()
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()
        function.close()


def _warm(function: Function) -> None:
    try:
        function.invoke(doors.event(Door.URL, doors.Request("GET", "/healthz", "", [("Host", "localhost")])))
    except LambdaError as error:
        sys.stderr.write(f"{error}\n")


if __name__ == "__main__":
    main()
