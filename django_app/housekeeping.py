"""One round of the minute's housekeeping: the ledger's part, and the example's."""

from __future__ import annotations

import datetime
from dataclasses import asdict

from django_app.datasets import housekeeping as datasets
from django_app.ledger import housekeeping as ledger


def run(now: datetime.datetime, budget_seconds: float | None = None, *, resume_all: bool = False) -> dict[str, int]:
    """What was done, by name. Safe to repeat and to run twice at once.

    budget_seconds: of the ledger's part; default: settings.HOUSEKEEPING_SECONDS. The example's part is short.
    resume_all: take up all unfinished work, for a stack whose queues did not survive.
    Raises what the database raises while it is away.
    """
    return asdict(ledger.run(now, budget_seconds)) | asdict(datasets.run(now, resume_all=resume_all))
