"""Terraform as a test runs it: a copy of infra/terraform, a state of its own, the provider from a folder.

TF_PLUGIN_DIR names the folder that holds `registry.terraform.io/hashicorp/aws/...`, as `terraform providers mirror` makes
one; so nothing is fetched.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

HOME = ROOT / "infra" / "terraform"
#: Of the copy: the state is a file beside it.
_LOCAL_STATE = 'terraform {\n  backend "local" {}\n}\n'


def missing() -> str:
    """What this machine lacks, as a sentence; "" if nothing."""
    if shutil.which("terraform") is None:
        return "there is no terraform: install 1.11 or newer"
    folder = os.environ.get("TF_PLUGIN_DIR", "")
    if not folder:
        return "TF_PLUGIN_DIR is not set: name a folder that `terraform providers mirror` has made"
    if not (Path(folder) / "registry.terraform.io" / "hashicorp" / "aws").is_dir():
        return f'TF_PLUGIN_DIR="{folder}" holds no registry.terraform.io/hashicorp/aws: make it with `terraform providers mirror`'
    return ""


def require() -> None:
    """Skips, loudly, where Terraform or its provider is missing; fails in CI."""
    reason = missing()
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@dataclass
class Terraform:
    """A copy of infra/terraform with what it reads beside it: the topology, and Zappa's settings.

    root: the copy of the repository's root. variables: of the environment of each command.
    """

    root: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.root / "infra" / "terraform"

    @property
    def topology(self) -> Path:
        return self.root / "tasks" / "topology.json"

    def run(self, *arguments: str, expected: int | None = 0) -> subprocess.CompletedProcess[str]:
        """One command; fails unless it exits as expected (None: however it likes)."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        own = {
            "TF_IN_AUTOMATION": "1",
            "TF_CLI_CONFIG_FILE": os.devnull,
            "CHECKPOINT_DISABLE": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        done = subprocess.run(
            ["terraform", f"-chdir={self.home}", *arguments],
            env={**kept, **own, **self.variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert expected is None or done.returncode == expected, done.stdout[-6000:] + done.stderr
        return done

    def init(self) -> None:
        self.run(
            "init", "-input=false", "-no-color", "-lockfile=readonly", f"-plugin-dir={os.environ['TF_PLUGIN_DIR']}"
        )

    def outputs(self) -> str:
        """As serverless.deploying reads them."""
        return self.run("output", "-json").stdout

    def state(self) -> list[str]:
        """Addresses of what it has made."""
        return self.run("state", "list").stdout.split()

    def plan(self, *arguments: str) -> dict[str, Any]:
        """A plan, as JSON."""
        self.run("plan", "-input=false", "-no-color", "-out=plan", *arguments)
        told: dict[str, Any] = json.loads(self.run("show", "-json", "plan").stdout)
        return told


def copy(folder: Path, variables: Mapping[str, str] | None = None) -> Terraform:
    """A copy below the folder, ready to be used."""
    made = Terraform(folder, variables or {})
    shutil.copytree(HOME, made.home, ignore=shutil.ignore_patterns(".terraform", "*.tfstate*"))
    made.topology.parent.mkdir()
    shutil.copy(ROOT / "tasks" / "topology.json", made.topology)
    shutil.copy(ROOT / "zappa_settings.json", folder)
    (made.home / "backend_override.tf").write_text(_LOCAL_STATE)
    made.init()
    return made
