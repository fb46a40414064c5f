"""The whole way: Zappa deploys the package to the local cloud, which runs it, and removes it again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from serverless.local import doors
from serverless.local.cloud import REGION
from serverless.local.doors import Door
from serverless.local.processes import ROOT
from serverless.local.visitor import Visitor
from tasks.topology import TOPOLOGY
from tests.deploying.conftest import PUBLIC_URL, SECRET_KEY
from tests.lambda_events import answered, recorded, request

pytestmark = pytest.mark.package

STAGE = "dev"
PASSWORD = "correct horse"


class Account:
    """The local cloud as an AWS account in which the stage is deployed."""

    def __init__(self, folder: Path, package: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.package = package
        # Nothing of the test process: its broker and its database are others.
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **environment}
        self.variables = {
            name: environment[name]
            for name in (
                *("DATABASE_URL", "QUEUE_URL_PREFIX", "FILES_BUCKET", "DEFAULT_FROM_EMAIL"),
                *("SCHEDULE_GROUP", "SCHEDULE_ROLE_ARN", "SCHEDULE_DEAD_LETTER_ARN"),
            )
        }
        self._endpoint = environment["AWS_ENDPOINT_URL"]
        self.client("iam").create_role(RoleName="cloudqueue-dev-web", AssumeRolePolicyDocument="{}")
        for bucket in ("artifacts", "static-files"):
            self.client("s3").create_bucket(Bucket=bucket)
        dead = self.client("sqs").create_queue(QueueName="dead-events")["QueueUrl"]
        arn = self.client("sqs").get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])
        outputs = {
            "region": REGION,
            "artifacts_bucket": "artifacts",
            "public_url": PUBLIC_URL,
            "static_bucket": "static-files",
            "static_url": "https://static.example",
            "web_environment": {**self.variables, "SETTINGS_PREFIX": "/cloudqueue/dev"},
            "async_dead_letter_arn": arn["Attributes"]["QueueArn"],
        }
        (folder / "outputs.json").write_text(json.dumps({name: {"value": value} for name, value in outputs.items()}))
        # Secrets stand in SSM alone: the function finds them as it starts.
        self.client("ssm").put_parameter(Name="/cloudqueue/dev/SECRET_KEY", Value=SECRET_KEY, Type="SecureString")

    def client(self, service: Any) -> Any:
        return boto3.client(
            service,
            endpoint_url=self._endpoint,
            region_name=REGION,
            aws_access_key_id="local",
            aws_secret_access_key="local",
        )

    def run(self, action: str, *arguments: str, status: int = 0) -> str:
        command = [sys.executable, "-m", "serverless.deploying", action, STAGE, *arguments]
        command += ["--outputs", str(self.folder / "outputs.json"), "--folder", str(self.folder)]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def zappa(self, *arguments: str, status: int = 0) -> str:
        settings = self.folder / STAGE / "zappa_settings.json"
        command = [str(Path(sys.executable).with_name("zappa")), *arguments, "--settings_file", str(settings)]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environment, "VIRTUAL_ENV": sys.prefix},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def invoke(self, event: Any) -> tuple[Any, str]:
        """(payload, error)."""
        answer = self.client("lambda").invoke(FunctionName="cloudqueue-dev", Payload=json.dumps(event))
        return json.loads(answer["Payload"].read()), answer.get("FunctionError", "")


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory, package: Path, site_environment: Mapping[str, str]) -> Account:
    folder = tmp_path_factory.mktemp("account")
    database = f"sqlite:///{folder / 'db.sqlite3'}"
    return Account(folder, package, {**site_environment, "DATABASE_URL": database})


@pytest.fixture(scope="module")
def deployed(account: Account) -> Account:
    """As after `make deploy STAGE=dev` in an empty account."""
    said = account.run("deploy", "--zip", str(account.package), "--yes")
    assert "1. copy new static files to static-files" in said
    assert "2. create the function cloudqueue-dev" in said
    return account


def test_a_deploy_makes_function_front_door_and_rules(deployed):
    function = deployed.client("lambda").get_function_configuration(FunctionName="cloudqueue-dev")
    assert function["Handler"] == "serverless.entrypoints.web.lambda_handler"
    assert (function["Runtime"], function["Timeout"], function["MemorySize"]) == ("python3.12", 29, 1024)
    assert function["Role"].endswith(":role/cloudqueue-dev-web")
    # moto forgets it, so what Zappa was given is looked at.
    given = json.loads((deployed.folder / STAGE / "zappa_settings.json").read_text())[STAGE]
    assert given["dead_letter_arn"].endswith(":dead-events")
    assert "SECRET_KEY" not in function["Environment"]["Variables"]
    [api] = deployed.client("apigateway").get_rest_apis()["items"]
    resources = deployed.client("apigateway").get_resources(restApiId=api["id"])["items"]
    assert {each["path"] for each in resources} == {"/", "/{proxy+}"}
    [rule] = deployed.client("events").list_rules()["Rules"]
    assert (rule["ScheduleExpression"], rule["State"]) == ("rate(1 minute)", "ENABLED")
    [target] = deployed.client("events").list_targets_by_rule(Rule=rule["Name"])["Targets"]
    assert '"kwargs": {"event": "housekeeping"}' in target["InputTransformer"]["InputTemplate"]


def test_a_deploy_brings_the_schedules_that_stand_in_code_to_eventbridge(deployed):
    scheduler = deployed.client("scheduler")
    [listed] = scheduler.list_schedules(GroupName=deployed.variables["SCHEDULE_GROUP"])["Schedules"]
    made = scheduler.get_schedule(GroupName=listed["GroupName"], Name=listed["Name"])
    assert made["ScheduleExpression"] == "cron(17 3 * * ? *)"
    assert made["Target"]["Arn"].endswith(":cloudqueue-low")
    assert "tasks.sessions.clear_expired_sessions" in made["Target"]["Input"]
    # Again finds nothing to do.
    deployed.zappa("manage", STAGE, "schedules sync")
    assert scheduler.list_schedules(GroupName=deployed.variables["SCHEDULE_GROUP"])["Schedules"] == [listed]


@pytest.mark.parametrize("door", ["api_gateway_v1", "api_gateway_v2", "function_url"])
def test_the_site_answers_through_each_door(deployed, door):
    payload, error = deployed.invoke(request(door, path="/sign-in/", headers=[("Host", "site.example")]))
    assert error == ""
    status, headers, body = answered(payload)
    assert status == 200
    assert b"Sign in" in body
    assert any(name == "set-cookie" and "csrftoken=" in value for name, value in headers)


def test_static_files_lie_where_pages_look_for_them(deployed):
    payload, _ = deployed.invoke(request("api_gateway_v1", path="/sign-in/", headers=[("Host", "site.example")]))
    _, headers, page = answered(payload)
    assert "default-src 'self' https://static.example;" in f"{dict(headers)['content-security-policy']};"
    key = re.search(rb'href="https://static.example/(css/site\.[0-9a-f]{12}\.css)"', page)[1].decode()
    found = deployed.client("s3").get_object(Bucket="static-files", Key=key)
    assert (found["ContentType"], found["CacheControl"]) == ("text/css", "public, max-age=31536000, immutable")
    assert b"font" in found["Body"].read()


def test_the_rules_event_does_the_housekeeping(deployed):
    payload, error = deployed.invoke(recorded("eventbridge_rule"))
    assert error == ""
    assert payload["steps_failed"] == payload["steps_skipped"] == 0


def test_what_nobody_handles_fails_aloud(deployed):
    for name in ("sqs", "s3", "eventbridge_rule_of_others"):
        payload, error = deployed.invoke(recorded(name))
        assert error
        assert payload["errorType"] == "UnroutableError"


def test_commands_run_in_the_function_and_others_do_not(deployed):
    assert "no issues" in deployed.zappa("manage", STAGE, "check")
    said = deployed.zappa("manage", STAGE, "shell -c 1", status=1)
    assert "CommandRefusedError" in said
    assert "CommandRefusedError" not in deployed.zappa("manage", STAGE, "migrate --check")
    assert "UnroutableError" in deployed.zappa("invoke", STAGE, "print(1)", "--raw", status=1)


class Gateway(httpx.BaseTransport):
    """Carries requests to the site by way of the function, all others by the network."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.network = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host != "site.example":
            return self.network.handle_request(request)
        path, _, query = request.url.raw_path.decode().partition("?")
        headers = [(name.decode(), value.decode()) for name, value in request.headers.raw]
        asked = doors.Request(request.method, path, query, headers, request.read())
        payload, error = self.account.invoke(doors.event(Door.REST, asked))
        assert not error, payload
        status, told, body = doors.answer(payload)
        return httpx.Response(status, headers=told, content=body, request=request)


def test_a_request_enqueues_what_a_real_worker_finishes(deployed):
    def python(*arguments: str, **variables: str) -> list[str]:
        command = [sys.executable, *arguments]
        subprocess.run(command, cwd=ROOT, env={**deployed.environment, **variables}, check=True, timeout=60)
        return command

    python("manage.py", "demo_user", "demo", DEMO_PASSWORD=PASSWORD)
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "serverless.entrypoints.worker", "--pool", pool, "--concurrency=1"],
            cwd=ROOT,
            env=deployed.environment,
            start_new_session=True,
        )
        for pool in TOPOLOGY.pools
    ]
    try:
        with Visitor(PUBLIC_URL, Gateway(deployed)) as visitor:
            visitor.sign_in("demo", PASSWORD)
            page = visitor.upload("numbers.csv", b"a,b\n" + b"1,2\n" * 500)
            assert visitor.await_end(page).state == "ready"
            answer = visitor.client.get(f"{page}report.pdf")
            assert answer.status_code == 302
            assert visitor.client.get(answer.headers["location"]).content.startswith(b"%PDF")
    finally:
        for worker in workers:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait(10)


def test_an_update_takes_the_new_settings_and_keeps_the_front_door(deployed):
    [before] = deployed.client("apigateway").get_rest_apis()["items"]
    said = deployed.run("deploy", "--zip", str(deployed.package), "--yes")
    assert "2. update the function" in said
    assert "static files: 0 new ones" in said
    [after] = deployed.client("apigateway").get_rest_apis()["items"]
    assert after["id"] == before["id"]
    assert len(deployed.client("events").list_rules()["Rules"]) == 1


def test_maintenance_closes_the_site_and_opens_it_again(deployed):
    asked = request("api_gateway_v1", path="/sign-in/", headers=[("Host", "site.example")])
    deployed.run("maintenance", "on")
    status, headers, body = answered(deployed.invoke(asked)[0])
    assert status == 503
    assert b"being worked on" in body
    assert dict(headers)["retry-after"] == "120"
    probe = request("api_gateway_v1", path="/healthz", headers=[("Host", "site.example")])
    assert answered(deployed.invoke(probe)[0])[0] == 200
    deployed.run("maintenance", "off")
    assert answered(deployed.invoke(asked)[0])[0] == 200


def test_rules_are_taken_away_and_put_back(deployed):
    deployed.zappa("unschedule", STAGE)
    assert deployed.client("events").list_rules()["Rules"] == []
    deployed.zappa("schedule", STAGE)
    assert len(deployed.client("events").list_rules()["Rules"]) == 1


def test_removing_it_leaves_nothing(deployed):
    deployed.run("undeploy", "--yes")
    assert deployed.client("lambda").list_functions()["Functions"] == []
    assert deployed.client("apigateway").get_rest_apis()["items"] == []
    assert deployed.client("events").list_rules()["Rules"] == []
    assert deployed.client("cloudformation").list_stacks(StackStatusFilter=["CREATE_COMPLETE"])["StackSummaries"] == []
    assert "nothing to do" in deployed.run("undeploy", "--yes")
