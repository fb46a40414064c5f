"""A schedule on a whole stack: saved, brought to EventBridge, fired by the clock, run by real workers."""

from __future__ import annotations

import datetime
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import ROOT
from tests.waiting import wait_for

if TYPE_CHECKING:
    from serverless.local.stack import Stack

UTC = datetime.UTC
MINUTE = datetime.timedelta(minutes=1)
NAME = "tests every minute"
_PRELUDE = "from django_app.ledger.models import *; import json; from datetime import datetime, timedelta, UTC\n"


def ask(stack: Stack, code: str) -> Any:
    """What the code prints as JSON, run beside the stack."""
    return json.loads(stack.manage("shell", "--no-imports", "--verbosity=0", "-c", _PRELUDE + code) or "null")


def clock(stack: Stack, since: datetime.datetime, until: datetime.datetime) -> subprocess.Popen[str]:
    """A clock of the test's own that plays a span of time."""
    command = [sys.executable, "-m", "serverless.local.clock", "--exact"]
    command += ["--since", since.isoformat(), "--now", until.isoformat()]
    return subprocess.Popen(command, cwd=ROOT, env=stack.environment, text=True)


@pytest.fixture
def schedule(stack: Stack) -> Iterator[None]:
    """Every minute, side by side, and made up for within a day; its due times are its test's own affair."""
    ask(
        stack,
        f"Schedule(name={NAME!r}, task='tasks.sessions.clear_expired_sessions', timing='* * * * *', overlap='allow',"
        " catch_up_seconds=86400).save()",
    )
    yield
    ask(stack, f"[each.delete() for each in Schedule.objects.filter(name={NAME!r})]")


def runs(stack: Stack, since: datetime.datetime, until: datetime.datetime) -> list[list[Any]]:
    """[id, state, attempts] of the runs of these due times."""
    return ask(
        stack,
        f"found = Run.objects.filter(schedule={NAME!r}, scheduled_for__gt=datetime.fromisoformat('{since.isoformat()}'),"
        f" scheduled_for__lte=datetime.fromisoformat('{until.isoformat()}')).order_by('scheduled_for')\n"
        "print(json.dumps(list(found.values_list('pk', 'state', 'attempts'))))",
    )


def test_what_stands_in_code_is_at_eventbridge_when_the_stack_is_up(stack):
    code = "each = Schedule.objects.filter(source='code', synced_at__isnull=False); print(json.dumps([*each.values_list('name', flat=True)]))"
    wait_for(lambda: ask(stack, code) == ["clear expired sessions"], "the schedules of code")


@pytest.mark.usefixtures("schedule")
def test_a_clock_that_is_killed_and_started_again_misses_nothing_and_doubles_nothing(stack):
    until = datetime.datetime.now(UTC).replace(second=0, microsecond=0) - 10 * MINUTE
    since = until - 40 * MINUTE
    killed = clock(stack, since, until)
    wait_for(lambda: len(runs(stack, since, until)) >= 3 or killed.poll() is not None, "the first runs")
    if killed.poll() is None:
        killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    both = [clock(stack, since, until) for _ in range(2)]
    assert [each.wait(120) for each in both] == [0, 0]
    wait_for(lambda: [run[1] for run in runs(stack, since, until)] == ["succeeded"] * 40, "all runs", 120)
    found = runs(stack, since, until)
    assert [run[0] for run in found] == [
        f"{NAME}@{since + number * MINUTE:%Y-%m-%dT%H:%M:%SZ}" for number in range(1, 41)
    ]
    assert {run[2] for run in found} == {1}


@pytest.mark.usefixtures("schedule")
def test_what_the_clock_never_fired_is_run_by_the_housekeeping(stack):
    until = datetime.datetime.now(UTC).replace(second=0, microsecond=0) - 6 * MINUTE
    since = until - 20 * MINUTE
    ask(
        stack,
        f"Schedule.objects.filter(name={NAME!r}).update(checked_until=datetime.fromisoformat('{since.isoformat()}'),"
        f" next_check_at=datetime.fromisoformat('{since.isoformat()}'))",
    )
    stack.manage("housekeeping")
    wait_for(lambda: [run[1] for run in runs(stack, since, until)] == ["succeeded"] * 20, "all runs", 120)
    assert {run[2] for run in runs(stack, since, until)} == {1}
    # EventBridge speaks up after all.
    assert clock(stack, since, until).wait(120) == 0
    wait_for(lambda: ask(stack, _BACKLOG) == 0, "the queue to be empty")
    assert [(run[1], run[2]) for run in runs(stack, since, until)] == [("succeeded", 1)] * 20


#: Messages of the default queue, hidden ones as well.
_BACKLOG = """
from tasks.runtime.queue_stats import stats
default = stats()["default"]
print(json.dumps((default.depth or 0) + (default.in_flight or 0)))
"""
