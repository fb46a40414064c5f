"""The ledger's part of the minute's housekeeping. Safe to repeat and to run twice at once; each round is bounded."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.conf import settings
from django.utils.module_loading import import_string

from django_app.ledger import services
from django_app.ledger.models import Run

#: Runs that one round publishes, and deletes, at most.
_MOST_PUBLISHED = 5000
_MOST_FORGOTTEN = 5000
_AT_ONCE = 500


@dataclass
class Done:
    """What one round did."""

    runs_published: int = 0
    runs_forgotten: int = 0


def run(now: datetime.datetime) -> Done:
    """One round."""
    done = Done()
    publish: Callable[[Sequence[Run]], int] = import_string(settings.RUN_PUBLISHER)
    while done.runs_published < _MOST_PUBLISHED:
        claimed = services.claim_unpublished(now, _AT_ONCE)
        published = publish(claimed) if claimed else 0
        done.runs_published += published
        # What SQS did not take stays claimed for a minute: the next round tries again.
        if len(claimed) < _AT_ONCE or not published:
            break
    before = now - datetime.timedelta(days=settings.RUN_RETENTION_DAYS)
    done.runs_forgotten = services.forget(before, _MOST_FORGOTTEN)
    return done
