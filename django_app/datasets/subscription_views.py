"""The part of a dataset's page that has its report mailed again and again."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_POST

from django_app import zones
from django_app.datasets import subscriptions
from django_app.datasets.models import Dataset
from django_app.datasets.owning import own, own_report
from serverless.scheduler.errors import ScheduleError
from serverless.scheduler.words import words


def context(dataset: Dataset) -> dict[str, Any]:
    """What the page shows of it."""
    schedule = subscriptions.of(dataset)
    chosen = subscriptions.choice(schedule)
    shown: dict[str, Any] = {
        "choice": {"days": subscriptions.DAYS.items(), "zones": zones.names(), **chosen},
        "subscription": schedule,
    }
    if schedule is None:
        return shown
    try:
        told, due = words(schedule.when), schedule.next_due(timezone.now(), 1)
    except ScheduleError:
        # An operator can give it any timing, and a machine may lack its zone.
        told, due = schedule.timing, []
    return {
        **shown,
        "subscription_words": told,
        "subscription_next": due[0] if due else None,
        "subscription_last": subscriptions.newest_run(schedule),
    }


@require_POST
def subscribe(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Begin, or do it at another time."""
    dataset = own_report(request, pk).dataset
    asked = [request.POST.get(name, "").replace("\x00", "") for name in ("day", "time", "zone")]
    try:
        schedule = subscriptions.subscribe(dataset, *asked)
    except subscriptions.SubscriptionError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"The report is mailed {words(schedule.when)}, {schedule.zone}.")
    return redirect(dataset)


@require_POST
def pause(request: HttpRequest, pk: UUID) -> HttpResponse:
    dataset = own(request, pk)
    messages.info(
        request, "Mails are paused." if subscriptions.pause(dataset) else "They were paused or ended already."
    )
    return redirect(dataset)


@require_POST
def resume(request: HttpRequest, pk: UUID) -> HttpResponse:
    dataset = own(request, pk)
    messages.info(request, "Mails go on." if subscriptions.resume(dataset) else "They were not paused.")
    return redirect(dataset)


@require_POST
def unsubscribe(request: HttpRequest, pk: UUID) -> HttpResponse:
    dataset = own(request, pk)
    ended = subscriptions.unsubscribe(dataset)
    messages.info(request, "The report is mailed no more." if ended else "It was ended already.")
    return redirect(dataset)
