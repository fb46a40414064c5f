"""What a worker needs before its first message, each check with what to do where it fails.

A check says what it found, or raises CheckError. Those that ask the network are passing: the database may just be
restarting, the migration of this release may still run. Django must be set up.
"""

from __future__ import annotations

import contextlib
import email.utils
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from botocore.config import Config
from botocore.exceptions import ClientError

from serverless import aws
from serverless.container.errors import CheckError
from tasks.topology import TOPOLOGY

#: AWS refuses what is signed five minutes off; a countdown is that wrong long before.
LARGEST_SKEW_SECONDS = 60.0
_LEAST_FREE_BYTES = 64 << 20
_CONFIG = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2})
_MISSING = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}
_DENIED = {"AccessDenied", "AccessDeniedException"}


class Check(NamedTuple):
    """name: as it stands in logs. run: returns what was found, in words."""

    name: str
    run: Callable[[], str]


def checks_of(pool_name: str) -> list[Check]:
    """What a worker of that pool needs, in the order in which it is best mended."""
    return [
        Check("settings", check_settings),
        Check("temporary files", check_temporary_files),
        Check("liveness file", check_liveness_file),
        *([Check("queues", lambda: check_queues(pool_name))] if _uses_sqs() else []),
        Check("database", check_database),
    ]


def _uses_sqs() -> bool:
    from django.conf import settings

    return str(settings.BROKER_URL).startswith("sqs:")


def check_settings() -> str:
    """Whether what has no default of any use is set."""
    from django.conf import settings

    if _uses_sqs() and "://" not in settings.QUEUE_URL_PREFIX:
        raise CheckError(
            "settings",
            f'QUEUE_URL_PREFIX="{settings.QUEUE_URL_PREFIX}" is not the beginning of a queue\'s URL',
            "Set it to what stands before a queue's name, such as https://sqs.eu-central-1.amazonaws.com/111122223333/x-.",
        )
    for key in settings.RUN_KEYS:
        _check_key(key)
    return f"release {settings.RELEASE or 'without a name'}"


def _check_key(key: str) -> None:
    from cryptography.fernet import Fernet

    try:
        Fernet(key)
    except ValueError as error:
        raise CheckError(
            "settings", f"RUN_KEYS holds what is no key ({error})", "Make keys with Fernet.generate_key()."
        ) from None


def check_temporary_files() -> str:
    """Whether tasks can write where Python's tempfile does: with a read-only root, only what is mounted."""
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
            file.flush()
        found = os.statvfs(folder)
    except OSError as error:
        raise CheckError(
            "temporary files",
            f"nothing can be written ({error.strerror or error})",
            "Mount a volume at /tmp that the container's user may write to.",
        ) from None
    free = found.f_bavail * found.f_frsize
    if free < _LEAST_FREE_BYTES:
        raise CheckError(
            "temporary files",
            f"{folder} has {free >> 20} MiB left, and a task may need {_LEAST_FREE_BYTES >> 20}",
            "Give the container more ephemeral storage.",
        )
    return f"{folder}, {free >> 20} MiB free"


def check_liveness_file() -> str:
    """Whether the worker can say that it lives; without, the container's health command would end it."""
    from django.conf import settings

    if not settings.LIVENESS_FILE:
        return "none is wanted"
    path = Path(settings.LIVENESS_FILE)
    probe = path.with_name(f"{path.name}.check")
    try:
        probe.write_text("x", "utf-8")
    except OSError as error:
        raise CheckError(
            "liveness file",
            f'LIVENESS_FILE="{path}" cannot be written ({error.strerror})',
            "Name a file in a folder that the container's user may write to, such as /tmp/worker-liveness.",
        ) from None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return str(path)


def check_queues(pool_name: str) -> str:
    """Whether each queue of the pool is there and may be read, and whether our clock is AWS's."""
    from django.conf import settings

    client = aws.client("sqs", "checks", config=_CONFIG)
    queues = TOPOLOGY.queues_of_pool(pool_name)
    for queue in queues:
        url = f"{settings.QUEUE_URL_PREFIX}{queue.name}"
        began = time.time()
        try:
            answer: Any = client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        except ClientError as error:
            # Of a wrong clock AWS says that the signature is wrong, and what time it is.
            check_clock(_date(error.response), (began + time.time()) / 2)
            raise _queue_error(queue.name, url, error) from None
        except aws.ERRORS as error:
            raise CheckError(
                "queues",
                f'queue "{queue.name}": SQS does not answer at {url} ({error})',
                "See that the network leads there, and that AWS_REGION and QUEUE_URL_PREFIX are right.",
                passing=True,
            ) from None
        skew = check_clock(_date(answer), (began + time.time()) / 2)
    return f"{', '.join(queue.name for queue in queues)}; {skew}"


def _queue_error(name: str, url: str, error: ClientError) -> CheckError:
    code = error.response.get("Error", {}).get("Code", "")
    if code in _MISSING:
        remedy = "Apply infra/terraform with this release's tasks/topology.json, or correct QUEUE_URL_PREFIX."
        return CheckError("queues", f'queue "{name}": there is none at {url}', remedy, passing=True)
    if code in _DENIED:
        remedy = (
            "Let the task's role do sqs:GetQueueAttributes, ReceiveMessage, DeleteMessage, ChangeMessageVisibility."
        )
        return CheckError("queues", f'queue "{name}": {url} may not be read ({code})', remedy, passing=True)
    remedy = "See what SQS says; it is asked again."
    return CheckError("queues", f'queue "{name}": SQS refuses ({error})', remedy, passing=True)


def check_clock(date: str | None, now: float) -> str:
    """How far our clock is from AWS's. date: of an answer's header. now: a time.time() in the middle of the request."""
    if not date:
        return "AWS said no time"
    try:
        theirs = email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return "AWS said no time"
    # The header has whole seconds.
    skew = now - (theirs + 0.5)
    if abs(skew) > LARGEST_SKEW_SECONDS:
        raise CheckError(
            "clock",
            f"it is {skew:+.0f} s off AWS's, and {LARGEST_SKEW_SECONDS:.0f} s is the most",
            "Delays and signatures go by it. Have the machine ask a time server; on Fargate, replace the task.",
            passing=True,
        )
    return f"clock {skew:+.1f} s"


def _date(answer: Any) -> str | None:
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return next((value for name, value in headers.items() if name.lower() == "date"), None)


def check_database() -> str:
    """Whether the database answers and has all that this release needs. What is newer than the release is no fault."""
    from django.db import Error, connection
    from django.db.migrations.executor import MigrationExecutor

    try:
        executor = MigrationExecutor(connection)
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except Exception as error:
        # Besides Django's: what reads the database's secret has errors of its own, and they pass as well.
        kind = "does not answer" if isinstance(error, Error) else "cannot be asked"
        raise CheckError(
            "database",
            f"it {kind} ({type(error).__name__}: {str(error).strip()})",
            "See that it runs, that DATABASE_URL and its secret are right, and that its network lets workers in.",
            passing=True,
        ) from None
    finally:
        connection.close()
    if plan:
        names = [f"{migration.app_label}.{migration.name}" for migration, _ in plan]
        raise CheckError(
            "database",
            f"{len(names)} migrations of this release are not applied, the first is {names[0]}",
            "Run `python manage.py migrate` from this image as a one-off task, before its workers start.",
            passing=True,
        )
    return f"{connection.vendor}, migrated"
