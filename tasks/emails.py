"""Mail a report to its owner, at most once by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog
from celery.utils.time import get_exponential_backoff_interval
from django.core.mail import EmailMultiAlternatives
from django.template.loader import render_to_string

from django_app import addresses
from django_app.datasets import services
from django_app.datasets.models import Report
from serverless import aws
from serverless.objects import ObjectMissingError
from tasks.celery import app
from tasks.runtime.task import Task

if TYPE_CHECKING:
    from anymail.exceptions import AnymailAPIError

log = structlog.get_logger(__name__)

#: SES takes 40 MB at most; base64 makes an attachment a third larger.
_LARGEST_ATTACHMENT_BYTES = 20 << 20
#: Tries when SES throttles; the pauses between them add up to nine minutes or so, at most nineteen.
MOST_TRIES = 10


@app.task(base=Task, bind=True, max_retries=MOST_TRIES)
def send_report(self: Task, report_pk: int) -> str | None:
    """Send the report with its PDF attached; returns SES's message id, None where there was nothing to send.

    The claim is written before SES is asked. If SES refuses (throttling) the mail certainly did not go out: the claim
    is given back and the task tries again. If the worker dies in between, nobody knows: the mail is not repeated, and
    the page offers its owner to send it again.
    """
    report = Report.objects.select_related("dataset__owner").filter(pk=report_pk, built_at__isnull=False).first()
    if report is None:
        return None
    recipient = report.dataset.owner.email
    if not recipient:
        services.mail_failed(report, "Your account has no e-mail address. Add one, then send the mail again.")
        return None
    # It loads requests, and the web side, which imports this module to enqueue, never needs that.
    from anymail.exceptions import AnymailAPIError, AnymailError

    try:
        message = message_of(report, recipient)
    except ObjectMissingError as error:
        services.mail_failed(report, str(error))
        return None
    if not services.claim_mail(report):
        log.info("mail_not_repeated", report=report_pk, state=report.mail_state)
        return None
    try:
        message.send()
    except AnymailAPIError as error:
        cause = error.__cause__
        if not aws.certainly_refused(cause):
            services.mail_failed(
                report, "The connection to the mail service broke: the mail may have gone out, or not."
            )
            raise
        if not is_worth_another(error, self.request.retries):
            services.mail_failed(report, f"The mail service refused the mail: {cause}")
            raise
        services.release_mail(report)
        raise self.retry(exc=error, countdown=pause_seconds(self.request.retries)) from error
    except (AnymailError, *aws.ERRORS) as error:
        # Refused on our own side, before SES was asked: an address, or the settings.
        services.mail_failed(report, f"The mail could not be made: {error} Correct that, then send it again.")
        raise
    except BaseException:
        services.mail_failed(report, "The sending was interrupted: the mail may have gone out, or not.")
        raise
    message_id: str = message.anymail_status.message_id  # type: ignore[attr-defined]
    services.mail_sent(report, recipient, message_id)
    return message_id


def message_of(report: Report, recipient: str) -> EmailMultiAlternatives:
    """The mail that a report goes out with. Raises ObjectMissingError."""
    dataset = report.dataset
    context: dict[str, Any] = {
        "dataset": dataset,
        "owner": dataset.owner,
        "link": addresses.public(dataset.get_absolute_url()),
    }
    pdf = services.bucket().read(report.pdf_key)
    context["attached"] = len(pdf) <= _LARGEST_ATTACHMENT_BYTES
    message = EmailMultiAlternatives(
        subject=f"Your report on {dataset.name or 'your dataset'}",
        body=render_to_string("datasets/mail.txt", context),
        to=[recipient],
    )
    message.attach_alternative(render_to_string("datasets/mail.html", context), "text/html")
    if context["attached"]:
        message.attach("report.pdf", pdf, "application/pdf")
    return message


def is_worth_another(error: AnymailAPIError, tries: int) -> bool:
    """Whether the mail certainly did not go out, and another try may succeed."""
    cause = error.__cause__
    refused = isinstance(cause, Exception) and aws.certainly_refused(cause) and aws.is_passing(cause)
    return refused and tries < MOST_TRIES


def pause_seconds(tries: int) -> int:
    """Before the next try, at random."""
    seconds: int = get_exponential_backoff_interval(factor=2, retries=tries, maximum=300, full_jitter=True)
    return max(1, seconds)
