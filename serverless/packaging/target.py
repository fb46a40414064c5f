"""What a package is built for: a version of Python, a processor, a C library."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.markers import default_environment

from serverless.packaging.errors import PackageError, UnknownNameError

#: Newest glibc that a runtime has, as its minor version: 3.11 runs on Amazon Linux 2, later ones on Amazon Linux 2023.
#: https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtimes.html
_GLIBC = {"python3.11": 26, "python3.12": 34, "python3.13": 34, "python3.14": 34}
_OLDEST_GLIBC = 17
_MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}


@dataclass(frozen=True)
class Target:
    """One kind of machine. python: major and minor version. machine: as `uname -m` says it."""

    name: str
    python: str
    machine: str
    #: Tags that wheels may carry, best first; empty where pip asks the interpreter at hand.
    platforms: tuple[str, ...] = ()

    @property
    def tag(self) -> str:
        """As wheels and extension modules carry it: cp312."""
        return "cp" + self.python.replace(".", "")

    def markers(self) -> dict[str, str]:
        """The values by which this target decides a requirement's marker; pip's own would be those of the host."""
        if not self.platforms:
            return {key: str(value) for key, value in default_environment().items()}
        return {
            "implementation_name": "cpython",
            # AWS keeps a runtime at the newest patch of its minor version.
            "implementation_version": f"{self.python}.99",
            "python_full_version": f"{self.python}.99",
            "python_version": self.python,
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "sys_platform": "linux",
        }


def local() -> Target:
    """The interpreter and the machine at hand, so that what is built runs here."""
    return Target("local", f"{sys.version_info.major}.{sys.version_info.minor}", platform.machine())


def function(runtime: str, architecture: str) -> Target:
    """The Lambda runtime and architecture under the names that AWS gives them."""
    if runtime not in _GLIBC:
        raise UnknownNameError("zappa_settings.json: runtime", runtime, _GLIBC)
    if architecture not in _MACHINES:
        raise UnknownNameError("zappa_settings.json: architecture", architecture, _MACHINES)
    machine = _MACHINES[architecture]
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(_GLIBC[runtime], _OLDEST_GLIBC - 1, -1)]
    return Target("lambda", runtime.removeprefix("python"), machine, (*tags, f"manylinux2014_{machine}"))


def base_settings(root: Path) -> dict[str, Any]:
    """What all stages of zappa_settings.json share."""
    path = root / "zappa_settings.json"
    base: dict[str, Any] = json.loads(path.read_text()).get("base", {})
    missing = {"runtime", "architecture", "django_settings"} - set(base)
    if missing:
        raise PackageError(
            f"{path.name}: base lacks {', '.join(sorted(missing))}. Add it: the package is built for it."
        )
    return base


def read(name: str, root: Path) -> Target:
    """The target of a name: lambda, as zappa_settings.json describes it, or local."""
    if name == "local":
        return local()
    if name != "lambda":
        raise UnknownNameError("target", name, ("lambda", "local"))
    base = base_settings(root)
    return function(base["runtime"], base["architecture"])
