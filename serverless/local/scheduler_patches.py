"""Where moto 5.2's EventBridge Scheduler is not as AWS's and we lean on it, each with a test in tests/contract."""

from __future__ import annotations

import base64
import functools
import heapq
from datetime import UTC, datetime, timedelta
from typing import Any

from serverless.scheduler import expressions
from serverless.scheduler.errors import ExpressionError

#: How old a StartDate may be.
_START_GRACE = timedelta(minutes=5)


def apply() -> None:
    """Patch moto in this process. Safe to call twice."""
    from moto.scheduler.models import EventBridgeSchedulerBackend as Backend

    if hasattr(Backend.list_schedules, "is_patched"):
        return
    _keep_a_group_that_is_there(Backend)
    _know_missing_groups(Backend)
    _list_by_name(Backend)
    _refuse_what_is_no_schedule(Backend)


def _keep_a_group_that_is_there(backend: Any) -> None:
    """Creating a group a second time replaces it, and all its schedules are gone."""
    from moto.core.exceptions import JsonRESTError

    create = backend.create_schedule_group

    @functools.wraps(create)
    def create_schedule_group(self: Any, name: str, tags: Any) -> Any:
        if name in self.schedule_groups:
            raise JsonRESTError("ConflictException", f"Schedule group {name} already exists.")
        return create(self, name=name, tags=tags)

    backend.create_schedule_group = create_schedule_group


def _know_missing_groups(backend: Any) -> None:
    """A schedule for a group that is missing is a KeyError, and so an error 500."""
    create = backend.create_schedule

    @functools.wraps(create)
    def create_schedule(self: Any, **given: Any) -> Any:
        self.get_schedule_group(given["group_name"])
        return create(self, **given)

    backend.create_schedule = create_schedule


def _list_by_name(backend: Any) -> None:
    """A page begins at a schedule: where that is deleted meanwhile, the list breaks off with an error."""

    def list_schedules(
        self: Any,
        group_names: list[str] | None,
        state: str | None,
        name_prefix: str | None = None,
        *,
        max_results: int | None = None,
        next_token: str | None = None,
    ) -> tuple[list[Any], str | None]:
        for name in group_names or []:
            self.get_schedule_group(name)
        after = base64.urlsafe_b64decode(next_token).decode() if next_token else ""
        most = int(max_results or 50)
        found = (
            schedule
            for group in list(self.schedule_groups.values())
            if not group_names or group.name in group_names
            for schedule in list(group.schedules.values())
            if (not state or schedule.state == state) and schedule.name.startswith(name_prefix or "")
            if schedule.arn > after
        )
        page = heapq.nsmallest(most + 1, found, key=lambda schedule: schedule.arn)
        token = base64.urlsafe_b64encode(page[most - 1].arn.encode()).decode() if len(page) > most else None
        return page[:most], token

    list_schedules.is_patched = True  # type: ignore[attr-defined]
    backend.list_schedules = list_schedules


def _refuse_what_is_no_schedule(backend: Any) -> None:
    """Anything is taken for an expression and a zone, a rate may start long ago, and an update may leave no state.

    AWS sets what an update does not name to its default.
    """
    create, update = backend.create_schedule, backend.update_schedule

    @functools.wraps(create)
    def create_schedule(self: Any, **given: Any) -> Any:
        _judge(given)
        return create(self, **given)

    @functools.wraps(update)
    def update_schedule(self: Any, **given: Any) -> Any:
        _judge(given)
        return update(self, **given | {"state": given["state"] or "ENABLED"})

    backend.create_schedule, backend.update_schedule = create_schedule, update_schedule


def _judge(given: dict[str, Any]) -> None:
    from moto.scheduler.exceptions import ValidationException

    text, zone, now = given["schedule_expression"], given["schedule_expression_timezone"] or "UTC", datetime.now(UTC)
    try:
        expressions.parse(text, zone, now)
    except ExpressionError as error:
        raise ValidationException(f"Invalid Schedule Expression {text}: {error}") from error
    start = given["start_date"]
    is_repeated = not text.startswith("at(")
    if start is not None and is_repeated and datetime.fromtimestamp(float(start), UTC) < now - _START_GRACE:
        raise ValidationException("The StartDate you specify cannot be earlier than 5 minutes ago.")
