"""Where every view starts: the signed-in user's own. What is others' does not exist for it."""

from __future__ import annotations

from uuid import UUID

from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404

from django_app.datasets.models import Dataset, Report


def own(request: HttpRequest, pk: UUID) -> Dataset:
    return get_object_or_404(Dataset.objects.owned_by(request.user).select_related("report"), pk=pk)


def own_report(request: HttpRequest, pk: UUID) -> Report:
    """Of the dataset as it stands now."""
    dataset = own(request, pk)
    report: Report | None = getattr(dataset, "report", None)
    if report is None or report.built_at is None or report.generation != dataset.generation:
        raise Http404("This dataset has no report yet.")
    return report
