"""Runs what the Dockerfile makes, without an engine: in namespaces of its own where this machine lets us."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.conftest import ROOT
from tests.unit.test_container_image import FINAL, is_let_in, of, stages
from tests.waiting import wait_for

USER = 10001
#: Folders that any machine has, where the box has other things: the code, the packages, a volume for SQLite's file.
CODE, PACKAGES, VOLUME = Path("/srv"), Path("/mnt"), Path("/media")

#: $1: of the code; $2: of the packages; $3: of the volume; $4: the interpreter's own. The rest is run, as process 1.
BOX = """
mount --make-rprivate /
mount --bind "$1" /srv
mount --bind "$2" /mnt
mount --bind "$3" /media
mount -t tmpfs -o mode=755 none /run
home=$(getent passwd 0 | cut -d: -f6)
case "$4" in "$home"/*)
  # Nobody else may look into root's home: of it, the box has the interpreter alone.
  mkdir -p /run/interpreter
  mount --bind "$4" /run/interpreter
  mount -t tmpfs -o mode=755 none "$home"
  mkdir -p "$4"
  mount --bind /run/interpreter "$4"
  mount -o remount,bind,ro "$4" "$4"
esac
(cat /etc/passwd; echo worker:x:10001:10001::/tmp:/usr/sbin/nologin) > /run/passwd
(cat /etc/group; echo worker:x:10001:) > /run/group
mount --bind /run/passwd /etc/passwd
mount --bind /run/group /etc/group
mount -t tmpfs -o mode=1777 none /tmp
mount -o remount,bind,ro /run
mount -o remount,bind,ro /srv
mount -o remount,bind,ro /mnt
mount -o remount,bind,ro /
mount -t proc proc /proc
cd /srv
shift 4
exec "$@"
"""


def has_namespaces() -> bool:
    if os.geteuid() or sys.platform != "linux":
        return False
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False
    )
    return tried.returncode == 0


def without_rights() -> list[str]:
    rights = ["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--clear-groups"]
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", *rights]


@dataclass
class Container:
    """One that runs: its outermost process here, and its log."""

    image: Image
    process: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def first(self) -> psutil.Process:
        """Its process 1."""
        if not self.image.is_boxed:
            return psutil.Process(self.process.pid)
        outermost = psutil.Process(self.process.pid)
        wait_for(outermost.children, "process 1")
        return outermost.children()[0]

    def worker(self) -> psutil.Process:
        (found,) = self.first().children()
        return found

    def tell(self, number: signal.Signals) -> None:
        """As `docker kill` does: to process 1."""
        self.first().send_signal(number)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """As `docker exec` and health checks do: beside what runs."""
        before: list[str] = []
        if self.image.is_boxed:
            inside = ["nsenter", f"--target={self.first().pid}", "--mount", "--pid", f"--wd={CODE}"]
            before = [*inside, *without_rights()]
        return subprocess.run(
            [*before, *self.image.with_environment(command)],
            cwd=self.image.code,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def lines(self) -> list[str]:
        return [line for line in self.text().splitlines() if line.strip()]


@dataclass
class Image:
    """What the Dockerfile makes. variables: what the task definition would add."""

    folder: Path
    python: Path
    variables: dict[str, str]
    is_boxed: bool
    running: list[Container] = field(default_factory=list)

    @property
    def code(self) -> Path:
        return self.folder / "code"

    @property
    def volume(self) -> Path:
        return self.folder / "volume"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    def environment(self) -> dict[str, str]:
        """The image's own and the task's, not this process's."""
        (env,) = of(FINAL, "ENV")
        own = dict(re.findall(r"(\w+)=(\S+)", env.replace("${RELEASE}", "1")))
        packages = PACKAGES if self.is_boxed else self.python.parent.parent
        own["PATH"] = own["PATH"].replace("/opt/venv", str(packages))
        if not self.is_boxed:
            own = {name: value.replace("/tmp", str(self.temporary)) for name, value in own.items()}
            own["TMPDIR"] = str(self.temporary)
        return {**own, **self.variables}

    def with_environment(self, command: Sequence[str]) -> list[str]:
        return ["env", "-i", *(f"{name}={value}" for name, value in self.environment().items()), *command]

    def command(self, arguments: Sequence[str], **variables: str) -> list[str]:
        entry = [*json.loads(of(FINAL, "ENTRYPOINT")[0]), *arguments]
        inside = [*self.with_environment([*(f"{name}={value}" for name, value in variables.items()), *entry])]
        if not self.is_boxed:
            return inside
        packages = self.python.parent.parent
        interpreter = Path(os.path.realpath(self.python)).parent.parent
        box = ["sh", "-ec", BOX, "box", self.code, packages, self.volume, interpreter, *without_rights()]
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", *map(str, box), *inside]

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """A one-off task, which replaces the command and not the entry point."""
        return subprocess.run(
            self.command(arguments, **variables),
            cwd=self.code,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    def start(self, *arguments: str, **variables: str) -> Container:
        log = self.folder / f"{time.monotonic_ns()}.log"
        with log.open("wb") as handle:
            process = subprocess.Popen(
                self.command(arguments, **variables), cwd=self.code, stdout=handle, stderr=subprocess.STDOUT
            )
        self.running.append(Container(self, process, log))
        return self.running[-1]


def install(folder: Path) -> Path:
    """What the build stage installs, as it does."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    (install,) = [each for each in of(stages()[0], "RUN") if "install" in each]
    options = re.search(r" install (.*\.txt)", install)[1].split()
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", *options],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return python


def copy_code(folder: Path, python: Path) -> None:
    """What the build stage copies and compiles; nobody may write to it."""
    for copied in (each.split()[0] for each in of(stages()[0], "COPY")):
        source = ROOT / copied
        for file in [source] if source.is_file() else source.rglob("*"):
            path = file.relative_to(ROOT)
            if file.is_file() and is_let_in(str(path)) and path.parts[0] != "requirements":
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / path)
    compileall = [python, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", folder]
    subprocess.run(compileall, check=True)
    for each in [folder, *folder.rglob("*")]:
        each.chmod(0o555 if each.is_dir() else 0o444)
