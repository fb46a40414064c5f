"""The function that the gateway calls, and AWS as well: how it starts, and what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from serverless.local import cloud
from tests.conftest import ROOT
from tests.lambda_events import recorded
from tests.local_gateway import Recorder, running

SOCKETS_URL = "wss://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com/dev"
#: What it prints of itself is the last line.
ANSWERS = """
import json, sys
from tests.lambda_events import Context
from serverless.entrypoints import websocket
answers = []
for event in json.loads(sys.stdin.read()):
    try:
        answers.append(websocket.handler(event, Context()))
    except Exception as error:
        answers.append(f"{type(error).__name__}: {error}")
from django.db import connections
import structlog
left = [connection.connection is not None for connection in connections.all(initialized_only=True)]
print(json.dumps({"answers": answers, "left": left, "context": structlog.contextvars.get_contextvars()}))
"""


def run(code: str, cloud_url: str, sent: Any = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **cloud.environment(cloud_url), "SOCKETS_URL": SOCKETS_URL, **variables}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        input=json.dumps(sent),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def events(*names: str, **context: str) -> list[dict[str, Any]]:
    made = [recorded(name) for name in names]
    for event in made:
        event.get("requestContext", {}).update(context)
    return made


def test_it_answers_the_recorded_events_and_leaves_no_connection_open(cloud_url, transactional_db):
    sent = events("websocket_connect", "websocket_message", "websocket_disconnect", connectionId="of-this-test")
    with running(Recorder()) as gateway:
        done = run(ANSWERS, cloud_url, sent, SOCKETS_API_URL=gateway.url)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    # Nobody has issued the recorded token, and so there is no such connection afterwards.
    assert [answer["statusCode"] for answer in said["answers"]] == [403, 410, 200]
    assert not any(said["left"])
    assert said["context"] == {}
    assert "8476a536-e9f4-11e8-9739-2dfe598c3fcd" in done.stderr
    for secret in ("eyJ1IjoxfQ", "4k1y2x", "csrftoken"):
        assert secret not in done.stderr


def test_what_is_no_event_of_a_websocket_api_raises(cloud_url):
    done = run(ANSWERS, cloud_url, events("sqs", "api_gateway_v2"))
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])["answers"]
    assert all(answer.startswith("EventError: event with ") for answer in answers), answers


@pytest.mark.parametrize(
    ("url", "said"),
    [("", "SOCKETS_URL is not set"), ("redis://:s3cr3t@127.0.0.1:6379/0", "SOCKETS_URL begins with redis:")],
)
def test_without_a_websocket_api_it_does_not_start(cloud_url, url, said):
    done = run("import serverless.entrypoints.websocket", cloud_url, SOCKETS_URL=url)
    assert done.returncode == 1
    assert f"{said}, and this function answers for a WebSocket API of API Gateway. Set it to wss://" in done.stderr
    assert "s3cr3t" not in done.stderr


def test_the_first_event_finds_everything_loaded(cloud_url):
    code = """
import sys
from serverless.entrypoints import websocket
import gc
before = set(sys.modules)
layer = websocket._gateway._layer
layer.application(), layer.table.client(), layer.sockets.client()
late = sorted(name for name in set(sys.modules) - before if name.startswith(("django_app", "serverless", "channels")))
print(late, gc.isenabled(), gc.get_freeze_count() > 10000)
unwanted = {name.partition(".")[0] for name in sys.modules} & {"polars", "numpy", "matplotlib", "moto", "uvicorn", "daphne"}
print(sorted(unwanted))
"""
    done = run(code, cloud_url)
    assert done.stdout.splitlines() == ["[] True True", "[]"], done.stderr
