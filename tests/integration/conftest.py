"""The site's sockets on each layer that they may run on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.test_channel_layers import redis_url
from tests.realtime_sockets import House, in_memory, on_gateway, on_redis

__all__ = ["redis_url"]


@pytest.fixture(params=["gateway", "memory", pytest.param("redis", marks=pytest.mark.redis)])
def house(request: pytest.FixtureRequest, settings) -> Iterator[House]:
    """On each layer."""
    with _opened(request, settings) as made:
        yield made


@pytest.fixture(params=["gateway", pytest.param("redis", marks=pytest.mark.redis)])
def open_house(request: pytest.FixtureRequest, settings) -> Iterator[House]:
    """On those that other threads and processes reach."""
    with _opened(request, settings) as made:
        yield made


def _opened(request: pytest.FixtureRequest, settings):
    if request.param == "memory":
        return in_memory(settings)
    if request.param == "redis":
        return on_redis(settings, request.getfixturevalue("redis_url"))
    request.getfixturevalue("cloud")
    return on_gateway(settings)
