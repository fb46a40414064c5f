"""What a person does with a page, and reads from it: patiently, since pages and parts of them are replaced meanwhile."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions as expected
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser.chromium import Chromium

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
LARGEST_IMAGE_BYTES = 120 << 10
DEADLINE_SECONDS = 120
_PASSING = (NoSuchElementException, StaleElementReferenceException)


def wait(driver: Chromium, condition: Callable[[Any], Any], message: str) -> Any:
    """What the condition gives as soon as that is true. Elements that are missing or replaced are asked for again."""
    return WebDriverWait(driver, DEADLINE_SECONDS, 0.1, _PASSING).until(condition, message)


def one(driver: Chromium, selector: str) -> WebElement:
    """The element, which must be there now. For use within wait(), or where nothing replaces it."""
    return driver.find_element(By.CSS_SELECTOR, selector)


def patiently(driver: Chromium, read: Callable[[], Any], message: str) -> Any:
    """What read() gives, be it false: once nothing is replaced under its hands."""
    return wait(driver, lambda _: (read(),), message)[0]


def text_of(driver: Chromium, selector: str) -> str:
    """The text of an element, once it is there."""
    return patiently(driver, lambda: one(driver, selector).text, f"no {selector}")


def count(driver: Chromium, selector: str) -> int:
    """How many there are now."""
    return len(driver.find_elements(By.CSS_SELECTOR, selector))


def texts_of(driver: Chromium, selector: str) -> list[str]:
    """The texts of all of them, of one moment."""
    return patiently(
        driver,
        lambda: [each.text for each in driver.find_elements(By.CSS_SELECTOR, selector)],
        f"never quiet: {selector}",
    )


def see(driver: Chromium, selector: str, text: str) -> None:
    """Wait until an element has this in its text."""
    wait(
        driver,
        expected.text_to_be_present_in_element((By.CSS_SELECTOR, selector), text),
        f"{selector} never said {text!r}",
    )


def press(driver: Chromium, label: str) -> None:
    """Click the button or link of this name, once it is there. A click at what is replaced meanwhile has done nothing."""
    _click(driver, f"//button[normalize-space()='{label}'] | //a[normalize-space()='{label}']", label)


def unfold(driver: Chromium, label: str) -> None:
    """Click the summary of this name."""
    _click(driver, f"//summary[normalize-space()='{label}']", label)


def _click(driver: Chromium, place: str, label: str) -> None:
    patiently(driver, lambda: driver.find_element(By.XPATH, place).click(), f"no {label} to press")


def fill(driver: Chromium, **fields: str) -> None:
    """Write texts into the page's fields of these names."""
    for name, text in fields.items():
        field = wait(driver, expected.presence_of_element_located((By.NAME, name)), f"no field {name}")
        field.clear()
        field.send_keys(text)


def sign_in(driver: Chromium, stack: Any, name: str = "", password: str = "") -> None:
    """As the demo user, if nobody is named."""
    if not name:
        name, password = stack.demo_login()
    driver.get(stack.url)
    fill(driver, username=name, password=password)
    press(driver, "Sign in")
    see(driver, "h1", "Datasets")


def choose(driver: Chromium, file: Path) -> str:
    """Make a dataset and choose its file; returns the address of the dataset's page."""
    press(driver, "New dataset")
    wait(driver, expected.presence_of_element_located((By.ID, "file")), "no upload form").send_keys(str(file))
    return driver.current_url


def await_end(driver: Chromium) -> str:
    """Wait until the page itself says that the work has ended; returns the state."""
    return wait(
        driver, lambda driver: one(driver, "#progress:not([hx-get]) .state").text, "the page never showed an end"
    )


def facts(driver: Chromium) -> dict[str, str]:
    """What the page states as facts, by name."""
    return dict(text.split("\n")[:2] for text in texts_of(driver, "dl div"))


def severe(driver: Chromium) -> list[dict]:
    """Errors in the browser's console."""
    return [line for line in driver.get_log("browser") if line["level"] == "SEVERE"]


def photograph(driver: Chromium, name: str) -> None:
    """Keep what the window shows as docs/images/NAME, once it is loaded and live."""
    wait(driver, lambda driver: driver.execute_script("return document.readyState") == "complete", "still loading")
    wait(driver, lambda driver: count(driver, "[data-socket]:not([data-status=live])") == 0, "not live")
    shot = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    IMAGES.mkdir(exist_ok=True)
    shot.quantize(64).save(IMAGES / name, optimize=True)
    assert (IMAGES / name).stat().st_size < LARGEST_IMAGE_BYTES


def shell(stack: Any, code: str) -> str:
    """What a line of Python prints in the stack's Django."""
    return stack.manage("shell", "--no-imports", "--command", code).strip().splitlines()[-1]
