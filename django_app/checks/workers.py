"""How workers acknowledge, what they take for a message, and the options of the broker's connection."""

from __future__ import annotations

from collections.abc import Iterator

from django.conf import settings

from django_app.checks.findings import Finding
from django_app.checks.project import Project
from serverless.broker.errors import OptionError
from serverless.broker.options import Options

#: What names a serializer that builds objects, and so may run code, when a message is read.
_UNSAFE = {
    "pickle": "pickle",
    "application/x-python-serialize": "pickle",
    "yaml": "yaml",
    "application/x-yaml": "yaml",
}


def late_acknowledgements(project: Project) -> Iterator[Finding]:
    """E001: acks_late without reject_on_worker_lost."""
    for task in project.tasks.values():
        if task.acks_late and not task.reject_on_worker_lost and not task.retry_on_worker_lost:
            yield Finding(
                "E001",
                project.place_of(task),
                f"task {task.name}: acks_late=True with reject_on_worker_lost={task.reject_on_worker_lost}. When its "
                "process dies, its message is acknowledged all the same, and nobody does its work.",
                "Leave both to tasks/celery.py, which turns them on, or set reject_on_worker_lost=True.",
            )


def unsafe_serializers(project: Project) -> Iterator[Finding]:
    """E002: messages or results that run code when they are read."""
    conf = project.app.conf
    for name in ("accept_content", "result_accept_content"):
        for kind in conf[name] or ():
            if str(kind) in _UNSAFE:
                yield _unsafe(f"Celery's {name}", f"{name}={list(conf[name])!r} holds {kind!r}")
    for name in ("task_serializer", "result_serializer"):
        if str(conf[name]) in _UNSAFE:
            yield _unsafe(f"Celery's {name}", f"{name}={conf[name]!r}")
    for task in project.tasks.values():
        if str(task.serializer) in _UNSAFE and task.serializer != conf.task_serializer:
            yield Finding(
                "E002",
                project.place_of(task),
                f"task {task.name}: serializer={task.serializer!r}, and {_WHY}",
                _REMEDY,
            )


_WHY = "whoever may write to a queue could have workers run code."
_REMEDY = 'Use "json", and pass ids instead of objects.'


def _unsafe(place: str, what: str) -> Finding:
    return Finding("E002", place, f"{what}, and {_WHY}", _REMEDY)


def broker_options(project: Project) -> Iterator[Finding]:
    """E003: options of the broker that its connection will refuse, or a lease that the claims do not know of."""
    conf = project.app.conf
    if conf.broker_transport != "serverless.broker:Transport":
        return
    place = "Celery's broker_transport_options"
    given = dict(conf.broker_transport_options)
    if not settings.QUEUE_URL_PREFIX:
        # A command on a laptop, outside of its stack; E029 wants it in production.
        given.pop("predefined_queues", None)
    try:
        options = Options.read(given)
    except OptionError as error:
        text, _, remedy = str(error).rpartition(". ")
        yield Finding("E003", place, f"{text}.", remedy)
        return
    lease = project.topology.lease_seconds
    if options.lease_seconds != lease:
        yield Finding(
            "E003",
            place,
            f"lease_seconds={options.lease_seconds} differs from lease_seconds={lease} of tasks/topology.json, by "
            "which runs are claimed: a claim would end while its worker works, or outlive it.",
            "Set it in tasks/topology.json alone.",
        )
