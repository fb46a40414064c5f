"""The table of sockets that the local cloud is provisioned with."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

import boto3
import pytest

from serverless.local.cloud import NAMES_ARGUMENTS
from serverless.local.provision import Names, provision
from serverless.websockets import table

NAMES = Names(**NAMES_ARGUMENTS, web_origins=("http://testserver",))


@pytest.fixture
def dynamodb(cloud: str) -> Any:
    return boto3.client("dynamodb", endpoint_url=cloud)


def test_provisioning_again_keeps_what_is_in_the_table(cloud, dynamodb):
    key = {"pk": {"S": "C#kept"}, "sk": {"S": "META"}}
    dynamodb.put_item(TableName=NAMES.sockets_table, Item=key)
    provision(NAMES, cloud)
    assert dynamodb.get_item(TableName=NAMES.sockets_table, Key=key)["Item"] == key
    dynamodb.delete_item(TableName=NAMES.sockets_table, Key=key)


def test_a_table_that_forgets_nothing_is_made_to_forget(cloud, dynamodb):
    names = replace(NAMES, sockets_table=f"sockets-{secrets.token_hex(4)}")
    dynamodb.create_table(**table.definition(names.sockets_table))
    provision(names, cloud)
    provision(names, cloud)
    assert dynamodb.describe_time_to_live(TableName=names.sockets_table)["TimeToLiveDescription"] == {
        "TimeToLiveStatus": "ENABLED",
        "AttributeName": table.TTL_ATTRIBUTE,
    }
