"""The laptop's whole stack as one object: what `make up`, `make demo` and the tests start."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from serverless.local import cloud
from serverless.local.processes import ROOT, Child, colours, log_line, stop_all
from tasks.topology import TOPOLOGY

#: Of the developer's environment, what the stack takes: never AWS credentials or a foreign Django.
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TERM")

GATEWAY_STAGE = "local"


class StackError(RuntimeError):
    """A part of the stack did not start; the message names it and says what to look at."""


@dataclass(frozen=True)
class LambdaWeb:
    """The web side as Lambda runs it.

    archive: a package for this machine. door: what stands before the function, see serverless.local.doors.
    stage: of API Gateway, which all addresses begin with; "" for none.
    """

    archive: Path
    door: str = "http"
    stage: str = ""


class Stack:
    """Cloud, web, gateway, clock and one worker a pool.

    folder: where database, objects and secrets live.
    web_port: the wanted port; another is taken if it is in use; 0: any.
    overrides: environment variables that differ from the laptop's, such as DATABASE_URL. With another SOCKETS_URL than
    the gateway's, "" for none, there is no gateway.
    web: None for a server that runs the checkout.
    """

    def __init__(
        self,
        folder: Path,
        web_port: int = 8000,
        overrides: Mapping[str, str] | None = None,
        web: LambdaWeb | None = None,
    ) -> None:
        self.folder = folder
        self.web_port = web_port if web_port and _is_free(web_port) else free_port()
        self.web = web
        self.origin = f"http://127.0.0.1:{self.web_port}"
        self.url = f"{self.origin}/{web.stage}" if web is not None and web.stage else self.origin
        self.overrides = dict(overrides or {})
        # Chosen once, so that a gateway that is started again is where its clients look for it.
        self.gateway_port = free_port()
        while self.gateway_port == self.web_port:
            self.gateway_port = free_port()
        self.sockets_url = f"ws://127.0.0.1:{self.gateway_port}/{GATEWAY_STAGE}"
        self.environment: dict[str, str] = {}
        self.children: list[Child] = []
        self.cloud: Child | None = None
        self.cloud_url = ""
        self._ready = threading.Event()

    @property
    def mailbox_url(self) -> str:
        return f"{self.cloud_url}/_mail"

    def start(self) -> None:
        """Start everything and return when the site answers. Raises StackError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # It holds sessions, files and mail; other users of this machine may not read them.
        self.folder.chmod(0o700)
        self._start_cloud()
        self.environment = {
            **self._base_environment(),
            **cloud.environment(self.cloud_url),
            "SECRET_KEY": self._secret("secret-key"),
            "DATABASE_URL": f"sqlite:///{self.folder / 'db.sqlite3'}",
            "PUBLIC_URL": self.url,
            "EXTRA_HOSTS": "localhost",
            "SOCKETS_URL": self.sockets_url,
            "LOG_FORMAT": "console",
            **self.overrides,
        }
        self.manage("migrate", "--verbosity=0")
        # The queues start empty each time, so unfinished work is started again from the database.
        self.manage("housekeeping", "--resume-all")
        python = sys.executable
        self.children = [
            Child("web", self._web_command(), self.environment),
            *(
                Child(
                    pool,
                    [
                        python,
                        "-m",
                        "serverless.entrypoints.worker",
                        "--pool",
                        pool,
                        f"--concurrency={_concurrency(pool)}",
                    ],
                    self.environment,
                    stop_seconds=20,
                )
                for pool in TOPOLOGY.pools
            ),
            Child("clock", self._clock_command(), self.environment),
        ]
        if self.has_gateway:
            self.children.append(Child("gateway", self._gateway_command(), self.environment))
        colours(self.children)
        for child in self.children:
            child.start()
        self._await_site()

    def _web_command(self) -> list[str]:
        port = f"--port={self.web_port}"
        if self.web is not None:
            command = [sys.executable, "-m", "serverless.local.front_door", "--zip", str(self.web.archive), port]
            return [*command, "--door", self.web.door, "--stage", self.web.stage]
        command = [sys.executable, "-m", "uvicorn", "django_app.asgi:application", "--host=127.0.0.1", port]
        return [*command, "--no-access-log", "--lifespan=off", "--log-level=warning", "--timeout-graceful-shutdown=3"]

    @property
    def has_gateway(self) -> bool:
        return self.overrides.get("SOCKETS_URL", self.sockets_url) == self.sockets_url

    def _gateway_command(self) -> list[str]:
        # Its function runs from the checkout, also where the web side runs from a package.
        command = [sys.executable, "-m", "serverless.local.gateway", f"--port={self.gateway_port}"]
        return [*command, f"--stage={GATEWAY_STAGE}"]

    def _clock_command(self) -> list[str]:
        command = [sys.executable, "-m", "serverless.local.clock", "--state", str(self.folder / "clock.json")]
        # Of the web side nothing is deployed to the local cloud: the clock does what its rules would have it do.
        return [*command, "--events", "dev", "--sync"]

    def manage(self, *arguments: str, **variables: str) -> str:
        """Run a management command in the stack's environment; returns what it printed. Raises StackError.

        variables: more of the environment, for what should not stand in a command line.
        """
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StackError(f"manage.py {arguments[0]} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def demo_login(self) -> tuple[str, str]:
        """Name and password of the demo user, made on the first start; the password is random and kept in folder."""
        password = self._secret("demo-password", 6)
        self.manage("demo_user", "demo", DEMO_PASSWORD=password)
        return "demo", password

    def watch(self) -> None:
        """Restart what crashed. Call it often."""
        for child in self.children:
            child.watch()
        if self.cloud is not None and self.cloud.process is not None and not self.cloud.stopping:
            status = self.cloud.process.poll()
            if status is not None:
                # A new cloud would have none of the objects that the database speaks of.
                raise StackError(f"the cloud ended with status {status}, and with it what it held. Start again.")

    def stop(self) -> None:
        """Stop everything: first what uses the cloud, then the cloud, which saves its objects."""
        stop_all(self.children)
        if self.cloud is not None:
            stop_all([self.cloud])

    def child(self, name: str) -> Child:
        return next(child for child in self.children if child.name == name)

    def _start_cloud(self) -> None:
        command = [sys.executable, "-m", "serverless.local.cloud", "--folder", str(self.folder / "cloud")]
        command += ["--origin", self.origin, "--origin", self.origin.replace("127.0.0.1", "localhost")]
        self.cloud = Child("cloud", command, self._base_environment(), stop_seconds=30, on_line=self._hear_cloud)
        self.cloud.start()
        if not _wait_for(lambda: self._ready.is_set() or self.cloud_has_ended(), 60) or not self._ready.is_set():
            self.stop()
            raise StackError("the cloud did not start; its own lines stand above.")

    def cloud_has_ended(self) -> bool:
        return self.cloud is not None and self.cloud.process is not None and self.cloud.process.poll() is not None

    def _hear_cloud(self, line: str) -> None:
        if line.startswith("ready "):
            self.cloud_url = line.split()[1]
            self._ready.set()

    def _await_site(self) -> None:
        web = self.child("web")

        def answers() -> bool:
            self.watch()
            try:
                with urlopen(f"{self.url}/healthz", timeout=2) as answer:
                    return bool(answer.status == 200) and (not self.has_gateway or is_listening(self.gateway_port))
            except (URLError, OSError):
                return False

        if not _wait_for(answers, 60):
            self.stop()
            which = f"{web.name} and gateway" if self.has_gateway else web.name
            raise StackError(f"the site at {self.url} does not answer; lines marked {which} above may say why.")

    def _base_environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        return {**kept, "PYTHONUNBUFFERED": "1", "DJANGO_SETTINGS_MODULE": "django_app.settings"}

    def _secret(self, name: str, size: int = 32) -> str:
        """A random text, made once and kept in a file that only its owner reads."""
        file = self.folder / name
        if not file.exists():
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as handle:
                # Hexadecimal: a text that starts with a hyphen would be taken for an option.
                handle.write(secrets.token_hex(size))
        return file.read_text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    """Whether somebody takes connections on that port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _concurrency(pool: str) -> int:
    """No more child processes than this machine has cores."""
    return min(TOPOLOGY.pools[pool].concurrency, os.cpu_count() or 1)


def _wait_for(condition: object, seconds: float) -> bool:
    """Ask until it holds; False when the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


def raise_on_signals() -> None:
    """Make SIGTERM and SIGHUP end the program as Ctrl-C does, so that everything is stopped in order."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def say(text: str) -> None:
    log_line("up", text, 32)
