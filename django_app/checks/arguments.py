"""What tasks are given: a message holds JSON, so a model instance cannot travel."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from django.db.models import Manager, Model, QuerySet
from django.shortcuts import get_object_or_404

from django_app.checks.findings import Finding
from django_app.checks.project import Project
from django_app.checks.reading import Doing, chain_of, keyword
from django_app.checks.scopes import Scope
from django_app.checks.signatures import SENDING, SENDING_ON_COMMIT, task_of

_GIVEN_AS_THEY_ARE = frozenset({"delay", "delay_on_commit", "s", "si"})
#: What gives an instance of a manager or a QuerySet; what gives another QuerySet, which does not travel either.
_INSTANCES = frozenset({"get", "create", "first", "last", "latest", "earliest"})
_SETS = frozenset({"all", "filter", "exclude", "order_by", "select_related", "prefetch_related", "select_for_update"})
_REMEDY = "Pass its primary key, and let the task read the row: it finds it as it is then."


def model_parameters(project: Project) -> Iterator[Finding]:
    """E011: a task whose parameter is a model instance."""
    for definition in project.definitions:
        node = definition.node
        given = node.args
        for each in (*given.posonlyargs, *given.args, *given.kwonlyargs):
            model = _model_in(each.annotation, definition.scope)
            if model is not None:
                yield Finding(
                    "E011",
                    definition.scope.source.at(each),
                    f"task {definition.task.name}: parameter {each.arg} is a {model.__name__}, and a message holds "
                    "JSON alone. A copy would be out of date as well by the time the task begins.",
                    _REMEDY,
                )


def model_instances(project: Project) -> Iterator[Finding]:
    """E012: a call that gives a task a model instance."""
    for doing in project.doings:
        receiver = doing.receiver
        task = task_of(receiver, doing.scope) if receiver is not None else None
        if task is None:
            continue
        for given in _given(doing):
            if _is_instance(given, doing.scope):
                yield Finding(
                    "E012",
                    doing.scope.source.at(given),
                    f"{doing.method} of task {task.name} is given {ast.unparse(given)}, a model instance or a "
                    "QuerySet, and a message holds JSON alone: the call would fail.",
                    _REMEDY,
                )


def _given(doing: Doing) -> Iterator[ast.expr]:
    """All arguments of the task, those in lists included."""
    call = doing.node
    if not isinstance(call, ast.Call):
        return
    left: list[ast.expr | None] = []
    if doing.method in _GIVEN_AS_THEY_ARE:
        left += [*call.args, *(each.value for each in call.keywords)]
    elif doing.method in SENDING | SENDING_ON_COMMIT | {"signature", "subtask"}:
        left += [*call.args[:2], keyword(call, "args"), keyword(call, "kwargs")]
    while left:
        each = left.pop(0)
        if isinstance(each, ast.List | ast.Tuple | ast.Set):
            left += each.elts
        elif isinstance(each, ast.Dict):
            left += each.values
        elif isinstance(each, ast.Starred):
            left.append(each.value)
        elif each is not None:
            yield each


def _is_instance(expression: ast.expr, scope: Scope) -> bool:
    """Whether it certainly is a model instance or a QuerySet."""
    if isinstance(expression, ast.Attribute):
        # `request.user`
        of = expression.value
        name = of.attr if isinstance(of, ast.Attribute) else of.id if isinstance(of, ast.Name) else ""
        return expression.attr == "user" and name == "request"
    annotation = scope.annotation(expression)
    if annotation is not None:
        return _model_in(annotation, scope) is not None
    made = scope.value(expression)
    if not isinstance(made, ast.Call):
        return False
    found = scope.object(made.func)
    if found is get_object_or_404:
        return True
    if isinstance(found, type) and issubclass(found, Model):
        return True
    if not isinstance(made.func, ast.Attribute) or made.func.attr not in _INSTANCES | _SETS:
        return False
    *steps, base = chain_of(made)
    model = scope.object(base)
    is_model = isinstance(model, type) and issubclass(model, Model)
    methods = [each.attr for each in steps if isinstance(each, ast.Attribute)]
    # From the right: `first`, `filter`, ..., and last the manager.
    return is_model and all(each in _SETS for each in methods[1:-1]) and len(methods) > 1


def _model_in(annotation: ast.expr | None, scope: Scope) -> type | None:
    """The model that an annotation names, in whatever wrapping."""
    if annotation is None:
        return None
    left: list[ast.AST] = [annotation]
    while left:
        each = left.pop()
        if isinstance(each, ast.Subscript) and (scope.dotted(each.value) or "").endswith(".Literal"):
            continue
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            try:
                left.append(ast.parse(each.value, mode="eval").body)
            except SyntaxError:
                continue
        found = scope.object(each) if isinstance(each, ast.Name | ast.Attribute) else None
        if isinstance(found, type) and issubclass(found, Model | QuerySet | Manager):
            return found
        left += ast.iter_child_nodes(each)
    return None
