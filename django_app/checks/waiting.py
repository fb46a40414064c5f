"""What should not be done where it is done: enqueueing in a transaction, waiting in a task."""

from __future__ import annotations

from collections.abc import Iterator

from django.conf import settings

from django_app.checks.findings import Finding
from django_app.checks.project import Project
from django_app.checks.reading import is_constant, keyword
from django_app.checks.signatures import is_result, sent_by

_WAITING = frozenset({"get", "join", "join_native", "wait", "collect"})


def unrecorded_in_transactions(project: Project) -> Iterator[Finding]:
    """E013: a task that leaves at once, whatever becomes of the transaction around it."""
    for doing in project.doings:
        if not doing.is_in_transaction:
            continue
        task = sent_by(doing)
        asked = keyword(doing.node, "recorded")
        if task is None:
            continue
        if not settings.RECORD_RUNS:
            why = "RECORD_RUNS=false"
        elif is_constant(asked, False) or (asked is None and not getattr(task, "recorded", True)):
            why = "recorded=False"
        else:
            continue
        yield Finding(
            "E013",
            doing.place,
            f"task {task.name} is enqueued inside a transaction and not recorded ({why}): it leaves at once, may begin "
            "before the commit, and a rollback does not take it back.",
            f"Use {doing.method}_on_commit, or record it.",
        )


def waiting_inside_tasks(project: Project) -> Iterator[Finding]:
    """E014: a task that waits for another's result."""
    for doing in project.doings:
        receiver = doing.receiver
        if doing.inside is None or doing.may_wait or receiver is None or doing.method not in _WAITING:
            continue
        if is_constant(keyword(doing.node, "disable_sync_subtasks"), False):
            continue
        if is_result(receiver, doing.scope):
            yield Finding(
                "E014",
                doing.place,
                f"task {doing.inside.name} waits for another task's result by .{doing.method}(): once all processes of "
                "a pool wait, nobody is left to do what they wait for. Celery raises RuntimeError there.",
                "Let a chain or a chord go on when the result is there: first.s() | second.s().",
            )
