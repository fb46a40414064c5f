"""What each role's code does at AWS, and what a role may, as the local cloud keeps it."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

from serverless.local.cloud import ACCOUNT_ID, REGION
from tasks.topology import TOPOLOGY
from tests.infra.applied import NAME, Applied, arn_of

#: Of these AWS lets no resource be named.
NAMELESS = {"secretsmanager:BatchGetSecretValue", "secretsmanager:ListSecrets", "scheduler:ListSchedules"}
QUEUES = [arn_of(f"{NAME}-{name}") for name in TOPOLOGY.queues]
DEAD = [f"{arn}-dead" for arn in QUEUES]
FILES = f"arn:aws:s3:::{NAME}-{ACCOUNT_ID}-files"
HERE = f"{REGION}:{ACCOUNT_ID}"
GROUP = f"arn:aws:scheduler:{HERE}:schedule-group/{NAME}"

#: What the code of each does at AWS: (actions, on resources).
BOTH = [
    (["sqs:SendMessage"], QUEUES),
    (
        ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
        [f"{FILES}/{key}" for key in ("uploads/1/2/data.csv", "work/1/2/3", "reports/1/2/report.pdf", "results/a/b")],
    ),
    (["s3:GetObject", "s3:PutObject"], [f"{FILES}/claim-checks/30d/low/1"]),
    (["s3:ListBucket"], [FILES]),
    (["ssm:GetParametersByPath"], [f"arn:aws:ssm:{HERE}:parameter/cloudqueue/dev/"]),
    (["secretsmanager:GetSecretValue"], [f"arn:aws:secretsmanager:{HERE}:secret:/cloudqueue/dev/METRICS_TOKEN-aB3dE5"]),
    (["secretsmanager:BatchGetSecretValue", "secretsmanager:ListSecrets"], ["*"]),
    (
        [f"dynamodb:{call}" for call in ("PutItem", "UpdateItem", "BatchGetItem", "BatchWriteItem", "Query")],
        [f"arn:aws:dynamodb:{HERE}:table/{NAME}-sockets"],
    ),
]
MAY = {
    "web": [
        *BOTH,
        (
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            [f"arn:aws:logs:{HERE}:log-group:/aws/lambda/{NAME}:log-stream:1"],
        ),
        (["sqs:GetQueueAttributes"], [*QUEUES, *DEAD]),
        (["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"], DEAD),
        (["sqs:SendMessage"], [arn_of(f"{NAME}-invocations-dead")]),
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
            [f"arn:aws:ses:{HERE}:identity/{identity}" for identity in ("example.com", "reports@example.com")],
        ),
    ],
    "scheduler": [(["sqs:SendMessage"], [*QUEUES, arn_of(f"{NAME}-schedules-dead")])],
}


def statements(applied: Applied, role: str) -> list[dict[str, Any]]:
    """All that a role's policies say, actions and resources as lists."""
    iam, name = applied.client("iam"), f"{NAME}-{role}"
    assert iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"] == []
    found = []
    for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
        document = iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
        document = json.loads(unquote(document)) if isinstance(document, str) else document
        found += document["Statement"]
    for each in found:
        for key in ("Action", "Resource"):
            each[key] = [each[key]] if isinstance(each[key], str) else each[key]
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
