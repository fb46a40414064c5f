"""Publishing what the ledger has recorded: the finished messages, ten to a request."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import structlog
from celery import current_app
from kombu.exceptions import OperationalError
from kombu.utils.json import dumps, loads

from django_app.ledger import sealing, services
from serverless import aws
from serverless.broker import BrokerError, PublishError, bulk

if TYPE_CHECKING:
    from django_app.ledger.models import Run

log = structlog.get_logger(__name__)

#: Messages in one batch: were it sent in part before its end, what failed could not be told from what did not.
_AT_ONCE = 500


def pack(body: str | bytes, options: dict[str, Any]) -> str:
    """A message as Celery hands it to kombu, finished, as JSON text.

    body: serialised and, if asked for, compressed. options: of kombu's `Producer.publish`.
    Raises TypeError for what is not JSON, at the call that wanted to send it.
    """
    data = body.encode() if isinstance(body, str) else body
    try:
        text, encoding = data.decode(), "utf-8"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(data).decode("ascii"), "base64"
    return dumps({"body": text, "encoding": encoding, "options": options})


def unpack(message: str) -> tuple[str | bytes, dict[str, Any]]:
    """(body, options) of a packed message, sealed or not. Raises SealError."""
    packed = loads(sealing.unseal(message))
    body = packed["body"]
    return (base64.b64decode(body) if packed["encoding"] == "base64" else body), packed["options"]


def publish(runs: Sequence[Run]) -> int:
    """Publish runs and mark those that SQS took; how many. What SQS does never raises: the next round tries again."""
    return sum(_publish(runs[start : start + _AT_ONCE]) for start in range(0, len(runs), _AT_ONCE))


def _publish(runs: Sequence[Run]) -> int:
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    unsent: set[str | None] = set()
    try:
        with bulk(app), app.producer_or_acquire() as producer:
            for run in runs:
                try:
                    body, options = unpack(run.message)
                    producer.publish(body, **options)
                except (BrokerError, sealing.SealError) as error:
                    # One that can never be sent must not hold up the others.
                    unsent.add(run.pk)
                    log.error("run_not_published", task=run.task, task_id=run.pk, error=str(error))
    except PublishError as error:
        unsent |= {each.task_id for each in error.unsent}
        log.warning("runs_not_published", runs=len(error.unsent), error=str(error))
    except (OperationalError, OSError, *aws.ERRORS) as error:
        log.warning("runs_not_published", runs=len(runs), error=str(error))
        return 0
    sent = [run for run in runs if run.pk not in unsent]
    services.mark_published(sent)
    return len(sent)
