"""One round of the minute's housekeeping: the ledger's part, the example's, and what sockets leave behind."""

from __future__ import annotations

import datetime
from dataclasses import asdict

from django_app.datasets import housekeeping as datasets
from django_app.ledger import housekeeping as ledger
from django_app.realtime import marks

#: What one round forgets at most of the sockets' marks.
_MOST_MARKS = 5000


def run(now: datetime.datetime, budget_seconds: float | None = None, *, resume_all: bool = False) -> dict[str, int]:
    """What was done, by name. Safe to repeat and to run twice at once.

    budget_seconds: of the ledger's part; default: settings.HOUSEKEEPING_SECONDS. The other parts are short.
    resume_all: take up all unfinished work, for a stack whose queues did not survive.
    Raises what the database raises while it is away.
    """
    done = asdict(ledger.run(now, budget_seconds)) | asdict(datasets.run(now, resume_all=resume_all))
    return done | {"marks_forgotten": marks.forget(now, _MOST_MARKS)}
