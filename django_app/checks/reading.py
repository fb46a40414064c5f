"""What a source does that checks want to know of: its calls, its pipes of signatures, its tasks' functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from celery.app.task import Task
from celery.result import allow_join_result
from django.db import transaction

from django_app.checks.scopes import Scope, resolve
from django_app.checks.sources import Source, SourcePlace
from tasks.runtime.once import once

_TRANSACTIONS = (transaction.atomic, once)


@dataclass(frozen=True)
class Doing:
    """One call, or one pipe (`first | second`).

    inside: the task whose function it stands in. is_in_transaction: whether it runs before the end of a transaction
    that this function has begun. may_wait: whether Celery was told that waiting for results is wanted here.
    """

    node: ast.expr
    scope: Scope
    inside: Any = None
    is_in_transaction: bool = False
    may_wait: bool = False

    @property
    def place(self) -> SourcePlace:
        return self.scope.source.at(self.node)

    @property
    def method(self) -> str:
        """What is called, by its last name: `delay`."""
        function = self.node.func if isinstance(self.node, ast.Call) else None
        return function.attr if isinstance(function, ast.Attribute) else ""

    @property
    def receiver(self) -> ast.expr | None:
        """On what a method is called."""
        function = self.node.func if isinstance(self.node, ast.Call) else None
        return function.value if isinstance(function, ast.Attribute) else None


@dataclass(frozen=True)
class Definition:
    """A task's function in its source."""

    task: Any
    node: ast.FunctionDef | ast.AsyncFunctionDef
    scope: Scope

    @property
    def place(self) -> SourcePlace:
        return self.scope.source.at(self.node)


@dataclass
class Read:
    """All of one source."""

    doings: list[Doing] = field(default_factory=list)
    definitions: list[Definition] = field(default_factory=list)


def read(source: Source) -> Read:
    """Look through a source once."""
    found = Read()
    reader = _Reader(source, found)
    for statement in source.tree.body:
        reader.visit(statement)
    return found


def keyword(call: ast.expr, name: str) -> ast.expr | None:
    """What a call is given under a name."""
    given = call.keywords if isinstance(call, ast.Call) else []
    return next((each.value for each in given if each.arg == name), None)


def is_constant(expression: ast.expr | None, value: object) -> bool:
    return isinstance(expression, ast.Constant) and expression.value is value


class _Reader(ast.NodeVisitor):
    def __init__(self, source: Source, found: Read) -> None:
        self._source = source
        self._found = found
        self._scope = Scope(source, source.tree)
        self._class = ""
        self._inside: Any = None
        self._is_in_transaction = False
        self._may_wait = False

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self._class = self._class, node.name
        self.generic_visit(node)
        self._class = outer

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for each in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(each)
        task = self._task_of(node)
        if task is not None:
            self._found.definitions.append(Definition(task, node, self._scope))
        self._enter(node, node.body, task, is_atomic=any(self._is_transaction(each) for each in node.decorator_list))

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - ast's name

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._enter(node, [node.body], None, is_atomic=False)

    def visit_With(self, node: ast.With) -> None:
        before = self._is_in_transaction, self._may_wait
        for each in node.items:
            self.visit(each.context_expr)
            self._is_in_transaction = self._is_in_transaction or self._is_transaction(each.context_expr)
            called = each.context_expr.func if isinstance(each.context_expr, ast.Call) else each.context_expr
            self._may_wait = self._may_wait or self._scope.object(called) is allow_join_result
        for statement in node.body:
            self.visit(statement)
        self._is_in_transaction, self._may_wait = before

    def visit_Call(self, node: ast.Call) -> None:
        self._note(node)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.BitOr):
            self._note(node)
        self.generic_visit(node)

    def _note(self, node: ast.expr) -> None:
        self._found.doings.append(Doing(node, self._scope, self._inside, self._is_in_transaction, self._may_wait))

    def _enter(self, node: Any, body: list[Any], task: Any, *, is_atomic: bool) -> None:
        """A function's body. When one that is made inside of another runs is not known."""
        before = self._scope, self._class, self._inside, self._is_in_transaction, self._may_wait
        self._scope = Scope(self._source, node, self._scope)
        self._class, self._inside, self._is_in_transaction, self._may_wait = "", task, is_atomic, False
        for each in body:
            self.visit(each)
        self._scope, self._class, self._inside, self._is_in_transaction, self._may_wait = before

    def _is_transaction(self, expression: ast.expr) -> bool:
        called = expression.func if isinstance(expression, ast.Call) else expression
        return any(self._scope.object(called) is each for each in _TRANSACTIONS)

    def _task_of(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Any:
        if not isinstance(self._scope.node, ast.Module):
            return None
        if not self._class:
            found = resolve(f"{self._source.name}.{node.name}")
            # A name of the module that was given to another task since is not this function's.
            return found if isinstance(found, Task) and found.__name__ == node.name else None
        found = resolve(f"{self._source.name}.{self._class}")
        is_task = node.name == "run" and isinstance(found, type) and issubclass(found, Task)
        return found if is_task and not found.__dict__.get("abstract", False) else None


def chain_of(expression: ast.expr) -> Iterator[ast.expr]:
    """An expression and what it is made of, from the right: `Order.objects.filter(...).first()` down to `Order`."""
    at: ast.expr | None = expression
    while at is not None:
        yield at
        at = (
            at.func if isinstance(at, ast.Call) else at.value if isinstance(at, ast.Attribute | ast.Subscript) else None
        )
