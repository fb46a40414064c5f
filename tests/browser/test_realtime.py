"""What people watch on a whole stack: it comes by the socket, and survives whatever breaks."""

from __future__ import annotations

import json

import pytest

from serverless.local.flights import ROWS
from tests.browser.chromium import Chromium
from tests.browser.driving import (
    await_end,
    choose,
    count,
    facts,
    one,
    press,
    see,
    severe,
    shell,
    sign_in,
    text_of,
    wait,
)
from tests.browser.live_stack import (
    allow_polling,
    assert_never_backwards,
    at_most,
    await_more,
    await_word,
    cut_sockets,
    done,
    forbid_polling,
    kept,
    kill,
    never_unasked,
    record,
)
from tests.browser.test_console import enqueue

pytestmark = pytest.mark.browser


# A dataset -----------------------------------------------------------------------------------------------------------


def test_the_bar_moves_by_the_socket_alone_also_after_that_was_cut(browser, stack, flights, tmp_path):
    file = tmp_path / "flights.csv"
    file.write_bytes(flights)
    record(browser)
    sign_in(browser, stack)
    forbid_polling(browser)
    choose(browser, file)
    press(browser, "Upload")
    await_word(browser, "Live")
    await_more(browser, 3)
    assert cut_sockets(stack) >= 1
    wait(browser, lambda driver: len(kept(driver, "socket")) >= 2, "no second socket")
    await_more(browser, done(browser))
    assert await_end(browser) == "Ready"
    allow_polling(browser)
    assert facts(browser)["Rows"] == f"{ROWS:,}"
    shown = assert_never_backwards(browser)
    assert len({each["done"] for each in shown}) >= 5
    # What was shown was heard.
    heard = {(each["label"], each["done"]) for each in kept(browser, "heard") if each["type"] == "state"}
    assert {(each["state"], each["done"]) for each in shown[1:]} <= heard


@pytest.mark.usefixtures("slowly")
def test_polling_takes_over_while_everything_is_down_and_the_socket_returns(browser, stack, flights, tmp_path):
    file = tmp_path / "flights.csv"
    file.write_bytes(flights)
    record(browser)
    never_unasked(browser)
    sign_in(browser, stack)
    choose(browser, file)
    press(browser, "Upload")
    await_word(browser, "Live")
    await_more(browser, 0)

    for name in ("gateway", "web"):
        kill(stack, name)
    await_word(browser, "Polling")
    before = done(browser)
    stack.child("web").start()
    # Of the parts that were done meanwhile, and of new ones, it learns by asking.
    after = await_more(browser, before)
    await_more(browser, after)
    assert text_of(browser, "[data-socket]") == "Polling"

    stack.child("gateway").start()
    await_word(browser, "Live")
    forbid_polling(browser)
    await_more(browser, done(browser) + 1)
    assert text_of(browser, "[data-socket]") == "Live"
    allow_polling(browser)

    at_most(stack, "0")
    assert await_end(browser) == "Ready"
    assert facts(browser)["Rows"] == f"{ROWS:,}"
    assert_never_backwards(browser)


@pytest.mark.usefixtures("slowly")
def test_a_page_that_opens_late_shows_the_whole_at_once(browser, stack, visitor, flights):
    """A state is whole: whoever comes later, or missed some, has missed nothing."""
    page = visitor.upload("late.csv", flights)
    record(browser)
    sign_in(browser, stack)
    browser.get(f"{stack.url}{page}")
    await_word(browser, "Live")
    wait(browser, lambda driver: [each for each in kept(driver, "heard") if each["type"] == "state"], "no state")
    first = next(each for each in kept(browser, "heard") if each["type"] == "state")
    assert first["done"] == first["chunks"].count("d")
    at_most(stack, "0")
    assert await_end(browser) == "Ready"
    assert_never_backwards(browser)


def test_screen_readers_hear_of_states_and_tenths(browser, stack, flights, tmp_path):
    file = tmp_path / "flights.csv"
    file.write_bytes(flights)
    spoken = """
      new MutationObserver(() => {
        const text = document.querySelector("[data-spoken]")?.textContent;
        const all = JSON.parse(sessionStorage.spoken ?? "[]");
        if (text && text !== all.at(-1)) sessionStorage.spoken = JSON.stringify([...all, text]);
      }).observe(document, { subtree: true, childList: true });
    """
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": spoken})
    sign_in(browser, stack)
    choose(browser, file)
    press(browser, "Upload")
    assert await_end(browser) == "Ready"
    heard = json.loads(browser.execute_script("return sessionStorage.spoken"))
    # A hundred parts and more, and ten tenths and a few states at most.
    assert 1 <= len(heard) <= 16
    assert "Ready" not in heard[0]
    assert all(text.endswith(" percent") or text.isprintable() for text in heard)


# The console ---------------------------------------------------------------------------------------------------------


def advance(stack, run_id: str, done: int, total: int, note: str) -> None:
    """A run's progress, as its task would report it, told before this returns."""
    shell(
        stack,
        "from django_app.ledger import watching; from django_app.ledger.models import Run; "
        "from django_app.realtime import pushing; "
        f"watching.update(Run.objects.filter(pk={run_id!r}), progress_done={done}, progress_total={total}, "
        f"progress_note={note!r}); print(pushing.flush(30))",
    )


def set_low_paused(stack, *, is_paused: bool) -> None:
    """The queue in which runs wait for us."""
    change = "pause(key, by='demo', reason='a test')" if is_paused else "resume(key)"
    shell(stack, f"from django_app.ledger import parking; key = 'queue:low'; parking.{change}; print('done')")


def test_a_run_is_watched_by_its_socket_and_its_story_is_fetched_when_it_changes(browser, stack):
    record(browser)
    sign_in(browser, stack)
    set_low_paused(stack, is_paused=True)
    try:
        run_id = enqueue(stack)
        browser.get(f"{stack.url}/console/run/{run_id}")
        await_word(browser, "Live")
        see(browser, "#live .state", "waiting")
        forbid_polling(browser)
        hostile = "<img src=x onerror=document.title='pwned'>"
        for step in (1, 2):
            advance(stack, run_id, step, 4, hostile)
            see(browser, "[data-field=count]", f"{step} of 4")
            wait(
                browser,
                lambda driver, step=step: one(driver, "[data-field=bar]").get_property("value") == step,
                "no bar",
            )
        assert text_of(browser, "[data-field=note]") == hostile
        assert browser.title != "pwned"
        allow_polling(browser)
    finally:
        set_low_paused(stack, is_paused=False)
    # Its attempts are told of by the part alone.
    see(browser, "#live .state", "succeeded")
    see(browser, "#live", "Attempt 1:")
    wait(browser, lambda driver: text_of(driver, "[data-socket]") == "", "it is said to be live")
    assert_never_backwards(browser)
    assert count(browser, "main img") == 0


@pytest.mark.parametrize("page", ["runs", "queues", "failures", "workers"])
def test_lists_are_fetched_anew_when_something_has_changed(browser, stack, page):
    record(browser)
    never_unasked(browser)
    sign_in(browser, stack)
    browser.get(f"{stack.url}/console/{page}/")
    await_word(browser, "Live")
    enqueue(stack)
    wait(browser, was_fetched_when_told, "it was not fetched")
    assert severe(browser) == []


def was_fetched_when_told(browser: Chromium) -> bool:
    """Whether the page has heard of two changes, the first of which is said to everybody who comes, and fetched then."""
    text = browser.execute_script("return sessionStorage.kept") or "[]"
    order = ["told" if each.get("type") == "changed" else each["kind"] for each in json.loads(text)]
    told = [place for place, kind in enumerate(order) if kind == "told"]
    return len(told) >= 2 and "fetched" in order[told[1] :]
