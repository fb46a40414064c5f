"""What scaling does with each load shape, simulated: nothing is killed, nobody waits too long, nothing idles."""

from __future__ import annotations

import functools
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.bench.simulation import choices, plots, world
from tests.bench.simulation.cloudwatch import HOUR, MINUTE, Metrics, evaluate
from tests.bench.simulation.results import Result, simulate, table
from tests.bench.simulation.scalers import Ours
from tests.bench.simulation.shapes import SHAPES, Shape, at_rate
from tests.conftest import ROOT

#: Spot takes what it wants; a pool with tasks of more than its two minutes says in the topology that it accepts that.
ACCEPTS_KILLS = "spot, long tasks"
QUIET_NIGHTS = ("quiet night", "sleeping metrics")

seeds = pytest.mark.parametrize(
    "seed",
    [1, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(2, 22))],
    ids=lambda seed: f"seed{seed}",
)
shapes = pytest.mark.parametrize("shape", SHAPES)

once = functools.cache(simulate)


def short(**changed) -> Shape:
    """Half an hour of a task a second, to look at one thing."""
    return replace(SHAPES["steady"], name="short", times=at_rate(lambda _: 1, 1, 0.5), hours=0.5, **changed)


@seeds
@shapes
def test_no_work_is_killed(shape, seed):
    result = once(shape, "ours", seed)
    if shape != ACCEPTS_KILLS:
        assert result.killed == 0


@seeds
@shapes
def test_every_task_has_an_outcome_and_the_pool_sleeps_in_the_end(shape, seed):
    result = once(shape, "ours", seed)
    assert result.left == 0
    assert result.done + result.dead == len(result.waits)
    assert result.asleep


@seeds
@pytest.mark.parametrize("shape", ["steady", "daily wave"])
def test_nineteen_of_twenty_tasks_start_within_the_acceptable_wait(shape, seed):
    result = once(shape, "ours", seed)
    assert result.wait(0.95) <= SHAPES[shape].limits.acceptable_wait_seconds


@seeds
@pytest.mark.parametrize("shape", QUIET_NIGHTS)
def test_a_task_after_a_quiet_night_starts_within_four_minutes(shape, seed):
    result = once(shape, "ours", seed)
    assert len(result.waits) == 8
    assert max(result.waits) <= 240


@seeds
def test_a_dead_sampler_costs_a_task_after_a_quiet_night_up_to_25_minutes(seed):
    """SQS's metrics wake within 15, are up to 3 late, 2 of them are wanted, and a container takes up to 2."""
    result = once("dead sampler", "ours", seed)
    assert 15 * MINUTE < max(result.waits) <= 25 * MINUTE


@seeds
def test_nothing_to_do_costs_nothing(seed):
    result = once("idle", "ours", seed)
    assert (result.worker_hours, result.peak) == (0, 0)


@seeds
def test_a_constant_load_changes_the_number_of_workers_less_than_twice_an_hour(seed):
    assert once("steady", "ours", seed).changes <= 16


@seeds
def test_a_poisoned_task_is_set_aside_and_holds_up_nobody_else(seed):
    result = once("poison", "ours", seed)
    assert result.dead > 50
    assert result.wait(0.95) <= 60


@seeds
def test_spot_kills_what_does_not_fit_its_two_minutes(seed):
    """What a pool accepts that lets long tasks run on Spot: about one in ten of its long tasks starts again."""
    long_tasks = 0.02 * 18_000
    result = once(ACCEPTS_KILLS, "ours", seed)
    assert result.interrupted > 20
    assert 0 < result.killed < 0.2 * long_tasks


@pytest.mark.parametrize("variant", ["tracking", "steps"])
def test_plain_scaling_kills_long_tasks(variant):
    """So the simulation can see it."""
    assert once("long tasks", variant).killed > 20


def test_without_task_protection_ours_would_kill_too(monkeypatch):
    monkeypatch.setattr(Ours, "protects", False)
    assert simulate("long tasks", "ours").killed > 0


@pytest.mark.parametrize("shape", ["late metrics", "long tasks", "quiet night"])
def test_the_policy_alone_asked_each_minute_does_as_well(shape):
    """As the laptop's scaler asks it."""
    result = once(shape, "policy")
    assert (result.killed, result.left, result.asleep) == (0, 0, True)
    assert result.wait(0.95) <= 240


def test_the_same_seed_gives_the_same_result_and_another_one_another():
    assert simulate(short(), "ours", 5) == simulate(short(), "ours", 5)
    assert simulate(short(), "ours", 5).waits != simulate(short(), "ours", 6).waits


def test_variants_get_the_same_load():
    sent = {variant: len(simulate(short(), variant).waits) for variant in SHAPES["steady"].variants}
    assert len(set(sent.values())) == 1


def test_a_container_that_takes_longer_to_start_makes_the_first_task_wait_longer():
    waits = [simulate(short(start_seconds=(seconds, seconds)), "ours").wait(1.0) for seconds in (60.0, 120.0)]
    assert waits[1] - waits[0] == pytest.approx(60, abs=15)


def test_a_worker_that_was_told_to_stop_loses_what_takes_longer_than_two_minutes(monkeypatch):
    """Spot's warning, with tasks of 100 seconds: they fit, and with half of the warning they would not."""
    shape = short(spot_per_hour=6.0, long_share=0.03, long_seconds=100.0)
    monkeypatch.setattr(world, "STOP_SECONDS", 120.0)
    assert simulate(shape).interrupted > 5
    assert simulate(shape).killed == 0
    monkeypatch.setattr(world, "STOP_SECONDS", 60.0)
    assert simulate(shape).killed > 0


# CloudWatch, as it is simulated.


class Fixed:
    """Draws the latest that may be drawn."""

    def uniform(self, _: float, most: float) -> float:
        return most


def metrics_of(lag_seconds: float) -> Metrics:
    return Metrics((lag_seconds, lag_seconds), Fixed())


def test_a_figure_is_shown_only_once_its_lag_has_passed():
    metrics = metrics_of(180)
    for minute in range(5):
        metrics.record(minute * MINUTE, visible=minute, in_flight=1, running=1, desired=1)
    assert metrics.last("v1", 1, 179) == [None]
    assert metrics.last("v1", 1, 180) == [0]
    assert metrics.last("v1 + f1", 2, 300) == [2, 3]


def test_figures_of_a_queue_that_nobody_calls_sleep_after_six_hours_and_take_a_quarter_of_an_hour_to_wake():
    metrics = metrics_of(0)
    seen = {}
    for minute in range(7 * 60):
        now = minute * MINUTE
        if minute == 400:
            metrics.touch(now)
        metrics.record(now, visible=1, in_flight=0, running=0, desired=0)
        seen[minute] = metrics.last("v1", 1, now)[0]
    assert [minute for minute, value in seen.items() if value is None] == list(range(361, 415))


def test_figures_that_stopped_coming_are_missing_and_not_old():
    metrics = metrics_of(0)
    metrics.record(0, visible=1, in_flight=0, running=0, desired=0)
    assert metrics.last("v1", 1, 300) == [1]
    assert metrics.last("v1", 1, 301) == [None]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("IF(v1 > 2, v1 / 2, 7)", 2.0),
        ("IF(v1 > 4, v1 / 2, 7)", 7.0),
        ("FILL(f1, 0) + v1", 4.0),
        ("f1 + v1", None),
    ],
)
def test_metric_math_is_computed_with_its_gaps(expression, value):
    assert evaluate(expression, {"v1": 4, "f1": None}) == value


# What is printed and drawn.


def test_a_table_has_a_line_a_result_and_a_picture_is_drawn(tmp_path):
    results = [simulate(short(), variant) for variant in ("ours", "steps")]
    lines = table(results).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| short | ours ")
    assert len({line.count("|") for line in lines}) == 1
    path = plots.save(results, tmp_path / "new")
    assert path.name == "scaling-short.png"
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_a_result_without_tasks_has_a_row():
    assert simulate("idle").row()[2:7] == ("0", "0", "", "", "")


def test_the_command_prints_a_shape():
    command = [sys.executable, "-m", "tests.bench.simulation", "--shape", "idle", "--variant", "ours", "--seed", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "| idle  | ours " in done.stdout


def test_other_constants_hold_for_a_while_only():
    before = SHAPES["steady"].limits.backlog_a_worker
    with choices.constants(0.25, 0.5):
        assert SHAPES["steady"].limits.backlog_a_worker == before / 2
    assert SHAPES["steady"].limits.backlog_a_worker == before


def test_the_wait_of_a_share_is_that_of_the_task_at_that_place():
    result = Result("s", "ours", tuple(map(float, range(100))), 100, 0, 0, 0, 0, 0.0, 1, 0, True, ())
    assert (result.wait(0.5), result.wait(0.95), result.wait(1.0)) == (50, 95, 99)
    assert HOUR == 60 * MINUTE
