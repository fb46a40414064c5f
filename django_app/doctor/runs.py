"""Subject "runs": those that are not published, and messages near the limits."""

from __future__ import annotations

from collections.abc import Iterator

from django.conf import settings
from django.db import connection
from django.db.models import F, Func, IntegerField
from django.db.models.functions import Length

from django_app.doctor.findings import Finding, Severity, note, warning
from django_app.doctor.subjects import Examination, span
from django_app.ledger import figures
from django_app.ledger.models import Run
from serverless.broker.options import ClaimCheckOptions

#: What is pending and due is published at once, or by the next minute's sweep.
_LAG_SECONDS, _BAD_LAG_SECONDS = 150.0, 900.0
#: Newest runs of each open state that are looked at.
_MOST_RUNS = 1000
#: Of the largest body that is taken.
_NEAR = 0.8
#: Fernet seals into base64: four bytes for three.
_SEALED = 4 / 3


def examine(this: Examination) -> Iterator[Finding]:
    """D150, D151, D152."""
    lag = figures.publish_lag_seconds(this.now)
    if lag > _LAG_SECONDS:
        yield Finding(
            Severity.ERROR if lag > _BAD_LAG_SECONDS else Severity.WARNING,
            "D150",
            "runs that are pending",
            f"the oldest that is due waits for {span(lag)} to be published",
            f"{_LAG_SECONDS:.0f} s: at once after the commit, or by the next minute's housekeeping",
            "python manage.py housekeeping; if it stays: python manage.py doctor --only aws --only queues",
        )
    yield from _large(this)


def _large(this: Examination) -> Iterator[Finding]:
    limits = ClaimCheckOptions(settings.FILES_BUCKET)
    factor = _SEALED if settings.RUN_KEYS else 1.0
    near, in_bucket = limits.largest_bytes * _NEAR * factor, limits.threshold_bytes * factor
    sizes = [each for state in figures.OPEN for each in _sizes(state)]
    this.tell(f"{len(sizes)} open runs looked at")
    largest = max(sizes, key=lambda each: each[2], default=None)
    if largest is None:
        return
    run_id, task, size = largest
    if size > near:
        yield warning(
            "D151",
            f"run {run_id} of task {task}",
            f"its message has {size / factor:.0f} bytes",
            f"{limits.largest_bytes} at most; from {_NEAR:.0%} on this warns",
            "pass a key of an object in the bucket instead of what it holds: docs/tasks.md",
        )
    elif size > in_bucket:
        count = sum(each[2] > in_bucket for each in sizes)
        yield note(
            "D152",
            f"task {task}",
            f"{count} of {len(sizes)} open runs have messages above {limits.threshold_bytes} bytes, the largest "
            f"{size / factor:.0f}",
            "above it a body goes by way of S3, which costs two requests and some 50 ms",
            "pass ids instead of what they stand for, if that is not wanted: docs/tasks.md",
        )


def _sizes(state: str) -> list[tuple[str, str, int]]:
    """Id, task and bytes of the newest runs' messages, the messages themselves unread."""
    size: Func = Length("message")
    if connection.vendor == "postgresql":
        # length() would unpack each message.
        size = Func(F("message"), function="octet_length", output_field=IntegerField())
    newest = Run.objects.filter(state=state).order_by("-created_at").annotate(bytes=size)
    return list(newest.values_list("id", "task", "bytes")[:_MOST_RUNS])
