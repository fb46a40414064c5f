"""docs/costs.md says what costs.py reckons, and that goes by the topology."""

from __future__ import annotations

import copy
import json

import pytest

from tasks import topology
from tasks.topology import TOPOLOGY
from tests.conftest import ROOT
from tests.infra import costs

PAGE = (ROOT / "docs" / "costs.md").read_text()


@pytest.mark.parametrize("table", costs.tables(), ids=lambda table: table.split("\n")[0])
def test_a_table_of_the_page_is_what_the_topology_comes_to(table):
    assert table in PAGE, "print them anew: python -m tests.infra.costs"


def test_the_page_has_no_table_of_dollars_that_nobody_reckons():
    assert PAGE.count("| $ |") == len(costs.tables())


def changed(**pools: dict[str, object]) -> topology.Topology:
    """The shipped topology with some keys of pools replaced."""
    raw = copy.deepcopy(json.loads(topology.PATH.read_text()))
    for name, keys in pools.items():
        raw["pools"][name].update(keys)
    return topology.parse(raw)


def test_a_pool_that_never_sleeps_is_paid_for_when_nobody_asks():
    awake = dict(costs.idle(proxy=False, topology=changed(general={"minimum": 1})))["workers"]
    assert awake == pytest.approx(costs.worker_hour(TOPOLOGY.pools["general"]) * costs.HOURS)
    assert dict(costs.idle(proxy=False))["workers"] == 0


def test_twice_the_seconds_cost_twice_as_many_hours():
    slow = changed(general={"mean_task_seconds": 8}).pools["general"]
    hours = [costs.million_tasks(pool)[0][1] for pool in (TOPOLOGY.pools["general"], slow)]
    assert hours[1] == pytest.approx(2 * hours[0])


def test_spot_costs_its_share():
    pools = [changed(datasets={"spot": spot}).pools["datasets"] for spot in (True, False)]
    spot, full = (costs.million_tasks(pool)[0][1] for pool in pools)
    assert spot == pytest.approx(full * costs.SPOT_SHARE)


def test_sockets_cost_what_api_gateway_asks():
    """https://aws.amazon.com/api-gateway/pricing/: $1.00 a million messages, $0.25 a million connection minutes."""
    rows = dict(costs.million_updates())
    assert rows["messages of API Gateway"] == 1.00
    assert rows["a million minutes of open sockets"] == 0.25
