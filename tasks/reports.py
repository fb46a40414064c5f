"""Write a dataset's report, HTML and PDF, keep it in S3, and have it mailed, also on a schedule."""

from __future__ import annotations

import hashlib
import uuid

import structlog
from django.template.loader import render_to_string

from django_app.datasets import services
from django_app.datasets.models import Report
from tasks.celery import app
from tasks.dataset_task import DatasetTask
from tasks.emails import MOST_TRIES, is_worth_another, message_of, pause_seconds, send_report
from tasks.runtime.once import once
from tasks.runtime.task import Task

log = structlog.get_logger(__name__)
_UNCERTAIN = "The worker stopped while it was sending: the mail may have gone out, or not."


class ReportNotMailedError(Exception):
    """A report that cannot be mailed until somebody does something about it."""


@app.task(base=DatasetTask, bind=True)
def build_report(self: Task, dataset_id: str, generation: int) -> None:
    """Render the pages from the finished profile. Repeating it writes the same keys again."""
    # The chart and PDF libraries belong to workers; the web side only enqueues this task.
    from django_app.datasets.report import charts, document, pdf

    dataset = services.current(dataset_id, generation)
    if dataset is None:
        # Delivered again after it was built: whether the mail was enqueued is not known; its claim sends it once.
        built = services.unmailed_reports().filter(dataset_id=dataset_id, generation=generation).first()
        if built is not None:
            send_report.delay(built.pk)
        return
    if dataset.profile is None:
        return
    report = Report.objects.get(dataset=dataset, generation=generation)
    content = document.Document.of(dataset)
    bucket = services.bucket()
    drawn = charts.draw(content)
    page = render_to_string("datasets/report_document.html", {"document": content, "charts": drawn})
    bucket.write(report.html_key, page.encode(), content_type="text/html; charset=utf-8")
    bucket.write(report.pdf_key, pdf.render(content, drawn), content_type="application/pdf")
    services.finish_report(report)
    bucket.delete_prefix(dataset.work_prefix)
    if not type(dataset).objects.filter(pk=dataset.pk).exists():
        # Deleted while this ran: its objects may have been removed before ours were written.
        bucket.delete_prefix(dataset.report_prefix)
        return
    send_report.delay(report.pk)


@app.task(base=Task, bind=True, max_retries=MOST_TRIES)
def mail_report(self: Task, dataset_id: str) -> str | None:
    """Mail a dataset's report as it stands; returns SES's message id, None where there is no report at this time.

    For schedules: each run mails once at most. That a try has begun is written before SES is asked; whoever comes to
    the same try again finds that, and ends. Only what SES has certainly refused is tried anew.
    """
    # It loads requests, and the web side, which imports this module to enqueue, never needs that.
    from anymail.exceptions import AnymailAPIError

    report = services.current_report(dataset_id)
    if report is None:
        log.info("no_report_to_mail", dataset=dataset_id)
        return None
    recipient = report.dataset.owner.email
    if not recipient:
        raise ReportNotMailedError(
            f"account {report.dataset.owner.get_username()} has no e-mail address. Add one; the next mail goes there."
        )
    message = message_of(report, recipient)
    tries = self.request.retries
    with once(self, _of_try(self.request.id, tries)) as done:
        done(_UNCERTAIN)
    try:
        message.send()
    except AnymailAPIError as error:
        if not is_worth_another(error, tries):
            raise
        raise self.retry(exc=error, countdown=pause_seconds(tries)) from error
    message_id: str = message.anymail_status.message_id  # type: ignore[attr-defined]
    return message_id


def _of_try(run_id: str | None, tries: int) -> str:
    """What is done once: this try of this run, or of a call outside of one."""
    # Ids of runs may be longer than keys.
    return f"try {tries} of {hashlib.sha256((run_id or uuid.uuid4().hex).encode()).hexdigest()}"
