"""What people may see of arguments: valid JSON of bounded size, without secrets, whatever the arguments are."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import time
import uuid
from typing import Any, NamedTuple

import pytest
from django.conf import settings
from django.utils.functional import lazystr
from hypothesis import given
from hypothesis import strategies as st

from django_app.ledger.redaction import LONGEST_SHOWN, REDACTED, shown

#: What must never be seen. No other value that is drawn holds it.
SECRET = "hunter2-correct-horse"
SECRET_NAMES = [
    "password",
    "passwd",
    "API_KEY",
    "apikey",
    "access_token",
    "Authorization",
    "client-secret",
    "private_key",
]


def show(*args: Any, names: tuple[str, ...] = (), **kwargs: Any) -> dict[str, Any]:
    """What is shown, read as strictly as a browser reads it."""
    return read(shown(args, kwargs, names, settings.REDACTED_ARGUMENTS))


def read(text: str) -> dict[str, Any]:
    assert len(text) <= LONGEST_SHOWN
    text.encode()
    found = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert set(found) == {"args", "kwargs"}
    return found


class Raising:
    """Raises at what may be asked of it. (Its repr() is for the test's own report.)"""

    def __str__(self) -> str:
        raise RuntimeError("as asked")

    __len__ = __iter__ = __str__

    def __repr__(self) -> str:
        return type(self).__name__


class RaisingInJson(Raising):
    def __json__(self) -> Any:
        raise RuntimeError("as asked")


class EndlessInJson:
    def __json__(self) -> Any:
        return self


class Telling:
    """Its own words tell the secret; its JSON form has it under a name."""

    def __str__(self) -> str:
        return SECRET

    def __json__(self) -> Any:
        return {"password": SECRET, "user": "ada"}


class Card:
    """As a class that somebody has registered with Celery's JSON."""

    def __repr__(self) -> str:
        return f"Card({SECRET})"


class Login(NamedTuple):
    user: str
    password: str


class Color(enum.StrEnum):
    RED = "red"


# By example --------------------------------------------------------------------------------------------------------


def test_plain_arguments_are_shown_as_they_are():
    assert show(1, 2.5, None, True, "text", [1, {"a": "b"}], size=3) == {
        "args": [1, 2.5, None, True, "text", [1, {"a": "b"}]],
        "kwargs": {"size": 3},
    }


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_value_of_a_secret_name_is_redacted_as_a_keyword_a_position_and_a_key_at_any_depth(name):
    assert show(**{name: SECRET, "user": "ada"}) == {"args": [], "kwargs": {name: REDACTED, "user": "ada"}}
    assert show("ada", SECRET, names=("user", name)) == {"args": ["ada", REDACTED], "kwargs": {}}
    assert show({"a": [{"b": ({name: SECRET},)}]})["args"] == [{"a": [{"b": [{name: REDACTED}]}]}]


def test_all_that_a_secret_name_holds_is_redacted_not_only_text():
    assert show(token={"deep": [SECRET]}, secret=7, cookie=None)["kwargs"] == dict.fromkeys(
        ("token", "secret", "cookie"), REDACTED
    )


def test_more_arguments_than_parameters_are_shown():
    assert show(1, 2, 3, names=("first",))["args"] == [1, 2, 3]


def test_keys_that_are_no_text_are_shown_as_text_and_redacted_as_such():
    found = show({1: "one", None: "none", (1, 2): "pair", b"password": SECRET, ("secret", 1): SECRET})["args"][0]
    assert found == {
        "1": "one",
        "None": "none",
        "(1, 2)": "pair",
        "b'password'": REDACTED,
        "('secret', 1)": REDACTED,
    }


def test_long_text_bytes_lists_and_mappings_are_cut_and_say_how_much_is_missing():
    text, data, numbers, mapping = show("x" * 1000, b"\x00\xff" * 500, list(range(80)), {str(n): n for n in range(80)})[
        "args"
    ]
    assert text == f"{'x' * 200}... 1000 characters"
    assert data == "<1000 bytes>"
    assert numbers == [*range(50), "... 30 more"]
    assert len(mapping) == 51
    assert mapping["..."] == "30 more"
    assert show(*range(80))["args"] == [*range(50), "... 30 more"]


def test_what_lies_deep_is_counted_instead_of_shown():
    assert show({"1": {"2": {"3": {"4": {"5": {"6": {"7": 1}}}}}}})["args"] == [
        {"1": {"2": {"3": {"4": {"5": {"6": "<1 entries>"}}}}}}
    ]
    assert show([[[[[[[1, 2]]]]]]])["args"] == [[[[[[["<2 items>"]]]]]]]


def test_what_is_too_long_as_a_whole_says_so():
    assert show(*["x" * 190] * 40) == {"args": ["... too long to show"], "kwargs": {}}


def test_megabytes_of_anything_are_shown_briefly_and_quickly():
    hostile = [
        "x" * (1 << 20),
        b"\xff" * (1 << 20),
        list(range(1 << 20)),
        {str(number): "x" for number in range(1 << 17)},
        {"k" * (1 << 20): 1},
        1 << (8 << 20),
        [[[[0] * 50] * 50] * 50] * 50,
    ]
    began = time.process_time()
    for value in hostile:
        assert show(value)["args"] != []
    assert time.process_time() - began < 2


def test_what_nests_ten_thousand_levels_or_holds_itself_is_shown():
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]
    endless: Any = {}
    endless["self"] = [endless]
    assert "<1 items>" in json.dumps(show(deep))
    assert "<1 entries>" in json.dumps(show(endless))


def test_what_json_has_no_word_for_is_shown_in_words():
    assert show(float("nan"), float("inf"), -float("inf"))["args"] == ["nan", "inf", "-inf"]
    assert show("half \ud800 a pair")["args"] == ["half ? a pair"]
    assert show(10**5000)["args"] == [f"<number of {(10**5000).bit_length()} bits>"]
    assert show("\x00\x1f")["args"] == ["\x00\x1f"]


def test_what_celerys_json_takes_besides_is_shown_as_text():
    day, number = datetime.datetime(2030, 1, 2, 3, tzinfo=datetime.UTC), uuid.UUID(int=7)
    assert show(day, day.date(), day.time(), decimal.Decimal("1.50"), number, lazystr("lazy"), Color.RED)["args"] == [
        "2030-01-02 03:00:00+00:00",
        "2030-01-02",
        "03:00:00",
        "1.50",
        str(number),
        "lazy",
        "red",
    ]


def test_a_named_tuples_fields_are_redacted_by_name():
    assert show(Login("ada", SECRET))["args"] == [{"user": "ada", "password": REDACTED}]


def test_an_object_is_shown_as_it_is_sent_and_never_in_its_own_words():
    assert show(Telling())["args"] == [{"password": REDACTED, "user": "ada"}]
    assert show(Card())["args"] == ["<Card>"]


@pytest.mark.parametrize("value", [RaisingInJson(), EndlessInJson(), {1: Raising()}, {Raising(): 1}, [Raising()]])
def test_an_object_that_raises_fails_nothing(value):
    show(value, value, key=value)


def test_what_cannot_be_shown_says_so():
    assert show(RaisingInJson(), SECRET) == {"args": ["... cannot be shown"], "kwargs": {}}


# By rule -----------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=300).filter(lambda text: SECRET not in text)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**200), 10**200)
    | st.floats()
    | TEXT
    | st.binary(max_size=300)
    | st.decimals()
    | st.uuids()
    | st.datetimes()
    | st.just(Telling())
    | st.just(Card())
    | st.just(Login("ada", SECRET))
    | st.just(Raising())
    | st.just(10**4000)
)
KEYS = TEXT | st.integers() | st.none() | st.binary(max_size=20) | st.tuples(TEXT, st.integers())
#: Names that the pattern is found in, wherever in the name and however it is written.
SECRET_KEYS = st.builds(
    lambda before, name, after: f"{before}{name}{after}",
    st.text(max_size=5),
    st.sampled_from(SECRET_NAMES).flatmap(lambda name: st.sampled_from([name, name.upper(), name.title()])),
    st.text(max_size=5) | st.just("x" * 300),
)
SECRETS = st.just(SECRET) | st.just([SECRET]) | st.just({"plain": {"deep": SECRET}}) | st.just(SECRET.encode())


def _with_secrets(values: st.SearchStrategy) -> st.SearchStrategy:
    plain = st.dictionaries(KEYS, values, max_size=8)
    secret = st.dictionaries(SECRET_KEYS, SECRETS, max_size=3)
    return (
        st.lists(values, max_size=8)
        | st.lists(values, max_size=4).map(tuple)
        | st.frozensets(KEYS, max_size=5)
        | st.builds(lambda one, other: {**one, **other}, plain, secret)
    )


VALUES = st.recursive(LEAVES, _with_secrets, max_leaves=40)
ARGUMENTS = st.lists(
    st.tuples(st.sampled_from(["first", "second"]), VALUES) | st.tuples(SECRET_KEYS, SECRETS), max_size=8
)


@given(ARGUMENTS, st.dictionaries(st.text(max_size=10), VALUES, max_size=5), st.dictionaries(SECRET_KEYS, SECRETS))
def test_whatever_the_arguments_are_the_answer_is_short_valid_json_without_a_secret(args, kwargs, secrets):
    names = tuple(name for name, _ in args)
    text = shown([value for _, value in args], {**kwargs, **secrets}, names, settings.REDACTED_ARGUMENTS)
    found = read(text)
    assert SECRET not in text
    if not found["args"] or not str(found["args"][0]).startswith("... "):
        assert len(found["args"]) == len(args)


@given(st.lists(VALUES, max_size=60), st.integers(0, 60))
def test_a_secret_position_is_redacted_wherever_it_stands(values, at):
    position = min(at, len(values))
    names = ("plain",) * position + ("password",)
    text = shown([*values[:position], SECRET, *values[position:]], {}, names, settings.REDACTED_ARGUMENTS)
    read(text)
    assert SECRET not in text
