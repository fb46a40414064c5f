"""What each role's code does at AWS, and what a role may, as the local cloud keeps it."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

from serverless.local.cloud import ACCOUNT_ID, REGION
from tasks.topology import TOPOLOGY
from tests.infra.applied import NAME, Applied, arn_of

#: What a function in a network needs before it runs; its own code is refused it.
NETWORK = {
    *("ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface"),
    *("ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses"),
}
#: Of the account's one role for API Gateway's logs.
ANY_LOGS = {
    *("logs:CreateLogGroup", "logs:DescribeLogGroups", "logs:DescribeLogStreams", "logs:FilterLogEvents"),
    "logs:GetLogEvents",
}
#: Of these AWS lets no resource be named.
NAMELESS = {
    *("secretsmanager:BatchGetSecretValue", "secretsmanager:ListSecrets", "scheduler:ListSchedules"),
    *("ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel"),
    *("ssmmessages:OpenDataChannel", "ecr:GetAuthorizationToken"),
    *NETWORK,
    *ANY_LOGS,
}
QUEUES = [arn_of(f"{NAME}-{name}") for name in TOPOLOGY.queues]
DEAD = [f"{arn}-dead" for arn in QUEUES]
FILES = f"arn:aws:s3:::{NAME}-{ACCOUNT_ID}-files"
HERE = f"{REGION}:{ACCOUNT_ID}"
GROUP = f"arn:aws:scheduler:{HERE}:schedule-group/{NAME}"

INVOCATIONS = arn_of(f"{NAME}-invocations-dead")
#: Stand for what AWS names by itself: the WebSocket API, and the database's secret.
API, PASSWORD = "API", f"arn:aws:secretsmanager:{HERE}:secret:PASSWORD"
LOGS = ["logs:CreateLogStream", "logs:PutLogEvents"]


def log_streams(group: str) -> list[str]:
    return [f"arn:aws:logs:{HERE}:log-group:{group}:log-stream:1"]


#: What the code of each does at AWS: (actions, on resources).
EVERYBODY = [
    (["ssm:GetParametersByPath"], [f"arn:aws:ssm:{HERE}:parameter/cloudqueue/dev/"]),
    (
        ["secretsmanager:GetSecretValue"],
        [f"arn:aws:secretsmanager:{HERE}:secret:/cloudqueue/dev/METRICS_TOKEN-aB3dE5", PASSWORD],
    ),
    (["secretsmanager:BatchGetSecretValue", "secretsmanager:ListSecrets"], ["*"]),
    (
        [f"dynamodb:{call}" for call in ("PutItem", "UpdateItem", "BatchGetItem", "BatchWriteItem", "Query")],
        [f"arn:aws:dynamodb:{HERE}:table/{NAME}-sockets"],
    ),
    (
        ["execute-api:ManageConnections"],
        [f"arn:aws:execute-api:{HERE}:{API}/dev/{method}/@connections/aBc=" for method in ("POST", "DELETE")],
    ),
]
FUNCTION = [(sorted(NETWORK), ["*"]), (["sqs:SendMessage"], [INVOCATIONS])]
BOTH = [
    *EVERYBODY,
    (["sqs:SendMessage"], QUEUES),
    (
        ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
        [f"{FILES}/{key}" for key in ("uploads/1/2/data.csv", "work/1/2/3", "reports/1/2/report.pdf", "results/a/b")],
    ),
    (["s3:GetObject", "s3:PutObject"], [f"{FILES}/claim-checks/30d/low/1"]),
    (["s3:ListBucket"], [FILES]),
]
MAY = {
    "web": [
        *BOTH,
        *FUNCTION,
        (LOGS, log_streams(f"/aws/lambda/{NAME}")),
        (["sqs:GetQueueAttributes"], [*QUEUES, *DEAD]),
        (["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"], DEAD),
        (
            ["ecs:DescribeServices", "ecs:UpdateService"],
            [f"arn:aws:ecs:{HERE}:service/{NAME}/{pool}" for pool in TOPOLOGY.pools],
        ),
        (
            [f"scheduler:{call}Schedule" for call in ("Create", "Get", "Update", "Delete")],
            [f"arn:aws:scheduler:{HERE}:schedule/{NAME}/nightly"],
        ),
        (["scheduler:GetScheduleGroup"], [GROUP]),
        (["scheduler:ListSchedules"], ["*"]),
        (["iam:PassRole"], [f"arn:aws:iam::{ACCOUNT_ID}:role/{NAME}-scheduler"]),
    ],
    "worker": [
        *BOTH,
        (
            ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes"],
            QUEUES,
        ),
        (["sqs:SendMessage"], DEAD),
        (
            ["ses:SendEmail", "ses:SendRawEmail"],
            [
                *(f"arn:aws:ses:{HERE}:identity/{identity}" for identity in ("example.com", "reports@example.com")),
                f"arn:aws:ses:{HERE}:configuration-set/{NAME}",
            ],
        ),
        (["ecs:GetTaskProtection", "ecs:UpdateTaskProtection"], [f"arn:aws:ecs:{HERE}:task/{NAME}/0123456789abcdef"]),
    ],
    "sockets": [*EVERYBODY, *FUNCTION, (LOGS, log_streams(f"/aws/lambda/{NAME}-sockets"))],
    "tools": [
        *BOTH,
        ([f"ssmmessages:{call}Channel" for call in ("CreateControl", "CreateData", "OpenControl", "OpenData")], ["*"]),
    ],
    "execution": [
        (["ecr:GetAuthorizationToken"], ["*"]),
        (
            ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            [f"arn:aws:ecr:{HERE}:repository/{NAME}-worker"],
        ),
        (LOGS, log_streams(f"/{NAME}/tools")),
        *((LOGS, log_streams(f"/{NAME}/workers/{pool}")) for pool in TOPOLOGY.pools),
    ],
    "proxy": [(["secretsmanager:GetSecretValue"], [PASSWORD])],
    "scheduler": [(["sqs:SendMessage"], [*QUEUES, arn_of(f"{NAME}-schedules-dead")])],
}


#: Whom each role is for.
TRUSTS = {
    "web": "lambda",
    "sockets": "lambda",
    "worker": "ecs-tasks",
    "tools": "ecs-tasks",
    "execution": "ecs-tasks",
    "scheduler": "scheduler",
    "proxy": "rds",
}


def statements(applied: Applied, role: str) -> list[dict[str, Any]]:
    """All that a role's policies say, actions and resources as lists; API and PASSWORD for what AWS has named."""
    iam, name = applied.client("iam"), f"{NAME}-{role}"
    api = applied.outputs.environment["SOCKETS_URL"].split("/")[2].split(".")[0]
    names = {f":{api}/": f":{API}/", applied.outputs.environment["DATABASE_SECRET"]: PASSWORD}
    assert iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"] == []
    found = []
    for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
        document = iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
        document = json.loads(unquote(document)) if isinstance(document, str) else document
        found += document["Statement"]
    for each in found:
        for key in ("Action", "Resource"):
            each[key] = [each[key]] if isinstance(each[key], str) else each[key]
        for own, common in names.items():
            each["Resource"] = [resource.replace(own, common) for resource in each["Resource"]]
    return found


def may(rules: list[dict[str, Any]], action: str, resource: str) -> bool:
    """Whether a policy allows it, conditions aside."""

    def fits(pattern: str, text: str) -> bool:
        return re.fullmatch(".*".join(re.escape(part) for part in pattern.split("*")), text) is not None

    return any(
        rule["Effect"] == "Allow"
        and action in rule["Action"]
        and any(fits(pattern, resource) for pattern in rule["Resource"])
        for rule in rules
    )
