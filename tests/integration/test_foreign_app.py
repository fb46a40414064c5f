"""A team's own Django app beside ours: its shared_task and its tasks.py work without being listed anywhere."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.fixture
def their_project(tmp_path):
    """An installed app `shop` with a tasks.py, and settings that add it to ours."""
    app = tmp_path / "shop"
    app.mkdir()
    (app / "__init__.py").write_text("")
    (app / "tasks.py").write_text(
        "from celery import shared_task\n\n\n@shared_task\ndef ship(order):\n    return f'shipped {order}'\n"
    )
    (tmp_path / "shop_settings.py").write_text(
        "from django_app.settings import *  # noqa: F403\n\nINSTALLED_APPS = [*INSTALLED_APPS, 'shop']  # noqa: F405\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    # Their database is not made here: only where a message goes is looked at.
    return {**os.environ, "DJANGO_SETTINGS_MODULE": "shop_settings", "PYTHONPATH": path, "RECORD_RUNS": "false"}


def run(code: str, env: dict[str, str]) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    ).stdout


def test_a_worker_knows_their_tasks(their_project):
    said = run("from tasks.celery import app; app.loader.import_default_modules(); print(*app.tasks)", their_project)
    assert "shop.tasks.ship" in said
    assert "tasks.datasets.profile_dataset" in said


def test_their_shared_task_is_enqueued_through_our_app_and_routed_by_our_topology(their_project):
    code = """
import django; django.setup()
from celery.signals import before_task_publish
sent = []
keep = lambda routing_key, headers, **_: sent.append((routing_key, headers["task"], headers["timelimit"]))
before_task_publish.connect(keep)
from shop.tasks import ship
ship.delay(7)
ship.apply_async((8,), priority=9)
from celery import current_app
print(current_app.main, sent)
"""
    said = run(code, their_project)
    assert said.startswith("cloudqueue ")
    assert "('default', 'shop.tasks.ship', [300, 270])" in said
    assert "('high', 'shop.tasks.ship', [60, 54])" in said
