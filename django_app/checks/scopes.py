"""What names in a source stand for, as far as that is certain: what is not is None."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from django_app.checks.sources import Source

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


class Scope:
    """A module's names, or a function's.

    node: the module or the function.
    """

    def __init__(self, source: Source, node: ast.Module | Function, parent: Scope | None = None) -> None:
        self.source = source
        self.node = node
        self.parent = parent
        self._imports: dict[str, str] = {}
        #: What each name is assigned; None where it cannot be told.
        self._values: dict[str, list[ast.expr | None]] = {}
        if not isinstance(node, ast.Module):
            for each in _parameters(node):
                self._values[each.arg] = [None]
        self._targets: set[int] = set()
        for part in _own_nodes(node):
            self._learn(part)

    def value(self, expression: ast.expr) -> ast.expr:
        """What a name of this function was assigned, if that was once; else the expression itself."""
        if isinstance(expression, ast.Name) and not isinstance(self.node, ast.Module):
            values = self._values.get(expression.id, ())
            if len(values) == 1 and values[0] is not None and expression.id not in self._imports:
                return values[0]
        return expression

    def annotation(self, expression: ast.expr) -> ast.expr | None:
        """How a parameter of this function is annotated, if the expression is one and stays it."""
        if not isinstance(expression, ast.Name) or not isinstance(self.node, ast.FunctionDef | ast.AsyncFunctionDef):
            return None
        if self._values.get(expression.id) != [None]:
            return None
        return next((each.annotation for each in _parameters(self.node) if each.arg == expression.id), None)

    def dotted(self, expression: ast.AST) -> str | None:
        """The full name of what an expression names: `tasks.reports.build_report`."""
        if isinstance(expression, ast.Attribute):
            value = self.dotted(expression.value)
            return f"{value}.{expression.attr}" if value else None
        if not isinstance(expression, ast.Name):
            return None
        scope: Scope | None = self
        while scope is not None:
            imported, assigned = scope._imports.get(expression.id), scope._values.get(expression.id)
            if imported is not None:
                return imported if assigned is None else None
            if assigned is not None:
                is_global = isinstance(scope.node, ast.Module)
                return f"{self.source.name}.{expression.id}" if is_global else None
            scope = scope.parent
        return None

    def object(self, expression: ast.AST) -> Any:
        """What an expression names, if it is loaded: a module, a class, a function, a task."""
        dotted = self.dotted(expression)
        return resolve(dotted) if dotted else None

    def _learn(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for each in node.names:
                first = each.name.partition(".")[0]
                self._imports[each.asname or first] = each.name if each.asname else first
        elif isinstance(node, ast.ImportFrom):
            start = _absolute(self.source.package, node)
            for each in node.names:
                self._imports[each.asname or each.name] = f"{start}.{each.name}"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self._values.setdefault(node.name, []).append(None)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                self._assign(target, node.value)
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr | ast.AugAssign):
            self._assign(node.target, None if isinstance(node, ast.AugAssign) else node.value)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load) and id(node) not in self._targets:
            # Of a loop, `with`, `del`.
            self._values.setdefault(node.id, []).append(None)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            self._values.setdefault(node.name, []).append(None)

    def _assign(self, target: ast.expr, value: ast.expr | None) -> None:
        if isinstance(target, ast.Name):
            self._targets.add(id(target))
            self._values.setdefault(target.id, []).append(value)


def resolve(dotted: str) -> Any:
    """What a full name stands for, if its module is loaded; None if not. Nothing is imported."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        found: Any = sys.modules.get(".".join(parts[:end]))
        if found is None:
            continue
        for name in parts[end:]:
            # Instances are not asked: their attributes may be computed.
            if not isinstance(found, ModuleType | type):
                return None
            found = getattr(found, name, None) if isinstance(found, ModuleType) else vars(found).get(name)
        return found
    return None


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All that belongs to a scope, and not to one inside of it; of those, only the definition.

    A comprehension's names count as the scope's own: one that is both is not certain.
    """
    bodies = node.body if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef) else []
    left: list[ast.AST] = list(reversed(bodies))
    while left:
        each = left.pop()
        yield each
        if not isinstance(each, _SCOPES):
            left += reversed(list(ast.iter_child_nodes(each)))


def _parameters(node: Function) -> list[ast.arg]:
    given = node.args
    more = [each for each in (given.vararg, given.kwarg) if each is not None]
    return [*given.posonlyargs, *given.args, *given.kwonlyargs, *more]


def _absolute(package: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    start = parts[: len(parts) - node.level + 1]
    return ".".join([*start, *([node.module] if node.module else [])])
