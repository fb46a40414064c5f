"""The driver's errors, told apart. These need no browser."""

from __future__ import annotations

import pytest
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException, WebDriverException

from tests.browser.chromium import StaleIsStale


def answer(error: str, message: str) -> dict:
    """What the driver sends: a text of JSON within JSON."""
    return {"status": 500, "value": f'{{"value": {{"error": "{error}", "message": "{message}", "stacktrace": "#0"}}}}'}


@pytest.mark.parametrize(
    "message",
    [
        r"unknown error: unhandled inspector error: {\"code\":-32000,\"message\":\"Node with given id does not belong to the document\"}",
        r"unknown error: unhandled inspector error: {\"code\":-32000,\"message\":\"No node with given id found\"}",
    ],
)
def test_an_element_whose_page_was_replaced_is_stale_however_the_driver_says_so(message):
    with pytest.raises(StaleElementReferenceException, match="given id"):
        StaleIsStale().check_response(answer("unknown error", message))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("unknown error", WebDriverException),
        ("timeout", TimeoutException),
        ("stale element reference", StaleElementReferenceException),
    ],
)
def test_other_errors_stay_what_they_are(error, kind):
    with pytest.raises(WebDriverException) as raised:
        StaleIsStale().check_response(answer(error, "something else"))
    assert type(raised.value) is kind
