"""Schedules as people use them: in a browser, with and without scripts, over a real stack."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as expected

from tests.browser.driving import (
    count,
    fill,
    one,
    photograph,
    press,
    see,
    severe,
    shell,
    sign_in,
    text_of,
    unfold,
    wait,
)
from tests.browser.test_console import told
from tests.integration.test_main_job import SMALL

pytestmark = pytest.mark.browser

#: Ends of runs that are on a picture: fifty, oldest first.
STATES = ["succeeded"] * 14 + ["skipped"] + ["succeeded"] * 11 + ["failed"] + ["succeeded"] * 23


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
    wait(browser, lambda driver: one(driver, "[name=timing]").get_property("value") == "30 6 * * mno", "not as written")
    fill(browser, timing="30 6 * * *", args='[["archive/"]]')
    press(browser, "Preview")
    see(browser, "#preview", "every day at 06:30")
    assert count(browser, "#preview li") == 5
    assert count(browser, ".fault") == 0
    press(browser, "Make the schedule")
    told(browser, "Schedule clean the archive is made.")
    # EventBridge knows it, from the moment that it was saved.
    assert text_of(browser, "#live .state") == "on"
    assert "not in step" not in text_of(browser, "#live")

    press(browser, "Run now")
    told(browser, "It runs now, as this run.")
    see(browser, "#live .state", "succeeded")
    press(browser, "clean the archive")
    wait(browser, expected.presence_of_element_located((By.CSS_SELECTOR, ".sparkline rect.succeeded")), "no history")
    see(browser, "#live table", "demo, at once")

    make_history(stack, "clean the archive")
    browser.refresh()
    wait(browser, lambda driver: count(driver, ".sparkline rect") == 50, "not fifty runs")
    photograph(browser, "console-schedule.png")

    unfold(browser, "Pause")
    fill(browser, reason="the archive moves")
    press(browser, "Pause the schedule")
    told(browser, "Schedule clean the archive is not due any more until it is resumed.")
    see(browser, "#live", "by demo: the archive moves")
    press(browser, "Resume")
    browser.get(f"{stack.url}/console/schedules/")
    see(browser, "#live", "every day at 06:30")
    assert severe(browser) == []


def test_without_scripts_a_preview_is_a_page_and_a_backfill_is_counted_first(browser_without_scripts, stack):
    browser = browser_without_scripts
    sign_in(browser, stack)
    browser.get(f"{stack.url}/console/schedules/new/")
    fill(browser, name="plain", task="tasks.datasets.delete_objects", timing="0 8 * * mon", args='[["nothing-there/"]]')
    press(browser, "Preview")
    see(browser, "#preview", "every Monday at 08:00")
    press(browser, "Make the schedule")
    told(browser, "Schedule plain is made.")
    address = f"{browser.current_url}?since=2026-01-05T00:00&until=2026-01-20T00:00"
    browser.get(address)
    press(browser, "Backfill 3 due times")
    told(browser, "3 due times are made up for.")
    unfold(browser, "Delete")
    press(browser, "Delete the schedule")
    told(browser, "Schedule plain is deleted. Its past runs stay.")


def test_the_page_of_a_dataset_proposes_the_browsers_own_zone(browser, stack, visitor):
    page = visitor.upload("zones.csv", SMALL)
    visitor.await_end(page)
    browser.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Tokyo"})
    sign_in(browser, stack)
    browser.get(f"{stack.url}{page}")
    wait(browser, lambda driver: one(driver, "select[name=zone]").get_property("value") == "Asia/Tokyo", "not proposed")
    press(browser, "Mail me this report")
    told(browser, "The report is mailed every Monday at 08:00, Asia/Tokyo.")
    press(browser, "End mails")
    told(browser, "The report is mailed no more.")
    assert severe(browser) == []
