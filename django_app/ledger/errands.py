"""What is done from time to time, and once, however many processes see to it."""

from __future__ import annotations

import datetime

from django_app.ledger.models import Errand


def take(name: str, now: datetime.datetime, every: datetime.timedelta) -> bool:
    """Whether the errand is due, and the caller's to do; it is due again after `every`."""
    Errand.objects.get_or_create(name=name, defaults={"due_at": now})
    return bool(Errand.objects.filter(name=name, due_at__lte=now).update(due_at=now + every))


def give_back(name: str, now: datetime.datetime) -> None:
    """It was not done to its end: it is due at once."""
    Errand.objects.filter(name=name).update(due_at=now)
