"""Whether a schedule's run may begin, from the facts alone."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_app.ledger.schedules import ids
from django_app.ledger.schedules.ids import Kind
from django_app.ledger.schedules.rules import Facts, Ruling, rule, span

UTC = datetime.UTC
DUE = datetime.datetime(2026, 11, 30, 7, tzinfo=UTC)
MINUTE, HOUR = datetime.timedelta(minutes=1), datetime.timedelta(hours=1)
IN_TIME = Facts(exists=True, kind=Kind.DUE, scheduled_for=DUE, arrived_at=DUE)


@pytest.mark.parametrize(
    ("changes", "ruling", "reason"),
    [
        ({}, Ruling.BEGIN, ""),
        ({"exists": False}, Ruling.SKIP, "its schedule has been deleted"),
        ({"arrived_at": DUE + HOUR}, Ruling.BEGIN, ""),
        (
            {"arrived_at": DUE + HOUR + MINUTE},
            Ruling.SKIP,
            "it came 61 minutes late, and the catch-up window is 1 hour",
        ),
        ({"arrived_at": DUE + HOUR + MINUTE, "jitter": MINUTE}, Ruling.BEGIN, ""),
        ({"arrived_at": DUE + 3 * HOUR, "was_admitted": True}, Ruling.BEGIN, ""),
        ({"arrived_at": DUE + 3 * HOUR, "kind": Kind.BACKFILL}, Ruling.BEGIN, ""),
        (
            {"paused_by": "ada", "pause_reason": "stocktaking"},
            Ruling.SKIP,
            "the schedule is paused by ada: stocktaking",
        ),
        ({"paused_by": ""}, Ruling.SKIP, "the schedule is paused"),
        ({"paused_by": "ada", "kind": Kind.NOW, "scheduled_for": None}, Ruling.BEGIN, ""),
        ({"paused_by": "ada", "kind": Kind.BACKFILL}, Ruling.BEGIN, ""),
        ({"ends_at": DUE}, Ruling.BEGIN, ""),
        ({"ends_at": DUE - MINUTE}, Ruling.SKIP, "the schedule ended at 2026-11-30 06:59 UTC"),
        ({"is_due_time": False, "changed_at": DUE + MINUTE}, Ruling.BEGIN, ""),
        (
            {"is_due_time": False, "changed_at": DUE - MINUTE},
            Ruling.SKIP,
            "the schedule was changed at 2026-11-30 06:59 UTC, and is not due at this time any more",
        ),
        ({"open_runs": 1}, Ruling.SKIP, "an earlier run has not ended"),
        ({"open_runs": 1, "overlap": "allow"}, Ruling.BEGIN, ""),
        ({"open_runs": 1, "overlap": "queue"}, Ruling.WAIT, "an earlier run has not ended"),
        (
            {"open_runs": 1, "overlap": "queue", "waiting_runs": 1},
            Ruling.SKIP,
            "an earlier run has not ended, and another waits for its end",
        ),
        ({"open_runs": 1, "overlap": "queue", "was_admitted": True, "waiting_runs": 1}, Ruling.WAIT, None),
        ({"open_runs": 1, "overlap": "cancel"}, Ruling.REPLACE, "an earlier run is told to end"),
        ({"waiting_runs": 1, "overlap": "cancel"}, Ruling.BEGIN, ""),
        ({"open_runs": 1, "kind": Kind.BACKFILL, "waiting_runs": 9}, Ruling.WAIT, None),
        ({"open_runs": 1, "kind": Kind.NOW}, Ruling.SKIP, "an earlier run has not ended"),
    ],
)
def test_the_rules_of_a_run(changes, ruling, reason):
    ruled = rule(replace(IN_TIME, **changes))
    assert ruled[0] is ruling
    assert reason is None or ruled[1] == reason


@given(
    late=st.integers(0, 10_000),
    catch_up=st.integers(1, 5000),
    jitter=st.integers(0, 1440),
    overlap=st.sampled_from(["skip", "queue", "allow", "cancel"]),
    open_runs=st.integers(0, 3),
    waiting_runs=st.integers(0, 3),
    kind=st.sampled_from(Kind),
    was_admitted=st.booleans(),
)
def test_nothing_begins_beside_an_open_run_unless_that_is_allowed_and_nothing_asked_for_is_lost(  # noqa: PLR0917
    late, catch_up, jitter, overlap, open_runs, waiting_runs, kind, was_admitted
):
    ruling, reason = rule(
        Facts(
            exists=True,
            kind=kind,
            scheduled_for=DUE,
            arrived_at=DUE + late * MINUTE,
            catch_up=catch_up * MINUTE,
            jitter=jitter * MINUTE,
            overlap=overlap,
            open_runs=open_runs,
            waiting_runs=waiting_runs,
            was_admitted=was_admitted,
        )
    )
    if open_runs and overlap != "allow":
        assert ruling is not Ruling.BEGIN
    if was_admitted or kind is Kind.BACKFILL:
        assert ruling is not Ruling.SKIP
    if kind is Kind.DUE and late > catch_up + jitter and not was_admitted:
        assert ruling is Ruling.SKIP
    assert bool(reason) == (ruling is not Ruling.BEGIN)


@given(st.text(min_size=1).filter(lambda name: "@" not in name), st.datetimes(timezones=st.just(UTC)))
def test_an_id_tells_what_asked_for_the_run(name, time):
    due = ids.due(name, time.replace(year=2026, month=1, day=1, microsecond=0))
    assert ids.kind_of(due, name) is Kind.DUE
    assert ids.kind_of(ids.now(name, "ab12"), name) is Kind.NOW
    assert ids.kind_of(ids.backfill(name, time.replace(year=2026), "ab12"), name) is Kind.BACKFILL
    assert ids.kind_of(due, name + "x") is None
    assert ids.kind_of("9f0e1c0e-2d0f-4a39-8f6a-3e0a6d8f1f55", name) is None
    assert ids.kind_of(f"{name}@tomorrow", name) is None


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (60, "1 minute"),
        (90, "90 seconds"),
        (5400, "90 minutes"),
        (7200, "2 hours"),
        (86_400, "1 day"),
        (0, "0 seconds"),
    ],
)
def test_a_span_is_told_in_its_largest_whole_unit(seconds, told):
    assert span(datetime.timedelta(seconds=seconds)) == told
