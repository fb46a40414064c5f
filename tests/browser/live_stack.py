"""What tests of a live stack do behind the page's back: keep what it shows, cut it off, slow its work down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3

from tasks.topology import TOPOLOGY
from tests.browser.chromium import Chromium
from tests.browser.driving import count, see, shell, wait
from tests.waiting import wait_for

RECORDER = Path(__file__).with_name("recorder.js").read_text()
CHUNK_TASK = "tasks.datasets.profile_chunk"


def record(browser: Chromium) -> None:
    """Keep, from the next page on, what pages show and ask for."""
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": RECORDER})


def kept(browser: Chromium, kind: str) -> list[dict[str, Any]]:
    """All of that kind, in order: shown, fetched, socket, heard."""
    text = browser.execute_script("return sessionStorage.kept") or "[]"
    return [each for each in json.loads(text) if each["kind"] == kind or (kind == "heard" and "type" in each)]


def forbid_polling(browser: Chromium) -> None:
    """From now on the page can learn of progress by its socket alone."""
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/progress/", "*/console/run/*"]})


def allow_polling(browser: Chromium) -> None:
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})


def await_word(browser: Chromium, word: str) -> None:
    """Wait until the page says so of its connection."""
    see(browser, "[data-socket]", word)


def done(browser: Chromium) -> int:
    return count(browser, "ol.chunks li.done")


def await_more(browser: Chromium, than: int) -> int:
    wait(browser, lambda driver: done(driver) > than, f"no more than {than} parts were done")
    return done(browser)


def assert_never_backwards(browser: Chromium) -> list[dict[str, Any]]:
    """Nor may more be shown as done than there is. Returns what was shown while parts were counted."""
    shown = [each for each in kept(browser, "shown") if each["total"]]
    for name in ("done", "parts"):
        values = [each[name] for each in shown]
        assert values == sorted(values), f"{name} went backwards"
    assert all(each["done"] <= each["total"] for each in shown)
    return shown


def at_most(stack, rate: str) -> None:
    """Let workers begin parts of datasets no faster than that; "0": as fast as they can."""
    code = (
        f"from tasks.celery import app; print(app.control.rate_limit({CHUNK_TASK!r}, {rate!r}, reply=True, timeout=5))"
    )
    # A worker that is still starting does not answer.
    wait_for(lambda: shell(stack, code).count("new rate limit set") == len(TOPOLOGY.pools), f"rate limit {rate}", 120)


def open_sockets(stack) -> list[str]:
    """Ids of the connections that the table has."""
    table = boto3_client(stack, "dynamodb", stack.cloud_url)
    found = table.scan(TableName=stack.environment["SOCKETS_TABLE"], ConsistentRead=True)["Items"]
    return [row["pk"]["S"].removeprefix("C#") for row in found if row["sk"]["S"] == "META"]


def boto3_client(stack, service: str, endpoint_url: str) -> Any:
    keys = {name.lower(): stack.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    return boto3.client(service, endpoint_url=endpoint_url, region_name=stack.environment["AWS_DEFAULT_REGION"], **keys)


def cut_sockets(stack) -> int:
    """Close all open sockets, as an operator of the API can; how many."""
    api = boto3_client(stack, "apigatewaymanagementapi", stack.sockets_url.replace("ws", "http", 1))
    cut = 0
    for connection in open_sockets(stack):
        try:
            api.delete_connection(ConnectionId=connection)
            cut += 1
        except api.exceptions.GoneException:
            # Of an earlier page: its row goes in time.
            continue
    return cut


def kill(stack, name: str) -> None:
    stack.child(name).process.kill()
    stack.child(name).process.wait(30)


def never_unasked(browser: Chromium) -> None:
    """From the next page on, parts are fetched when scripts ask for it, and not by themselves every few seconds."""
    script = """
      new MutationObserver(() => {
        for (const part of document.querySelectorAll("[hx-trigger^=every]"))
          part.setAttribute("hx-trigger", part.getAttribute("hx-trigger").replace(/every \\d+s/, "every 9999s"));
      }).observe(document, { subtree: true, childList: true });
    """
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
