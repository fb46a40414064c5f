"""A report's mail: tried again when SES throttles, never sent twice by itself. SES is a small server of the test's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from anymail.exceptions import AnymailAPIError
from django.contrib.auth.models import User
from django.utils import timezone

from django_app.datasets import services
from django_app.datasets.models import Dataset, Report
from serverless.local.stack import free_port
from tasks.emails import send_report

pytestmark = pytest.mark.django_db(transaction=True)


class FakeSES(ThreadingHTTPServer):
    """Answers SendEmail with what `answers` lists, then with success; "cut" closes the connection unanswered."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, str] | str] = []
        self.requests = 0
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: FakeSES

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests += 1
        answer = self.server.answers.pop(0) if self.server.answers else (200, "")
        if answer == "cut":
            self.close_connection = True
            return
        status, kind = answer
        body = json.dumps({"MessageId": f"m{self.server.requests}"} if status == 200 else {"message": kind}).encode()
        self.send_response(status)
        if kind:
            self.send_header("x-amzn-ErrorType", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def ses(monkeypatch, settings) -> Iterator[FakeSES]:
    # pytest-django puts a mailbox of its own in its place.
    settings.EMAIL_BACKEND = "anymail.backends.amazon_ses.EmailBackend"
    server = FakeSES()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_SESV2", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def report(cloud) -> Report:
    owner = User.objects.create(username="ada", email="ada@example.com")
    dataset = Dataset.objects.create(
        owner=owner,
        name="sales.csv",
        state=Dataset.State.READY,
        generation=1,
        profile={"rows": 3, "columns": []},
        upload_expires_at=timezone.now(),
    )
    made = Report.objects.create(dataset=dataset, generation=1, built_at=timezone.now())
    services.bucket().write(made.pdf_key, b"%PDF-1.4")
    return made


def send(report: Report) -> Report:
    send_report.apply(args=[report.pk])
    report.refresh_from_db()
    return report


def test_a_report_is_mailed_to_its_owner(report, ses):
    assert send(report).mail_state == "sent"
    assert (report.mailed_to, report.message_id) == ("ada@example.com", "m1")


def test_the_same_task_delivered_twice_sends_one_mail(report, ses):
    send(report)
    send(report)
    assert ses.requests == 1


def test_a_worker_that_died_while_sending_is_not_repeated(report, ses):
    assert services.claim_mail(report)
    assert send(report).mail_state == "sending"
    assert ses.requests == 0


def test_throttling_is_tried_again_until_it_goes_through(report, ses):
    ses.answers = [(429, "TooManyRequestsException")] * 3
    assert send(report).mail_state == "sent"
    assert ses.requests == 4


def test_throttling_that_does_not_end_is_said_to_the_owner(report, ses):
    ses.answers = [(429, "TooManyRequestsException")] * 50
    assert send(report).mail_state == "failed"
    assert "refused the mail" in report.mail_problem
    assert ses.requests == 11


def test_a_refusal_for_good_is_said_and_not_tried_again(report, ses):
    ses.answers = [(400, "MessageRejected")]
    assert send(report).mail_state == "failed"
    assert "MessageRejected" in report.mail_problem
    assert ses.requests == 1


@pytest.mark.parametrize("answer", ["cut", (500, "InternalFailure")], ids=["cut", "500"])
def test_a_mail_that_may_have_gone_out_is_not_repeated(report, ses, answer):
    ses.answers = [answer]
    assert send(report).mail_state == "failed"
    assert "may have gone out, or not" in report.mail_problem
    send(report)
    assert ses.requests == 1


def test_an_address_that_is_none_is_said_and_nothing_is_uncertain(report, ses):
    User.objects.update(email="ada@@example..com")
    assert send(report).mail_state == "failed"
    assert report.mail_problem.startswith("The mail could not be made:")
    assert ses.requests == 0


def test_a_service_that_cannot_be_reached_is_tried_again(report, ses, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_SESV2", f"http://127.0.0.1:{free_port()}")
    assert send(report).mail_state == "failed"
    assert report.mail_problem.startswith("The mail service refused the mail: Could not connect")


def test_an_owner_without_an_address_is_told(report, ses):
    User.objects.update(email="")
    assert send(report).mail_state == "failed"
    assert report.mail_problem == "Your account has no e-mail address. Add one, then send the mail again."
    assert ses.requests == 0


def test_the_owner_may_ask_for_another_mail(report, ses):
    send(report)
    services.mail_again(report)
    send(report)
    assert ses.requests == 2


def test_a_failed_mail_ends_the_task_in_error(report, ses):
    ses.answers = [(400, "MessageRejected")]
    result = send_report.apply(args=[report.pk])
    assert isinstance(result.result, AnymailAPIError)
