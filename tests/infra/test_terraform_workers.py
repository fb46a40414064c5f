"""What infra/terraform says of workers and their network, against what our code says: without a cloud."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from serverless.scaling import aws_policies
from serverless.scaling.policy import Limits
from tasks.topology import TOPOLOGY
from tests.conftest import ROOT
from tests.infra import terraform
from tests.infra.rights import MAY
from tests.infra.terraform import HOME, Terraform

pytestmark = pytest.mark.terraform

#: A root that makes the scaling of each case, and asks AWS for nothing.
_SCALING = """
terraform {
  backend "local" {}

  required_providers {
    aws = { source = "hashicorp/aws", version = "~> 5.100" }
  }
}

provider "aws" {
  region                      = "eu-central-1"
  access_key                  = "none"
  secret_key                  = "none"
  skip_credentials_validation = true
  skip_requesting_account_id  = true
  skip_metadata_api_check     = true
}

module "scaling" {
  source   = "./modules/scaling"
  for_each = jsondecode(file("${path.module}/cases.json"))

  name                    = "cloudqueue-dev-${each.key}"
  pool                    = each.key
  cluster                 = "cloudqueue-dev"
  service                 = each.key
  queues                  = each.value.queues
  minimum                 = each.value.minimum
  maximum                 = each.value.maximum
  slots                   = each.value.slots
  prefetch                = each.value.prefetch
  acceptable_wait_seconds = each.value.acceptable_wait_seconds
  mean_task_seconds       = each.value.mean_task_seconds
}
"""
_FIELDS = ("minimum", "maximum", "slots", "prefetch", "acceptable_wait_seconds", "mean_task_seconds")


def cases() -> dict[str, tuple[Limits, list[str]]]:
    """The topology's pools, and others of all kinds; with the queues that each consumes."""
    found = {}
    for name, pool in TOPOLOGY.pools.items():
        queues = TOPOLOGY.queues_of_pool(name)
        limits = Limits(
            pool=name,
            minimum=pool.minimum,
            maximum=pool.maximum,
            slots=pool.concurrency,
            acceptable_wait_seconds=pool.acceptable_wait_seconds,
            mean_task_seconds=pool.mean_task_seconds,
            prefetch=max(queue.prefetch for queue in queues),
        )
        found[name] = (limits, sorted(f"cloudqueue-dev-{queue.name}" for queue in queues))
    dice = random.Random(8)
    for number in range(24):
        minimum = dice.choice([0, 0, 0, 1, 3])
        limits = Limits(
            pool=f"any-{number}",
            minimum=minimum,
            maximum=max(1, minimum + dice.choice([0, 1, 7, 200])),
            slots=dice.choice([1, 2, 3, 8]),
            acceptable_wait_seconds=dice.choice([1, 60, 90, 3600, 100_000]),
            mean_task_seconds=dice.choice([0.05, 0.3, 4, 7.7, 3600]),
            prefetch=dice.choice([1, 10]),
        )
        found[limits.pool] = (limits, [f"cloudqueue-dev-{letter}" for letter in "abcd"[: dice.randint(1, 4)]])
    return found


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By pool and address within its module: what would be made."""
    terraform.require()
    folder = tmp_path_factory.mktemp("scaling")
    stack = terraform.copy(folder)
    for path in stack.home.glob("*.tf"):
        path.unlink()
    (stack.home / "main.tf").write_text(_SCALING)
    told = {
        name: {"queues": queues, **{field: getattr(limits, field) for field in _FIELDS}}
        for name, (limits, queues) in cases().items()
    }
    (stack.home / "cases.json").write_text(json.dumps(told))
    stack.init()
    modules = stack.plan()["planned_values"]["root_module"]["child_modules"]
    found: dict[str, dict[str, Any]] = {}
    for module in modules:
        pool = re.fullmatch(r'module\.scaling\["(.+)"\]', module["address"])[1]
        found[pool] = {
            each["address"].removeprefix(f"{module['address']}."): each["values"] for each in module["resources"]
        }
    return found


def series(queries: list[dict[str, Any]], of: str) -> dict[str, tuple[str, str]]:
    """What each name of the metric math stands for: a metric's name and its queue or service."""
    found = {}
    for query in queries:
        for stat in query[of]:
            metric = stat["metric"][0] if of == "metric_stat" else stat
            named = metric["dimensions"]
            dimensions = {each["name"]: each["value"] for each in named} if of == "metric_stat" else named
            found[query["id"]] = (metric["metric_name"], dimensions.get("QueueName") or dimensions["ServiceName"])
    return found


def wanted_series(pool: str, queues: list[str]) -> dict[str, tuple[str, str]]:
    found = {"desired": ("DesiredTaskCount", pool)}
    for number, queue in enumerate(queues, 1):
        found[f"v{number}"] = ("ApproximateNumberOfMessagesVisible", queue)
        found[f"f{number}"] = ("ApproximateNumberOfMessagesNotVisible", queue)
    return found


@pytest.mark.parametrize("pool", cases())
def test_a_pool_scales_by_the_rules_of_aws_policies(planned, pool):
    limits, queues = cases()[pool]
    rules, made = aws_policies.of(limits, len(queues)), planned[pool]
    target = made["aws_appautoscaling_target.this"]
    assert (target["min_capacity"], target["max_capacity"]) == (rules.minimum, rules.maximum)

    [tracking] = made["aws_appautoscaling_policy.out"]["target_tracking_scaling_policy_configuration"]
    assert tracking["target_value"] == rules.out.target
    assert tracking["disable_scale_in"] is rules.out.disable_scale_in
    assert tracking["scale_out_cooldown"] == rules.out.scale_out_cooldown_seconds
    metrics = tracking["customized_metric_specification"][0]["metrics"]
    [expression] = [each for each in metrics if each["return_data"]]
    assert expression["expression"] == rules.out.expression
    assert series(metrics, "metric_stat") == wanted_series(pool, queues)
    assert {stat["stat"] for each in metrics for stat in each["metric_stat"]} == {"Average"}

    alarms = {name: rule for name in ("wake", "give_back", "sleep") if (rule := getattr(rules, name)) is not None}
    assert {address for address in made if address.startswith("aws_cloudwatch_metric_alarm.")} == {
        f'aws_cloudwatch_metric_alarm.step["{name}"]' for name in alarms
    }
    for name, rule in alarms.items():
        alarm = made[f'aws_cloudwatch_metric_alarm.step["{name}"]']
        [expression] = [each for each in alarm["metric_query"] if each["return_data"]]
        assert expression["expression"] == rule.expression
        assert series(alarm["metric_query"], "metric") == wanted_series(pool, queues)
        assert {metric["period"] for each in alarm["metric_query"] for metric in each["metric"]} == {
            rule.period_seconds
        }
        assert alarm["comparison_operator"] == rule.comparison
        assert alarm["threshold"] == pytest.approx(rule.threshold, abs=1e-9)
        assert alarm["evaluation_periods"] == alarm["datapoints_to_alarm"] == rule.datapoints
        assert alarm["treat_missing_data"] == rule.treat_missing_data
        [step] = made[f'aws_appautoscaling_policy.step["{name}"]']["step_scaling_policy_configuration"]
        assert (step["adjustment_type"], step["cooldown"]) == (rule.adjustment, rule.cooldown_seconds)
        [adjustment] = step["step_adjustment"]
        assert adjustment["scaling_adjustment"] == rule.change
        # A bound that is left out is open: the step is for whatever breaches.
        bounds = (adjustment["metric_interval_lower_bound"] or None, adjustment["metric_interval_upper_bound"] or None)
        assert bounds == (("0", None) if rule.comparison.startswith("Greater") else (None, "0"))


def test_health_user_and_command_are_the_images():
    dockerfile = (ROOT / "Dockerfile").read_text()
    told = re.search(r"^HEALTHCHECK (.+) \\\n\s+CMD (.+)$", dockerfile, re.MULTILINE)
    options = dict(re.findall(r"--([a-z-]+)=(\d+)", told[1]))
    module = (HOME / "modules" / "worker_pool" / "main.tf").read_text()
    for ours, theirs in (
        ("interval", "interval"),
        ("timeout", "timeout"),
        ("retries", "retries"),
        ("startPeriod", "start-period"),
    ):
        assert re.search(rf"^\s+{ours}\s+= (\d+)$", module, re.MULTILINE)[1] == options[theirs]
    command = json.loads(re.search(r"command\s+= (\[\"CMD\".+\])", module)[1])
    assert command == ["CMD", *json.loads(told[2])]
    user = re.search(r"^USER (\S+)$", dockerfile, re.MULTILINE)[1]
    assert f'container_user = "{user}"' in (HOME / "containers.tf").read_text()
    assert re.search(r'^VOLUME \["/tmp"\]$', dockerfile, re.MULTILINE)


# Routes ----------------------------------------------------------------------------------------------------------------

#: Of an action's first part, where the table calls the service otherwise.
_SERVICES = {"ecs": "ecs", "ses": "ses"}
#: Lambda's and Fargate's own calls, which do not go through the network.
_NOT_BY_NETWORK = {"ec2", "iam", "logs"}
#: What a role's code is called in the table.
_CALLERS = {"web": "web", "worker": "worker", "sockets": "sockets", "tools": "worker", "execution": "platform"}


def callers() -> dict[str, set[str]]:
    """The table of routes.tf: who calls which service."""
    table = (HOME / "routes.tf").read_text()
    rows = re.findall(r"^\s+([a-z0-9-]+)\s+= \{ callers = (.+?), has_gateway", table, re.MULTILINE)
    return {name: set(re.findall(r'"(\w+)"', told)) for name, told in rows}


@pytest.mark.parametrize("role", _CALLERS)
def test_whatever_a_role_calls_stands_in_the_table_of_routes(role):
    table = callers()
    called = {action.split(":")[0] for actions, _ in MAY[role] for action in actions} - _NOT_BY_NETWORK
    # Task protection is asked of the agent beside the container.
    if role == "worker":
        called -= {"ecs"}
    # A function's failed events are Lambda's to send.
    if role == "sockets":
        called -= {"sqs"}
    assert {service for service in called if _CALLERS[role] not in table.get(service, set())} == set()


def test_every_service_that_our_code_makes_a_client_of_stands_in_the_table():
    names = {"sesv2": "ses", "apigatewaymanagementapi": "execute-api"}
    made = set()
    for folder in ("serverless", "tasks", "django_app"):
        for path in (ROOT / folder).rglob("*.py"):
            # Of a laptop and of whoever deploys: neither runs in the network.
            if {"local", "deploying", "packaging", "fakesqs"} & set(path.relative_to(ROOT).parts):
                continue
            made |= set(re.findall(r"""client\(\s*["']([a-z0-9-]+)["']""", path.read_text()))
    # A token for the database is made without asking anybody.
    made -= {"rds"}
    assert made >= {"sqs", "s3", "ssm", "secretsmanager"}
    assert {names.get(each, each) for each in made} - set(callers()) == set()


def test_a_service_without_a_route_fails_the_plan(tmp_path):
    terraform.require()
    made: Terraform = terraform.copy(tmp_path)
    routes: Path = made.home / "routes.tf"
    said = routes.read_text()
    changed = re.sub(r"(\n\s+scheduler\s+= \{.*has_ipv6 = )true", r"\1false", said)
    assert changed != said
    routes.write_text(changed)
    told = made.run("test", "-no-color", "-filter=tests/network.tftest.hcl", expected=1)
    assert "reaches no scheduler, whose calls would hang" in " ".join((told.stdout + told.stderr).split())
