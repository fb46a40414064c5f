"""What each child process of a worker's pool gets before its first task."""

from __future__ import annotations

import threading
from typing import Any

import structlog
from celery import Celery, signals

from serverless import aws
from serverless.broker.options import Options
from serverless.broker.sqs import Sqs

log = structlog.get_logger(__name__)

#: The higher, the sooner the kernel ends a process where memory runs out: never the main process, whose end would be
#: the whole worker's. Raising it needs no right.
_OOM_SCORE = "500"


def prepare(app: Celery) -> None:
    """Have every child prepared, those that replace others included. app: whose broker its tasks publish to."""

    def begin(**_: Any) -> None:
        _offer_to_the_kernel()
        # Beside its first task: the parent waits four seconds for a child to report.
        threading.Thread(target=_warm_up, args=(app,), name="warm-up", daemon=True).start()

    signals.worker_process_init.connect(begin, weak=False, dispatch_uid="serverless.container.children")


def _offer_to_the_kernel() -> None:
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as handle:
            handle.write(_OOM_SCORE)
    except OSError:
        pass  # no /proc


def _warm_up(app: Celery) -> None:
    """Build the clients that nearly every task needs, which takes a quarter of a second: those of files and of SQS."""
    try:
        aws.client("s3")
        if str(app.conf.broker_url).startswith("sqs:"):
            _ = Sqs(Options.read(app.conf.broker_transport_options)).client
    except Exception:
        log.exception("warm_up_failed")
