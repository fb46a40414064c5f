"""Result backends, and what canvas needs of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from celery import canvas
from celery.backends.base import DisabledBackend
from django.conf import settings

from django_app.checks.findings import Finding
from django_app.checks.project import Project
from django_app.checks.reading import Doing, is_constant, keyword
from django_app.checks.scopes import Scope
from django_app.checks.signatures import canvas_of, task_of
from tasks.runtime.results import LedgerBackend


def backend_of_recorded_runs(project: Project) -> Iterator[Finding]:
    """E004: a result backend that cannot be had, or not with recorded runs."""
    place = "RESULT_BACKEND"
    shown = _shown(project)
    try:
        backend = project.app.backend
    except Exception as error:
        yield Finding("E004", place, f'"{shown}" cannot be loaded: {error}.', "Correct it, or leave it out.")
        return
    if settings.RECORD_RUNS and not isinstance(backend, LedgerBackend):
        # Workers refuse to start with it, see tasks.runtime.requests.
        yield Finding(
            "E004",
            place,
            f'"{shown}" cannot hold the outcomes of recorded runs.',
            "Leave it out, or set RECORD_RUNS=false: then nothing is recorded, and nothing of the ledger works.",
        )


def canvas_without_backend(project: Project) -> Iterator[Finding]:
    """E005: a chord where no result is kept."""
    if not isinstance(_backend(project), DisabledBackend):
        return
    for doing in project.doings:
        if _header(doing) is not None:
            yield Finding(
                "E005",
                doing.place,
                f'a chord waits for its parts\' results, and RESULT_BACKEND="{_shown(project)}" keeps none: its '
                "callback would never be enqueued.",
                "Leave RESULT_BACKEND out, which is the ledger, or name a backend.",
            )


def ignored_results_in_chords(project: Project) -> Iterator[Finding]:
    """E006: `ignore_result` of a chord's part. The ledger hands values on all the same; others wait for ever."""
    backend = _backend(project)
    if backend is None or (settings.RECORD_RUNS and isinstance(backend, LedgerBackend)):
        return
    for doing in project.doings:
        header = _header(doing)
        for part in _parts(header, doing.scope) if header is not None else ():
            task = task_of(part, doing.scope)
            if task is not None and _is_ignored(part, task):
                yield Finding(
                    "E006",
                    doing.scope.source.at(part),
                    f"task {task.name} is part of a chord, and ignore_result=True has its result thrown away: a chord "
                    f'of {type(backend).__name__} (RESULT_BACKEND="{_shown(project)}") would wait for it for ever.',
                    "Give the part .set(ignore_result=False), or leave results to the ledger.",
                )


def _backend(project: Project) -> Any:
    try:
        return project.app.backend
    except Exception:
        return None  # E004 tells


def _shown(project: Project) -> str:
    """Without what may be a password."""
    text = str(project.app.conf.result_backend or "")
    scheme, found, rest = text.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if found else text


def _header(doing: Doing) -> ast.expr | None:
    """The parts of the chord that is made here: `chord(parts)`, `group(parts) | callback`."""
    node = doing.node
    if isinstance(node, ast.Call):
        if canvas_of(node, doing.scope, canvas.chord) and node.args:
            return node.args[0]
        return None
    if isinstance(node, ast.BinOp):
        left = doing.scope.value(node.left)
        return left if canvas_of(left, doing.scope, canvas.group) else None
    return None


def _parts(header: ast.expr, scope: Scope) -> Iterator[ast.expr]:
    """Signatures among a chord's parts, as far as they stand there."""
    header = scope.value(header)
    if isinstance(header, ast.List | ast.Tuple | ast.Set):
        yield from header.elts
    elif isinstance(header, ast.ListComp | ast.GeneratorExp | ast.SetComp):
        yield header.elt
    elif canvas_of(header, scope, canvas.group) and isinstance(header, ast.Call):
        if len(header.args) == 1:
            yield from _parts(header.args[0], scope)
            yield header.args[0]
        else:
            yield from header.args


def _is_ignored(part: ast.expr, task: Any) -> bool:
    asked = keyword(part, "ignore_result")
    return is_constant(asked, True) or (bool(task.ignore_result) and asked is None)
