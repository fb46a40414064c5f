"""The main job through real processes: site, queues, workers, storage, mail."""

from __future__ import annotations

import csv
import email
import email.policy
import io
import re

import boto3
import httpx
import pytest
from pypdf import PdfReader

from serverless.local.cloud import ACCESS_KEY_ID, NAMES_ARGUMENTS, REGION, SECRET_ACCESS_KEY
from serverless.local.demo import mail_numbers
from serverless.local.flights import table_csv
from serverless.local.visitor import Visitor
from tests.unit.test_bad_input import BAD_FILES
from tests.waiting import wait_for

BUCKET = NAMES_ARGUMENTS["bucket"]
SMALL = b"name,size,born\n" + b"".join(b"row %d,%d,2024-01-%02d\n" % (n, n * n, 1 + n % 28) for n in range(500))


def mails(stack) -> list[email.message.EmailMessage]:
    """All mail sent, oldest first."""
    numbers = sorted(mail_numbers(stack.mailbox_url))
    raw = [httpx.get(f"{stack.mailbox_url}/{number}/raw").content for number in numbers]
    return [email.message_from_bytes(data, policy=email.policy.default) for data in raw]


def mail_about(stack, name: str) -> list[email.message.EmailMessage]:
    return [mail for mail in mails(stack) if name in str(mail["Subject"])]


def page_id(page: str) -> str:
    return re.search(r"/datasets/([0-9a-f-]{36})/", page)[1]


def s3(stack):
    """The cloud's own view, past our code."""
    return boto3.client(
        "s3",
        endpoint_url=stack.cloud_url,
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=SECRET_ACCESS_KEY,
    )


def objects_of(stack, page: str) -> list[str]:
    """Keys in the bucket that belong to one dataset."""
    pages = s3(stack).get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    keys = [item["Key"] for found in pages for item in found.get("Contents", [])]
    return [key for key in keys if page_id(page) in key]


def test_a_real_file_ends_in_figures_a_report_and_one_mail(stack, visitor):
    data = table_csv("weather")
    page = visitor.upload("weather.csv", data)
    seen = visitor.await_end(page)
    assert (seen.state, seen.problem) == ("ready", "")
    assert seen.parts_done == seen.parts >= 8

    rows = {row["column"]: row for row in csv.DictReader(io.StringIO(visitor.client.get(f"{page}statistics.csv").text))}
    truth = list(csv.DictReader(io.StringIO(data.decode())))
    assert list(rows) == list(truth[0])
    temperatures = [float(row["temp"]) for row in truth if row["temp"] not in ("", "NA")]
    assert int(rows["temp"]["values"]) == len(temperatures)
    assert float(rows["temp"]["minimum"]) == min(temperatures)
    assert float(rows["temp"]["mean"]) == pytest.approx(sum(temperatures) / len(temperatures), rel=1e-9)

    report = visitor.client.get(f"{page}report/")
    assert f"{len(truth):,}" in report.text
    assert report.text.count("data:image/svg+xml") >= 3
    pdf = visitor.client.get(f"{page}report.pdf", follow_redirects=True)
    assert pdf.headers["content-disposition"].startswith("attachment")
    text = "".join(sheet.extract_text() for sheet in PdfReader(io.BytesIO(pdf.content)).pages)
    assert "weather.csv" in text
    assert f"{len(truth):,}" in text

    wait_for(lambda: mail_about(stack, "weather.csv"), "the mail")
    (mail,) = mail_about(stack, "weather.csv")
    assert mail["To"] == "demo@example.com"
    assert {part.get_content_type() for part in mail.walk()} >= {"text/plain", "text/html", "application/pdf"}
    (attachment,) = mail.iter_attachments()
    assert attachment.get_payload(decode=True) == pdf.content
    assert stack.url + page in mail.get_body(("plain",)).get_content()


@pytest.mark.parametrize("name", ["empty", "PNG", "UTF-16", "too few fields", "10 MB field", "quote left open"])
def test_a_bad_file_ends_in_its_message_on_the_page(visitor, name):
    data, said = BAD_FILES[name]
    seen = visitor.await_end(visitor.upload(f"{name}.csv", data))
    assert seen.state == "failed"
    assert said in seen.problem


def test_a_bad_row_far_into_the_file_is_named_by_its_line(visitor):
    data = b"a,b\n" + b"1,2\n" * 200_000 + b"1,2,3\n" + b"1,2\n" * 200_000
    seen = visitor.await_end(visitor.upload("late.csv", data))
    assert seen.problem.startswith("Line 200002 has 3 fields, the header has 2.")


def test_an_upload_over_the_limit_is_refused_by_storage(visitor):
    page = visitor.new_dataset()
    url, fields = visitor.upload_form(page)
    answer = visitor.client.post(url, data=fields, files={"file": ("big.csv", b"x" * 40_000_001)})
    assert (answer.status_code, "EntityTooLarge" in answer.text) == (400, True)
    assert visitor.look(page).state == "uploading"


def test_an_object_deleted_in_between_is_said_on_the_page(stack, visitor):
    page = visitor.upload("gone.csv", SMALL)
    visitor.await_end(page)
    (key,) = [key for key in objects_of(stack, page) if key.startswith("uploads/")]
    s3(stack).delete_object(Bucket=BUCKET, Key=key)
    visitor.post(f"{page}again/")
    wait_for(lambda: visitor.look(page).state == "failed", "the failure")
    assert (
        visitor.look(page).problem
        == "The uploaded file was removed or replaced. Make a new dataset and upload it there."
    )


def test_running_again_makes_a_new_report_and_a_new_mail(stack, visitor):
    page = visitor.upload("again.csv", SMALL)
    visitor.await_end(page)
    wait_for(lambda: len(mail_about(stack, "again.csv")) == 1, "the first mail")
    visitor.post(f"{page}again/")
    wait_for(lambda: len(mail_about(stack, "again.csv")) == 2, "the second mail")
    assert visitor.look(page).state == "ready"


def test_deleting_a_dataset_removes_its_objects(stack, visitor):
    page = visitor.upload("delete.csv", SMALL)
    visitor.await_end(page)
    assert {key.partition("/")[0] for key in objects_of(stack, page)} == {"uploads", "reports"}
    visitor.post(f"{page}delete/")
    assert visitor.client.get(page).status_code == 404
    wait_for(lambda: objects_of(stack, page) == [], "the objects to be gone")


def test_deleting_while_it_is_worked_on_leaves_no_objects(stack, visitor):
    page = visitor.upload("early.csv", b"a,b\n" + b"1,2\n" * 900_000)
    wait_for(lambda: visitor.look(page).parts > 0, "the work to begin")
    visitor.post(f"{page}delete/")
    # A dataset that is uploaded afterwards is finished only when the workers are through with the deleted one.
    visitor.await_end(visitor.upload("after.csv", SMALL))
    wait_for(lambda: objects_of(stack, page) == [], "the objects to be gone")


def test_people_see_their_own_datasets_only(stack, visitor):
    page = visitor.upload("mine.csv", SMALL)
    visitor.await_end(page)
    stack.manage("demo_user", "other", DEMO_PASSWORD="another-password")
    with Visitor(stack.url) as other:
        other.sign_in("other", "another-password")
        assert "mine.csv" not in other.client.get("/datasets/").text
        for path in ("", "uploaded/", "progress/", "report/", "report.pdf", "statistics.csv"):
            assert other.client.get(page + path).status_code == 404, path
        for path in ("again/", "mail/", "delete/"):
            assert other.post(page + path).status_code == 404, path
    assert visitor.look(page).state == "ready"


def test_a_stranger_is_sent_to_sign_in(stack):
    with Visitor(stack.url) as stranger:
        for path in ("/datasets/", "/datasets/00000000-0000-0000-0000-000000000000/"):
            answer = stranger.client.get(path)
            assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (302, "/sign-in/")
        assert stranger.client.get("/healthz").text == "ok\n"


def test_the_report_may_run_nothing(visitor):
    page = visitor.upload("hostile.csv", b"<script>alert(1)</script>,b\n<img src=x onerror=alert(1)>,1\n")
    assert visitor.await_end(page).state == "ready"
    report = visitor.client.get(f"{page}report/")
    assert report.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert "<script>" not in report.text
    assert "<img src=x" not in report.text


def test_changes_need_a_csrf_token(visitor):
    page = visitor.upload("csrf.csv", SMALL)
    assert visitor.client.post(f"{page}delete/").status_code == 403
    assert visitor.client.get(f"{page}delete/").status_code == 405
