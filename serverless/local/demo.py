"""`make demo`: the main job without a browser, on real data; prints where the report and the mail are."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from serverless.local.flights import ROWS, flights_csv
from serverless.local.stack import Stack, StackError, raise_on_signals, say
from serverless.local.up import FOLDER
from serverless.local.visitor import VisitError, Visitor


@contextmanager
def stack(folder: Path) -> Iterator[Stack]:
    """A stack of the demo's own, so that it neither needs nor disturbs one that is running."""
    made = Stack(folder, web_port=0)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER / "demo", help="where the results are written")
    options = parser.parse_args()
    raise_on_signals()
    try:
        with stack(options.folder / "stack") as running:
            return run(running, options.folder)
    except (StackError, VisitError, httpx.HTTPError) as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run(running: Stack, folder: Path) -> int:
    content = flights_csv()
    with Visitor(running.url) as visitor:
        visitor.sign_in(*running.demo_login())
        began = time.monotonic()
        say(f"uploading flights.csv: {ROWS:,} rows, {len(content) / 1e6:.0f} MB")
        before = len(mail_numbers(running.mailbox_url))
        page = visitor.upload("flights.csv", content)
        seen = visitor.await_end(page, 300)
        if seen.state != "ready":
            raise VisitError(seen.problem)
        say(f"profiled in {seen.parts} parts and reported in {time.monotonic() - began:.1f} s")
        files = {
            "report.html": visitor.client.get(f"{page}report/").content,
            "report.pdf": visitor.client.get(f"{page}report.pdf", follow_redirects=True).content,
            "statistics.csv": visitor.client.get(f"{page}statistics.csv").content,
            "mail.eml": await_mail(running.mailbox_url, before),
        }
    for name, body in files.items():
        (folder / name).write_bytes(body)
        say(f"  {folder / name}")
    return 0


def await_mail(mailbox_url: str, before: int, seconds: float = 60) -> bytes:
    """The newest mail of the local SES, as soon as there are more than `before`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        numbers = mail_numbers(mailbox_url)
        if len(numbers) > before:
            return httpx.get(f"{mailbox_url}/{max(numbers)}/raw").content
        time.sleep(0.25)
    raise VisitError(f"no mail arrived within {seconds:g} s.")


def mail_numbers(mailbox_url: str) -> list[int]:
    """The mails that there are, by number, newest first."""
    return [int(number) for number in httpx.get(f"{mailbox_url}.json").raise_for_status().json()]


if __name__ == "__main__":
    sys.exit(main())
