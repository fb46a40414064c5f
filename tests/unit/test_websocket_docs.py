"""docs/realtime.md says what the layer takes, and nothing else."""

from __future__ import annotations

import inspect
import re

from serverless.websockets import dispatching, scopes, sockets, state, table
from serverless.websockets.layer import GatewayChannelLayer
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "realtime.md").read_text()


def test_every_option_of_the_layer_is_documented_with_its_default_and_no_other():
    section = PAGE.partition("| option |")[2].partition("\n## ")[0]
    rows = [row.split("|") for row in section.splitlines() if row.startswith("| `")]
    documented = {
        name: default.strip()
        for _, names, _, defaults, _ in rows
        for name, default in zip(re.findall(r"`(\w+)`", names), defaults.split(",") * 3, strict=False)
    }
    taken = inspect.signature(GatewayChannelLayer).parameters
    assert set(documented) == set(taken)
    for name, parameter in taken.items():
        if isinstance(parameter.default, int | float) and documented[name]:
            assert float(documented[name]) == parameter.default, name


def test_limits_are_documented_as_they_are():
    assert sockets.MOST_BYTES == 128 << 10
    assert "128 KB" in PAGE
    assert f"{state.MOST_BYTES >> 10} KB of them" in PAGE
    assert f"({dispatching.MOST_WAITING} messages, {dispatching.MOST_WAITING_BYTES >> 10} KB)" in PAGE
    assert table.LIFETIME_SECONDS == 7800
    assert "2 h 10 min" in PAGE
    assert dispatching.MOST_NESTED == 4
    assert "after four rounds" in PAGE
    for header in scopes.KEPT_HEADERS:
        assert header.decode() in PAGE.lower()


def test_a_row_never_outgrows_what_dynamodb_takes():
    assert state.MOST_BYTES + scopes.MOST_BYTES + dispatching.MOST_WAITING_BYTES < 400_000 - 8_000
