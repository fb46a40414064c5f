"""Pages of the worked example. Every view starts from the signed-in user's own datasets: others do not exist for it."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import urlsplit
from uuid import UUID

from csp.constants import SELF
from csp.decorators import csp_update
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.models import User
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST, require_safe

from django_app.datasets import exports, services, subscription_views
from django_app.datasets.models import Dataset, Report
from django_app.datasets.owning import own, own_report
from serverless.objects import ObjectMissingError

_PAGE = 25


@require_safe
@never_cache
def index(request: HttpRequest) -> HttpResponse:
    """The user's datasets, newest first."""
    datasets = Dataset.objects.owned_by(request.user).defer("profile", "layout")
    page = Paginator(datasets, _PAGE).get_page(request.GET.get("page"))
    return render(request, "datasets/list.html", {"page": page})


@require_POST
def create(request: HttpRequest) -> HttpResponse:
    """Make a dataset and show its upload form."""
    return redirect(services.create(cast(User, request.user)))


@require_safe
@never_cache
def detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    """One dataset: its upload form, its progress, or what was found."""
    dataset = own(request, pk)
    context = _context(dataset)
    if dataset.state != Dataset.State.UPLOADING:
        context |= subscription_views.context(dataset)
        return render(request, "datasets/detail.html", context)
    context["finished_url"] = reverse("datasets:uploaded", args=[dataset.pk])
    context["form"] = services.upload_form(dataset, redirect_url=_visited_url(request) + context["finished_url"])
    context["script_form"] = services.upload_form(dataset, redirect_url=None)
    context["limit_bytes"] = settings.UPLOAD_LIMIT_BYTES
    address = urlsplit(context["form"].url)
    bucket = f"{address.scheme}://{address.netloc}"

    @csp_update({"connect-src": [SELF, bucket], "form-action": [SELF, bucket]})
    def page(request: HttpRequest) -> HttpResponse:
        return render(request, "datasets/upload.html", context)

    return cast(HttpResponse, page(request))


def _visited_url(request: HttpRequest) -> str:
    """PUBLIC_ORIGIN, or the extra host that was visited: session and form-action know no other than that."""
    host = request.get_host().partition(":")[0]
    return request.build_absolute_uri("/").rstrip("/") if host in settings.EXTRA_HOSTS else settings.PUBLIC_ORIGIN


@require_GET
@never_cache
def uploaded(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Where S3 or the upload script sends the browser. A GET that starts work: harmless to repeat, owner only."""
    dataset = own(request, pk)
    if dataset.state == Dataset.State.UPLOADING and not services.finish_upload(dataset):
        messages.error(request, "The file has not arrived. Choose it again.")
    return redirect(dataset)


@require_safe
@never_cache
def progress(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The part of the page that changes, for polling. Tells htmx to reload the page when the work has ended."""
    dataset = own(request, pk)
    answer = render(request, "datasets/_progress.html", _context(dataset))
    if not dataset.is_working:
        answer["HX-Refresh"] = "true"
    return answer


@require_safe
@never_cache
def report(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The report's page. It shows a stranger's data, so the browser may run nothing in it: a sandbox without rights."""
    own = own_report(request, pk)
    try:
        body = services.bucket().read(own.html_key)
    except ObjectMissingError:
        raise Http404("The report is gone from storage. Run the dataset again.") from None
    answer = HttpResponse(body, content_type="text/html; charset=utf-8")
    # Set by hand: the policy of the site's own pages does not apply to this document.
    answer["Content-Security-Policy"] = (
        "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
    )
    answer._csp_exempt = True  # type: ignore[attr-defined]
    return answer


@require_safe
@never_cache
def report_pdf(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Sends the browser to S3 for the PDF, so that its size does not matter to the function."""
    own = own_report(request, pk)
    name = f"{(own.dataset.name or 'dataset').removesuffix('.csv')} report.pdf"
    return HttpResponseRedirect(services.bucket().presigned_get(own.pdf_key, filename=name))


@require_safe
@never_cache
def statistics(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The columns' statistics as CSV."""
    dataset = own(request, pk)
    if dataset.profile is None:
        raise Http404("This dataset has no statistics yet.")
    answer = HttpResponse(exports.statistics_csv(dataset.profile), content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = 'attachment; filename="statistics.csv"'
    return answer


@require_POST
def again(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Work on the file again, from the start."""
    dataset = own(request, pk)
    if not dataset.etag:
        messages.error(request, "There is no file to run again. Make a new dataset and upload it there.")
    elif not services.restart(dataset):
        messages.info(request, "It was started already.")
    return redirect(dataset)


@require_POST
def mail(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Mail the report once more."""
    own = own_report(request, pk)
    services.mail_again(own)
    messages.info(request, "The report will be mailed again.")
    return redirect(own.dataset)


@require_POST
def delete(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Remove the dataset, its file and its report."""
    dataset = own(request, pk)
    name = str(dataset)
    services.delete(dataset)
    messages.info(request, f"“{name}” was deleted.")
    return redirect("datasets:list")


def _context(dataset: Dataset) -> dict[str, Any]:
    chunks, progress = services.parts(dataset, 400)
    # After the parts, which may have found a later state: a page that says Ready has the report.
    report = Report.objects.filter(dataset=dataset, generation=dataset.generation, built_at__isnull=False).first()
    return {"dataset": dataset, "report": report, "chunks": chunks, "progress": progress}
