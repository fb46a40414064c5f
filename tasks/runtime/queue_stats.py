"""What SQS says of the topology's queues and their dead-letter queues."""

from __future__ import annotations

import structlog
from django.conf import settings

from django_app.ledger.samples import Stats
from serverless.broker.stats import QueueStats, stats_of
from tasks.topology import TOPOLOGY

log = structlog.get_logger(__name__)

_TIMEOUT_SECONDS = 5.0


def stats() -> dict[str, Stats]:
    """By queue name; a queue that did not answer has nothing but None. Within five seconds, and it does not raise.

    Where the broker is not SQS nothing is known of any.
    """
    queues = TOPOLOGY.queues.values()
    if not settings.BROKER_URL.startswith("sqs:"):
        return {queue.name: Stats() for queue in queues}
    urls = {
        name: f"{settings.QUEUE_URL_PREFIX}{name}" for queue in queues for name in (queue.name, queue.dead_letter_name)
    }
    answers = stats_of(urls.values(), _TIMEOUT_SECONDS)
    found: dict[str, Stats] = {}
    errors: list[str] = []
    for queue in queues:
        own, dead = answers[urls[queue.name]], answers[urls[queue.dead_letter_name]]
        errors += [str(each) for each in (own, dead) if not isinstance(each, QueueStats)]
        found[queue.name] = Stats(
            depth=own.depth if isinstance(own, QueueStats) else None,
            in_flight=own.in_flight if isinstance(own, QueueStats) else None,
            delayed=own.delayed if isinstance(own, QueueStats) else None,
            dead=dead.total if isinstance(dead, QueueStats) else None,
        )
    if errors:
        log.warning("queues_not_asked", queues=len(errors), error=errors[0])
    return found
