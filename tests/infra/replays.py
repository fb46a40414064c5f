"""A call that an SDK makes again, because the first answer was lost with its connection, is answered as it was.

AWS's own services mostly do so. moto does the call once more: a role that was made is then one that exists already.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

#: Calls whose answers are remembered.
_MOST = 5000


@dataclass
class _Call:
    """answer: status, headers, body; None: there was none, or it was an error, which may pass."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    answer: tuple[str, list[tuple[str, str]], bytes] | None = None


class Replaying:
    """WSGI middleware. SDKs name each call, and its repetitions alike, in `amz-sdk-invocation-id`."""

    def __init__(self, inner: Application) -> None:
        self._inner = inner
        self._calls: OrderedDict[str, _Call] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        name = environ.get("HTTP_AMZ_SDK_INVOCATION_ID")
        if not name:
            return self._inner(environ, start_response)
        with self._lock:
            call = self._calls.setdefault(name, _Call())
            while len(self._calls) > _MOST:
                self._calls.popitem(last=False)
        # A repetition that comes while the first is at work waits for its answer.
        with call.lock:
            status, headers, body = call.answer or self._ask(environ)
            if status.startswith("2"):
                call.answer = status, headers, body
        start_response(status, headers)
        return [body]

    def _ask(self, environ: Environ) -> tuple[str, list[tuple[str, str]], bytes]:
        told: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
            told.append((status, headers))

        answer = self._inner(environ, start_response)
        try:
            body = b"".join(answer)
        finally:
            close = getattr(answer, "close", None)
            if close is not None:
                close()
        status, headers = told[-1]
        return status, headers, body
