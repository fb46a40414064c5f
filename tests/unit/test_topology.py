"""tasks/topology.json's loader: what it accepts, and what it says about each fault."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import topology
from tasks.topology import TOPOLOGY, TopologyError

SHIPPED = json.loads(topology.PATH.read_text())


def broken(path: str, value: object) -> dict:
    """The shipped topology with one value replaced; path: keys joined by dots. value=...: the key is removed."""
    changed = copy.deepcopy(SHIPPED)
    *parents, last = path.split(".")
    place = changed
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (
            "queues.low.time_limit_seconds",
            50000,
            'queue "low": time_limit_seconds=50000 exceeds 39600, the longest run that SQS\'s 12 hours in flight leave room for. '
            "Lower it in tasks/topology.json.",
        ),
        ("queues.low.prefech", 1, 'queue "low": unknown key "prefech". Did you mean "prefetch"? Remove or rename it.'),
        (
            "queues.low.pool",
            "generall",
            'pool="generall" is not declared, so nobody would consume it. Did you mean "general"?',
        ),
        ("queues.low.prefetch", 0, 'queue "low": prefetch=0 must be a whole number, 1 to 100.'),
        ("queues.low.prefetch", True, "prefetch=True must be a whole number"),
        ("queues.low.retention_days", 15, "retention_days=15 must be a whole number, 1 to 14."),
        ("queues.low.pool", ..., 'the key "pool" is missing'),
        ("queues.Low", SHIPPED["queues"]["low"], 'the name "Low" must be lower-case letters'),
        ("queues.low-dead", SHIPPED["queues"]["low"], "names ending in -dead are dead-letter queues"),
        ("pools.idle", SHIPPED["pools"]["general"], 'pool "idle" consumes no queue'),
        ("pools.general.minimum", 11, "minimum=11 exceeds maximum=10"),
        ("pools.general.spot", "yes", "spot='yes' is not true or false"),
        ("pools.general.interruptible", 1, "interruptible=1 is not true or false"),
        (
            "pools.datasets.interruptible",
            False,
            'pool "datasets": spot=true, and a task of queue "datasets" may run for 900 s, where Spot\'s notice leaves 100. '
            "Lower the queue's time_limit_seconds, write spot=false, or accept that tasks are cut off and begun again: "
            "interruptible=true.",
        ),
        (
            "pools.general.mean_task_seconds",
            0,
            'pool "general": mean_task_seconds=0 must be a number above 0, at most 39600. Write how long',
        ),
        ("pools.general.mean_task_seconds", True, "mean_task_seconds=True must be a number above 0"),
        ("pools.general.mean_task_seconds", float("nan"), "mean_task_seconds=nan must be a number above 0"),
        ("pools.general.mean_task_seconds", "4", "mean_task_seconds='4' must be a number above 0"),
        ("pools.general.mean_task_seconds", ..., 'the key "mean_task_seconds" is missing'),
        ("default_queue", "defualt", '"defualt" is not among the queues. Did you mean "default"?'),
        ("levels.default.high", [8, 9], "must cover 0 to 9, each once"),
        ("levels.default.high", [6, 9], "must cover 0 to 9, each once"),
        ("levels.default.hihg", [6, 9], 'queue "hihg" is not declared. Did you mean "high"?'),
        ("levels.default.high", "7-9", "write [lowest, highest]"),
        ("queues", {}, "at least one must be declared"),
        ("lease_seconds", 5, "topology: lease_seconds=5 must be a whole number, 10 to 600."),
        ("max_receives", 1, "topology: max_receives=1 must be a whole number, 5 to 1000."),
    ],
)
def test_a_fault_is_named_with_its_rule_and_remedy(path, value, said):
    with pytest.raises(TopologyError) as caught:
        topology.parse(broken(path, value))
    assert said in str(caught.value)


def test_a_key_that_stands_twice_is_refused(tmp_path):
    file = tmp_path / "topology.json"
    file.write_text('{"default_queue": "a", "default_queue": "b"}')
    with pytest.raises(TopologyError, match='"default_queue" stands twice'):
        topology.load(file)


def test_a_syntax_error_is_named_by_its_line(tmp_path):
    file = tmp_path / "topology.json"
    file.write_text('{\n"default_queue": \n}')
    with pytest.raises(TopologyError, match=r"topology.json, line 3: not valid JSON"):
        topology.load(file)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["queues", "pools", "levels", "default_queue", "low", "general", "pool"]), inner
            )
        ),
    )
)
def test_whatever_the_file_holds_the_error_is_ours(raw):
    with pytest.raises(TopologyError):
        topology.parse(raw)


@pytest.mark.parametrize(
    ("priority", "queue"),
    [(9, "high"), (7, "high"), (6, "default"), (None, "default"), (3, "default"), (2, "low"), (0, "low")],
)
def test_priority_picks_the_level_of_the_default_queue(priority, queue):
    assert TOPOLOGY.queue_at_priority("default", priority).name == queue


@pytest.mark.parametrize("priority", [0, 5, 9])
def test_priority_changes_nothing_in_a_queue_without_levels(priority):
    assert TOPOLOGY.queue_at_priority("datasets", priority).name == "datasets"


@pytest.mark.parametrize("priority", [-1, 10, 3.5, "high", True])
def test_a_priority_outside_the_range_is_refused(priority):
    with pytest.raises(TopologyError, match=r"Use 0 \(lowest\) to 9 \(most urgent\)"):
        TOPOLOGY.queue_at_priority("default", priority)


def test_a_pool_consumes_its_most_urgent_level_first():
    assert [queue.name for queue in TOPOLOGY.queues_of_pool("general")] == ["high", "default", "low"]


def test_every_queue_is_consumed_by_a_pool():
    consumed = {queue.name for pool in TOPOLOGY.pools for queue in TOPOLOGY.queues_of_pool(pool)}
    assert consumed == set(TOPOLOGY.queues)


@pytest.mark.parametrize("queue", TOPOLOGY.queues.values(), ids=lambda queue: queue.name)
def test_a_task_is_told_to_stop_before_it_is_killed(queue):
    assert queue.soft_time_limit_seconds < queue.time_limit_seconds


@pytest.mark.parametrize(("name", "level"), [("high", 0), ("default", 1), ("low", 2), ("datasets", 0)])
def test_levels_are_counted_from_the_most_urgent(name, level):
    assert TOPOLOGY.level(TOPOLOGY.queue(name)) == level


def test_spot_needs_no_acceptance_where_every_task_fits_its_notice():
    changed = broken("queues.datasets.time_limit_seconds", topology.LONGEST_SPOT_SECONDS)
    changed["pools"]["datasets"]["interruptible"] = False
    assert topology.parse(changed).pools["datasets"].spot
