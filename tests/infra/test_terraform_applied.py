"""infra/terraform applied to the local cloud: what is there, what it may do, a task's way through it, and nothing left.

Read in order: the last test destroys it.
"""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.fernet import Fernet

from serverless.broker.options import ClaimCheckOptions
from serverless.local.cloud import ACCOUNT_ID, NAMES_ARGUMENTS, REGION
from serverless.websockets import table
from tasks.topology import TOPOLOGY
from tests.conftest import ROOT
from tests.infra import calls, costs, terraform
from tests.infra.applied import NAME, ORIGIN, RELEASE, VARIABLES, Applied, applying, arn_of, run_python
from tests.infra.rights import (
    ANY_LOGS,
    API,
    GROUP,
    HERE,
    MAY,
    NAMELESS,
    NETWORK,
    PASSWORD,
    QUEUES,
    TRUSTS,
    may,
    statements,
)
from tests.waiting import wait_for

pytestmark = pytest.mark.terraform


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Applied]:
    terraform.require()
    with applying(tmp_path_factory.mktemp("applied")) as made:
        yield made


def test_applying_again_would_change_nothing(applied):
    assert applied.is_unchanged()


# What is there ---------------------------------------------------------------------------------------------------------


def refusal(arn: str) -> dict[str, Any]:
    """What each queue's own policy says, and no more."""
    return {
        "Sid": "RefusePlainHttp",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "sqs:*",
        "Resource": arn,
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


def local_twin(name: str) -> str:
    """What the laptop's cloud calls a queue of Terraform's."""
    return NAMES_ARGUMENTS["queue_prefix"] + name.removeprefix(f"{NAME}-")


def as_on_the_laptop(found: dict[str, Any]) -> dict[str, Any]:
    """Without what AWS alone needs and what the provider sets by itself, by the laptop's names."""
    extra = ("Policy", "RedriveAllowPolicy", "SqsManagedSseEnabled", "MaximumMessageSize")
    kept = {key: value for key, value in found.items() if key not in extra}
    renamed: dict[str, Any] = json.loads(json.dumps(kept).replace(f":{NAME}-", f":{NAMES_ARGUMENTS['queue_prefix']}"))
    return renamed


@pytest.mark.parametrize("name", TOPOLOGY.queues)
def test_a_queue_is_as_the_laptops(applied, name):
    for each in (f"{NAME}-{name}", f"{NAME}-{name}-dead"):
        found, twin = applied.queue(each), applied.queue(local_twin(each))
        assert as_on_the_laptop(found) == as_on_the_laptop(twin)
    assert int(found["MessageRetentionPeriod"]) == 14 * 86400


@pytest.mark.parametrize("name", TOPOLOGY.queues)
def test_a_queue_is_encrypted_and_refuses_plain_http(applied, name):
    for each in (f"{NAME}-{name}", f"{NAME}-{name}-dead"):
        found = applied.queue(each)
        assert found["SqsManagedSseEnabled"] == "true"
        assert found["Policy"]["Statement"] == [refusal(arn_of(each))]


@pytest.mark.parametrize("name", TOPOLOGY.queues)
def test_a_message_that_is_no_claim_check_fits(applied, name):
    """The provider sets 256 KiB, and refuses more."""
    largest = int(applied.queue(f"{NAME}-{name}")["MaximumMessageSize"])
    assert ClaimCheckOptions(bucket="any").threshold_bytes <= largest


@pytest.mark.parametrize("name", TOPOLOGY.queues)
def test_no_other_queue_may_dead_letter_where_one_does(applied, name):
    allowed = applied.queue(f"{NAME}-{name}-dead")["RedriveAllowPolicy"]
    assert allowed == {"redrivePermission": "byQueue", "sourceQueueArns": [arn_of(f"{NAME}-{name}")]}


def test_dead_letter_queues_that_nobody_consumes_are_as_the_laptops(applied):
    twin = applied.queue(NAMES_ARGUMENTS["schedule_dead_letter_queue"])
    for kind, arn in (
        ("schedules", applied.outputs.environment["SCHEDULE_DEAD_LETTER_ARN"]),
        ("invocations", applied.outputs.dead_letter_arn),
    ):
        found = applied.queue(f"{NAME}-{kind}-dead")
        assert found["QueueArn"] == arn
        assert found["MessageRetentionPeriod"] == twin["MessageRetentionPeriod"]
        assert found["RedriveAllowPolicy"] == {"redrivePermission": "denyAll"}
        assert found["SqsManagedSseEnabled"] == "true"


def test_there_is_no_queue_that_the_topology_does_not_declare(applied):
    urls = applied.client("sqs").list_queues(QueueNamePrefix=f"{NAME}-")["QueueUrls"]
    wanted = {part for queue in TOPOLOGY.queues.values() for part in (queue.name, queue.dead_letter_name)}
    wanted |= {"schedules-dead", "invocations-dead", "mail-failed"}
    assert {url.rpartition("/")[2].removeprefix(f"{NAME}-") for url in urls} == wanted


def test_the_bucket_of_files_expires_claim_checks_as_the_laptops_does(applied):
    s3 = applied.client("s3")
    found, twin = (
        {rule["ID"]: rule for rule in s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]}
        for bucket in (applied.bucket("files"), NAMES_ARGUMENTS["bucket"])
    )
    incomplete = found.pop("incomplete-uploads")
    assert incomplete["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert "Expiration" not in incomplete
    assert found == twin


def test_pages_of_the_sites_origin_alone_may_upload_as_on_the_laptop(applied):
    s3 = applied.client("s3")
    found, twin = (
        [{key: rule[key] for key in rule if key != "ID"} for rule in s3.get_bucket_cors(Bucket=bucket)["CORSRules"]]
        for bucket in (applied.bucket("files"), NAMES_ARGUMENTS["bucket"])
    )
    assert found == twin
    assert found[0]["AllowedOrigins"] == [ORIGIN]


@pytest.mark.parametrize("name", ["files", "artifacts"])
def test_a_bucket_is_encrypted_closed_and_refuses_plain_http(applied, name):
    s3, bucket = applied.client("s3"), applied.bucket(name)
    rule = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert set(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values()) == {True}
    owners = s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"]
    assert owners == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    [statement] = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
    assert statement["Effect"] == "Deny"
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert sorted(statement["Resource"]) == [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]


def test_the_table_of_sockets_is_as_the_library_defines_it(applied):
    dynamodb, name = applied.client("dynamodb"), f"{NAME}-sockets"
    found, wanted = dynamodb.describe_table(TableName=name)["Table"], table.definition(name)
    assert found["KeySchema"] == wanted["KeySchema"]
    assert found["BillingModeSummary"]["BillingMode"] == wanted["BillingMode"]
    by_name = {each["AttributeName"]: each for each in found["AttributeDefinitions"]}
    assert by_name == {each["AttributeName"]: each for each in wanted["AttributeDefinitions"]}
    assert not found.get("GlobalSecondaryIndexes")
    living = dynamodb.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    assert living == {"TimeToLiveStatus": "ENABLED", "AttributeName": table.TTL_ATTRIBUTE}


def test_a_deploy_reads_the_outputs(applied):
    found = applied.outputs
    assert (found.region, found.public_url) == (REGION, f"{ORIGIN}/dev")
    assert found.artifacts_bucket == applied.bucket("artifacts")
    stages = json.loads((ROOT / "zappa_settings.json").read_text())
    assert found.role_name == stages["dev"]["role_name"]
    assert (found.static_bucket, found.static_url) == ("", "")
    assert set(found.environment) == {
        "QUEUE_URL_PREFIX",
        "FILES_BUCKET",
        "SCHEDULE_GROUP",
        "SCHEDULE_ROLE_ARN",
        "SCHEDULE_DEAD_LETTER_ARN",
        "SETTINGS_PREFIX",
        "DATABASE_URL",
        "DATABASE_SECRET",
        "DATABASE_MAX_AGE_SECONDS",
        "SOCKETS_URL",
        "SOCKETS_TABLE",
        "AWS_USE_DUALSTACK_ENDPOINT",
    }
    for queue in TOPOLOGY.queues.values():
        for name in (queue.name, queue.dead_letter_name):
            url = applied.client("sqs").get_queue_url(QueueName=f"{NAME}-{name}")["QueueUrl"]
            assert found.environment["QUEUE_URL_PREFIX"] + name == url


# Network and database --------------------------------------------------------------------------------------------------


def test_the_web_function_is_put_into_private_subnets_of_two_zones(applied):
    ec2 = applied.client("ec2")
    subnets = ec2.describe_subnets(SubnetIds=list(applied.outputs.subnet_ids))["Subnets"]
    assert len({subnet["AvailabilityZone"] for subnet in subnets}) == 2
    for subnet in subnets:
        assert not subnet["MapPublicIpOnLaunch"]
        [table] = ec2.describe_route_tables(
            Filters=[{"Name": "association.subnet-id", "Values": [subnet["SubnetId"]]}]
        )["RouteTables"]
        ways = {
            each.get("DestinationIpv6CidrBlock") or each.get("DestinationCidrBlock"): each for each in table["Routes"]
        }
        assert ways["::/0"]["EgressOnlyInternetGatewayId"]
        assert "0.0.0.0/0" not in ways


def test_nobody_may_call_functions_and_workers_and_they_call_https_and_postgres_alone(applied):
    ec2 = applied.client("ec2")
    groups = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [f"{NAME}-*"]}])["SecurityGroups"]
    by_name = {group["GroupName"].removeprefix(f"{NAME}-"): group for group in groups}
    assert set(by_name) == {"web", "worker", "sockets", "shell", "proxy", "database"}
    for name in ("web", "worker", "sockets"):
        assert by_name[name]["IpPermissions"] == []
        assert {rule["FromPort"] for rule in by_name[name]["IpPermissionsEgress"]} == {443, 5432}
        assert not [rule for rule in by_name[name]["IpPermissionsEgress"] if rule["IpRanges"]]
    assert [group["GroupId"] for group in groups if group["GroupName"] == f"{NAME}-web"] == list(
        applied.outputs.security_group_ids
    )
    [callers] = by_name["database"]["IpPermissions"]
    assert [pair["GroupId"] for pair in callers["UserIdGroupPairs"]] == [by_name["proxy"]["GroupId"]]


def test_there_is_no_endpoint_that_would_shadow_the_sockets(applied):
    names = [each["ServiceName"] for each in applied.client("ec2").describe_vpc_endpoints()["VpcEndpoints"]]
    assert sorted(name.rsplit(".", 1)[1] for name in names) == ["dynamodb", "s3", "ssmmessages"]


def test_the_database_is_reached_by_the_proxy_with_a_password_that_nobody_typed(applied):
    [proxy] = applied.client("rds").describe_db_proxies()["DBProxies"]
    assert proxy["RequireTLS"]
    url = applied.outputs.environment["DATABASE_URL"]
    assert url == f"postgres://{proxy['Endpoint']}:5432/cloudqueue?sslmode=require"
    assert proxy["Auth"][0]["SecretArn"] == applied.outputs.environment["DATABASE_SECRET"]
    secret = applied.client("secretsmanager").get_secret_value(SecretId=applied.outputs.environment["DATABASE_SECRET"])
    assert json.loads(secret["SecretString"])["password"] not in applied.said


# Workers and sockets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", TOPOLOGY.pools)
def test_a_pool_has_a_service_that_scales_as_the_topology_says(applied, pool):
    ecs, wanted = applied.client("ecs"), TOPOLOGY.pools[pool]
    [service] = ecs.describe_services(cluster=NAME, services=[pool])["services"]
    assert service["desiredCount"] == wanted.minimum
    [provider] = service["capacityProviderStrategy"]
    assert provider["capacityProvider"] == ("FARGATE_SPOT" if wanted.spot else "FARGATE")
    assert service["deploymentConfiguration"]["deploymentCircuitBreaker"] == {"enable": True, "rollback": True}
    task = ecs.describe_task_definition(taskDefinition=service["taskDefinition"])["taskDefinition"]
    assert (task["cpu"], task["memory"]) == (str(wanted.cpu_units), str(wanted.memory_mib))
    assert task["taskRoleArn"].endswith(f"role/{NAME}-worker")
    [container] = task["containerDefinitions"]
    assert container["image"].endswith(f".dkr-ecr.{REGION}.on.aws/{NAME}-worker:{RELEASE}")
    told = {each["name"]: each["value"] for each in container["environment"]}
    assert told == {**applied.outputs.environment, "PUBLIC_URL": applied.outputs.public_url}
    scaling = applied.client("application-autoscaling")
    [target] = scaling.describe_scalable_targets(ServiceNamespace="ecs", ResourceIds=[f"service/{NAME}/{pool}"])[
        "ScalableTargets"
    ]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (wanted.minimum, wanted.maximum)


def test_scaling_keeps_the_number_that_somebody_else_has_set(applied):
    applied.client("ecs").update_service(cluster=NAME, service="general", desiredCount=3)
    assert applied.is_unchanged()
    applied.client("ecs").update_service(cluster=NAME, service="general", desiredCount=0)


def test_sockets_are_a_stage_that_calls_the_function(applied):
    gateway, functions = applied.client("apigatewayv2"), applied.client("lambda")
    [api] = gateway.get_apis()["Items"]
    assert applied.outputs.environment["SOCKETS_URL"] == f"{api['ApiEndpoint']}/dev"
    assert api["ApiEndpoint"].startswith("wss://")
    routes = {route["RouteKey"]: route for route in gateway.get_routes(ApiId=api["ApiId"])["Items"]}
    assert set(routes) == {"$connect", "$default", "$disconnect"}
    function = functions.get_function(FunctionName=f"{NAME}-sockets")["Configuration"]
    assert function["Handler"] == "serverless.entrypoints.websocket.handler"
    assert function["Environment"]["Variables"]["SOCKETS_TABLE"] == f"{NAME}-sockets"
    for each in gateway.get_integrations(ApiId=api["ApiId"])["Items"]:
        assert function["FunctionArn"] in each["IntegrationUri"]
    stages = json.loads((ROOT / "zappa_settings.json").read_text())["base"]
    assert (function["Runtime"], function["Architectures"]) == (stages["runtime"], [stages["architecture"]])


def test_mail_that_fails_comes_to_a_queue(applied):
    sns, ses = applied.client("sns"), applied.client("ses")
    told = ses.describe_configuration_set(
        ConfigurationSetName=NAME, ConfigurationSetAttributeNames=["eventDestinations"]
    )["EventDestinations"][0]
    assert set(told["MatchingEventTypes"]) == {"bounce", "complaint", "reject"}
    topic = told["SNSDestination"]["TopicARN"]
    [subscription] = sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("sqs", arn_of(f"{NAME}-mail-failed"))
    sns.publish(TopicArn=topic, Message='{"notificationType": "Bounce"}')
    sqs = applied.client("sqs")
    url = sqs.get_queue_url(QueueName=f"{NAME}-mail-failed")["QueueUrl"]
    [message] = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
    assert json.loads(message["Body"]) == {"notificationType": "Bounce"}


def test_alarms_tell_whoever_is_to_be_told(applied):
    alarms = applied.client("cloudwatch").describe_alarms(AlarmNamePrefix=NAME, MaxRecords=100)["MetricAlarms"]
    for alarm in alarms:
        assert alarm["TreatMissingData"] in ("breaching", "notBreaching", "ignore"), alarm["AlarmName"]
        [action] = alarm["AlarmActions"]
        assert action.endswith(f":{NAME}-alarms") or ":scalingPolicy:" in action
    topics = [each["TopicArn"] for each in applied.client("sns").list_topics()["Topics"]]
    [topic] = [arn for arn in topics if arn.endswith(f":{NAME}-alarms")]
    told = applied.client("sns").list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    assert [each["Endpoint"] for each in told] == ["ops@example.com"]


def test_alarms_cost_what_the_page_says(applied):
    """CloudWatch charges for each metric that an alarm looks at."""
    alarms = applied.client("cloudwatch").describe_alarms(AlarmNamePrefix=NAME, MaxRecords=100)["MetricAlarms"]
    found = sum(sum("MetricStat" in each for each in alarm.get("Metrics", [])) or 1 for alarm in alarms)
    # Target tracking makes an alarm of its own, on AWS alone.
    of_tracking = sum(2 * len(TOPOLOGY.queues_of_pool(pool)) + 1 for pool in TOPOLOGY.pools)
    assert found == costs.telling_metrics(proxy=True) + costs.scaling_metrics() - of_tracking


# Secrets ---------------------------------------------------------------------------------------------------------------


def parameters(applied: Applied) -> dict[str, dict[str, Any]]:
    path = f"{applied.outputs.environment['SETTINGS_PREFIX']}/"
    told = applied.client("ssm").get_parameters_by_path(Path=path, WithDecryption=True)["Parameters"]
    return {each["Name"].removeprefix(path): each for each in told}


def test_secrets_are_made_and_stand_in_no_state_and_no_output(applied):
    made = parameters(applied)
    assert {name: each["Type"] for name, each in made.items()} == {
        "SECRET_KEY": "SecureString",
        "RUN_KEYS": "SecureString",
        "DEFAULT_FROM_EMAIL": "String",
        "METRICS": "String",
        "METRICS_NAMESPACE": "String",
    }
    assert re.fullmatch(r"[A-Za-z0-9]{64}", made["SECRET_KEY"]["Value"])
    assert Fernet(made["RUN_KEYS"]["Value"]).decrypt(Fernet(made["RUN_KEYS"]["Value"]).encrypt(b"run")) == b"run"
    told = applied.said + "".join(path.read_text(errors="replace") for path in applied.stack.home.glob("*.tfstate*"))
    assert "reports@example.com" in told
    for name in ("SECRET_KEY", "RUN_KEYS"):
        assert made[name]["Value"] not in told
        assert base64.b64encode(made[name]["Value"].encode()).decode() not in told


def test_a_key_that_is_put_before_by_hand_stays(applied):
    old = parameters(applied)["RUN_KEYS"]
    by_hand = f"{Fernet.generate_key().decode()},{old['Value']}"
    applied.client("ssm").put_parameter(Name=old["Name"], Value=by_hand, Type="SecureString", Overwrite=True)
    assert applied.is_unchanged()
    applied.apply()
    assert parameters(applied)["RUN_KEYS"]["Value"] == by_hand


def test_the_secret_key_is_made_anew_when_its_version_is_raised(applied):
    before = parameters(applied)
    applied.apply("-var=secrets_version=2")
    after = parameters(applied)
    assert after["SECRET_KEY"]["Value"] != before["SECRET_KEY"]["Value"]
    assert after["RUN_KEYS"]["Value"] == before["RUN_KEYS"]["Value"]
    applied.apply()


# Rights ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", MAY)
def test_a_role_may_what_its_code_does_and_nothing_else(applied, role):
    rules = [rule for rule in statements(applied, role) if rule["Effect"] == "Allow"]
    wanted = {(action, resource) for actions, resources in MAY[role] for action in actions for resource in resources}
    assert not [each for each in sorted(wanted) if not may(rules, *each)]
    granted = {action for rule in rules for action in rule["Action"]}
    assert granted == {action for action, _ in wanted}
    # Of all that anybody may: not by this role, unless it is its own.
    all_roles = {
        (action, resource)
        for each in MAY.values()
        for actions, _ in each
        for action in actions
        for _, resources in each
        for resource in resources
        if resource != "*" and action not in NAMELESS
    }
    assert {each for each in all_roles if may(rules, *each)} == {each for each in wanted if each[0] not in NAMELESS}


@pytest.mark.parametrize("role", MAY)
def test_a_role_is_given_no_wildcards_and_reaches_no_other_stage(applied, role):
    for rule in statements(applied, role):
        if rule["Effect"] == "Deny":
            continue
        assert not [action for action in rule["Action"] if "*" in action]
        if set(rule["Action"]) <= NAMELESS:
            assert rule["Resource"] == ["*"]
            continue
        for resource in rule["Resource"]:
            is_ours = NAME in resource or "/cloudqueue/dev" in resource or ":identity/" in resource
            is_ours = is_ours or f":{API}/dev/" in resource or resource == PASSWORD
            assert is_ours, resource
            assert ACCOUNT_ID in resource
            tail = resource.removesuffix("*")
            assert "*" not in tail
            assert tail == resource or tail[-1] in "/:", f"{resource} takes what begins alike, such as another stage's"


def test_nobody_but_its_own_service_becomes_a_role_and_only_for_this_account(applied):
    iam = applied.client("iam")
    trusts = {
        role: iam.get_role(RoleName=f"{NAME}-{role}")["Role"]["AssumeRolePolicyDocument"]["Statement"] for role in MAY
    }
    assert set(TRUSTS) == set(MAY)
    for role, service in TRUSTS.items():
        [trust] = trusts[role]
        assert trust["Principal"] == {"Service": f"{service}.amazonaws.com"}
        assert trust["Action"] == "sts:AssumeRole"
    assert trusts["scheduler"][0]["Condition"] == {
        "StringEquals": {"aws:SourceAccount": ACCOUNT_ID, "aws:SourceArn": GROUP}
    }
    for role in ("worker", "tools", "execution"):
        assert trusts[role][0]["Condition"] == {
            "StringEquals": {"aws:SourceAccount": ACCOUNT_ID},
            "ArnLike": {"aws:SourceArn": f"arn:aws:ecs:{HERE}:*"},
        }


def test_a_functions_own_code_may_not_do_what_lambda_does_for_it(applied):
    for role in ("web", "sockets"):
        [refusal] = [rule for rule in statements(applied, role) if rule["Effect"] == "Deny"]
        assert set(refusal["Action"]) == NETWORK
        assert refusal["Condition"] == {
            "ArnLike": {"lambda:SourceFunctionArn": f"arn:aws:lambda:{HERE}:function:{NAME}*"}
        }
    assert not [
        rule for role in set(MAY) - {"web", "sockets"} for rule in statements(applied, role) if rule["Effect"] == "Deny"
    ]


def test_api_gateways_role_writes_logs_and_no_more(applied):
    [rule] = statements(applied, "api-gateway")
    assert set(rule["Action"]) == ANY_LOGS | {"logs:CreateLogStream", "logs:PutLogEvents"}


def test_there_is_no_role_that_nobody_looked_at(applied):
    roles = {role["RoleName"].removeprefix(f"{NAME}-") for role in applied.client("iam").list_roles()["Roles"]}
    assert roles == {*MAY, "api-gateway", "deploy"}


# Whoever deploys -------------------------------------------------------------------------------------------------------

#: Everybody may ask who they are. What follows is a person's, once: a role cannot give itself rights.
FREE = {"sts:GetCallerIdentity"}
BY_A_PERSON = {
    *("iam:CreatePolicy", "iam:DeletePolicy", "iam:AttachRolePolicy", "iam:DetachRolePolicy"),
    *(
        "iam:CreateOpenIDConnectProvider",
        "iam:DeleteOpenIDConnectProvider",
        "iam:TagPolicy",
        "iam:ListEntitiesForPolicy",
    ),
}


def rights_of_deploys(applied: Applied) -> list[dict[str, Any]]:
    """All that the policies of the role say that deploys."""
    iam, found = applied.client("iam"), []
    for attached in iam.list_attached_role_policies(RoleName=f"{NAME}-deploy")["AttachedPolicies"]:
        version = iam.get_policy(PolicyArn=attached["PolicyArn"])["Policy"]["DefaultVersionId"]
        told = iam.get_policy_version(PolicyArn=attached["PolicyArn"], VersionId=version)["PolicyVersion"]["Document"]
        assert len(re.sub(r"\s", "", json.dumps(told))) <= 6144, "AWS takes no more"
        found += told["Statement"]
    return found


def granted_to_deploys(applied: Applied) -> set[str]:
    return {
        action
        for rule in rights_of_deploys(applied)
        if rule["Effect"] == "Allow"
        for action in ([rule["Action"]] if isinstance(rule["Action"], str) else rule["Action"])
    }


def test_a_deploy_may_do_whatever_applying_has_called(applied):
    assert len(applied.called) > 120
    assert applied.called - granted_to_deploys(applied) - FREE - BY_A_PERSON == set()


def test_a_deploy_is_given_no_wildcard_of_actions_and_cannot_change_itself(applied):
    assert not [action for action in granted_to_deploys(applied) if "*" in action]
    [refusal] = [rule for rule in rights_of_deploys(applied) if rule["Effect"] == "Deny"]
    assert refusal["Resource"] == f"arn:aws:iam::{ACCOUNT_ID}:role/{NAME}-deploy"
    assert {"iam:PutRolePolicy", "iam:AttachRolePolicy", "iam:UpdateAssumeRolePolicy"} <= set(refusal["Action"])
    assert not BY_A_PERSON & granted_to_deploys(applied)


def test_a_workflow_of_the_stages_environment_alone_becomes_it(applied):
    role = applied.client("iam").get_role(RoleName=f"{NAME}-deploy")["Role"]
    [trust] = role["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Action"] == "sts:AssumeRoleWithWebIdentity"
    assert trust["Condition"] == {
        "StringEquals": {
            "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
            "token.actions.githubusercontent.com:sub": "repo:you/shop:environment:dev",
        }
    }


def test_the_web_side_may_pass_its_role_to_the_scheduler_alone(applied):
    [rule] = [rule for rule in statements(applied, "web") if "iam:PassRole" in rule["Action"]]
    assert rule["Condition"] == {"StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}}
    assert rule["Resource"] == [applied.outputs.environment["SCHEDULE_ROLE_ARN"]]


def test_mail_goes_out_under_the_stages_address_alone(applied):
    [rule] = [rule for rule in statements(applied, "worker") if "ses:SendEmail" in rule["Action"]]
    assert rule["Condition"] == {"StringEquals": {"ses:FromAddress": "reports@example.com"}}


# A task's way ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def environment(applied: Applied, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of the stage's processes, with a database."""
    made = applied.environment(f"sqlite:///{tmp_path_factory.mktemp('stage') / 'db.sqlite3'}")
    run_python(made, "from django.core.management import call_command; call_command('migrate', verbosity=0)")
    return made


def test_a_task_runs_through_what_terraform_has_made(applied, environment, tmp_path):
    sqs, prefix = applied.client("sqs"), applied.outputs.environment["QUEUE_URL_PREFIX"]
    # Of 300 KB: its body is put into the bucket.
    code = """
from tasks.sessions import clear_expired_sessions as task
print(task.delay().id)
print(task.apply_async(priority=0).id)
print(task.app.send_task(task.name, args=['x' * 300_000]).id)
"""
    short, low, large = run_python(environment, code).split()
    sqs.send_message(QueueUrl=f"{prefix}high", MessageBody="no message of Celery's")
    kept = applied.client("s3").list_objects_v2(Bucket=applied.bucket("files"), Prefix="claim-checks/")
    assert kept["KeyCount"] == 1
    log = tmp_path / "worker.log"
    with log.open("wb") as handle:
        worker = subprocess.Popen(
            [sys.executable, "-m", "serverless.entrypoints.worker", "--pool", "general", "--concurrency", "1"],
            cwd=ROOT,
            env=environment,
            stdout=handle,
            stderr=subprocess.STDOUT,
        )
    ask = (
        "from django_app.ledger.models import Run; print(*sorted(f'{run.pk}={run.state}' for run in Run.objects.all()))"
    )

    def states() -> dict[str, str]:
        assert worker.poll() is None, log.read_text()[-3000:]
        return dict(each.split("=") for each in run_python(environment, ask).split())

    def dead() -> list[dict[str, Any]]:
        answer = sqs.receive_message(
            QueueUrl=f"{prefix}high-dead", MessageAttributeNames=["All"], VisibilityTimeout=0, WaitTimeSeconds=0
        )
        return answer.get("Messages", [])

    try:
        wait_for(lambda: set(states().values()) <= {"succeeded", "failed"}, f"all outcomes, see {log}", 90)
        wait_for(dead, "the dead letter", 30)
        found = states()
        assert (found[short], found[low], found[large]) == ("succeeded", "succeeded", "failed")
        # The task takes none: its body came back from the bucket.
        why = f"from django_app.ledger.models import Run; print(Run.objects.get(pk='{large}').error)"
        assert "takes 0 positional arguments but 1 was given" in run_python(environment, why)
        assert dead()[0]["Body"] == "no message of Celery's"
        assert dead()[0]["MessageAttributes"]["DeadLetterQueue"]["StringValue"] == "high"
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(60)
        except subprocess.TimeoutExpired:
            worker.kill()


def test_schedules_are_synchronised_to_the_group_that_terraform_has_made(applied, environment):
    run_python(environment, "from django.core.management import call_command; call_command('schedules', 'sync')")
    scheduler = applied.client("scheduler")
    names = [each["Name"] for each in scheduler.list_schedules(GroupName=NAME)["Schedules"]]
    assert names
    target = scheduler.get_schedule(GroupName=NAME, Name=names[0])["Target"]
    assert target["RoleArn"] == f"arn:aws:iam::{ACCOUNT_ID}:role/{NAME}-scheduler"
    assert target["DeadLetterConfig"]["Arn"] == arn_of(f"{NAME}-schedules-dead")
    assert target["Arn"] in QUEUES


# The end ---------------------------------------------------------------------------------------------------------------


def test_one_queue_more_in_the_topology_is_one_queue_more_and_its_rights(applied):
    before = applied.stack.topology.read_text()
    told = json.loads(before)
    told["queues"]["extra"] = told["queues"]["low"]
    applied.stack.topology.write_text(json.dumps(told))
    plan = applied.stack.plan(*VARIABLES)
    applied.stack.topology.write_text(before)
    changes = {
        change["address"]: change["change"]["actions"]
        for change in plan["resource_changes"]
        if change["mode"] == "managed" and change["change"]["actions"] != ["no-op"]
    }
    made = {address for address, actions in changes.items() if actions == ["create"]}
    assert made == {
        'module.queue["extra"].aws_sqs_queue.this',
        'module.queue["extra"].module.dead_letters.aws_sqs_queue.this',
        'aws_cloudwatch_metric_alarm.this["queue-late-extra"]',
        'aws_cloudwatch_metric_alarm.this["dead-letters-extra-dead"]',
    }
    assert {address for address in changes if address.startswith("aws_iam_role_policy.")} == {
        f"aws_iam_role_policy.{role}" for role in ("web", "worker", "tools", "scheduler")
    }
    # Its pool's scaling looks at one more; nothing of the other pool moves.
    of_pools = {address for address in changes if address.startswith("module.pool")}
    assert of_pools
    assert all(address.startswith('module.pool["general"].module.scaling.') for address in of_pools)
    assert set(changes) - made - of_pools <= {
        *(f"aws_iam_role_policy.{role}" for role in MAY),
        "aws_cloudwatch_dashboard.this",
    }


def test_destroying_leaves_nothing(applied):
    granted = granted_to_deploys(applied)
    calls.take(applied.calls)
    applied.stack.run("destroy", "-auto-approve", "-input=false", "-no-color", *VARIABLES)
    assert calls.take(applied.calls) - granted - FREE - BY_A_PERSON == set()
    assert applied.stack.state() == []
    assert applied.client("sqs").list_queues(QueueNamePrefix=f"{NAME}-").get("QueueUrls", []) == []
    buckets = {each["Name"] for each in applied.client("s3").list_buckets()["Buckets"]}
    assert buckets == {NAMES_ARGUMENTS["bucket"]}
    assert [name for name in applied.client("dynamodb").list_tables()["TableNames"] if name.startswith(NAME)] == []
    assert applied.client("iam").list_roles()["Roles"] == []
    assert applied.client("ssm").describe_parameters()["Parameters"] == []
    assert applied.client("logs").describe_log_groups()["logGroups"] == []
    groups = {each["Name"] for each in applied.client("scheduler").list_schedule_groups()["ScheduleGroups"]}
    assert NAME not in groups
    ec2 = applied.client("ec2")
    assert [vpc for vpc in ec2.describe_vpcs()["Vpcs"] if not vpc["IsDefault"]] == []
    assert applied.client("rds").describe_db_instances()["DBInstances"] == []
    clusters = applied.client("ecs").describe_clusters(clusters=[NAME])["clusters"]
    assert [cluster for cluster in clusters if cluster["status"] == "ACTIVE"] == []
    assert applied.client("ecr").describe_repositories()["repositories"] == []
    assert applied.client("lambda").list_functions()["Functions"] == []
    assert applied.client("apigatewayv2").get_apis()["Items"] == []
    assert applied.client("cloudwatch").describe_alarms()["MetricAlarms"] == []
    assert applied.client("sns").list_topics()["Topics"] == []
    assert applied.client("secretsmanager").list_secrets()["SecretList"] == []
    # Kept on purpose, so that a deployment which fails can go back to the former one; they cost nothing.
    kept = applied.client("ecs").list_task_definition_families()["families"]
    assert sorted(kept) == sorted([*(f"{NAME}-{pool}" for pool in TOPOLOGY.pools), f"{NAME}-tools"])
