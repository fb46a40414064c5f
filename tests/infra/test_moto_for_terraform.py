"""Each patch that Terraform's provider needs is still needed. When one of these fails, moto has mended it: remove both."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import ROOT


def plain_moto(code: str) -> str:
    """What a fresh interpreter with unpatched moto prints."""
    prelude = """
import json

import boto3
from botocore.exceptions import ClientError
from moto import mock_aws
"""
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    done = subprocess.run(
        [sys.executable, "-c", prelude + code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_moto_does_not_tell_who_may_dead_letter():
    code = """
with mock_aws():
    sqs = boto3.client("sqs", region_name="us-east-1")
    given = {"RedriveAllowPolicy": '{"redrivePermission": "denyAll"}'}
    url = sqs.create_queue(QueueName="q", Attributes=given)["QueueUrl"]
    print("RedriveAllowPolicy" in sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"])
"""
    assert plain_moto(code) == "False"


def test_moto_tells_a_redrive_policy_with_other_blanks():
    code = """
with mock_aws():
    sqs = boto3.client("sqs", region_name="us-east-1")
    arn = "arn:aws:sqs:us-east-1:123456789012:dead"
    sqs.create_queue(QueueName="dead")
    given = f'{{"deadLetterTargetArn":"{arn}","maxReceiveCount":9}}'
    url = sqs.create_queue(QueueName="q", Attributes={"RedrivePolicy": given})["QueueUrl"]
    print(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]["RedrivePolicy"] == given)
"""
    assert plain_moto(code) == "False"


def test_moto_forgets_a_queues_policy_when_something_else_is_set():
    code = """
with mock_aws():
    sqs = boto3.client("sqs", region_name="us-east-1")
    url = sqs.create_queue(QueueName="q", Attributes={"Policy": '{"Statement": [{"Sid": "mine"}]}'})["QueueUrl"]
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "9"})
    print("mine" in str(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"].get("Policy")))
"""
    assert plain_moto(code) == "False"


def test_moto_refuses_whoever_a_buckets_policy_does_not_mean():
    code = """
with mock_aws():
    s3 = boto3.client("s3", region_name="us-east-1")
    s3.create_bucket(Bucket="bucket")
    refusal = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::bucket/*"}
    policy = {"Statement": [{**refusal, "Condition": {"Bool": {"aws:SecureTransport": "false"}}}]}
    s3.put_bucket_policy(Bucket="bucket", Policy=json.dumps(policy))
    try:
        s3.put_object(Bucket="bucket", Key="k", Body=b"by https")
    except ClientError as error:
        print(error.response["ResponseMetadata"]["HTTPStatusCode"])
"""
    assert plain_moto(code) == "403"
