"""Write a dataset's report, HTML and PDF, keep it in S3, and have it mailed."""

from __future__ import annotations

from django.template.loader import render_to_string

from django_app.datasets import services
from django_app.datasets.models import Report
from tasks.celery import app
from tasks.dataset_task import DatasetTask
from tasks.emails import send_report
from tasks.runtime.task import Task


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
