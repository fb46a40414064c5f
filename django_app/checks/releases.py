"""What work that is under way needs of this release: its tasks under the names that their messages have."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from django_app.checks.findings import Finding
from django_app.checks.project import Project
from django_app.checks.tables import is_there
from django_app.ledger.models import Run
from django_app.ledger.states import FINAL, State

_OPEN = sorted(set(State) - FINAL)
#: Counting ends here.
_MOST = 1000


def tasks_in_flight(project: Project) -> Iterator[Finding]:
    """W015: runs that have not ended of a task that this release has under another name, or no more."""
    if not is_there(Run):
        return
    known = set(project.app.tasks)
    for name in _names():
        if name in known:
            continue
        count = Run.objects.filter(task=name, state__in=_OPEN)[:_MOST].count()
        if count:
            told = f"{count} runs" if count > 1 else "1 run"
            told = f"{count} or more runs" if count == _MOST else told
            yield Finding(
                "W015",
                f"task {name}",
                f"{told} of it have not ended, and this release has no task of that name: their messages go back for a "
                "quarter of an hour, and are then dead-lettered.",
                f'{_hint(name, project.tasks)}Keep the old name until they have ended: @shared_task(name="{name}"); or '
                "revoke them in the console.",
            )


def _names() -> Iterator[str]:
    """Names of tasks among all runs, by as many short questions of an index as there are names."""
    last = ""
    while True:
        found = Run.objects.filter(task__gt=last).order_by("task").values_list("task", flat=True).first()
        if found is None:
            return
        yield found
        last = found


def _hint(name: str, known: Iterable[str]) -> str:
    """A task that may have been this one: of the same function, or of a name that is near."""
    names = list(known)
    same = [each for each in names if each.rpartition(".")[2] == name.rpartition(".")[2]]
    near = same or difflib.get_close_matches(name, names, 1)
    return f'Is it "{near[0]}" now? ' if near else ""
