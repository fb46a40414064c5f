"""Schedules as people use them: in a browser, with and without scripts, over a real stack."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as expected

from tests.browser.test_console import severe, shell
from tests.browser.test_main_job import one, photograph, press, sign_in, wait
from tests.integration.test_main_job import SMALL

pytestmark = pytest.mark.browser

#: Ends of runs that are on a picture: fifty, oldest first.
STATES = ["succeeded"] * 14 + ["skipped"] + ["succeeded"] * 11 + ["failed"] + ["succeeded"] * 23


def fill(driver, **fields: str) -> None:
    for name, text in fields.items():
        field = driver.find_element(By.NAME, name)
        field.clear()
        field.send_keys(text)


def told(driver, text: str) -> None:
    """Wait for the page that says so: the one before may have had a word on something else."""
    place = (By.CSS_SELECTOR, "p.notice[role=status]")
    wait(driver, expected.text_to_be_present_in_element(place, text), f"never said: {text}")


def make_history(stack, name: str) -> None:
    """Runs of the last fifty days, of which a real stack has none yet."""
    shell(
        stack,
        "import datetime, random; from django.utils import timezone; from django_app.ledger.models import Run, Schedule; "
        "random.seed(7); day = datetime.timedelta(days=1); now = timezone.now(); "
        f"name = {name!r}; states = {STATES!r}; when = Schedule.objects.get(name=name).when; "
        "dues = when.next(now - 80 * day, 100); dues = [due for due in dues if due < now][-50:]; "
        "runs = [Run(id=f'{name}@{due:%Y-%m-%dT%H:%M:%SZ}', task='tasks.datasets.delete_objects', queue='low', schedule=name, "
        "scheduled_for=due, state=state, created_at=due, publish_claimed_until=due, requested_by='demo', "
        "started_at=None if state == 'skipped' else due + datetime.timedelta(seconds=3), "
        "finished_at=due + datetime.timedelta(seconds=20 + random.random() * 60), "
        "error={'skipped': 'an earlier run has not ended', 'failed': 'ConnectionError: S3 did not answer'}.get(state, '')) "
        "for due, state in zip(dues, states)]; Run.objects.bulk_create(runs); print(len(runs))",
    )


def test_a_schedule_is_previewed_made_run_and_paused(browser, stack):
    sign_in(browser, stack)
    browser.get(f"{stack.url}/console/schedules/new/")
    fill(
        browser,
        name="clean the archive",
        task="tasks.datasets.delete_objects",
        timing="30 6 * * mno",
        zone="Europe/Berlin",
    )
    press(browser, "Preview")
    wait(browser, expected.presence_of_element_located((By.ID, "fault-timing")), "no word on the timing")
    assert one(browser, "[name=timing]").get_property("value") == "30 6 * * mno"
    fill(browser, timing="30 6 * * *", args='[["archive/"]]')
    press(browser, "Preview")
    wait(browser, expected.text_to_be_present_in_element((By.ID, "preview"), "every day at 06:30"), "no preview")
    assert len(browser.find_elements(By.CSS_SELECTOR, "#preview li")) == 5
    assert browser.find_elements(By.CSS_SELECTOR, ".fault") == []
    press(browser, "Make the schedule")
    told(browser, "Schedule clean the archive is made.")
    # EventBridge knows it, from the moment that it was saved.
    assert one(browser, "#live .state").text == "on"
    assert "not in step" not in one(browser, "#live").text

    press(browser, "Run now")
    told(browser, "It runs now, as this run.")
    wait(browser, lambda driver: one(driver, "#live .state").text == "succeeded", "it never ran")
    press(browser, "clean the archive")
    wait(browser, expected.presence_of_element_located((By.CSS_SELECTOR, ".sparkline rect.succeeded")), "no history")
    assert "demo, at once" in one(browser, "#live table").text

    make_history(stack, "clean the archive")
    browser.refresh()
    assert len(browser.find_elements(By.CSS_SELECTOR, ".sparkline rect")) == 50
    photograph(browser, "console-schedule.png")

    browser.find_element(By.XPATH, "//summary[normalize-space()='Pause']").click()
    fill(browser, reason="the archive moves")
    press(browser, "Pause the schedule")
    told(browser, "Schedule clean the archive is not due any more until it is resumed.")
    assert "by demo: the archive moves" in one(browser, "#live").text
    press(browser, "Resume")
    browser.get(f"{stack.url}/console/schedules/")
    assert "every day at 06:30" in one(browser, "#live").text
    assert severe(browser) == []


def test_without_scripts_a_preview_is_a_page_and_a_backfill_is_counted_first(browser_without_scripts, stack):
    browser = browser_without_scripts
    sign_in(browser, stack)
    browser.get(f"{stack.url}/console/schedules/new/")
    fill(browser, name="plain", task="tasks.datasets.delete_objects", timing="0 8 * * mon", args='[["nothing-there/"]]')
    press(browser, "Preview")
    wait(browser, expected.text_to_be_present_in_element((By.ID, "preview"), "every Monday at 08:00"), "no preview")
    press(browser, "Make the schedule")
    told(browser, "Schedule plain is made.")
    address = f"{browser.current_url}?since=2026-01-05T00:00&until=2026-01-20T00:00"
    browser.get(address)
    press(browser, "Backfill 3 due times")
    told(browser, "3 due times are made up for.")
    browser.find_element(By.XPATH, "//summary[normalize-space()='Delete']").click()
    press(browser, "Delete the schedule")
    told(browser, "Schedule plain is deleted. Its past runs stay.")


def test_the_page_of_a_dataset_proposes_the_browsers_own_zone(browser, stack, visitor):
    page = visitor.upload("zones.csv", SMALL)
    visitor.await_end(page)
    browser.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Tokyo"})
    sign_in(browser, stack)
    browser.get(f"{stack.url}{page}")
    wait(browser, lambda driver: one(driver, "select[name=zone]").get_property("value") == "Asia/Tokyo", "not proposed")
    browser.find_element(By.XPATH, "//button[normalize-space()='Mail me this report']").click()
    told(browser, "The report is mailed every Monday at 08:00, Asia/Tokyo.")
    press(browser, "End mails")
    told(browser, "The report is mailed no more.")
    assert severe(browser) == []
