"""`make lambda`: a person clicks through the site as Lambda runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serverless.local.processes import ROOT
from serverless.local.stack import LambdaWeb, Stack
from serverless.local.visitor import Visitor
from tests.waiting import wait_for

pytestmark = pytest.mark.package

NUMBERS = b"a,b\n" + b"1,2\n" * 500


@pytest.fixture(params=["http", "rest", "url", "alb", "alb-lists"])
def stack(request: pytest.FixtureRequest, tmp_path: Path, package: Path) -> Iterator[Stack]:
    made = Stack(tmp_path, web_port=0, web=LambdaWeb(package, request.param))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_the_main_job_runs_through_every_door(stack):
    with Visitor(stack.url) as visitor:
        visitor.sign_in(*stack.demo_login())
        page = visitor.upload("numbers.csv", NUMBERS)
        assert visitor.await_end(page).state == "ready"
        answer = visitor.client.get(f"{page}report.pdf", follow_redirects=True)
        assert answer.content.startswith(b"%PDF")


def test_it_is_started_with_a_stage_in_every_address(tmp_path):
    """As the goal starts it: it builds the package and prints where to click."""
    log = tmp_path / "log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "serverless.local.up", "--lambda", "--door", "rest", "--stage", "dev"]
        process = subprocess.Popen(
            [*command, "--folder", str(tmp_path / "folder"), "--port", "0"],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={name: os.environ[name] for name in os.environ if name not in ("BROKER_URL", "DATABASE_URL")},
            start_new_session=True,
        )
    try:
        wait_for(lambda: process.poll() is not None or "Ctrl-C stops" in log.read_text(), "the stack", 240)
        url = re.search(r"site +(\S+)", log.read_text())[1]
        assert url.endswith("/dev")
        page = httpx.get(f"{url}/", follow_redirects=True)
        assert page.status_code == 200
        assert str(page.url) == f"{url}/sign-in/?next=/dev/"
        style = re.search(r'href="(/dev/static/css/site\.\w+\.css)"', page.text)[1]
        assert httpx.get(httpx.URL(url).join(style)).status_code == 200
        assert httpx.get(httpx.URL(url).join("/developers/")).status_code == 403
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
