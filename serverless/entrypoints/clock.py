"""What is done when an event comes by its name: see EVENT_HANDLERS in the settings.

A handler is given the event and the invocation; it ends before the function's time does, is safe to run twice at once,
and raises if it failed, so that AWS tries again.
"""

from __future__ import annotations

from typing import Any

import structlog
from django.conf import settings
from django.utils import timezone

from django_app import housekeeping
from django_app.realtime import pushing
from serverless.entrypoints.invocation import Invocation

log = structlog.get_logger(__name__)

#: Seconds that are left to the datasets' part, which is short, and to the answer.
_RESERVE_SECONDS = 5.0


def housekeeping_round(event: dict[str, Any], invocation: Invocation) -> dict[str, int]:
    """One round of the minute's housekeeping; what it did."""
    budget = max(1.0, invocation.remaining_seconds() - _RESERVE_SECONDS)
    done = housekeeping.run(timezone.now(), budget)
    if any(done.values()):
        log.info("housekeeping", **done)
    # The function is frozen when it has answered.
    pushing.flush(settings.PUSH_WAIT_SECONDS)
    return done
