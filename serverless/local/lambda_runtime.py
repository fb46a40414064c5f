"""Lambda on this machine: a small server is the Runtime API, and AWS's own runtime client runs the package against it.

What holds in Lambda holds here: one event at a time in a sandbox, which is frozen between two of them; an error in the
handler is told as one; a sandbox that takes too long or dies is replaced; payloads have the same limits. What does not:
memory and CPU are not bounded, and the network is the machine's.

Source: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_API = "/2018-06-01/runtime/"
#: Of an event that waits for its answer, and of the answer.
MOST_PAYLOAD_BYTES = 6 << 20
_INIT_SECONDS = 60.0
#: What the client of the runtime consists of; in Lambda it stands behind the package on the path, as here.
_RUNTIME_MODULES = ("awslambdaric", "runtime_client", "simplejson", "snapshot_restore_py")


class LambdaError(RuntimeError):
    """The function could not be started or asked."""


class InitError(LambdaError):
    """The function's module failed to load. log: what it printed."""

    def __init__(self, message: str, log: str) -> None:
        super().__init__(f"{message}\n{log}")
        self.log = log


class PayloadTooLargeError(LambdaError):
    """Lambda refuses such an event with 413."""


@dataclass(frozen=True)
class Answer:
    """payload: JSON. error: "" or Lambda's word for it ("Unhandled"). log: what was printed meanwhile."""

    payload: bytes
    error: str
    log: str
    seconds: float

    def json(self) -> Any:
        return json.loads(self.payload)


@dataclass
class _Invocation:
    request_id: str
    event: bytes
    deadline_ms: int
    #: (kind, body): "response", "error", or "exit" for a sandbox that is gone.
    answers: queue.Queue[tuple[str, bytes]] = field(default_factory=queue.Queue)


class Sandbox:
    """One process with the function in it.

    code: the unzipped package. python: the interpreter; of the version that the package was made for.
    snapshot: initialise as SnapStart does, so that the hooks after a restore are run.
    layers: folders of modules, behind the package on the path as Lambda's layers are.
    """

    def __init__(
        self,
        code: Path,
        handler: str,
        environment: Mapping[str, str],
        *,
        timeout_seconds: float = 29,
        python: str = sys.executable,
        arn: str = "arn:aws:lambda:us-east-1:123456789012:function:cloudqueue-local",
        snapshot: bool = False,
        layers: Sequence[Path] = (),
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self.init_seconds = 0.0
        self._arn = arn
        self._events: queue.Queue[_Invocation | None] = queue.Queue()
        self._current: _Invocation | None = None
        self._is_idle = threading.Event()
        self._init_error = b""
        self._folder = Path(tempfile.mkdtemp(prefix="cloudqueue-sandbox-"))
        self._log = (self._folder / "log").open("ab")
        self._server = self._serve()
        runtime = _link_runtime(self._folder / "runtime")
        began = time.monotonic()
        self._process = subprocess.Popen(
            [python, "-S", "-m", "awslambdaric", handler],
            cwd=code,
            env={
                **_sandbox_environment(code, handler, arn, snapshot=snapshot),
                "PYTHONPATH": os.pathsep.join(map(str, (code, *layers, runtime))),
                **environment,
                "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_address[1]}",
            },
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            self._await_init()
        except BaseException:
            self.close()
            raise
        self.init_seconds = time.monotonic() - began

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def invoke(self, event: bytes) -> Answer:
        """Have it answer one event. One at a time. Raises PayloadTooLargeError."""
        if len(event) > MOST_PAYLOAD_BYTES:
            raise PayloadTooLargeError(f"the event has {len(event)} bytes, and Lambda takes {MOST_PAYLOAD_BYTES}")
        start_of_log = self._log_size()
        began = time.monotonic()
        asked = _Invocation(str(uuid.uuid4()), event, int((time.time() + self.timeout_seconds) * 1000))
        self._is_idle.clear()
        self._signal(signal.SIGCONT)
        self._current = asked
        self._events.put(asked)
        if not self.is_alive:
            asked.answers.put(("exit", b""))
        try:
            kind, body = asked.answers.get(timeout=self.timeout_seconds)
        except queue.Empty:
            kind, body = "timeout", b""
        seconds = time.monotonic() - began
        if kind == "timeout":
            self._kill()
            reason = f"Task timed out after {self.timeout_seconds:.2f} seconds"
            return self._failed(asked, start_of_log, seconds, reason)
        if kind == "exit":
            status = self._process.wait()
            return self._failed(asked, start_of_log, seconds, f"Runtime exited with status {status}")
        # By then all that it has printed is in the file, and nothing of ours is half done.
        self._is_idle.wait(self.timeout_seconds)
        self._signal(signal.SIGSTOP)
        if kind == "response" and len(body) > MOST_PAYLOAD_BYTES:
            return self._failed(
                asked, start_of_log, seconds, f"Response payload size exceeded maximum allowed ({MOST_PAYLOAD_BYTES})"
            )
        return Answer(body, "Unhandled" if kind == "error" else "", self.log(start_of_log), seconds)

    def log(self, start: int = 0) -> str:
        """What it has printed since."""
        with open(self._log.name, "rb") as file:
            file.seek(start)
            return file.read().decode(errors="replace")

    def close(self) -> None:
        self._kill()
        self._events.put(None)
        self._server.shutdown()
        self._server.server_close()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # The Runtime API -----------------------------------------------------------------------------------------------

    def next_event(self) -> _Invocation | None:
        """What the runtime waits for when it has nothing to do; None when the sandbox ends."""
        self._is_idle.set()
        return self._events.get()

    def take(self, path: str, body: bytes) -> None:
        """What the runtime tells: an answer, an error, or that it could not start."""
        if path == "init/error":
            self._init_error = body
            self._is_idle.set()
            return
        request_id, _, kind = path.removeprefix("invocation/").partition("/")
        current = self._current
        if current is not None and current.request_id == request_id:
            current.answers.put((kind, body))

    @property
    def arn(self) -> str:
        return self._arn

    def _serve(self) -> ThreadingHTTPServer:
        sandbox = self

        class Handler(_RuntimeApi):
            owner = sandbox

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server

    # The process ---------------------------------------------------------------------------------------------------

    def _await_init(self) -> None:
        if not self._is_idle.wait(_INIT_SECONDS):
            raise InitError(f"the function did not start within {_INIT_SECONDS:g} s", self.log())
        if self._init_error:
            told = json.loads(self._init_error)
            raise InitError(f"{told.get('errorType')}: {told.get('errorMessage')}", self.log())
        if not self.is_alive:
            raise InitError(f"the runtime exited with status {self._process.returncode}", self.log())

    def _watch(self) -> None:
        self._process.wait()
        self._is_idle.set()
        current = self._current
        if current is not None:
            current.answers.put(("exit", b""))

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _log_size(self) -> int:
        return os.path.getsize(self._log.name)

    def _failed(self, asked: _Invocation, start_of_log: int, seconds: float, reason: str) -> Answer:
        told = {"errorMessage": f"RequestId: {asked.request_id} Error: {reason}"}
        return Answer(json.dumps(told).encode(), "Unhandled", self.log(start_of_log), seconds)


class _RuntimeApi(BaseHTTPRequestHandler):
    """What the runtime client speaks to."""

    owner: Sandbox
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # One packet an answer: else each waits for the acknowledgement of its head.
    wbufsize = -1

    def do_GET(self) -> None:
        if self.path == f"{_API}restore/next":
            self._send(200)
            return
        if self.path != f"{_API}invocation/next":
            self._send(404)
            return
        event = self.owner.next_event()
        if event is None:
            self._send(410)
            return
        told = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": event.request_id,
            "Lambda-Runtime-Invoked-Function-Arn": self.owner.arn,
            "Lambda-Runtime-Deadline-Ms": str(event.deadline_ms),
            "Lambda-Runtime-Trace-Id": f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]};Sampled=0",
        }
        self._send(200, event.event, told)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.owner.take(self.path.removeprefix(_API), body)
        self._send(202, b'{"status":"OK"}')

    def _send(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

    def log_message(self, *args: object) -> None:
        """Nothing: each request is one event."""


class Function:
    """A package with as many sandboxes as are asked at once, up to a limit. Safe for threads.

    archive: the zip. The rest is as Sandbox has it.
    """

    def __init__(
        self,
        archive: Path,
        handler: str,
        environment: Mapping[str, str],
        *,
        timeout_seconds: float = 29,
        most_sandboxes: int = 4,
        **options: Any,
    ) -> None:
        self.code = _codes.take(archive)
        self._make = partial(Sandbox, self.code, handler, environment, timeout_seconds=timeout_seconds, **options)
        self._free: queue.LifoQueue[Sandbox | None] = queue.LifoQueue()
        for _ in range(most_sandboxes):
            self._free.put(None)

    def invoke(self, event: Any) -> Answer:
        """event: JSON. Raises PayloadTooLargeError, and InitError if a new sandbox cannot be started."""
        payload = event if isinstance(event, bytes) else json.dumps(event).encode()
        sandbox = self._free.get()
        try:
            if sandbox is None or not sandbox.is_alive:
                if sandbox is not None:
                    sandbox.close()
                    sandbox = None
                sandbox = self._make()
            return sandbox.invoke(payload)
        finally:
            self._free.put(sandbox)

    def close(self) -> None:
        while not self._free.empty():
            sandbox = self._free.get()
            if sandbox is not None:
                sandbox.close()
        _codes.give_back(self.code)


class _Codes:
    """Unzipped packages; functions of the same one share it, since nobody may write to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folders: dict[str, Path] = {}
        self._users: Counter[Path] = Counter()

    def take(self, archive: Path) -> Path:
        with archive.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        with self._lock:
            if content not in self._folders:
                folder = Path(tempfile.mkdtemp(prefix="cloudqueue-function-")) / "task"
                unpack(archive, folder)
                self._folders[content] = folder
            self._users[self._folders[content]] += 1
            return self._folders[content]

    def give_back(self, folder: Path) -> None:
        with self._lock:
            self._users[folder] -= 1
            if self._users[folder] > 0:
                return
            self._folders = {content: each for content, each in self._folders.items() if each != folder}
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(folder.parent, ignore_errors=True)


_codes = _Codes()


def unpack(archive: Path, folder: Path) -> None:
    """As Lambda does: what was in the zip, and nobody can add to it."""
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o555)


def _sandbox_environment(code: Path, handler: str, arn: str, *, snapshot: bool) -> dict[str, str]:
    name = arn.rpartition(":")[2]
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "LAMBDA_TASK_ROOT": str(code),
        "_HANDLER": handler,
        "AWS_LAMBDA_FUNCTION_NAME": name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": "local",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start" if snapshot else "on-demand",
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info.major}.{sys.version_info.minor}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _link_runtime(folder: Path) -> Path:
    """The runtime client alone: nothing else of this environment may stand in for what a package lacks."""
    folder.mkdir()
    for name in _RUNTIME_MODULES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise LambdaError(f"{name} is not installed. It is among requirements/dev.txt: run make setup.")
        origin = Path(spec.origin)
        source = origin.parent if origin.name == "__init__.py" else origin
        (folder / source.name).symlink_to(source)
    return folder
