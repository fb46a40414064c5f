"""The documentation says what is there, all of it, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from celery import _state

from serverless.broker.options import Options, QueueOptions
from tasks import topology
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()


def anchors(text: str) -> set[str]:
    """As GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_is_named_exists(page):
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text()):
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{name}"


def test_every_variable_of_the_environment_is_documented_and_no_other():
    read = set(re.findall(r'(?:_env\.\w+|_required)\(\s*"([A-Z_]+)"', (ROOT / "django_app" / "env.py").read_text()))
    assert len(read) > 10
    section = CONFIGURATION.partition("## Environment")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([A-Z_]+)`", section, re.MULTILINE)) == read


def test_every_key_of_the_topology_is_documented_and_no_other():
    shipped = json.loads(topology.PATH.read_text())
    keys = set(shipped) - {"queues", "pools"}
    keys |= {key for kind in ("queues", "pools") for entry in shipped[kind].values() for key in entry}
    section = CONFIGURATION.partition("## tasks/topology.json")[2].partition("\n## ")[0]
    documented = {
        name for row in re.findall(r"^\|(.+?)\|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert documented == keys


def test_every_option_of_the_broker_is_documented_and_no_other():
    page = (ROOT / "docs" / "broker.md").read_text().partition("## Options")[2].partition("\n## ")[0]
    options, _, queues = page.partition("Each of `predefined_queues`")
    renamed = {"queues": "predefined_queues", "base64": "sqs_base64_encoding", "client_config": "client-config"}
    for section, kind in ((options, Options), (queues, QueueOptions)):
        rows = re.findall(r"^\|([^|]+)\|", section, re.MULTILINE)
        documented = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
        assert documented == {renamed.get(name, name) for name in kind.__dataclass_fields__} - {"name"}


def test_every_goal_that_is_named_exists():
    goals = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())
    for page in PAGES:
        named = set(re.findall(r"`make (\w+)|^make (\w+)", page.read_text(), re.MULTILINE))
        assert {first or second for first, second in named} <= goals, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_python_runs(page):
    shared = set(_state._on_app_finalizers)
    try:
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            exec(compile(block, str(page), "exec"), {"__name__": "docs"})  # noqa: S102 - our own pages
    finally:
        # A shared task is every later app's as well: those of the pages would be found in the apps of other tests.
        _state._on_app_finalizers.intersection_update(shared)


def test_the_readme_names_every_folder_of_the_top_level():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    folders = {path.partition("/")[0] for path in tracked if "/" in path and not path.startswith(".")}
    named = set(re.findall(r"^\| `(\w+)/", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert folders == named
