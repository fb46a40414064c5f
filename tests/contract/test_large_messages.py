"""Claim checks: bodies that travel through S3 (moto), messages through the fake SQS, a real worker on both."""

from __future__ import annotations

import json
import uuid

import boto3
import pytest

from serverless.broker.claim_checks import ClaimChecks
from serverless.broker.errors import ClaimCheckError, OptionError
from serverless.broker.options import Options, QueueOptions
from tests.faults.plant import Plant, plant
from tests.waiting import wait_for

BIG = 300_000


@pytest.fixture
def bucket(cloud) -> str:
    name = f"claims-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=cloud).create_bucket(Bucket=name)
    return name


@pytest.fixture
def s3(cloud):
    return boto3.client("s3", endpoint_url=cloud)


@pytest.fixture
def works(tmp_path, cloud, bucket):
    with plant(tmp_path) as made:
        made.add_queue("work", prefetch=10)
        made.options["claim_check"] = {"bucket": bucket}
        made.variables = {"AWS_ENDPOINT_URL_S3": cloud}
        yield made


def claims(works: Plant) -> list[dict]:
    return [json.loads(message.body)["claim-check"] for message in works.server.sqs.queues["work"].ready]


def send_large(works: Plant, letter: str = "x") -> None:
    works.send(f"note.delay('{letter}' * {BIG})")


def test_a_large_argument_arrives_whole(works, s3, bucket):
    send_large(works, "ä")
    (claim,) = claims(works)
    assert claim["bucket"] == bucket
    # The smallest class that outlasts the queue's fourteen days and the dead-letter queue's.
    assert claim["key"].startswith("claim-checks/30d/work/")
    assert s3.head_object(Bucket=bucket, Key=claim["key"])["ContentLength"] == claim["bytes"] > 2 * BIG
    works.start_worker()
    works.await_empty()
    (trace,) = works.traces()
    assert trace.argument == "ä" * BIG
    # Kept for a redelivery, and for the dead-letter queue: the bucket's lifecycle removes it.
    assert s3.head_object(Bucket=bucket, Key=claim["key"])


def test_a_small_argument_stays_in_the_message(works, s3, bucket):
    works.send("note.delay('x')")
    (message,) = works.server.sqs.queues["work"].ready
    assert "claim-check" not in json.loads(message.body)
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda s3, bucket, key: s3.delete_object(Bucket=bucket, Key=key), "does not exist"),
        (lambda s3, bucket, key: s3.put_object(Bucket=bucket, Key=key, Body=b"x"), "is not what was put there"),
    ],
    ids=["gone", "another"],
)
def test_a_body_that_is_gone_or_another_is_dead_lettered_with_its_reason(works, s3, bucket, spoil, reason):
    send_large(works)
    spoil(s3, bucket, claims(works)[0]["key"])
    works.start_worker()
    works.send("note.delay('healthy')")
    works.await_empty()
    (dead,) = works.dead_letters()
    assert reason in dead["attributes"]["DeadLetterReason"]["StringValue"]
    assert [trace.argument for trace in works.traces()] == ["healthy"]


def test_an_outage_of_s3_is_no_reason_to_dead_letter(works, cloud):
    send_large(works)
    worker = works.start_worker(AWS_ENDPOINT_URL_S3="http://127.0.0.1:9")
    wait_for(lambda: "cannot be fetched and is tried again" in worker.text(), "the first try", 60)
    worker.kill()
    works.start_worker()
    works.await_empty()
    assert len(works.traces()) == 1
    assert works.dead_letters() == []


@pytest.mark.parametrize(
    "changed",
    [
        {"bucket": "somebody-elses"},
        {"key": "uploads/secret"},
        {"key": "claim-checks/../uploads/secret"},
        {"bytes": 1 << 40},
        {"bytes": -1},
        {"sha256": "0" * 64},
        {"key": None},
    ],
)
def test_nothing_outside_the_bucket_and_prefix_is_read(cloud, bucket, changed):
    options = Options.read({"region": "us-east-1", "claim_check": {"bucket": bucket}})
    checks = ClaimChecks(options, options.claim_check)
    envelope = checks.check_in({"body": "text", "headers": {}}, QueueOptions("work"), 0)
    assert checks.fetch(envelope)["body"] == "text"
    envelope["claim-check"].update(changed)
    with pytest.raises(ClaimCheckError):
        checks.fetch(envelope)


@pytest.mark.parametrize(("queue_days", "delay_days", "kept"), [(14, 0, 30), (4, 0, 20), (14, 3, 400), (14, 365, 400)])
def test_a_body_is_kept_for_delay_queue_and_dead_letter_queue(cloud, bucket, queue_days, delay_days, kept):
    options = Options.read({"claim_check": {"bucket": bucket, "retention_days": [400, 20, 30]}})
    checks = ClaimChecks(options, options.claim_check)
    queue = QueueOptions("work", retention_days=queue_days)
    envelope = checks.check_in({"body": "text"}, queue, delay_days * 86400)
    assert envelope["claim-check"]["key"].startswith(f"claim-checks/{kept}d/")
    with pytest.raises(ClaimCheckError, match="Add a longer class"):
        checks.check_in({"body": "text"}, queue, 500 * 86400)


def test_a_body_over_the_limit_is_refused_with_the_remedy(cloud, bucket):
    options = Options.read({"claim_check": {"bucket": bucket, "largest_bytes": 204_800}})
    with pytest.raises(ClaimCheckError, match="Put the data into S3 yourself and send its key"):
        ClaimChecks(options, options.claim_check).check_in({"body": "x" * 204_801}, QueueOptions("work"), 0)
    with pytest.raises(OptionError):
        Options.read({"claim_check": {"bucket": bucket, "largest_bytes": 1}})
