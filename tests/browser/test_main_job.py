"""The main job as a person does it: in a browser, with and without scripts.

The screenshots in docs/images are taken here, so that they cannot show what the site does not do.
"""

from __future__ import annotations

import io
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from PIL import Image
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as expected
from selenium.webdriver.support.wait import WebDriverWait

from serverless.local import cloud
from serverless.local.flights import ROWS, table_csv

pytestmark = pytest.mark.browser

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
LARGEST_IMAGE_BYTES = 120 << 10
DEADLINE_SECONDS = 120
SCRIPT_COLUMN = "<script>document.title='pwned'</script>"
SCRIPT_CELL = "<img src=x onerror=document.title=1>"
SCRIPT_NAME = "<img src=x onerror=document.title='pwned'>.csv"


def wait(driver, condition, message):
    passing = (NoSuchElementException, StaleElementReferenceException)
    return WebDriverWait(driver, DEADLINE_SECONDS, 0.1, passing).until(condition, message)


def one(driver, selector):
    return driver.find_element(By.CSS_SELECTOR, selector)


def press(driver, label):
    driver.find_element(By.XPATH, f"//button[normalize-space()='{label}'] | //a[normalize-space()='{label}']").click()


def sign_in(driver, stack):
    name, password = stack.demo_login()
    driver.get(stack.url)
    one(driver, "#id_username").send_keys(name)
    one(driver, "#id_password").send_keys(password)
    press(driver, "Sign in")
    wait(driver, expected.text_to_be_present_in_element((By.CSS_SELECTOR, "h1"), "Datasets"), "not signed in")


def choose(driver, file):
    """Make a dataset and choose its file; returns the dataset's page."""
    press(driver, "New dataset")
    wait(driver, expected.presence_of_element_located((By.ID, "file")), "no upload form").send_keys(str(file))
    return driver.current_url


def await_end(driver):
    """Wait until the page itself says that the work has ended; returns the state."""
    ended = (By.CSS_SELECTOR, "#progress:not([hx-get]) .state")
    return wait(driver, lambda driver: driver.find_element(*ended).text, "the page never showed an end")


def photograph(driver, name):
    """Keep what the window shows as docs/images/NAME."""
    wait(driver, lambda driver: driver.execute_script("return document.readyState") == "complete", "still loading")
    shot = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    IMAGES.mkdir(exist_ok=True)
    shot.quantize(64).save(IMAGES / name, optimize=True)
    assert (IMAGES / name).stat().st_size < LARGEST_IMAGE_BYTES


def facts(driver):
    return {
        item.text.split("\n")[0]: item.text.split("\n")[1] for item in driver.find_elements(By.CSS_SELECTOR, "dl div")
    }


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
    assert one(browser, "#upload-status").text == "Uploading flights.csv."
    browser.delete_network_conditions()

    wait(browser, lambda driver: done(driver) > 0, "no part was seen done")
    assert len(browser.find_elements(By.CSS_SELECTOR, "ol.chunks li")) > 100
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
    assert "demo@example.com" in one(browser, "table").text
    assert "report.pdf (application/pdf)" in one(browser, "ul").text
    photograph(browser, "mail.png")

    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


def done(driver):
    return len(driver.find_elements(By.CSS_SELECTOR, "ol.chunks li.done"))


def is_working(driver):
    return bool(driver.find_elements(By.CSS_SELECTOR, "#progress[hx-get]"))


def mail_is_sent(driver):
    """Whether the dataset's page says so, which it learns by itself."""
    return driver.find_elements(By.CSS_SELECTOR, "#mail .state.sent")


def test_the_list_shows_each_dataset_with_its_state(browser, stack, visitor):
    visitor.await_end(visitor.upload("airports.csv", table_csv("airports")))
    visitor.await_end(visitor.upload("planes.xlsx", b"PK\x03\x04"))
    sign_in(browser, stack)
    rows = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "tbody tr")]
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
    assert one(browser, "h1").text == "by-hand.csv"
    assert facts(browser) == {"Rows": "2", "Columns": "2", "Size": f"{file.stat().st_size} bytes"}


def test_a_picture_ends_with_a_message_that_says_what_it_is(browser, stack, tmp_path):
    file = tmp_path / "picture.csv"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    sign_in(browser, stack)
    choose(browser, file)
    press(browser, "Upload")
    assert await_end(browser) == "Failed"
    wait(browser, expected.presence_of_element_located((By.ID, "problem")), "no message")
    assert one(browser, "#problem").text == (
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
    assert one(browser, "h1").text == SCRIPT_NAME
    assert browser.title.startswith(SCRIPT_NAME)
    assert browser.find_elements(By.CSS_SELECTOR, "main img") == []

    press(browser, "Open")
    wait(browser, expected.title_is(f"Report on {SCRIPT_NAME}"), "no report, or another title")
    first = browser.find_elements(By.CSS_SELECTOR, "tbody tr:first-child td")
    assert first[0].text == SCRIPT_COLUMN
    assert first[-1].text == f"{SCRIPT_CELL} (2)"
    assert browser.find_elements(By.CSS_SELECTOR, "script, img:not([src^='data:'])") == []
    assert browser.execute_script("return self.origin") == "null", "the report has the site's own rights"

    # Should the escaping ever fail, the sandbox still holds: the report's file itself is made hostile.
    replace_report(stack, page, f"<title>hostile</title><p>here</p>{SCRIPT_COLUMN}{SCRIPT_CELL}")
    browser.refresh()
    wait(browser, expected.text_to_be_present_in_element((By.CSS_SELECTOR, "p"), "here"), "not replaced")
    assert browser.find_elements(By.CSS_SELECTOR, "script, img[src=x]")
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
    status = (By.ID, "upload-status")
    refused = "The file is larger than allowed. Choose a smaller one."
    wait(browser, expected.text_to_be_present_in_element(status, refused), "not refused")
    assert browser.current_url == page
    assert one(browser, "#upload").is_displayed()
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert asked
    assert not [address for address in asked if address.startswith(stack.cloud_url)]
