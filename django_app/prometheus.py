"""/metrics: how things stand, for Prometheus, computed from the ledger when it is scraped.

What is told are gauges of the whole installation, the same from whichever process is asked: scrape one address, not
every process. docs/observability.md lists them.
Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4)
"""

from __future__ import annotations

import datetime
import hmac
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from django_app.ledger import figures
from tasks.topology import TOPOLOGY

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FINISHED_WITHIN = datetime.timedelta(minutes=5)
FAILED_WITHIN = datetime.timedelta(hours=1)
_MOST_FAILURES = 20


@dataclass(frozen=True)
class Gauge:
    """One metric and its values. name: without the prefix. values: by labels, as (label, value) pairs."""

    name: str
    help: str
    values: Mapping[tuple[tuple[str, str], ...], float] = field(default_factory=dict)


def is_on() -> bool:
    return bool(settings.METRICS_TOKEN)


def metrics(request: HttpRequest) -> HttpResponse:
    """The page, for whoever sends the token."""
    if not _is_allowed(request.headers.get("Authorization", "")):
        return HttpResponse(
            "Send the token of METRICS_TOKEN: Authorization: Bearer ...\n",
            status=401,
            content_type="text/plain",
            headers={"WWW-Authenticate": 'Bearer realm="metrics"'},
        )
    began = time.monotonic()
    gauges = list(collect(timezone.now()))
    gauges.append(_plain("scrape_seconds", "How long these figures took.", time.monotonic() - began))
    return HttpResponse(exposition(gauges), content_type=CONTENT_TYPE)


def _is_allowed(header: str) -> bool:
    scheme, _, token = header.partition(" ")
    # Compared as bytes: compare_digest takes no text beyond ASCII.
    is_same = hmac.compare_digest(token.strip().encode(), settings.METRICS_TOKEN.encode())
    return is_on() and scheme.lower() == "bearer" and is_same


def exposition(gauges: Iterable[Gauge]) -> str:
    """Gauges in the text format."""
    lines = []
    for gauge in gauges:
        name = f"cloudqueue_{gauge.name}"
        lines.append(f"# HELP {name} {_escaped(gauge.help)}")
        lines.append(f"# TYPE {name} gauge")
        for labels, value in gauge.values.items():
            told = ",".join(f'{label}="{_escaped(text, is_quoted=True)}"' for label, text in labels)
            lines.append(f"{name}{{{told}}} {_number(value)}" if told else f"{name} {_number(value)}")
    return "\n".join(lines) + "\n"


def _escaped(text: str, *, is_quoted: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    # What no UTF-8 can say would break the whole page.
    text = text.encode(errors="replace").decode()
    return text.replace('"', '\\"') if is_quoted else text


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _plain(name: str, help_text: str, value: float) -> Gauge:
    return Gauge(name, help_text, {(): value})


def collect(now: datetime.datetime) -> Iterator[Gauge]:
    """Everything that the page tells."""
    most = figures.MOST_COUNTED
    yield Gauge(
        "runs",
        f"Runs that have not ended, by state. {most} means so many or more.",
        {(("state", state),): count for state, count in figures.open_runs().items()},
    )
    yield Gauge(
        "runs_finished",
        f"Runs that ended within the last {FINISHED_WITHIN.seconds} seconds, of the newest {most}.",
        {
            (("queue", queue), ("state", state)): count
            for (queue, state), count in figures.finished(list(TOPOLOGY.queues), now - FINISHED_WITHIN).items()
        },
    )
    yield Gauge(
        "failures",
        f"Failed and dead runs created within the last {FAILED_WITHIN.seconds} seconds, the commonest reasons.",
        {
            (("fingerprint", each.fingerprint), ("task", each.task), ("error", each.kind)): each.runs
            for each in figures.failures(now - FAILED_WITHIN, _MOST_FAILURES)
        },
    )
    yield _plain(
        "publish_lag_seconds",
        "How long the oldest run that is due waits to be published.",
        figures.publish_lag_seconds(now),
    )
    yield from _of_queues(now)
    yield from _of_workers(now)


def _of_queues(now: datetime.datetime) -> Iterator[Gauge]:
    samples = figures.newest_samples(now)
    for name, field_name, help_text in (
        ("queue_depth", "depth", "Messages that wait to be received, as SQS counts them, sampled each minute."),
        ("queue_in_flight", "in_flight", "Messages that are received and hidden, sampled each minute."),
        ("queue_delayed", "delayed", "Messages whose delay is not over, sampled each minute."),
        ("queue_dead_letters", "dead", "Messages in the dead-letter queue, sampled each minute."),
        ("queue_oldest_age_seconds", "oldest_age_seconds", "How long the oldest run waits that nobody has begun."),
    ):
        told = {queue: getattr(sample, field_name) for queue, sample in samples.items()}
        yield Gauge(name, help_text, {(("queue", queue),): value for queue, value in told.items() if value is not None})
    yield Gauge(
        "queue_sample_age_seconds",
        "How old these samples are: housekeeping takes them each minute.",
        {(("queue", queue),): (now - sample.at).total_seconds() for queue, sample in samples.items()},
    )


def _of_workers(now: datetime.datetime) -> Iterator[Gauge]:
    workers = figures.workers(now)
    yield Gauge(
        "workers",
        "Workers by pool and state; lost ones for an hour.",
        {(("pool", each.pool), ("state", each.state)): each.count for each in workers},
    )
    yield Gauge(
        "worker_slots",
        "Tasks that these workers can run at once.",
        {(("pool", each.pool), ("state", each.state)): each.slots for each in workers if each.state != "lost"},
    )
    yield Gauge(
        "worker_slots_busy",
        "Slots at work.",
        {(("pool", each.pool), ("state", each.state)): each.busy for each in workers if each.state != "lost"},
    )
