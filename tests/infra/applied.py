"""A stage as Terraform makes it in the local cloud, which is provisioned for a laptop as well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from serverless.deploying import outputs as deploying_outputs
from serverless.deploying.outputs import Outputs
from serverless.local.cloud import ACCESS_KEY_ID, ACCOUNT_ID, REGION, SECRET_ACCESS_KEY
from tests.conftest import ROOT
from tests.infra import calls, terraform
from tests.infra.terraform import Terraform

ORIGIN = "https://dev.example.com"
NAME = "cloudqueue-dev"
RELEASE = "a1b2c3d4"
#: Of a stage that has been deployed, with all that may be asked for and that moto has.
VARIABLES = (
    *("-var-file=envs/dev.tfvars", f"-var=region={REGION}", f"-var=public_url={ORIGIN}/dev"),
    *(f"-var=image={RELEASE}", f"-var=package=packages/{RELEASE}.zip", "-var=mail_from=reports@example.com"),
    *("-var=database={proxy=true}", "-var=monthly_budget_usd=100", '-var=alarm_emails=["ops@example.com"]'),
    *("-var=remote_shell=true", "-var=github_repository=you/shop", "-var=state_bucket=states"),
)
#: Of the environment, what a process of the local cloud must not be told: here is one address for everything, no
#: Postgres, and nobody who holds sockets.
ELSEWHERE = {"AWS_USE_DUALSTACK_ENDPOINT", "DATABASE_SECRET", "DATABASE_MAX_AGE_SECONDS", "SOCKETS_URL"}


def arn_of(queue: str) -> str:
    return f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:{queue}"


@contextmanager
def run_cloud(folder: Path) -> Iterator[str]:
    """The local cloud, as it is provisioned for a laptop, with what Terraform needs; its address."""
    command = [sys.executable, "-m", "tests.infra.moto_for_terraform", "--origin", ORIGIN]
    with (folder / "cloud.log").open("w") as log:
        environment = {**os.environ, calls.VARIABLE: str(folder / "calls")}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready "), f"the cloud did not start: {(folder / 'cloud.log').read_text()[-2000:]}"
        yield line.split()[1]
    finally:
        process.terminate()
        process.wait(30)


@dataclass
class Applied:
    """A stage that Terraform has made.

    url: of the cloud. outputs: as a deploy reads them. said: by `apply` and `output`. calls: a file, see calls.py.
    called: all actions that `apply` has asked for.
    """

    stack: Terraform
    url: str
    outputs: Outputs
    said: str
    calls: Path
    called: set[str] = field(default_factory=set)

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY_ID,
            aws_secret_access_key=SECRET_ACCESS_KEY,
        )

    def apply(self, *arguments: str) -> str:
        """What it said."""
        return self.stack.run("apply", "-auto-approve", "-input=false", "-no-color", *arguments, *VARIABLES).stdout

    def is_unchanged(self) -> bool:
        done = self.stack.run("plan", "-input=false", "-no-color", "-detailed-exitcode", *VARIABLES, expected=None)
        assert done.returncode in (0, 2), done.stdout + done.stderr
        return done.returncode == 0

    def queue(self, name: str) -> dict[str, Any]:
        """A queue's attributes, without its numbers and times; policies as JSON."""
        sqs = self.client("sqs")
        url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
        asked = ["All", "RedriveAllowPolicy"]
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=asked)["Attributes"]
        return {
            key: json.loads(value) if key.endswith("Policy") else value
            for key, value in found.items()
            if "Timestamp" not in key and "Approximate" not in key
        }

    def environment(self, database_url: str) -> dict[str, str]:
        """Of a process of the stage: what the outputs say, an address, a database; the rest is read from SSM."""
        return {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            **{name: value for name, value in self.outputs.environment.items() if name not in ELSEWHERE},
            **self.stack.variables,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "PUBLIC_URL": self.outputs.public_url,
            "DATABASE_URL": database_url,
            "QUEUE_WAIT_SECONDS": "1",
        }

    def bucket(self, name: str) -> str:
        return f"{NAME}-{ACCOUNT_ID}-{name}"


def run_python(environment: Mapping[str, str], code: str) -> str:
    """What a process of the stage printed, with Django set up."""
    prelude = "import django, os; os.environ['DJANGO_SETTINGS_MODULE'] = 'django_app.settings'; django.setup()"
    done = subprocess.run(
        [sys.executable, "-c", f"{prelude}\n{code}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@contextmanager
def applying(folder: Path) -> Iterator[Applied]:
    """A cloud with a stage in it while the block runs. Nobody destroys the stage: the cloud ends."""
    with run_cloud(folder) as url:
        variables = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        stack = terraform.copy(folder, variables)
        made = Applied(stack, url, Outputs(), "", folder / "calls")
        calls.take(made.calls)
        made.said = made.apply()
        made.called = calls.take(made.calls)
        told = stack.outputs()
        made.outputs = deploying_outputs.parse(told, "outputs")
        made.said += told
        yield made
