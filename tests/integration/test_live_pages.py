"""Which pages name a socket to be opened, and to whom: by the addresses that they hold, without a browser."""

from __future__ import annotations

import html
import re

import pytest
from django.urls import reverse
from django.utils import timezone

from django_app.datasets.models import Chunk, Dataset
from django_app.ledger.states import FINAL, State
from tests.integration.test_console_access import client_of, person, run

pytestmark = pytest.mark.django_db

CONSOLE = ("runs", "queues", "workers", "failures")


@pytest.fixture(autouse=True)
def _sockets(settings):
    settings.SOCKETS_URL = "wss://sockets.example.com/production"


def page_of(client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, path
    return answer.content.decode()


def sockets(page: str) -> list[str]:
    return [html.unescape(each) for each in re.findall(r'data-socket="([^"]*)"', page)]


def seconds(page: str) -> list[str]:
    """How often the page's part is fetched without being told to."""
    return re.findall(r'hx-trigger="every (\d+)s, seen"', page)


def dataset(owner, **fields) -> Dataset:
    return Dataset.objects.create(**{"owner": owner, "upload_expires_at": timezone.now(), **fields})


@pytest.mark.parametrize("name", CONSOLE)
def test_pages_of_the_console_follow_its_feed_and_poll_rarely(name):
    page = page_of(client_of(person("superuser", "ada")), reverse(f"console:{name}"))
    assert sockets(page) == ["/ws/console/"]
    assert f'data-address="{reverse("realtime:address")}"' in page
    assert seconds(page) == ["30"]


@pytest.mark.parametrize("name", CONSOLE)
def test_without_sockets_they_poll_as_often_as_ever(name, settings):
    settings.SOCKETS_URL = ""
    page = page_of(client_of(person("superuser", "ada")), reverse(f"console:{name}"))
    assert sockets(page) == []
    assert seconds(page) == ["5"]


@pytest.mark.parametrize("kind", ["nobody", "tenant viewer", "tenant admin"])
def test_who_does_not_see_the_installation_is_not_told_when_others_are_at_work(kind):
    page = page_of(client_of(person(kind, "tim")), reverse("console:runs"))
    assert sockets(page) == []
    assert seconds(page) == ["5"]


def test_older_pages_of_a_list_follow_nothing():
    client = client_of(person("superuser", "ada"))
    assert sockets(page_of(client, f"{reverse('console:runs')}?state=nonsense")) == []


@pytest.mark.parametrize("state", [each for each in State if each not in FINAL])
def test_a_run_that_can_still_change_is_followed(state):
    made = run(state=state, sequence=7, attempts=2)
    page = page_of(client_of(person("superuser", "ada")), reverse("console:run", args=[made.pk]))
    assert sockets(page) == [f"/ws/runs/{made.pk}/"]
    assert seconds(page) == ["30"]
    assert 'data-seq="7" data-attempts="2"' in page


@pytest.mark.parametrize("state", sorted(FINAL))
def test_a_run_that_has_ended_is_not(state):
    made = run(state=state)
    page = page_of(client_of(person("superuser", "ada")), reverse("console:run", args=[made.pk]))
    assert sockets(page) == seconds(page) == []


@pytest.mark.parametrize("pk", ["nightly@2026-01-01T03:17:00Z", "a/b", "ä%20?&#", '"><script>', "..", "42"])
def test_any_id_makes_a_path_that_leads_back_to_it(pk):
    from urllib.parse import unquote

    from django_app.realtime import feeds

    made = run(id=pk, state=State.RUNNING)
    page = page_of(client_of(person("superuser", "ada")), reverse("console:run", args=[made.pk]))
    [path] = sockets(page)
    found = feeds.find(unquote(path))
    assert found is not None
    assert found.snapshot(person("superuser", "eva"))["id"] == pk


@pytest.mark.parametrize("state", [Dataset.State.QUEUED, Dataset.State.READY])
def test_a_dataset_is_followed_while_it_is_worked_on(state):
    owner = person("nobody", "ida")
    made = dataset(owner, state=state, sequence=3)
    page = page_of(client_of(owner), made.get_absolute_url())
    is_working = state == Dataset.State.QUEUED
    assert sockets(page) == ([f"/ws/datasets/{made.pk}/"] if is_working else [])
    assert seconds(page) == (["30"] if is_working else [])
    assert ('http-equiv="refresh"' in page) is is_working
    assert 'data-seq="3"' in page


def test_a_datasets_part_has_what_its_socket_changes(settings):
    settings.SOCKETS_URL = ""
    owner = person("nobody", "ida")
    made = dataset(owner, state=Dataset.State.QUEUED)
    for index in range(3):
        Chunk.objects.create(dataset=made, index=index, start=index, stop=index + 1, first_line=1, state="done")
    part = page_of(client_of(owner), reverse("datasets:progress", args=[made.pk]))
    assert set(re.findall(r'data-field="(\w+)"', part)) == {"count", "bar", "parts"}
    assert seconds(part) == ["1"]


def test_what_changes_is_told_in_one_place_and_not_with_each_percent():
    """A region that is announced, and is replaced each second, would be read out each second."""
    owner = person("nobody", "ida")
    made = dataset(owner, state=Dataset.State.QUEUED)
    page = page_of(client_of(owner), made.get_absolute_url())
    assert len(re.findall(r'role="status"|aria-live', page)) == 1
    part = page_of(client_of(owner), reverse("datasets:progress", args=[made.pk]))
    assert not re.findall(r'role="status"|aria-live', part)
