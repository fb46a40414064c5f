"""What is enqueued where: tasks, signatures and canvases among a source's expressions."""

from __future__ import annotations

import ast
from typing import Any

from celery import canvas
from celery.app.task import Task
from celery.result import AsyncResult, GroupResult

from django_app.checks.reading import Doing
from django_app.checks.scopes import Scope

#: Methods of a task or a signature that send it now.
SENDING = frozenset({"delay", "apply_async"})
#: Methods that send it after the commit.
SENDING_ON_COMMIT = frozenset({"delay_on_commit", "apply_async_on_commit"})
#: Methods of a task that make a signature of it, and of a signature that give one.
SIGNING = frozenset({"s", "si", "signature", "subtask", "set", "clone"})
_CANVASES = (canvas.chord, canvas._chain, canvas.group, canvas.xmap, canvas.xstarmap, canvas.chunks)


def task_of(expression: ast.expr, scope: Scope) -> Any:
    """The registered task that an expression is, or is a signature of; None if that is not certain."""
    expression = scope.value(expression)
    if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Attribute):
        return task_of(expression.func.value, scope) if expression.func.attr in SIGNING else None
    found = scope.object(expression)
    return found if isinstance(found, Task) else None


def sent_by(doing: Doing) -> Any:
    """The task that a call sends at once, by its own method; None for any other call."""
    receiver = doing.receiver
    return task_of(receiver, doing.scope) if receiver is not None and doing.method in SENDING else None


def canvas_of(expression: ast.expr, scope: Scope, *kinds: Any) -> bool:
    """Whether an expression is `chord(...)`, `group(...)` or another canvas. kinds: which; default: any."""
    if not isinstance(expression, ast.Call):
        return False
    found = scope.object(expression.func)
    # `celery.chain` is a function that makes one.
    return any(
        found is kind or (isinstance(found, type) and issubclass(found, kind)) for kind in kinds or _CANVASES
    ) or (not kinds and found is canvas.chain)


def is_result(expression: ast.expr, scope: Scope) -> bool:
    """Whether an expression is the result of something that it enqueues, or looks a result up."""
    expression = scope.value(expression)
    if not isinstance(expression, ast.Call):
        return False
    function = expression.func
    found = scope.object(function)
    if found is AsyncResult or found is GroupResult:
        return True
    if isinstance(function, ast.Attribute):
        if function.attr in ("AsyncResult", "GroupResult"):
            return True
        made = scope.value(function.value)
        is_known = task_of(made, scope) is not None or canvas_of(made, scope) or isinstance(made, ast.BinOp)
        return function.attr in SENDING and is_known
    # `chord(parts)(callback)`, `group(parts)()`.
    return canvas_of(scope.value(function), scope)
