"""Errors of one kind share a fingerprint: the same class, raised by way of the same functions."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_app.ledger.outcomes import fingerprint

TRACEBACK = """Traceback (most recent call last):
  File "/srv/app/lib/python3.12/site-packages/celery/app/trace.py", line 453, in trace_task
    R = retval = fun(*args, **kwargs)
                 ^^^^^^^^^^^^^^^^^^^^
  File "/srv/app/shop/tasks.py", line 12, in pay
    raise RefusedError("card of Ada")
shop.errors.RefusedError: card of Ada
"""
ERROR = "shop.errors.RefusedError: card of Ada"
SAME = fingerprint(ERROR, TRACEBACK)


def moved(change: Callable[[int], int]) -> str:
    """The traceback with other line numbers."""
    return re.sub(r"line (\d+)", lambda found: f"line {change(int(found[1]))}", TRACEBACK)


def test_it_is_sixteen_hexadecimal_digits():
    assert re.fullmatch("[0-9a-f]{16}", SAME)


@given(st.integers(1, 100_000))
def test_lines_may_move(line):
    assert fingerprint(ERROR, moved(lambda _: line)) == SAME


@given(st.text().filter(lambda text: 'File "' not in text))
def test_messages_may_differ(message):
    # Its traceback ends with the same message.
    assert fingerprint(f"shop.errors.RefusedError: {message}", TRACEBACK.replace("card of Ada", "other")) == SAME
    assert fingerprint("shop.errors.RefusedError", TRACEBACK) == SAME


def test_the_folder_in_which_a_release_lies_may_differ():
    assert fingerprint(ERROR, TRACEBACK.replace("/srv/app/", "/var/task/")) == SAME


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("in pay", "in refund"),
        ("shop/tasks.py", "shop/cards.py"),
        ("shop/tasks.py", "bank/tasks.py"),
        ('  File "/srv/app/shop/tasks.py", line 12, in pay\n', ""),
    ],
)
def test_another_place_is_another_kind(old, new):
    assert old in TRACEBACK
    assert fingerprint(ERROR, TRACEBACK.replace(old, new)) != SAME


def test_another_class_is_another_kind():
    assert fingerprint("shop.errors.LostError: card of Ada", TRACEBACK) != SAME
    assert fingerprint("RefusedError: card of Ada", TRACEBACK) != SAME


def test_without_a_traceback_the_class_counts():
    assert fingerprint("A: one", "") == fingerprint("A: other", "") != fingerprint("B: one", "")


def test_real_tracebacks_differ_by_where_the_error_came_from_and_not_by_what_it_says():
    def fails(message: str) -> None:
        raise ValueError(message)

    def asks(message: str) -> None:
        fails(message)

    def caught(function: Callable[[str], None], message: str) -> str:
        try:
            function(message)
        except ValueError as error:
            return fingerprint(f"ValueError: {error}", traceback.format_exc())
        raise AssertionError

    assert caught(fails, "one") == caught(fails, "two")
    assert caught(asks, "one") != caught(fails, "one")


@given(st.text(), st.text())
def test_it_takes_any_text(error, told):
    assert len(fingerprint(error, told)) == 16
