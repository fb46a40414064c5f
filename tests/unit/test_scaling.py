"""How many workers a pool should have: the rules, what is remembered for them, and what Terraform must say of them."""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from serverless.scaling import aws_policies, policy
from serverless.scaling.errors import ScalingError
from serverless.scaling.policy import (
    QUIET_SECONDS,
    SPARE_SECONDS,
    Decision,
    Figures,
    Limits,
    decide,
    needed,
    woken,
)
from serverless.scaling.watch import Watch
from tasks.topology import TOPOLOGY
from tests.bench.simulation.cloudwatch import evaluate
from tests.conftest import ROOT

GENERAL = Limits("general", 0, 10, 2, 60.0, 4.0, prefetch=10)

counts = st.integers(0, 20_000)
limits = st.builds(
    lambda minimum, more, slots, wait, mean, prefetch: Limits(
        "pool", minimum, max(1, minimum + more), slots, wait, mean, prefetch
    ),
    minimum=st.integers(0, 5),
    more=st.integers(0, 50),
    slots=st.integers(1, 32),
    wait=st.floats(1, 3600),
    mean=st.floats(0.01, 36_000),
    prefetch=st.sampled_from([1, 10]),
)


def unknown_or(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.none() | values


def figures_of(known_or_not) -> st.SearchStrategy:
    return st.builds(
        Figures,
        waiting=known_or_not(counts),
        in_flight=known_or_not(counts),
        running=known_or_not(st.integers(0, 60)),
        desired=st.integers(0, 60),
        oldest_age_seconds=known_or_not(st.floats(0, 1e6)),
        quiet_seconds=known_or_not(st.floats(0, 1e6)),
        most_work=known_or_not(counts),
        holding=known_or_not(st.integers(0, 60)),
    )


figures = figures_of(unknown_or)
known_figures = figures_of(lambda values: values)


def seen(*, waiting=0, in_flight=0, running=None, desired=0, **others) -> Figures:
    return Figures(waiting, in_flight, desired if running is None else running, desired, **others)


# What is refused.


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"minimum": -1}, 'pool "general": minimum=-1 is not a whole number of at least 0. Correct it.'),
        ({"maximum": 0}, "maximum=0 is not a whole number of at least 1"),
        ({"slots": 2.5}, "slots=2.5 is not a whole number of at least 1"),
        ({"prefetch": True}, "prefetch=True is not a whole number of at least 1"),
        ({"minimum": 11}, "minimum=11 exceeds maximum=10. Lower one or raise the other."),
        ({"acceptable_wait_seconds": 0}, "acceptable_wait_seconds=0 is not a number of seconds above 0"),
        ({"mean_task_seconds": math.nan}, "mean_task_seconds=nan is not a number of seconds above 0"),
        ({"mean_task_seconds": math.inf}, "mean_task_seconds=inf is not a number of seconds above 0"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_with_its_rule_and_remedy(changed, said):
    with pytest.raises(ScalingError) as caught:
        replace(GENERAL, **changed)
    assert said in str(caught.value)
    assert caught.value.pool == "general"
    assert caught.value.field in changed


@pytest.mark.parametrize(
    "field", ["waiting", "in_flight", "running", "desired", "quiet_seconds", "most_work", "holding"]
)
def test_a_figure_below_zero_is_refused(field):
    with pytest.raises(ScalingError, match=f"{field}=-3 is below 0, .*Give None where a figure is not known"):
        decide(GENERAL, replace(seen(), **{field: -3}))


# What is decided, case by case.


@pytest.mark.parametrize(
    ("figures", "desired", "why"),
    [
        (seen(), 0, "0 workers, asleep: nothing waits and nothing is in flight"),
        (seen(waiting=1), 1, "1 worker, woken: 1 waiting and 0 in flight, and nobody to do it"),
        (seen(in_flight=1), 1, "1 worker, woken: 0 waiting and 1 in flight, and nobody to do it"),
        # 15 waiting are 60 s of work for two slots at 4 s, of which a half may wait.
        (seen(waiting=15, in_flight=2, desired=1), 1, "1 worker, enough for 15 waiting and 2 in flight"),
        (seen(waiting=16, in_flight=2, desired=1), 2, "2 workers, more than 15 waiting a worker: 16 waiting"),
        (
            seen(waiting=16, in_flight=2, desired=1, oldest_age_seconds=61),
            2,
            "2 workers, more than 15 waiting a worker: 16 waiting and 2 in flight, the oldest for 61 s where 60 s are acceptable",
        ),
        (seen(waiting=5000), 10, "and nobody to do it; 334 workers would be needed, maximum=10"),
        (seen(waiting=5000, desired=10), 10, "10 workers, its maximum: more than 15 waiting a worker"),
        (seen(desired=3, quiet_seconds=599), 3, "3 workers, enough for 0 waiting and 0 in flight"),
        (seen(desired=3, quiet_seconds=600), 0, "0 workers, asleep"),
        (
            seen(desired=5, most_work=6, quiet_seconds=0),
            2,
            "2 workers, the others idle: at most 6 waiting or in flight",
        ),
        (seen(in_flight=4, desired=5, most_work=6), 4, "4 workers, the others idle"),
        (seen(in_flight=4, desired=5, most_work=6, holding=3), 3, "3 workers, the others idle"),
        (seen(in_flight=40, desired=9, most_work=40), 9, "9 workers, enough for 0 waiting and 40 in flight"),
        (Figures(None, None, None, 4), 4, "4 workers, as before: how much waits and is in flight is unknown"),
        (
            Figures(None, 0, 4, 4, quiet_seconds=900),
            4,
            "4 workers, as before: how much waits is unknown, so none is given",
        ),
        (Figures(0, None, 4, 4, quiet_seconds=900), 4, "as before: how much is in flight is unknown"),
        (Figures(99, None, 0, 0), 7, "7 workers, woken: 99 waiting and an unknown number in flight"),
    ],
)
def test_a_decision_is_made_and_says_why(figures, desired, why):
    decision = decide(GENERAL, figures)
    assert decision.desired == desired, decision
    assert why in decision.reason


def test_a_pool_with_a_minimum_does_not_sleep_below_it():
    assert decide(replace(GENERAL, minimum=2), seen(desired=5, quiet_seconds=9999)) == Decision(
        2, "2 workers, its minimum: nothing waits and nothing is in flight"
    )


def test_long_tasks_get_no_more_workers_than_can_have_something_to_do():
    """Two tasks of an hour that should wait a minute at most: by time alone that would be 120 workers."""
    long = replace(GENERAL, mean_task_seconds=3600.0, maximum=200)
    assert needed(long, 2, 0) == 1
    assert needed(long, 3, 4) == 4


@pytest.mark.parametrize(
    ("figures", "desired"),
    [
        (seen(waiting=40), 3),
        (seen(waiting=40, desired=1, running=0), 3),
        (seen(in_flight=1, desired=0, running=1), 1),
        (seen(waiting=40, desired=1, running=1), None),
        (seen(waiting=1, desired=1, running=0), None),
        (seen(), None),
        (seen(desired=3, quiet_seconds=9999, running=0), None),
        (Figures(None, None, 0, 0), None),
    ],
)
def test_the_sampler_asks_for_more_only_where_work_waits_and_nobody_runs_or_is_wanted(figures, desired):
    decision = woken(GENERAL, figures)
    assert (decision and decision.desired) == desired


# What always holds.


@given(limits, figures)
def test_a_decision_stays_within_the_limits_and_names_its_number(limits, figures):
    decision = decide(limits, figures)
    assert limits.minimum <= decision.desired <= limits.maximum
    assert decision.reason.startswith("1 worker," if decision.desired == 1 else f"{decision.desired} workers,")


@given(limits, figures, counts, counts)
def test_more_work_never_means_fewer_workers(limits, figures, waiting, in_flight):
    more = replace(
        figures,
        waiting=None if figures.waiting is None else figures.waiting + waiting,
        in_flight=None if figures.in_flight is None else figures.in_flight + in_flight,
    )
    assert decide(limits, more).desired >= decide(limits, figures).desired


@given(limits, figures)
def test_nobody_is_sent_home_while_there_is_work_for_one(limits, figures):
    assume(figures.waiting or figures.in_flight)
    assert decide(limits, figures).desired >= 1


@given(limits, known_figures)
def test_no_worker_that_holds_messages_is_given_back(limits, figures):
    holding = min(figures.running, figures.in_flight, figures.holding, figures.desired)
    assert decide(limits, figures).desired >= min(holding, limits.maximum)


@given(limits, figures)
def test_nothing_is_taken_away_on_missing_figures(limits, figures):
    no_counts = None in {figures.waiting, figures.in_flight}
    no_past = figures.quiet_seconds is None and figures.most_work is None
    assume(no_counts or no_past)
    assert decide(limits, figures).desired >= min(figures.desired, limits.maximum)


@given(limits, figures)
def test_the_sampler_never_asks_for_fewer(limits, figures):
    decision = woken(limits, figures)
    assert decision is None or decision.desired > figures.desired


@settings(deadline=None)  # six hours, minute by minute, on a machine that may be busy
@given(
    limits=limits,
    load=st.floats(0.01, 2.0),
    start_minutes=st.integers(0, 3),
)
def test_a_constant_load_does_not_make_a_pool_flap(limits, load, start_minutes):
    """Six hours of a load that is a share of the pool's most: it grows, and once it has given back it does not grow again.

    It may go on growing for hours where little is missing and a long wait is acceptable.
    """
    assume(limits.mean_task_seconds <= 900)
    busy = load * limits.maximum * limits.slots  # slots that it would fill
    watch, backlog, wanted, found = Watch(0.0), 0.0, [limits.minimum], []
    for minute in range(360):
        running = min(wanted[-start_minutes - 1 :])
        capacity = running * limits.slots
        # Minutes of work for one slot: what has come, and what can be done of it.
        backlog += busy - min(capacity, busy + backlog)
        waiting = math.ceil(backlog * 60 / limits.mean_task_seconds)
        in_flight = math.ceil(min(capacity, busy + backlog))
        look = watch.look(minute * 60, waiting=waiting, in_flight=in_flight, running=running, desired=wanted[-1])
        wanted.append(decide(limits, look).desired)
        found.append(wanted[-1])
    changes = [after - before for before, after in itertools.pairwise(found) if after != before]
    assert changes == sorted(changes, key=lambda change: change < 0), found


# What is remembered.


def test_the_busiest_moment_is_told_once_a_pool_has_been_watched_for_long_enough():
    watch = Watch(100.0)
    for second, work in ((100, 7), (400, 3), (699, 2)):
        assert watch.look(second, waiting=work, in_flight=0, running=0, desired=0).most_work is None
    assert watch.look(700, waiting=0, in_flight=1, running=0, desired=0).most_work == 7
    assert watch.look(701, waiting=0, in_flight=1, running=0, desired=0).most_work == 3


def test_quiet_is_counted_from_the_last_work_and_from_waking():
    watch = Watch(0.0)
    assert watch.look(50, waiting=0, in_flight=0, running=0, desired=0).quiet_seconds == 50
    assert watch.look(60, waiting=0, in_flight=2, running=0, desired=0).quiet_seconds == 0
    assert watch.look(90, waiting=0, in_flight=0, running=0, desired=0).quiet_seconds == 30
    assert watch.look(95, waiting=0, in_flight=0, running=0, desired=2).quiet_seconds == 0
    assert watch.look(99, waiting=0, in_flight=0, running=0, desired=1).quiet_seconds == 4


@pytest.mark.parametrize("missing", [{"waiting": None, "in_flight": 0}, {"waiting": 0, "in_flight": None}])
def test_a_look_that_saw_nothing_starts_the_times_anew(missing):
    watch = Watch(0.0)
    watch.look(1000, waiting=0, in_flight=0, running=1, desired=0)
    unseen = watch.look(1001, **missing, running=1, desired=0)
    assert (unseen.quiet_seconds, unseen.most_work) == (0, None)
    assert watch.look(1600, waiting=0, in_flight=0, running=1, desired=0).most_work is None
    assert watch.look(1601, waiting=0, in_flight=0, running=1, desired=0).most_work == 0


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(0, 50)), min_size=1, max_size=60))
def test_the_busiest_moment_is_that_of_the_last_ten_minutes(looks):
    watch, now, past = Watch(0.0), 0, []
    for passed, work in looks:
        now += passed
        past.append((now, work))
        told = watch.look(now, waiting=work, in_flight=0, running=0, desired=0).most_work
        lately = max(work for at, work in past if at >= now - SPARE_SECONDS)
        assert told == (lately if now >= SPARE_SECONDS else None)


# What Terraform must say.


def test_a_pool_can_be_woken_widened_narrowed_and_put_to_sleep():
    policies = aws_policies.of(GENERAL, queues=3).as_dict()
    assert json.loads(json.dumps(policies)) == policies
    assert (policies["minimum"], policies["maximum"]) == (0, 10)
    assert policies["out"]["target"] == 1.0
    assert policies["out"]["disable_scale_in"] is True
    assert [policies[name]["change"] for name in ("wake", "give_back", "sleep")] == [1, -1, 0]
    assert policies["sleep"]["datapoints"] * policies["sleep"]["period_seconds"] == QUIET_SECONDS
    assert policies["give_back"]["datapoints"] * policies["give_back"]["period_seconds"] == SPARE_SECONDS
    assert {policies[name]["treat_missing_data"] for name in ("wake", "give_back", "sleep")} == {"notBreaching"}


def test_a_pool_that_keeps_somebody_awake_is_neither_woken_nor_put_to_sleep():
    policies = aws_policies.of(replace(GENERAL, minimum=1))
    assert policies.wake is None
    assert policies.sleep is None
    assert policies.give_back is not None
    assert aws_policies.of(replace(GENERAL, minimum=10)).give_back is None
    assert aws_policies.of(replace(GENERAL, maximum=1)).give_back is None


@pytest.mark.parametrize("queues", [0, 5])
def test_more_queues_than_an_alarm_can_watch_are_refused(queues):
    with pytest.raises(ScalingError, match=f"queues={queues} is not within 1 and 4, .*Split the pool"):
        aws_policies.of(GENERAL, queues)


def test_every_pool_of_the_topology_can_be_watched():
    for name, pool in TOPOLOGY.pools.items():
        queues = TOPOLOGY.queues_of_pool(name)
        limits = Limits(
            pool=name,
            minimum=pool.minimum,
            maximum=pool.maximum,
            slots=pool.concurrency,
            acceptable_wait_seconds=pool.acceptable_wait_seconds,
            mean_task_seconds=1.0,
            prefetch=max(queue.prefetch for queue in queues),
        )
        assert aws_policies.of(limits, len(queues)).maximum == pool.maximum


@given(limits, counts, counts, st.integers(0, 60))
def test_the_alarms_say_what_the_policy_says(limits, waiting, in_flight, desired):
    policies = aws_policies.of(limits)
    series = {"v1": waiting, "f1": in_flight or None, "desired": desired}

    def breaches(alarm: aws_policies.Alarm) -> bool:
        value = evaluate(alarm.expression, series)
        above = alarm.comparison == "GreaterThanOrEqualToThreshold"
        return value >= alarm.threshold if above else value <= alarm.threshold

    times_desired = evaluate(policies.out.expression, series) * desired
    expected = min(waiting / limits.backlog_a_worker, (waiting + in_flight) / limits.slots) if desired else 0
    assert times_desired == pytest.approx(expected, rel=1e-4)
    if policies.wake:
        assert breaches(policies.wake) == (desired == 0 and waiting + in_flight > 0)
        assert breaches(policies.sleep) == (desired > 0 and waiting + in_flight == 0)
    if policies.give_back and desired > max(1, limits.minimum) and desired <= limits.maximum:
        # Within rounding of the threshold either is right.
        room = limits.work_a_worker * (desired - 1)
        assume(abs(waiting + in_flight - room) > 0.01)
        assert breaches(policies.give_back) == (waiting + in_flight < room)
    elif policies.give_back and desired <= max(1, limits.minimum):
        assert not breaches(policies.give_back)


def test_a_gap_takes_nothing_away_and_one_queue_that_is_seen_wakes_the_pool():
    policies = aws_policies.of(GENERAL, queues=2)
    asleep = {"v1": None, "v2": 1, "f1": None, "f2": None, "desired": 0}
    assert evaluate(policies.wake.expression, asleep) == 1
    unseen = {**asleep, "v2": 0, "desired": 3}
    for one in (policies.out, policies.give_back, policies.sleep):
        assert evaluate(one.expression, unseen) is None
    known = {**unseen, "v1": 0}
    assert evaluate(policies.sleep.expression, known) == 0
    assert evaluate(policies.wake.expression, {**asleep, "desired": None}) == 1


def test_the_documented_constants_are_those_that_hold():
    page = (ROOT / "docs" / "scaling.md").read_text()
    documented = {
        name: float(value) for name, value in re.findall(r"^\| `([A-Z_]+)` \| ([\d.]+) \|", page, re.MULTILINE)
    }
    assert len(documented) == 6
    for name, value in documented.items():
        assert getattr(policy if hasattr(policy, name) else aws_policies, name) == value
