"""The console as an operator uses it: in a browser, with and without scripts, over real workers."""

from __future__ import annotations

import re

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as expected

from tests.browser.test_main_job import one, photograph, press, sign_in, wait

pytestmark = pytest.mark.browser

SCRIPT = "<script>document.title='pwned'</script><img src=x onerror=document.title='pwned'>"


def shell(stack, code: str) -> str:
    """What a line of Python prints in the stack's Django."""
    return stack.manage("shell", "--no-imports", "--command", code).strip().splitlines()[-1]


def enqueue(stack) -> str:
    """A run in the queue `low` that has nothing to do; its id."""
    return shell(stack, "from tasks.datasets import delete_objects; print(delete_objects.delay('nothing-there').id)")


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


def severe(driver) -> list[dict]:
    return [line for line in driver.get_log("browser") if line["level"] == "SEVERE"]


def notice(driver) -> str:
    wait(driver, expected.presence_of_element_located((By.CSS_SELECTOR, "p.notice[role=status]")), "no word on it")
    return one(driver, "p.notice[role=status]").text


def state(driver) -> str:
    return one(driver, "#live .state").text


def pause(driver, stack, reason: str) -> None:
    driver.get(f"{stack.url}/console/queues/")
    row = driver.find_element(By.XPATH, "//tr[td/a[normalize-space()='low']]")
    row.find_element(By.TAG_NAME, "summary").click()
    row.find_element(By.NAME, "reason").send_keys(reason)
    row.find_element(By.TAG_NAME, "button").click()


def test_an_operator_holds_a_queue_back_and_revokes_and_retries_what_waits_there(browser, stack):
    sign_in(browser, stack)
    pause(browser, stack, "the disk is full")
    assert notice(browser) == "Nothing of queue low is begun until it is resumed."
    run_id = enqueue(stack)

    browser.get(f"{stack.url}/console/run/{run_id}")
    # The page learns by itself that a worker has put it aside.
    wait(browser, lambda driver: state(driver) == "waiting", "never seen waiting")
    press(browser, "Revoke")
    assert notice(browser) == "The run is revoked."
    assert state(browser) == "revoked"

    press(browser, "Retry")
    wait(browser, lambda driver: run_id not in driver.current_url, "no new run")
    assert "A retry by demo of" in one(browser, "#live").text
    browser.get(f"{stack.url}/console/runs/")
    photograph(browser, "console-runs.png")
    browser.get(f"{stack.url}/console/queues/")
    assert "the disk is full" in one(browser, "#live").text
    photograph(browser, "console-queues.png")
    press(browser, "Resume")
    assert notice(browser) == "Queue low is resumed. What waited is sent within a minute."

    browser.get(f"{stack.url}/console/audit/")
    rows = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "tbody tr")][:4]
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

    one(browser, "#live summary").click()
    one(browser, "#live input[name=reason]").send_keys("half a sen")
    before = browser.execute_script(asked)
    # Longer than two rounds.
    browser.set_script_timeout(30)
    browser.execute_async_script("setTimeout(arguments[0], 11000)")
    assert browser.execute_script(asked) == before
    assert one(browser, "#live input[name=reason]").get_property("value") == "half a sen"
    one(browser, "#live summary").click()
    wait(browser, lambda driver: driver.execute_script(asked) > before, "it did not go on")


def test_who_has_signed_out_elsewhere_is_led_to_the_sign_in_page(browser, stack):
    sign_in(browser, stack)
    browser.get(f"{stack.url}/console/workers/")
    wait(browser, lambda driver: driver.execute_script("return window.htmx !== undefined"), "htmx did not load")
    browser.delete_cookie("sessionid")
    wait(browser, expected.text_to_be_present_in_element((By.CSS_SELECTOR, "h1"), "Sign in"), "still there")


def test_without_scripts_everything_can_be_done_as_well(browser_without_scripts, stack):
    browser = browser_without_scripts
    make_hostile_run(stack)
    sign_in(browser, stack)
    browser.get(f"{stack.url}/console/runs/?state=failed")
    assert SCRIPT in one(browser, "table").text
    browser.find_element(By.NAME, "fingerprint").send_keys("f" * 16)
    press(browser, "Show")
    wait(browser, expected.url_contains("fingerprint=" + "f" * 16), "not asked for")
    assert len(browser.find_elements(By.CSS_SELECTOR, "tbody tr")) == 1
    one(browser, "tbody a").click()
    wait(browser, expected.url_contains("/console/run/hostile"), "not opened")
    press(browser, "Retry")
    assert "this release has no task" in notice(browser)
    browser.get(f"{stack.url}/console/workers/")
    assert "running" in one(browser, "table").text
    press(browser, "Dead letters")
    press(browser, "low")
    assert "There are none." in one(browser, "main").text


@pytest.mark.parametrize("path", ["runs/", "run/hostile", "failures/", "audit/"])
def test_markup_in_data_is_shown_as_text_and_never_runs(browser, stack, path):
    make_hostile_run(stack)
    sign_in(browser, stack)
    browser.get(f"{stack.url}/console/{path}")
    if path != "audit/":
        assert SCRIPT in one(browser, "main").text
    assert browser.title != "pwned"
    assert browser.find_elements(By.CSS_SELECTOR, "main img, main script") == []
    assert severe(browser) == []
