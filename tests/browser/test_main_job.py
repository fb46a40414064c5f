"""The main job as a person does it: in a browser, with and without scripts.

The screenshots in docs/images are taken here, so that they cannot show what the site does not do.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import boto3
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as expected

from serverless.local import cloud
from serverless.local.flights import ROWS, table_csv
from tests.browser.driving import (
    await_end,
    choose,
    count,
    facts,
    one,
    photograph,
    press,
    see,
    severe,
    sign_in,
    text_of,
    texts_of,
    wait,
)

pytestmark = pytest.mark.browser

SCRIPT_COLUMN = "<script>document.title='pwned'</script>"
SCRIPT_CELL = "<img src=x onerror=document.title=1>"
SCRIPT_NAME = "<img src=x onerror=document.title='pwned'>.csv"


def test_the_whole_job_from_sign_in_to_the_mail_without_a_console_error(browser, stack, flights, tmp_path):
    file = tmp_path / "flights.csv"
    file.write_bytes(flights)
    sign_in(browser, stack)
    page = choose(browser, file)

    # Slow enough that the bar is seen on its way, whatever this machine can do.
    browser.set_network_conditions(latency=0, throughput=4 << 20)
    press(browser, "Upload")
    bar = "#upload-progress progress"
    wait(browser, lambda driver: 0 < one(driver, bar).get_property("value") < 100, "the bar was not seen on its way")
    assert text_of(browser, "#upload-status") == "Uploading flights.csv."
    browser.delete_network_conditions()

    wait(browser, lambda driver: done(driver) > 0, "no part was seen done")
    assert count(browser, "ol.chunks li") > 100
    assert browser.current_url == page
    # For the picture's sake; a fast machine may be past it.
    wait(browser, lambda driver: done(driver) > 40 or not is_working(driver), "it stopped on its way")
    if is_working(browser):
        photograph(browser, "dataset-working.png")

    assert await_end(browser) == "Ready"
    assert facts(browser)["Rows"] == f"{ROWS:,}"
    wait(browser, mail_is_sent, "the page never said that the mail was sent")
    photograph(browser, "dataset-ready.png")

    press(browser, "Open")
    wait(browser, expected.title_is("Report on flights.csv"), "no report")
    assert facts(browser)["Rows"] == "336,776"
    assert facts(browser)["Columns"] == "19"
    photograph(browser, "report.png")

    browser.get(stack.mailbox_url)
    browser.find_element(By.PARTIAL_LINK_TEXT, "flights.csv").click()
    wait(browser, expected.presence_of_element_located((By.CSS_SELECTOR, "iframe")), "no mail")
    assert "demo@example.com" in text_of(browser, "table")
    assert "report.pdf (application/pdf)" in text_of(browser, "ul")
    photograph(browser, "mail.png")

    assert severe(browser) == []


def done(driver):
    return count(driver, "ol.chunks li.done")


def is_working(driver):
    return count(driver, "#progress[hx-get]") > 0


def mail_is_sent(driver):
    """Whether the dataset's page says so, which it learns by itself."""
    return driver.find_elements(By.CSS_SELECTOR, "#mail .state.sent")


def test_the_list_shows_each_dataset_with_its_state(browser, stack, visitor):
    visitor.await_end(visitor.upload("airports.csv", table_csv("airports")))
    visitor.await_end(visitor.upload("planes.xlsx", b"PK\x03\x04"))
    sign_in(browser, stack)
    rows = texts_of(browser, "tbody tr")
    assert rows[0].startswith("planes.xlsx Failed 4 bytes")
    assert rows[1].startswith("airports.csv Ready ")
    photograph(browser, "datasets.png")


def test_without_scripts_the_form_comes_back_from_storage_and_the_work_ends(
    browser_without_scripts, stack, visitor, tmp_path
):
    browser = browser_without_scripts
    file = tmp_path / "by-hand.csv"
    file.write_text("town,people\nUlm,126000\nBonn,330000\n")
    sign_in(browser, stack)
    page = choose(browser, file)
    policy = visitor.client.get(page).headers["content-security-policy"]
    action = next(rule.split() for rule in policy.split("; ") if rule.startswith("form-action "))
    assert action[1:] == ["'self'", stack.cloud_url]

    press(browser, "Upload")
    assert await_end(browser) == "Ready"
    assert browser.current_url == page
    see(browser, "h1", "by-hand.csv")
    assert facts(browser) == {"Rows": "2", "Columns": "2", "Size": f"{file.stat().st_size} bytes"}


def test_a_picture_ends_with_a_message_that_says_what_it_is(browser, stack, tmp_path):
    file = tmp_path / "picture.csv"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    sign_in(browser, stack)
    choose(browser, file)
    press(browser, "Upload")
    assert await_end(browser) == "Failed"
    assert text_of(browser, "#problem") == (
        "This is a PNG image, not a CSV file. Export the data as CSV in UTF-8 and upload that."
    )


def test_markup_in_names_and_cells_is_shown_as_text_and_never_runs(browser, stack, tmp_path):
    file = tmp_path / SCRIPT_NAME
    file.write_text(f"{SCRIPT_COLUMN},number\n{SCRIPT_CELL},1\n{SCRIPT_CELL},2\n")
    sign_in(browser, stack)
    page = choose(browser, file)
    press(browser, "Upload")
    assert await_end(browser) == "Ready"
    wait(browser, expected.presence_of_element_located((By.CSS_SELECTOR, "iframe")), "no report")
    assert text_of(browser, "h1") == SCRIPT_NAME
    assert browser.title.startswith(SCRIPT_NAME)
    assert count(browser, "main img") == 0

    press(browser, "Open")
    wait(browser, expected.title_is(f"Report on {SCRIPT_NAME}"), "no report, or another title")
    first = texts_of(browser, "tbody tr:first-child td")
    assert first[0] == SCRIPT_COLUMN
    assert first[-1] == f"{SCRIPT_CELL} (2)"
    assert count(browser, "script, img:not([src^='data:'])") == 0
    assert browser.execute_script("return self.origin") == "null", "the report has the site's own rights"

    # Should the escaping ever fail, the sandbox still holds: the report's file itself is made hostile.
    replace_report(stack, page, f"<title>hostile</title><p>here</p>{SCRIPT_COLUMN}{SCRIPT_CELL}")
    browser.refresh()
    see(browser, "p", "here")
    assert count(browser, "script, img[src=x]") > 0
    assert browser.title == "hostile"


def replace_report(stack, page, text):
    keys = {"aws_access_key_id": cloud.ACCESS_KEY_ID, "aws_secret_access_key": cloud.SECRET_ACCESS_KEY}
    s3 = boto3.client("s3", endpoint_url=stack.cloud_url, region_name=cloud.REGION, **keys)
    dataset = urlsplit(page).path.strip("/").split("/")[-1]
    bucket = cloud.NAMES_ARGUMENTS["bucket"]
    stored = s3.list_objects_v2(Bucket=bucket, Prefix="reports/")["Contents"]
    key = next(item["Key"] for item in stored if dataset in item["Key"] and item["Key"].endswith(".html"))
    s3.put_object(Bucket=bucket, Key=key, Body=text.encode())


def test_a_file_over_the_limit_is_refused_before_a_byte_is_sent(browser, stack, tmp_path):
    file = tmp_path / "large.csv"
    with file.open("wb") as sparse:
        sparse.truncate(40_000_001)
    sign_in(browser, stack)
    page = choose(browser, file)
    press(browser, "Upload")
    see(browser, "#upload-status", "The file is larger than allowed. Choose a smaller one.")
    assert browser.current_url == page
    assert one(browser, "#upload").is_displayed()
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert asked
    assert not [address for address in asked if address.startswith(stack.cloud_url)]
