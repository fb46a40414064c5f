"""The module that watches, alone in a real browser, against sockets that do what a test says.

Its times are shortened by attributes of the page. Nothing here waits for longer than until something has come.
"""

from __future__ import annotations

import pytest

from tests.browser.chromium import Chromium
from tests.browser.driving import severe, text_of
from tests.browser.watching import NEVER, await_states, await_status, sequences, statuses, told, watch
from tests.waiting import wait_for

pytestmark = pytest.mark.browser


@pytest.fixture
def browser(module_browser: Chromium) -> Chromium:
    """The same for all: each site has an address of its own, which nothing of another's is kept under."""
    module_browser.get("about:blank")
    module_browser.get_log("browser")
    return module_browser


# Opening -------------------------------------------------------------------------------------------------------------


def test_it_asks_for_an_address_of_its_own_and_then_for_the_state(browser, site):
    watch(browser, site)
    await_states(browser, 1)
    assert site.asked == [{"method": "POST", "token": "fromthecookie", "path": ["/ws/runs/7/"]}]
    assert site.newest().token == "1"
    assert site.newest().heard == [{"type": "sync"}]
    assert statuses(browser) == ["connecting", "live"]
    assert text_of(browser, "[data-socket]") == "Live"
    assert severe(browser) == []


def test_it_shows_what_is_pushed(browser, site):
    watch(browser, site)
    await_states(browser, 1)
    site.newest().say(site.advance(state="running", note="<b>half</b>"))
    await_states(browser, 1, 2)
    assert told(browser)["states"][-1]["note"] == "<b>half</b>"


def test_a_broken_socket_is_replaced_at_a_fresh_address(browser, site):
    watch(browser, site)
    await_states(browser, 1)
    site.advance()
    site.newest().close()
    await_states(browser, 1, 2)
    assert site.newest(2).token == "2"
    assert len(site.asked) == 2
    assert statuses(browser) == ["connecting", "live", "reconnecting", "live"]


@pytest.mark.parametrize(
    ("status", "headers"), [(500, {}), (403, {}), (429, {"Retry-After": "0"}), (302, {"Location": "/elsewhere"})]
)
def test_an_address_that_is_not_given_is_asked_for_again(browser, site, status, headers):
    site.address_status, site.address_headers = status, headers
    watch(browser, site)
    wait_for(lambda: len(site.asked) >= 3, "three questions")
    assert site.attempts == 0
    site.address_status = 200
    await_states(browser, 1)


@pytest.mark.parametrize("address", [{"url": 7}, ["no"], {"url": "ftp://nowhere"}, {"url": "ws://["}])
def test_an_address_without_meaning_is_asked_for_again(browser, site, address):
    site.address = address
    watch(browser, site)
    wait_for(lambda: len(site.asked) >= 3, "three questions")
    site.address = None
    await_states(browser, 1)


def test_it_waits_as_long_as_the_site_asks_it_to(browser, site):
    site.address_status, site.address_headers = 429, {"Retry-After": str(NEVER)}
    watch(browser, site, poll_after=0.05, poll=0.05)
    wait_for(lambda: told(browser).get("polls", 0) >= 5, "five polls")
    assert len(site.asked) == 1


def test_it_waits_longer_after_each_failure_up_to_the_most(browser, site):
    watch(browser, site)
    drawn = browser.execute_async_script(
        "const done = arguments[0]; const random = Math.random; Math.random = () => 1;"
        "import('/modules/timings.js').then(({ retryAfter, TIMINGS }) => {"
        "  const most = [1, 2, 3, 4, 5, 6, 60].map((failures) => retryAfter(failures, TIMINGS));"
        "  Math.random = () => 0; const least = retryAfter(60, TIMINGS); Math.random = random; done([most, least]); });"
    )
    assert drawn == [[2, 4, 8, 16, 30, 30, 30], 0]


def test_failures_are_forgotten_only_after_a_socket_has_held(browser, site):
    """A socket that always breaks after its first word must not be opened again and again without a pause."""
    watch(browser, site, retry=0.05, retry_most=NEVER)
    browser.execute_script("Math.random = () => 1; window.delays = [];")
    browser.execute_script(
        "const set = window.setTimeout; window.setTimeout = (f, ms) => { window.delays.push(ms); return set(f, ms); }"
    )
    await_states(browser, 1)
    for number in (1, 2, 3):
        site.newest(number).close()
        site.newest(number + 1)
    waited = [each for each in browser.execute_script("return window.delays") if each in (100, 200, 400, 800)]
    assert waited[:3] == [100, 200, 400]


def test_a_socket_that_held_is_replaced_soon_again(browser, site):
    watch(browser, site, retry=0.05, retry_most=NEVER, stable=0.01)
    await_states(browser, 1)
    browser.execute_script(
        "Math.random = () => 1; window.delays = []; const set = window.setTimeout;"
        "window.setTimeout = (f, ms) => { window.delays.push(ms); return set(f, ms); }"
    )
    for number in (1, 2, 3):
        site.newest(number).close()
        # Its timer is set when it is live, and then runs out before anything else can be asked.
        site.newest(number + 1)
        wait_for(lambda number=number: statuses(browser).count("live") == number + 1, "live again")
        wait_for(lambda: browser.execute_async_script("setTimeout(() => arguments[0](true), 30)"), "a moment")
    assert browser.execute_script("return window.delays").count(100) == 3


def test_a_server_that_never_answers_is_given_up(browser, site):
    site.accepts = None
    watch(browser, site, open=0.2)
    wait_for(lambda: site.attempts >= 3, "three attempts")
    site.accepts = True
    await_states(browser, 1)


def test_a_socket_that_opens_and_says_nothing_is_given_up(browser, site):
    site.answers["sync"] = []
    watch(browser, site, open=0.2)
    wait_for(lambda: len(site.sockets) >= 3, "three sockets")
    assert statuses(browser) == ["connecting"]
    site.answers["sync"] = [site.tell]
    await_status(browser, "live")


def test_a_socket_that_is_refused_is_asked_for_again(browser, site):
    site.accepts = False
    watch(browser, site)
    wait_for(lambda: site.attempts >= 3, "three attempts")
    site.accepts = True
    await_states(browser, 1)


def test_a_socket_whose_state_cannot_be_read_is_not_live(browser, site):
    site.answers["sync"] = [{"type": "error", "why": "The database does not answer."}]
    watch(browser, site)
    wait_for(lambda: len(site.sockets) >= 3, "three sockets")
    assert statuses(browser) == ["connecting"]
    site.answers["sync"] = [site.tell]
    await_status(browser, "live")


# What is said --------------------------------------------------------------------------------------------------------


def test_what_is_older_or_said_twice_is_dropped(browser, site):
    site.advance(seq=5)
    watch(browser, site)
    await_states(browser, 5)
    socket = site.newest()
    for sequence in (4, 5, 1, 7, 6, 7, 8):
        socket.say(site.state | {"seq": sequence})
    await_states(browser, 5, 7, 8)


def test_a_socket_that_returns_with_what_is_older_shows_nothing_of_it(browser, site):
    site.advance(seq=5)
    watch(browser, site)
    await_states(browser, 5)
    site.state = site.state | {"seq": 4}
    site.newest().close()
    site.newest(2).say(site.state | {"seq": 6})
    await_states(browser, 5, 6)


def test_what_polling_has_delivered_is_not_undone_by_the_socket(browser, site):
    watch(browser, site)
    await_states(browser, 1)
    assert browser.execute_script("return [3, 3, 2].map((each) => window.watcher.saw(each))") == [
        "newer",
        "same",
        "older",
    ]
    for sequence in (2, 3, 4):
        site.newest().say(site.state | {"seq": sequence})
    await_states(browser, 1, 4)


def test_a_socket_that_polling_overtakes_is_asked_whether_it_still_is_one(browser, site):
    watch(browser, site, pong=0.1)
    await_states(browser, 1)
    site.answers["sync"] = []
    wait_for(
        lambda: browser.execute_script("window.watcher.saw(performance.now() | 0)") or site.newest().count("sync") >= 2,
        "a second question",
    )
    site.answers["sync"] = [site.tell]
    # Nobody has answered.
    wait_for(lambda: statuses(browser).count("live") >= 2, "live again")
    assert not site.newest().is_open


def test_changes_are_hints_of_which_only_the_same_one_is_dropped(browser, site):
    hint = {"type": "changed", "kind": "console", "seq": 9, "topics": ["runs"]}
    site.answers["sync"] = [hint]
    watch(browser, site)
    await_status(browser, "live")
    for sequence in (9, 10, 10, 3):
        site.newest().say(hint | {"seq": sequence})
    wait_for(lambda: [each["seq"] for each in told(browser)["changes"]] == [9, 10, 3], "three hints")


@pytest.mark.parametrize(
    "frame",
    [
        '{"message": "Internal server error", "connectionId": "a=", "requestId": "b"}',
        "not JSON",
        "null",
        "[]",
        '"state"',
        '{"type": 7}',
        '{"type": "unheard-of", "seq": 99}',
        '{"type": "state"}',
        '{"type": "state", "seq": "99"}',
        '{"type": "state", "seq": 1e300}',
        '{"type": "error", "why": "no"}',
        b"\x00\x01",
        "[" * 100_000,
    ],
)
def test_what_has_no_meaning_is_passed_over(browser, site, frame):
    watch(browser, site)
    await_states(browser, 1)
    site.newest().say(frame)
    site.newest().say(site.advance())
    await_states(browser, 1, 2)
    assert len(site.sockets) == 1
    assert severe(browser) == []


def test_the_end_ends_it(browser, site):
    watch(browser, site, ping=0.01)
    await_states(browser, 1)
    site.newest().say(site.advance(is_final=True))
    await_status(browser, "ended")
    wait_for(lambda: not site.open, "the socket's end")
    assert sequences(browser) == [1, 2]
    assert len(site.asked) == 1


@pytest.mark.parametrize("why", ["not_allowed", "gone"])
def test_a_goodbye_ends_it(browser, site, why):
    watch(browser, site)
    await_states(browser, 1)
    site.newest().say({"type": "bye", "why": why})
    await_status(browser, "ended")
    wait_for(lambda: not site.open, "the socket's end")
    assert (len(site.asked), site.pages) == (1, 1)


def test_who_has_signed_out_is_shown_the_page_anew_but_not_for_ever(browser, site):
    watch(browser, site)
    await_states(browser, 1)
    site.newest().say({"type": "bye", "why": "signed_out"})
    wait_for(lambda: site.pages == 2, "the page anew")
    # Should the page come back as it was, for whatever reason.
    site.newest(2).say({"type": "bye", "why": "signed_out"})
    await_status(browser, "ended")
    assert site.pages == 2


def test_who_has_signed_out_and_asks_for_an_address_is_shown_the_page_anew(browser, site):
    site.address_status = 401
    watch(browser, site)
    wait_for(lambda: site.pages == 2, "the page anew")
    await_status(browser, "ended")
    assert (site.pages, len(site.asked)) == (2, 2)


def test_nothing_is_watched_that_is_not_there(browser, site):
    site.address_status = 404
    watch(browser, site)
    await_status(browser, "ended")
    assert len(site.asked) == 1
