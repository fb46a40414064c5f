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
from tests.infra import terraform
from tests.infra.applied import NAME, ORIGIN, VARIABLES, Applied, applying, arn_of, run_python
from tests.infra.rights import GROUP, HERE, MAY, NAMELESS, QUEUES, may, statements
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
    wanted |= {"schedules-dead", "invocations-dead"}
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
    }
    for queue in TOPOLOGY.queues.values():
        for name in (queue.name, queue.dead_letter_name):
            url = applied.client("sqs").get_queue_url(QueueName=f"{NAME}-{name}")["QueueUrl"]
            assert found.environment["QUEUE_URL_PREFIX"] + name == url


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
    rules = statements(applied, role)
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
        assert rule["Effect"] == "Allow"
        assert not [action for action in rule["Action"] if "*" in action]
        if set(rule["Action"]) <= NAMELESS:
            assert rule["Resource"] == ["*"]
            continue
        for resource in rule["Resource"]:
            is_ours = NAME in resource or "/cloudqueue/dev" in resource or ":identity/" in resource
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
    for role, service in (("web", "lambda"), ("worker", "ecs-tasks"), ("scheduler", "scheduler")):
        [trust] = trusts[role]
        assert trust["Principal"] == {"Service": f"{service}.amazonaws.com"}
        assert trust["Action"] == "sts:AssumeRole"
    assert trusts["scheduler"][0]["Condition"] == {
        "StringEquals": {"aws:SourceAccount": ACCOUNT_ID, "aws:SourceArn": GROUP}
    }
    assert trusts["worker"][0]["Condition"] == {
        "StringEquals": {"aws:SourceAccount": ACCOUNT_ID},
        "ArnLike": {"aws:SourceArn": f"arn:aws:ecs:{HERE}:*"},
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
    assert changes == {
        'module.queue["extra"].aws_sqs_queue.this': ["create"],
        'module.queue["extra"].module.dead_letters.aws_sqs_queue.this': ["create"],
        **{f"aws_iam_role_policy.{role}": ["update"] for role in MAY},
    }


def test_destroying_leaves_nothing(applied):
    applied.stack.run("destroy", "-auto-approve", "-input=false", "-no-color", *VARIABLES)
    assert applied.stack.state() == []
    assert applied.client("sqs").list_queues(QueueNamePrefix=f"{NAME}-").get("QueueUrls", []) == []
    buckets = {each["Name"] for each in applied.client("s3").list_buckets()["Buckets"]}
    assert buckets == {NAMES_ARGUMENTS["bucket"]}
    assert applied.client("dynamodb").list_tables()["TableNames"] == []
    assert applied.client("iam").list_roles()["Roles"] == []
    assert applied.client("ssm").describe_parameters()["Parameters"] == []
    assert applied.client("logs").describe_log_groups()["logGroups"] == []
    groups = {each["Name"] for each in applied.client("scheduler").list_schedule_groups()["ScheduleGroups"]}
    assert NAME not in groups
