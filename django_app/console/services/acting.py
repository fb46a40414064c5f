"""Who acts, and what was done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from django.db.models import QuerySet

from django_app.console.access import Access, visible_runs
from django_app.console.errors import NotVisibleError
from django_app.ledger.models import Run


@dataclass(frozen=True)
class Actor:
    """token: the name of the token by which they came; "": they came themselves."""

    access: Access
    token: str = ""

    @property
    def name(self) -> str:
        return self.access.username


@dataclass(frozen=True)
class Done:
    """message: for people. detail: for the audit log, without secrets. data: for programs. run_id: to look at next."""

    message: str
    detail: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    run_id: str = ""


def locked_run(access: Access, run_id: str) -> Run:
    """A run that they may see; nobody else changes it until the transaction ends. Raises NotVisibleError."""
    runs: QuerySet[Run] = visible_runs(access).select_for_update()
    run = runs.filter(pk=run_id).first()
    if run is None:
        raise NotVisibleError
    return run
