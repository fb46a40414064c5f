"""The part of a page that changes, alone in a real browser: when it is fetched, and when what comes is shown."""

from __future__ import annotations

import threading

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.browser.chromium import Chromium
from tests.browser.driving import one
from tests.browser.socket_site import SocketSite
from tests.browser.watching import hide
from tests.waiting import wait_for

pytestmark = pytest.mark.browser

PART = """<div id="live" data-live hx-get="/part" hx-trigger="seen" hx-swap="outerHTML" data-seq="SEQ">
<p id="shown">SEQ</p> <a href="/a">One</a> <a href="/b">Two</a> <a href="/a">One</a> <button>Go</button>
<input name="reason"> <details><summary>More</summary>more</details></div>"""
PAGE = """<!doctype html><title>Parts</title><link rel="icon" href="data:,"><script src="/htmx.js"></script>
<p role="status" data-spoken></p>PART
<script type="module">
import { keepFresh } from "/modules/parts.js";
import { Speaker } from "/modules/page.js";
window.judged = [];
window.verdict = () => "take";
window.refresh = keepFresh({ judge: (sequence) => { judged.push(sequence); return verdict(sequence); } });
window.Speaker = Speaker;
</script>"""


@pytest.fixture
def browser(module_browser: Chromium, site: SocketSite) -> Chromium:
    """At a page whose part has a higher sequence each time that it is fetched."""
    site.others = {
        "/page": PAGE.replace("PART", PART.replace("SEQ", "0")),
        "/part": lambda: PART.replace("SEQ", str(fetched(site))),
    }
    module_browser.get(f"{site.url}/page")
    wait_for(lambda: module_browser.execute_script("return window.refresh !== undefined"), "the module")
    return module_browser


def fetched(site: SocketSite) -> int:
    return site.visits.count("/part")


def refresh(browser: Chromium) -> None:
    browser.execute_script("window.refresh()")


def shown(browser: Chromium) -> str:
    return browser.execute_script("return document.querySelector('#shown').textContent")


def await_shown(browser: Chromium, sequence: int) -> None:
    wait_for(lambda: shown(browser) == str(sequence), f"part {sequence}")


def pass_seconds(browser: Chromium, seconds: float) -> None:
    """By the page's own clock: what it had set for an earlier moment has happened then."""
    browser.execute_async_script("setTimeout(arguments[1], 1000 * arguments[0])", seconds)


def test_it_is_fetched_at_once_and_then_at_most_every_two_seconds(browser, site):
    browser.execute_script("window.at = []; addEventListener('htmx:beforeRequest', () => at.push(performance.now()))")
    for _ in range(3):
        refresh(browser)
    await_shown(browser, 1)
    for _ in range(3):
        refresh(browser)
    await_shown(browser, 2)
    first, second = browser.execute_script("return window.at")
    # Timers of browsers are rounded.
    assert second - first >= 1900
    pass_seconds(browser, 2.5)
    assert fetched(site) == 2


def test_what_is_to_be_dropped_is_not_shown(browser, site):
    browser.execute_script("window.verdict = () => 'drop'")
    refresh(browser)
    wait_for(lambda: browser.execute_script("return judged") == [1], "the verdict")
    pass_seconds(browser, 2.5)
    assert shown(browser) == "0"
    assert fetched(site) == 1


def test_what_is_too_old_is_asked_for_again(browser, site):
    browser.execute_script("window.verdict = (sequence) => sequence < 3 ? 'again' : 'take'")
    refresh(browser)
    await_shown(browser, 3)
    assert browser.execute_script("return judged") == [1, 2, 3]


def test_nothing_is_fetched_while_nobody_looks_and_at_once_when_somebody_does(browser, site):
    hide(browser, is_hidden=True)
    refresh(browser)
    browser.execute_script("htmx.trigger('#live', 'seen')")
    pass_seconds(browser, 0.2)
    assert fetched(site) == 0
    hide(browser, is_hidden=False)
    await_shown(browser, 1)


def test_nothing_is_replaced_under_somebodys_hands_and_it_is_made_up_for(browser, site):
    one(browser, "summary").click()
    refresh(browser)
    browser.execute_script("htmx.trigger('#live', 'seen')")
    pass_seconds(browser, 2.5)
    assert fetched(site) == 0
    one(browser, "summary").click()
    await_shown(browser, 1)
    one(browser, "input").send_keys("half a sen")
    refresh(browser)
    pass_seconds(browser, 2.5)
    assert one(browser, "input").get_property("value") == "half a sen"
    browser.execute_script("document.activeElement.blur()")
    await_shown(browser, 2)


def test_what_was_asked_for_before_somebody_began_is_shown_after_they_have_ended(browser, site):
    asked, answered = threading.Event(), threading.Event()

    def part() -> str:
        asked.set()
        # The site answers one at a time: nothing else is asked for meanwhile.
        assert answered.wait(60)
        return PART.replace("SEQ", str(fetched(site)))

    site.others["/part"] = part
    refresh(browser)
    assert asked.wait(60)
    one(browser, "summary").click()
    answered.set()
    wait_for(
        lambda: browser.execute_script("return performance.getEntriesByName(`${location.origin}/part`).length"), "it"
    )
    pass_seconds(browser, 0.2)
    assert shown(browser) == "0"
    one(browser, "summary").click()
    wait_for(lambda: shown(browser) != "0", "what was held back")


def test_nothing_is_replaced_between_the_halves_of_a_click(browser, site):
    browser.execute_script("addEventListener('click', (event) => (window.clicked = event.target.textContent))")
    ActionChains(browser).click_and_hold(one(browser, "button")).perform()
    refresh(browser)
    pass_seconds(browser, 0.5)
    assert fetched(site) == 0
    ActionChains(browser).release().perform()
    assert browser.execute_script("return window.clicked") == "Go"
    await_shown(browser, 1)


def test_a_press_that_never_ends_does_not_hold_it_for_ever(browser, site):
    ActionChains(browser).move_to_element(one(browser, "#shown")).perform()
    browser.execute_script("document.dispatchEvent(new PointerEvent('pointerdown'))")
    refresh(browser)
    await_shown(browser, 1)


def test_keys_go_on_where_they_were(browser, site):
    browser.execute_script("document.querySelectorAll('a')[2].focus()")
    refresh(browser)
    await_shown(browser, 1)
    wait_for(
        lambda: (
            browser.execute_script("return [...document.querySelectorAll('a')].indexOf(document.activeElement)") == 2
        ),
        "the same link, focused",
    )
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.switch_to.active_element.tag_name == "button"


def test_another_page_in_its_place_is_shown_whole(browser, site):
    site.others |= {"/part": "/sign-in", "/sign-in": "<title>Sign in</title><h1>Sign in</h1>"}
    site.others["/page"] = "/sign-in"
    refresh(browser)
    wait_for(lambda: browser.title == "Sign in", "the other page")


def test_screen_readers_hear_of_states_and_tenths_and_not_of_the_beginning(browser, site):
    said = browser.execute_script("""
      const speaker = new Speaker();
      const place = document.querySelector("[data-spoken]");
      return [["queued", 0, 0], ["queued", 0, 0], ["running", 0, 200], ["running", 19, 200], ["running", 20, 200],
        ["running", 39, 200], ["running", 61, 200], ["running", 200, 200], ["done", 0, 0]].map((each) => {
          place.textContent = "";
          speaker.say(...each);
          return place.textContent;
        });
    """)
    assert said == [
        "",
        "",
        "running",
        "",
        "running, 10 percent",
        "",
        "running, 30 percent",
        "running, 100 percent",
        "done",
    ]


def test_a_bar_without_a_total_shows_no_share(browser, site):
    said = browser.execute_async_script("""
      const done = arguments[0];
      import("/modules/page.js").then(({ draw }) => {
        const bar = document.createElement("progress");
        const states = [[3, 10], [4, 0], [null, null], [0, 7]].map(([some, all]) => {
          draw(bar, some, all);
          return [bar.hasAttribute("value"), bar.value, bar.max];
        });
        done(states);
      });
    """)
    assert said == [[True, 3, 10], [False, 0, 10], [False, 0, 10], [True, 0, 7]]
