"""Statements that are sent for every task: written out, and prepared on Postgres.

Django takes longer to make one than a database to do it, and Postgres three times as long to plan one. Where a
pooler gives each transaction another connection, set DISABLE_SERVER_SIDE_CURSORS, as Django asks for: then none is
prepared.
"""

from __future__ import annotations

import datetime
import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import structlog
from django.db import OperationalError, ProgrammingError, connection

log = structlog.get_logger(__name__)

#: The database's own time, as {now} of a statement.
NOW = {
    "postgresql": {"now": "statement_timestamp()"},
    "sqlite": {"now": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')"},
}
#: Uses on one connection before a statement is prepared: a request that enqueues one task would wait longer.
_USES = 5
#: What Postgres says where the connection is not the one that prepared it: unknown, or there already.
_NOT_OURS = frozenset({"26000", "42P05"})

_used: WeakKeyDictionary[Any, dict[str, int]] = WeakKeyDictionary()
_is_pooled = False


class Statement:
    """One statement, with %s for each value.

    words: by vendor, what stands for {names} in the text.
    """

    def __init__(self, text: str, **words: dict[str, str]) -> None:
        self._texts = {vendor: " ".join(text.format(**words.get(vendor, {})).split()) for vendor in NOW}
        # Another release may have prepared other words on a connection that is shared.
        self._name = f"cloudqueue_{hashlib.sha256(self._texts['postgresql'].encode()).hexdigest()[:12]}"
        numbers = itertools.count(1)
        plain = re.sub("%s", lambda _: f"${next(numbers)}", self._texts["postgresql"])
        self._prepare = f"PREPARE {self._name} AS {plain.replace('%%', '%')}"
        self._execute = f"EXECUTE {self._name}({', '.join(['%s'] * (next(numbers) - 1))})"

    def rows(self, values: Sequence[Any]) -> list[Any]:
        """What it returns."""
        return self._run(values, is_read=True)[0]

    def count(self, values: Sequence[Any]) -> int:
        """How many rows it has changed."""
        return self._run(values, is_read=False)[1]

    def _run(self, values: Sequence[Any], *, is_read: bool) -> tuple[list[Any], int]:
        values = adapted(values)
        if connection.vendor == "postgresql" and _may_prepare():
            try:
                return self._run_prepared(values, is_read=is_read)
            except ProgrammingError as error:
                _give_up_preparing(error)
        with connection.cursor() as cursor:
            cursor.execute(self._texts[connection.vendor], values)
            return cursor.fetchall() if is_read else [], cursor.rowcount

    def _run_prepared(self, values: Sequence[Any], *, is_read: bool) -> tuple[list[Any], int]:
        with connection.cursor() as cursor:
            uses = _used.setdefault(connection.connection, {})
            used = uses.get(self._name, 0) + 1
            if used == _USES:
                cursor.execute(self._prepare)
            uses[self._name] = used
            cursor.execute(self._execute if used >= _USES else self._texts["postgresql"], values)
            return cursor.fetchall() if is_read else [], cursor.rowcount


def adapted(values: Iterable[Any]) -> list[Any]:
    """Values as a written-out statement takes them: SQLite has times as text, in UTC."""
    adapt = connection.ops.adapt_datetimefield_value
    return [adapt(each) if isinstance(each, datetime.datetime) else each for each in values]


def _may_prepare() -> bool:
    options = connection.settings_dict.get("OPTIONS", {})
    is_each_others = connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS")
    # EXECUTE takes its values in the text only.
    return not (_is_pooled or is_each_others or options.get("server_side_binding"))


def _give_up_preparing(error: ProgrammingError) -> None:
    """Do without in this process, if that was the matter. Raises OperationalError where a transaction is lost by it."""
    global _is_pooled  # noqa: PLW0603 - of the process, as its pooler is
    if getattr(error.__cause__, "sqlstate", "") not in _NOT_OURS:
        raise error
    _is_pooled = True
    log.warning("statements_not_prepared", error=str(error), remedy="set DISABLE_SERVER_SIDE_CURSORS")
    if connection.in_atomic_block:
        raise OperationalError("this connection is not the one that has prepared the statement: try again") from error
