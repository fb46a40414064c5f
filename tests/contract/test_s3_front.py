"""The local cloud judges browser uploads and origins as S3 does."""

from __future__ import annotations

import datetime
import http.client
import json
import time
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from serverless.local.cloud import NAMES_ARGUMENTS
from serverless.local.s3_front import S3Error, check_policy
from serverless.objects import Bucket, ObjectMissingError

ORIGIN = "http://testserver"
KEY = "uploads/1/data.csv"


@pytest.fixture
def bucket(cloud) -> Bucket:
    made = Bucket(NAMES_ARGUMENTS["bucket"])
    yield made
    made.delete_prefix("uploads/")


def form(bucket: Bucket, **changes):
    wanted = {"smallest_bytes": 2, "largest_bytes": 100, "expires_seconds": 60}
    return bucket.presigned_post(KEY, **{**wanted, **changes})


def post(made, content: bytes = b"a,b\n", filename: str = "data.csv", **fields) -> httpx.Response:
    data = {**made.fields, **fields}
    data = {name: value for name, value in data.items() if value is not None}
    return httpx.post(made.url, data=data, files={"file": (filename, content)}, headers={"Origin": ORIGIN})


def code(answer: httpx.Response) -> str:
    return answer.text.partition("<Code>")[2].partition("</Code>")[0]


def test_a_form_uploads_its_key(bucket):
    assert post(form(bucket)).status_code == 204
    assert bucket.read(KEY) == b"a,b\n"


def test_the_redirect_names_what_was_uploaded(bucket):
    answer = post(form(bucket, redirect_url="http://testserver/done/?x=1"))
    assert answer.status_code == 303
    back = urlsplit(answer.headers["location"])
    assert (back.path, parse_qs(back.query)["key"], parse_qs(back.query)["x"]) == ("/done/", [KEY], ["1"])


@pytest.mark.parametrize("name", ["flights.csv", "Zoë.csv", "航班.csv", 'a "b".csv'])
def test_the_users_file_name_comes_back_from_the_object(bucket, name):
    post(form(bucket), filename=name)
    # Browsers write a quote in a file name as %22.
    assert bucket.info(KEY).filename.replace("%22", '"') == name


@pytest.mark.parametrize(
    ("content", "refusal"), [(b"x" * 101, "EntityTooLarge"), (b"x", "EntityTooSmall")], ids=["large", "small"]
)
def test_a_size_outside_the_range_is_refused(bucket, content, refusal):
    answer = post(form(bucket), content)
    assert (answer.status_code, code(answer)) == (400, refusal)
    with pytest.raises(ObjectMissingError):
        bucket.info(KEY)


@pytest.mark.parametrize("size", [2, 100])
def test_both_ends_of_the_size_range_are_allowed(bucket, size):
    assert post(form(bucket), b"x" * size).status_code == 204


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"key": "uploads/2/data.csv"}, "AccessDenied"),
        ({"key": "uploads/1/data.csv/../../2"}, "AccessDenied"),
        ({"acl": "public-read"}, "AccessDenied"),
        ({"policy": None}, "AccessDenied"),
        ({"x-amz-signature": None}, "AccessDenied"),
        ({"x-amz-signature": "0" * 64}, "SignatureDoesNotMatch"),
        (
            {"policy": "eyJleHBpcmF0aW9uIjogIjI5OTktMDEtMDFUMDA6MDA6MDBaIiwgImNvbmRpdGlvbnMiOiBbXX0="},
            "SignatureDoesNotMatch",
        ),
    ],
)
def test_a_form_that_was_changed_is_refused(bucket, fields, refusal):
    answer = post(form(bucket), **fields)
    assert (answer.status_code, code(answer)) == (403, refusal)
    assert bucket.keys("uploads/") == []


def test_a_form_that_has_expired_is_refused(bucket):
    made = form(bucket)
    fields = {name.lower(): value for name, value in made.fields.items()}
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=61)
    with pytest.raises(S3Error, match="Policy expired"):
        check_policy(fields, bucket.name, 4, "local", later)
    check_policy(fields, bucket.name, 4, "local", later - datetime.timedelta(seconds=2))


def test_a_form_for_another_bucket_is_refused(bucket):
    fields = {name.lower(): value for name, value in form(bucket).fields.items()}
    with pytest.raises(S3Error, match="Policy Condition failed"):
        check_policy(fields, "other", 4, "local", datetime.datetime.now(datetime.UTC))


def preflight(url: str, origin: str, method: str) -> httpx.Response:
    return httpx.options(url, headers={"Origin": origin, "Access-Control-Request-Method": method})


def test_our_origin_may_upload(bucket):
    answer = preflight(form(bucket).url, ORIGIN, "POST")
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize(("origin", "method"), [("http://evil.example", "POST"), (ORIGIN, "DELETE"), (ORIGIN, "GET")])
def test_other_origins_and_methods_may_not(bucket, origin, method):
    answer = preflight(form(bucket).url, origin, method)
    assert answer.status_code == 403
    assert not any(name.startswith("access-control-") for name in answer.headers)


def test_no_answer_permits_every_origin(bucket):
    bucket.write(KEY, b"x")
    answer = httpx.get(f"{form(bucket).url}/{KEY}", headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_a_range_read_returns_the_range(bucket):
    bucket.write(KEY, bytes(range(100)))
    assert bucket.read(KEY, start=10, stop=20) == bytes(range(10, 20))
    assert bucket.read(KEY, start=90) == bytes(range(90, 100))
    assert bucket.read(KEY, start=5, stop=5) == b""
    assert b"".join(bucket.stream(KEY, piece_bytes=7)) == bytes(range(100))


def test_an_object_that_was_replaced_counts_as_missing(bucket):
    bucket.write(KEY, b"first")
    etag = bucket.info(KEY).etag
    bucket.write(KEY, b"second")
    with pytest.raises(ObjectMissingError):
        bucket.read(KEY, start=1, stop=3, etag=etag)


def test_deleting_a_prefix_spares_its_neighbours(bucket):
    for key in ("uploads/1/a", "uploads/1/b", "uploads/10/a"):
        bucket.write(key, b"x")
    assert bucket.delete_prefix("uploads/1/") == 2
    assert bucket.keys("uploads/") == ["uploads/10/a"]
    with pytest.raises(ValueError, match="must name a folder"):
        bucket.delete_prefix("uploads/1")


def test_a_presigned_download_carries_its_file_name(bucket):
    bucket.write(KEY, b"x", content_type="application/pdf")
    answer = httpx.get(bucket.presigned_get(KEY, filename="Zoë report.pdf"))
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''Zo%C3%AB%20report.pdf"


def test_a_stopped_cloud_keeps_objects_and_mail_but_a_killed_one_is_gone(tmp_path, monkeypatch):
    from serverless import aws
    from serverless.local.cloud import environment
    from tests.conftest import run_cloud

    def use(url: str) -> Bucket:
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        aws.forget_clients()
        return Bucket(NAMES_ARGUMENTS["bucket"])

    with run_cloud(tmp_path / "kept", ORIGIN) as url:
        kept = use(url)
        assert post(form(kept), filename="Zoë.csv").status_code == 204
        raw = b"From: a@example.com\r\nTo: b@example.com\r\nSubject: Hello\r\n\r\nHi"
        aws.client("sesv2").send_email(
            FromEmailAddress=NAMES_ARGUMENTS["sender"],
            Destination={"ToAddresses": ["b@example.com"]},
            Content={"Raw": {"Data": raw}},
        )
    with run_cloud(tmp_path / "kept", ORIGIN) as url:
        again = use(url)
        assert again.read(KEY) == b"a,b\n"
        assert again.info(KEY).filename == "Zoë.csv"
        assert "Hello" in httpx.get(f"{url}/_mail/0").text
    aws.forget_clients()


def test_the_cloud_stops_at_once_though_a_long_poll_is_waiting(tmp_path):
    from tests.conftest import run_cloud

    with run_cloud(tmp_path / "cloud", ORIGIN) as url:
        address = urlsplit(url)
        poll = http.client.HTTPConnection(address.hostname, address.port)
        body = json.dumps({"QueueUrl": f"{url}/123456789012/cloudqueue-default", "WaitTimeSeconds": 20})
        headers = {"X-Amz-Target": "AmazonSQS.ReceiveMessage", "Content-Type": "application/x-amz-json-1.0"}
        headers["Authorization"] = (
            "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=0"
        )
        poll.request("POST", "/", body, headers)
        began = time.monotonic()
    assert time.monotonic() - began < 10
