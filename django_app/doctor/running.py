"""All examinations, each with a deadline of its own, in a thread of its own, on a connection that cannot write."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import structlog
from django.db import DatabaseError, connection, transaction

from django_app.doctor import checks, clocks, cloud, database, queues, runs, schedules, workers
from django_app.doctor.findings import Finding, Severity, error, worst
from django_app.doctor.subjects import Examination, one_line

log = structlog.get_logger(__name__)

Examine = Callable[[Examination], Iterator[Finding]]

SUBJECTS: Mapping[str, Examine] = {
    "aws": cloud.examine,
    "database": database.examine,
    "clocks": clocks.examine,
    "queues": queues.examine,
    "workers": workers.examine,
    "runs": runs.examine,
    "schedules": schedules.examine,
    "checks": checks.examine,
}
_SECONDS = 15.0
#: All of them together end within a web function's 29 seconds, which would end them without a word.
_SECONDS_IN_A_FUNCTION = 3.0
LONGEST_SECONDS = 600.0
#: They need not wait for one that does not answer.
_WITHOUT_DATABASE = {"aws"}


def default_seconds() -> float:
    """That one examination may take."""
    return _SECONDS_IN_A_FUNCTION if "AWS_LAMBDA_FUNCTION_NAME" in os.environ else _SECONDS


@dataclass(frozen=True)
class Examined:
    """One subject's result. told: what is worth a word where all is well."""

    subject: str
    seconds: float
    findings: tuple[Finding, ...]
    told: str = ""

    @property
    def severity(self) -> Severity:
        return worst(self.findings)


@dataclass
class _Work:
    """What a thread has found so far."""

    this: Examination
    findings: list[Finding] = field(default_factory=list)
    problem: str = ""


def examine(
    subjects: Iterable[str] = tuple(SUBJECTS),
    seconds: float = _SECONDS,
    *,
    clock: Callable[[], float] = time.time,
    on_begin: Callable[[str], None] | None = None,
) -> Iterator[Examined]:
    """Examine subjects, one after the other. seconds: that each may take. clock: this machine's.

    Never raises: an examination that fails, or does not end in time, is a finding, beside what it had found.
    """
    for subject in subjects:
        if on_begin is not None:
            on_begin(subject)
        yield _examined(subject, SUBJECTS[subject], seconds, clock)


def _examined(subject: str, work_of: Examine, seconds: float, clock: Callable[[], float]) -> Examined:
    work = _Work(Examination(clock))
    thread = threading.Thread(
        target=_run, args=(work, subject, work_of, seconds), name=f"doctor-{subject}", daemon=True
    )
    began = time.monotonic()
    thread.start()
    thread.join(seconds)
    problem = f"did not end within {seconds:g} s" if thread.is_alive() else work.problem
    findings = list(work.findings)
    if problem:
        findings.append(
            error(
                "D100",
                f'examination "{subject}"',
                problem,
                "each ends, and in its time",
                "first what is told beside it; then, with the error's traceback and more time: LOG_LEVEL=DEBUG "
                f"python manage.py doctor --only {subject} --timeout {min(seconds * 4, LONGEST_SECONDS):g}",
            )
        )
    return Examined(subject, time.monotonic() - began, tuple(findings), "; ".join(work.this.told))


def _run(work: _Work, subject: str, work_of: Examine, seconds: float) -> None:
    try:
        with nullcontext() if subject in _WITHOUT_DATABASE else _reading_only(seconds):
            for finding in work_of(work.this):
                work.findings.append(finding)
    except Exception as problem:
        log.debug("examination_failed", subject=subject, exc_info=True)
        if isinstance(problem, DatabaseError) and connection.connection is None:
            work.problem = "needs the database, which does not answer"
        else:
            work.problem = f"failed: {type(problem).__name__}: {one_line(str(problem))}"
    finally:
        connection.close()


@contextmanager
def _reading_only(seconds: float) -> Iterator[None]:
    """The database itself refuses this thread's writes, and ends questions that take too long."""
    try:
        connection.ensure_connection()
    except Exception:
        # Its examination tells so; others fail at their first question.
        yield
        return
    if connection.vendor == "postgresql":
        # For this transaction alone: what a pool hands on must not stay so.
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(int(seconds * 1000))])
            yield
        return
    if connection.vendor == "sqlite":
        # Without a transaction: ours begin by taking the right to write.
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA query_only = ON")
    yield
