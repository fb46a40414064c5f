"""Who may watch what, on a whole stack: by guessing, by what addresses hold, by what they hear."""

from __future__ import annotations

import json

import pytest

from tests.browser.chromium import Chromium
from tests.browser.driving import await_end, choose, press, see, shell, sign_in
from tests.browser.live_stack import at_most, await_more, await_word, kept, never_unasked, record
from tests.integration.test_main_job import SMALL

pytestmark = pytest.mark.browser


ASK = """
const [path, done] = arguments;
const token = document.cookie.split("; ").find((each) => each.startsWith("csrftoken=")).slice(10);
fetch("/realtime/address/", {method: "POST", body: new URLSearchParams({path}), headers: {"X-CSRFToken": token}})
  .then(async (answer) => done([answer.status, (await answer.json()).url ?? null]));
"""
#: Opens a socket, asks for the state, and tells what it hears until it is closed or has heard something.
OPEN = """
const [url, done] = arguments;
const socket = new WebSocket(url);
socket.onopen = () => socket.send('{"type": "sync"}');
socket.onmessage = (event) => { done(event.data); socket.close(); };
socket.onclose = () => done(null);
"""


def make_person(stack, name: str) -> tuple[str, str]:
    code = (
        "from django.contrib.auth.models import User; "
        f"User.objects.filter(username={name!r}).exists() or User.objects.create_user({name!r}, password='swordfish 7 {name}');"
        "print('made')"
    )
    shell(stack, code)
    return name, f"swordfish 7 {name}"


def address_of(browser: Chromium, path: str) -> tuple[int, str | None]:
    status, url = browser.execute_async_script(ASK, path)
    return status, url


def hear(browser: Chromium, url: str) -> str | None:
    """The first thing that a socket says there; None if it is refused."""
    browser.set_script_timeout(60)
    return browser.execute_async_script(OPEN, url)


@pytest.mark.usefixtures("slowly")
def test_nobody_sees_what_is_somebody_elses(browser, second_browser, stack, flights, tmp_path):
    file = tmp_path / "secret-plans.csv"
    file.write_bytes(flights)
    small = tmp_path / "harmless.csv"
    small.write_bytes(SMALL)
    sign_in(browser, stack, *make_person(stack, "eva"))
    record(browser)
    record(second_browser)
    sign_in(second_browser, stack, *make_person(stack, "max"))

    page = choose(browser, file)
    press(browser, "Upload")
    await_word(browser, "Live")
    await_more(browser, 0)
    dataset = page.rstrip("/").rsplit("/", 1)[-1]
    theirs = f"/ws/datasets/{dataset}/"
    run_id = shell(
        stack,
        "from django_app.ledger.models import Run; "
        "print(Run.objects.filter(requested_by='eva').order_by('-created_at').values_list('pk', flat=True)[0])",
    )

    # Ids that are guessed.
    second_browser.get(f"{stack.url}/datasets/{dataset}/")
    see(second_browser, "h1", "Not found")
    second_browser.get(f"{stack.url}/console/run/{run_id}")
    see(second_browser, "h1", "Not found")
    second_browser.get(f"{stack.url}/datasets/")
    for path in (theirs, f"/ws/runs/{run_id}/", "/ws/console/", "/ws/nothing/", "/ws/runs/../console/"):
        assert address_of(second_browser, path) == (404, None)
    assert address_of(browser, theirs)[0] == 200

    # Tokens: of one's own for another path, used up, tampered with, of somebody else.
    own_page = choose(second_browser, small)
    own = f"/ws/datasets/{own_page.rstrip('/').rsplit('/', 1)[-1]}/"
    status, url = address_of(second_browser, own)
    assert status == 200
    assert hear(second_browser, url.replace(own.strip("/").split("/")[-1], dataset)) is None
    # It was not used up by that, or was: either way it opens its own path at most once.
    status, url = address_of(second_browser, own)
    assert json.loads(hear(second_browser, url))["id"] in own
    assert hear(second_browser, url) is None
    status, url = address_of(second_browser, own)
    assert hear(second_browser, url[:-1] + ("A" if url[-1] != "A" else "B")) is None
    assert hear(second_browser, f"{stack.sockets_url}?path={theirs}") is None

    # Both at work at once: each hears of their own.
    press(second_browser, "Upload")
    at_most(stack, "0")
    assert await_end(browser) == "Ready"
    assert await_end(second_browser) == "Ready"
    for driver, mine in ((browser, dataset), (second_browser, own.strip("/").split("/")[-1])):
        assert {each["id"] for each in kept(driver, "heard") if each["type"] == "state"} <= {mine}
    assert "secret-plans" not in second_browser.page_source


def test_who_signs_out_in_another_tab_is_told_so_by_the_socket_and_led_to_the_sign_in_page(browser, stack):
    record(browser)
    never_unasked(browser)
    sign_in(browser, stack)
    browser.get(f"{stack.url}/console/queues/")
    await_word(browser, "Live")
    watching = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get(f"{stack.url}/datasets/")
    press(browser, "Sign out")
    see(browser, "h1", "Sign in")
    browser.switch_to.window(watching)
    see(browser, "h1", "Sign in")
    # It was told, and has not found out when it polled.
    assert [each["why"] for each in kept(browser, "heard") if each["type"] == "bye"] == ["signed_out"]
