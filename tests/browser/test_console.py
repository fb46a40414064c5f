"""The console as an operator uses it: in a browser, with and without scripts, over real workers."""

from __future__ import annotations

import re

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as expected

from tests.browser.driving import (
    count,
    fill,
    one,
    patiently,
    photograph,
    press,
    see,
    severe,
    shell,
    sign_in,
    text_of,
    texts_of,
    wait,
)

pytestmark = pytest.mark.browser

SCRIPT = "<script>document.title='pwned'</script><img src=x onerror=document.title='pwned'>"


def enqueue(stack) -> str:
    """A run in the queue `low` that has nothing to do; its id."""
    return shell(stack, "from tasks.datasets import delete_objects; print(delete_objects.delay(['nothing-there/']).id)")


def make_hostile_run(stack) -> None:
    fields = {
        "id": "hostile",
        "task": SCRIPT,
        "queue": "low",
        "state": "failed",
        "error": SCRIPT,
        "fingerprint": "f" * 16,
        "arguments": f'{{"args": ["{SCRIPT}"]}}',
        "result": "",
        "message": "not JSON",
        "worker": SCRIPT,
    }
    shell(
        stack,
        "from django_app.ledger.models import Run; from django.utils import timezone; now = timezone.now(); "
        f"Run.objects.update_or_create(pk='hostile', defaults=dict({fields!r}, created_at=now, publish_claimed_until=now));"
        "print('made')",
    )


def told(driver, text: str) -> None:
    """Wait for the page that says so: the one before may have had a word on something else."""
    see(driver, "p.notice[role=status]", text)


def state(driver) -> str:
    return text_of(driver, "#live .state")


def pause(driver, stack, reason: str) -> None:
    driver.get(f"{stack.url}/console/queues/")
    row = "//tr[td/a[normalize-space()='low']]"

    # All three at once: the part is not replaced while the form is open, and may be before.
    def write() -> None:
        driver.find_element(By.XPATH, f"{row}//details[not(@open)]/summary").click()
        driver.find_element(By.XPATH, f"{row}//input[@name='reason']").send_keys(reason)

    patiently(driver, write, "no form to pause it")
    driver.find_element(By.XPATH, f"{row}//details//button").click()


def test_an_operator_holds_a_queue_back_and_revokes_and_retries_what_waits_there(browser, stack):
    sign_in(browser, stack)
    pause(browser, stack, "the disk is full")
    told(browser, "Nothing of queue low is begun until it is resumed.")
    run_id = enqueue(stack)

    browser.get(f"{stack.url}/console/run/{run_id}")
    # The page learns by itself that a worker has put it aside.
    wait(browser, lambda driver: state(driver) == "waiting", "never seen waiting")
    press(browser, "Revoke")
    told(browser, "The run is revoked.")
    assert state(browser) == "revoked"

    press(browser, "Retry")
    wait(browser, lambda driver: run_id not in driver.current_url, "no new run")
    see(browser, "#live", "A retry by demo of")
    browser.get(f"{stack.url}/console/runs/")
    photograph(browser, "console-runs.png")
    browser.get(f"{stack.url}/console/queues/")
    see(browser, "#live", "the disk is full")
    photograph(browser, "console-queues.png")
    press(browser, "Resume")
    told(browser, "Queue low is resumed. What waited is sent within a minute.")

    browser.get(f"{stack.url}/console/audit/")
    rows = texts_of(browser, "tbody tr")[:4]
    assert [re.search(r"demo (\S+)", row)[1] for row in rows] == ["resume", "retry", "revoke", "pause"]
    assert severe(browser) == []


def test_a_list_renews_itself_but_not_under_somebodys_hands(browser, stack):
    sign_in(browser, stack)
    browser.get(f"{stack.url}/console/queues/")
    wait(browser, lambda driver: driver.execute_script("return window.htmx !== undefined"), "htmx did not load")
    asked = (
        "return performance.getEntriesByType('resource').filter(each => each.initiatorType === 'xmlhttprequest').length"
    )
    wait(browser, lambda driver: driver.execute_script(asked) >= 1, "it never renewed itself")

    patiently(browser, lambda: one(browser, "#live details:not([open]) summary").click(), "nothing to open")
    one(browser, "#live details[open] input[name=reason]").send_keys("half a sen")
    before = browser.execute_script(asked)
    # Longer than two rounds.
    browser.set_script_timeout(30)
    browser.execute_async_script("setTimeout(arguments[0], 11000)")
    assert browser.execute_script(asked) == before
    assert one(browser, "#live details[open] input[name=reason]").get_property("value") == "half a sen"
    one(browser, "#live details[open] summary").click()
    wait(browser, lambda driver: driver.execute_script(asked) > before, "it did not go on")


def test_who_has_signed_out_elsewhere_is_led_to_the_sign_in_page(browser, stack):
    sign_in(browser, stack)
    browser.get(f"{stack.url}/console/workers/")
    wait(browser, lambda driver: driver.execute_script("return window.htmx !== undefined"), "htmx did not load")
    browser.delete_cookie("sessionid")
    see(browser, "h1", "Sign in")


def test_without_scripts_everything_can_be_done_as_well(browser_without_scripts, stack):
    browser = browser_without_scripts
    make_hostile_run(stack)
    sign_in(browser, stack)
    browser.get(f"{stack.url}/console/runs/?state=failed")
    see(browser, "table", SCRIPT)
    fill(browser, fingerprint="f" * 16)
    press(browser, "Show")
    wait(browser, expected.url_contains("fingerprint=" + "f" * 16), "not asked for")
    assert count(browser, "tbody tr") == 1
    one(browser, "tbody a").click()
    wait(browser, expected.url_contains("/console/run/hostile"), "not opened")
    press(browser, "Retry")
    told(browser, "this release has no task")
    browser.get(f"{stack.url}/console/workers/")
    see(browser, "table", "running")
    press(browser, "Dead letters")
    press(browser, "low")
    see(browser, "main", "There are none.")


@pytest.mark.parametrize("path", ["runs/", "run/hostile", "failures/", "audit/"])
def test_markup_in_data_is_shown_as_text_and_never_runs(browser, stack, path):
    make_hostile_run(stack)
    sign_in(browser, stack)
    browser.get(f"{stack.url}/console/{path}")
    if path != "audit/":
        see(browser, "main", SCRIPT)
    assert browser.title != "pwned"
    assert count(browser, "main img, main script") == 0
    assert severe(browser) == []
