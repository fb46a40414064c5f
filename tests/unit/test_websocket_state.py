"""What is kept of a consumer between two events."""

from __future__ import annotations

import datetime as dt
import enum
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverless.websockets import state

texts = st.text(st.characters(exclude_categories=["Cs"]))
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
anything = st.recursive(
    plain | st.binary() | st.floats() | st.tuples(st.integers()) | st.text() | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(texts | st.integers() | st.none(), inner, max_size=3)
        | st.tuples(inner)
        | st.frozensets(st.integers())
    ),
    max_leaves=10,
)


def with_kinds(value: Any) -> Any:
    """The value with the type of each part: 1, 1.0 and True are equal to Python, and not the same."""
    if isinstance(value, list):
        return (type(value), [with_kinds(item) for item in value])
    if isinstance(value, dict):
        return (type(value), [(with_kinds(key), with_kinds(item)) for key, item in value.items()])
    return (type(value), repr(value))


@given(st.dictionaries(texts, plain, max_size=5))
def test_plain_values_come_back_as_they_were_in_their_order(attributes: dict[str, Any]):
    kept = {name: value for name, value in attributes.items() if name not in state.NOT_STATE}
    assert with_kinds(state.attributes(state.text(state.pieces(attributes)))) == with_kinds(kept)


@given(st.dictionaries(texts, anything, max_size=5))
def test_what_is_kept_comes_back_the_same_whatever_else_is_left_out(attributes: dict[str, Any]):
    text = state.text(state.pieces(attributes))
    text.encode()
    for name, value in state.attributes(text).items():
        assert with_kinds(value) == with_kinds(attributes[name])


class Colour(enum.StrEnum):
    RED = "red"


class Number(int): ...


@pytest.mark.parametrize(
    "value",
    [
        *((1, 2), {1}, b"bytes", dt.datetime(2026, 1, 1, tzinfo=dt.UTC), Colour.RED, Number(1), object),
        *(
            math.nan,
            math.inf,
            -math.inf,
            "\ud800",
            {1: "a"},
            {"\udfff": 1},
            {Colour.RED: 1},
            [[(1,)]],
            {"a": {"b": {2}}},
        ),
    ],
    ids=repr,
)
def test_what_json_would_change_is_left_out(value: object):
    assert state.pieces({"a": value, "b": 1}) == {"b": "1"}


def test_what_holds_itself_or_is_very_deep_is_left_out():
    loop: list[Any] = []
    loop.append(loop)
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert state.pieces({"loop": loop, "deep": deep}) == {}
    while isinstance(deep, list):
        # Python frees what is nested so deep by recursion.
        deep = deep[0]
    fitting: Any = 1
    for _ in range(state.MOST_DEPTH):
        fitting = [fitting]
    assert state.is_kept(fitting)
    assert not state.is_kept([fitting])


@pytest.mark.parametrize("name", sorted(state.NOT_STATE))
def test_what_channels_sets_at_each_event_is_not_kept(name: str):
    assert state.pieces({name: "x"}) == {}


def test_no_attributes_are_an_empty_object():
    assert json.loads(state.text({})) == state.attributes("{}") == {}
