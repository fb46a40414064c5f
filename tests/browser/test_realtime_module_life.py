"""A watching module over time: half-open and old sockets, polling in their stead, pages that nobody looks at.

See test_realtime_module.py.
"""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By

from tests.browser.chromium import Chromium
from tests.browser.driving import text_of
from tests.browser.watching import NEVER, await_states, await_status, hide, sequences, statuses, told, watch
from tests.waiting import wait_for

pytestmark = pytest.mark.browser


@pytest.fixture
def browser(module_browser: Chromium) -> Chromium:
    """The same for all: each site has an address of its own, which nothing of another's is kept under."""
    module_browser.get("about:blank")
    module_browser.get_log("browser")
    return module_browser


# Being alive ---------------------------------------------------------------------------------------------------------


def keep_due(browser, site, **seconds):
    """Open the page, which keeps as window.due what is due in 77 seconds and later."""
    clock = """
      const [set, clear] = [setTimeout, clearTimeout];
      window.due = new Set();
      window.setTimeout = (action, ms) => { const id = set(action, ms); if (ms >= 77000) due.add(id); return id; };
      window.clearTimeout = (id) => { due.delete(id); clear(id); };
    """
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": clock})
    usual = {"open": 66, "poll_after": 66, "stable": 66, "recycle": 66, "recycle_jitter": 0}
    watch(browser, site, **{**usual, **seconds})
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def await_nothing_due(browser):
    wait_for(lambda: browser.execute_script("return window.due.size") == 0, "nothing to be due")


def test_it_pings_so_that_an_idle_socket_is_not_closed_and_takes_the_answer(browser, site):
    keep_due(browser, site, ping=0.02, pong=77, open=88)
    wait_for(lambda: site.newest().count("ping") >= 3, "three pings")
    await_nothing_due(browser)
    assert len(site.sockets) == 1


@pytest.mark.parametrize("answer", [[], ['{"message": "Internal server error", "requestId": "b"}']])
def test_a_socket_that_does_not_answer_is_replaced(browser, site, answer):
    """Half open: nobody has closed it, and nobody is there."""
    site.answers["ping"] = answer
    watch(browser, site, ping=0.02, pong=0.1)
    wait_for(lambda: statuses(browser).count("live") >= 2, "live again")
    assert statuses(browser)[:3] == ["connecting", "live", "reconnecting"]
    assert not site.newest().is_open


def test_a_socket_that_grows_old_is_replaced_by_one_that_is_live_before_it_is_closed(browser, site):
    site.silent_from = 1
    watch(browser, site, recycle=0.2, recycle_jitter=0)
    old, new = site.newest(1), site.newest(2)
    assert old.is_open
    old.say(site.advance())
    await_states(browser, 1, 2)
    new.say(site.advance())
    await_states(browser, 1, 2, 3)
    wait_for(lambda: not old.is_open, "the old one's end")
    assert statuses(browser) == ["connecting", "live"]


def test_the_old_socket_stays_while_no_new_one_can_be_had(browser, site):
    site.most_addresses = 1
    watch(browser, site, recycle=0.1, recycle_jitter=0)
    wait_for(lambda: len(site.asked) >= 4, "three more attempts")
    site.newest().say(site.advance())
    await_states(browser, 1, 2)
    assert statuses(browser) == ["connecting", "live"]


def test_by_default_it_recycles_before_two_hours_and_pings_before_ten_minutes(browser, site):
    watch(browser, site)
    timings = browser.execute_async_script("import('/modules/timings.js').then((all) => arguments[0](all.TIMINGS))")
    assert timings["recycleSeconds"] == 105 * 60
    assert timings["recycleSeconds"] + timings["recycleJitterSeconds"] <= 115 * 60
    assert timings["pingSeconds"] == 240
    assert timings["openSeconds"] >= 15


# Without a socket ----------------------------------------------------------------------------------------------------


def test_it_polls_while_there_is_no_socket_and_no_longer(browser, site):
    site.accepts = False
    watch(browser, site, poll_after=0.05, poll=0.02)
    wait_for(lambda: told(browser).get("polls", 0) >= 3, "three polls")
    assert text_of(browser, "[data-socket]") == "Polling"
    site.accepts = True
    await_status(browser, "live")
    polls = told(browser)["polls"]
    # Time enough for five, by the page's own clock.
    browser.execute_async_script("setTimeout(arguments[0], 100)")
    assert told(browser)["polls"] == polls
    site.accepts = False
    site.newest().close()
    wait_for(lambda: told(browser)["polls"] > polls, "it polls again")
    assert statuses(browser) == ["connecting", "polling", "live", "reconnecting", "polling"]


def test_a_socket_that_comes_in_time_spares_the_polling(browser, site):
    site.accepts = None
    keep_due(browser, site, poll_after=77)
    wait_for(lambda: browser.execute_script("return window.due.size") == 1, "a poll to be due")
    site.accepts = True
    keep_due(browser, site, poll_after=77)
    await_status(browser, "live")
    await_nothing_due(browser)
    assert told(browser)["polls"] == 0


def test_where_the_site_has_no_sockets_it_polls_at_once_and_asks_again_much_later(browser, site):
    site.address_status = 503
    watch(browser, site, poll=0.02)
    wait_for(lambda: told(browser).get("polls", 0) >= 5, "five polls")
    assert len(site.asked) == 1


def test_where_the_site_is_away_for_a_while_it_asks_again_then(browser, site):
    site.address_status, site.address_headers = 503, {"Retry-After": "1"}
    watch(browser, site, poll_after=0.01, poll=0.02)
    wait_for(lambda: len(site.asked) >= 2, "a second question")
    site.address_status = 200
    await_status(browser, "live")


# Who looks -----------------------------------------------------------------------------------------------------------


def test_who_does_not_look_holds_no_socket_for_long_and_has_it_back_at_once(browser, site):
    watch(browser, site, hidden=0.05)
    await_states(browser, 1)
    hide(browser, is_hidden=True)
    await_status(browser, "paused")
    wait_for(lambda: not site.open, "the socket's end")
    browser.execute_async_script("setTimeout(arguments[0], 500)")
    assert len(site.asked) == 1
    site.advance()
    hide(browser, is_hidden=False)
    await_states(browser, 1, 2)
    assert statuses(browser)[-2:] == ["connecting", "live"]


def test_who_does_not_look_does_not_poll_either(browser, site):
    site.accepts = False
    watch(browser, site, hidden=0.05, poll_after=0.01, poll=0.02)
    await_status(browser, "polling")
    hide(browser, is_hidden=True)
    await_status(browser, "paused")
    before = told(browser)["polls"], site.attempts
    browser.execute_async_script("setTimeout(arguments[0], 300)")
    assert (told(browser)["polls"], site.attempts) == before
    assert statuses(browser)[-1] == "paused"
    hide(browser, is_hidden=False)
    await_status(browser, "polling")


def test_who_looks_away_for_a_moment_keeps_the_socket_and_asks_what_was_missed(browser, site):
    watch(browser, site, hidden=NEVER)
    await_states(browser, 1)
    site.advance()
    hide(browser, is_hidden=True)
    hide(browser, is_hidden=False)
    await_states(browser, 1, 2)
    assert len(site.sockets) == 1


def test_a_page_that_begins_hidden_pauses_too(browser, site):
    script = {"source": "Object.defineProperty(document, 'hidden', {configurable: true, get: () => true})"}
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
    watch(browser, site, hidden=0.2)
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    await_status(browser, "paused")
    hide(browser, is_hidden=False)
    await_status(browser, "live")


def test_a_page_that_comes_back_from_the_history_is_live_again(browser, site):
    watch(browser, site)
    await_states(browser, 1)
    site.advance()
    browser.get(f"{site.url}/elsewhere")
    wait_for(lambda: not site.open, "the socket's end")
    browser.back()
    wait_for(lambda: sequences(browser)[-1:] == [2], "the newest state")
    assert site.pages == 1, "the page was loaded anew, so nothing is shown here"
    assert sequences(browser) == [1, 2]


def test_a_page_that_is_only_told_of_being_put_away_is_live_again_as_well(browser, site):
    """Not every browser says of such a page that it is hidden."""
    watch(browser, site)
    await_states(browser, 1)
    browser.execute_script("dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))")
    await_status(browser, "paused")
    wait_for(lambda: not site.open, "the socket's end")
    browser.execute_script("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: false}))")
    assert statuses(browser)[-1] == "paused"
    browser.execute_script("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    await_status(browser, "live")


def test_coming_online_it_does_not_wait_for_its_turn(browser, site):
    site.address_status = 500
    watch(browser, site, retry=NEVER, retry_most=NEVER)
    wait_for(lambda: len(site.asked) == 1, "the first question")
    await_status(browser, "connecting")
    wait_for(
        lambda: browser.execute_script("dispatchEvent(new Event('online'))") or len(site.asked) >= 2, "the second one"
    )
    site.address_status = 200
    wait_for(
        lambda: browser.execute_script("dispatchEvent(new Event('online'))") or statuses(browser)[-1] == "live", "live"
    )


def test_going_offline_the_socket_is_asked_whether_it_is_still_there(browser, site):
    watch(browser, site)
    await_states(browser, 1)
    browser.execute_script("dispatchEvent(new Event('offline'))")
    wait_for(lambda: site.newest().count("sync") == 2, "a question")
    assert statuses(browser) == ["connecting", "live"]


def test_going_offline_a_socket_that_is_not_there_any_more_is_given_up(browser, site):
    watch(browser, site, pong=0.2)
    await_states(browser, 1)
    site.answers["sync"] = []
    browser.execute_script("dispatchEvent(new Event('offline'))")
    await_status(browser, "reconnecting")


def test_tabs_are_each_for_themselves(browser, site):
    watch(browser, site)
    await_states(browser, 1)
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get(site.url)
    await_states(browser, 1)
    assert len(site.open) == 2
    site.newest(1).close()
    site.newest(3)
    assert sequences(browser) == [1]
    browser.close()
    browser.switch_to.window(first)
    wait_for(lambda: len(site.open) == 1, "the other tab's end")
    site.open[0].say(site.advance())
    await_states(browser, 1, 2)
    assert browser.find_element(By.TAG_NAME, "p").text == "Live"
