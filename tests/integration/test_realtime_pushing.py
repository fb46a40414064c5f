"""From a change in this process to the messages that its viewers get, through API Gateway's `@connections`."""

from __future__ import annotations

import datetime
import json
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psutil
import pytest
import structlog
from asgiref.sync import async_to_sync
from celery.signals import worker_process_shutdown
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished
from django.db import connection, transaction
from django.utils import timezone

from django_app.datasets import services as datasets
from django_app.datasets.models import Dataset
from django_app.ledger import claims, outcomes, services, watching
from django_app.ledger.claims import Claim, Claimant
from django_app.ledger.models import Feed, Run
from django_app.ledger.outcomes import Ended
from django_app.ledger.states import Outcome, Report, State
from django_app.realtime import pushing, tokens
from django_app.realtime.pushing import wiring
from tasks.runtime import progress
from tests.waiting import wait_for
from tests.websocket_api import Api, running_api

pytestmark = pytest.mark.django_db(transaction=True)
HOUR = datetime.timedelta(hours=1)


class Viewer:
    """A socket on a path of the site."""

    def __init__(self, api: Api, user: AbstractUser, path: str) -> None:
        self._socket = api.socket()
        self.id = self._socket.id
        token = tokens.issue(user, "a session", timezone.now() + HOUR, path)
        answer = async_to_sync(self._socket.connect)(
            path, query={"token": token}, headers={"Origin": "http://testserver"}
        )
        assert answer["statusCode"] == 200
        async_to_sync(self._socket.say)({"type": "sync"})
        self._told_before = len(self._socket.received())

    def told(self) -> list[Any]:
        """What it was told since it was opened."""
        return self._socket.received()[self._told_before :]

    def states(self) -> list[str]:
        return [each["state"] for each in self.told()]


@pytest.fixture
def api(cloud, settings) -> Iterator[Api]:
    settings.SOCKETS_URL = "wss://sockets.example/dev"
    with running_api(settings, "django_app.realtime.routing.application", read_timeout=0.5, retries=0) as made:
        yield made
        made.connections.release.set()
        assert pushing.flush(30)


@pytest.fixture
def admin(transactional_db) -> AbstractUser:
    return get_user_model().objects.create_superuser("admin")


def queued() -> str:
    run = Run(id=uuid4().hex, task="note", queue="default", message="{}")
    services.record([run])
    services.mark_published([run])
    return run.pk


def begin(run_id: str) -> Claim:
    return claims.claim(run_id, Claimant(holder=uuid4().hex, worker="w@here", lease_seconds=60))


def step(run_id: str, done: int, total: int = 1000) -> None:
    progress._save(run_id, progress.Progress(done, total, f"step {done}"))


def finish(claim: Claim) -> None:
    with transaction.atomic():
        outcomes.finish(claim.run_id, Report.SUCCEEDED, Ended(Outcome.SUCCEEDED, claim=claim))


def pushers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pusher"]


def test_a_viewer_sees_a_run_from_its_beginning_to_its_end(api, admin):
    run_id = queued()
    viewer, other = Viewer(api, admin, f"/ws/runs/{run_id}/"), Viewer(api, admin, f"/ws/runs/{queued()}/")
    claim = begin(run_id)
    wait_for(lambda: viewer.states() == ["running"], "the beginning")
    step(run_id, 1)
    wait_for(lambda: len(viewer.told()) == 2, "the progress")
    finish(claim)
    wait_for(lambda: len(viewer.told()) == 3, "the end")
    told = viewer.told()
    assert [(each["state"], each["done"], each["is_final"]) for each in told] == [
        ("running", None, False),
        ("running", 1, False),
        ("succeeded", 1, True),
    ]
    assert [each["seq"] for each in told] == [2, 3, 4]
    assert (told[1]["id"], told[1]["total"], told[1]["note"]) == (run_id, 1000, "step 1")
    assert other.told() == []


def test_what_nobody_watches_starts_no_thread(api, admin):
    assert pushing.flush(30)
    wait_for(lambda: not pushers(), "the end of the last thread")
    run_id = queued()
    claim = begin(run_id)
    step(run_id, 1)
    finish(claim)
    assert not pushers()
    assert api.connections.posts == []


def test_without_sockets_nothing_is_pushed_and_no_thread_is_started(admin, settings):
    settings.CHANNEL_LAYERS = {}
    wait_for(lambda: not pushers(), "the end of the last thread")
    run_id = queued()
    watching.watch(run_id)
    watching.watch_console()
    finish(begin(run_id))
    wiring._warm_up()
    assert not pushers()


def test_a_child_that_begins_loads_what_pushes_take_and_not_in_its_own_thread(api):
    assert isinstance(api.layer._application, str)
    with structlog.testing.capture_logs() as lines:
        wiring._warm_up()
        wait_for(lambda: not isinstance(api.layer._application, str), "the application")
    assert lines == []


def test_of_many_changes_few_are_pushed_and_the_last_one_always(api, admin, settings):
    run_id = queued()
    viewer = Viewer(api, admin, f"/ws/runs/{run_id}/")
    began = time.monotonic()
    claim = begin(run_id)
    number = 0
    while len(viewer.told()) < 4:
        number += 1
        step(run_id, number)
        assert time.monotonic() < began + 120
    finish(claim)
    wait_for(lambda: viewer.states()[-1] == "succeeded", "the end")
    most = 2 + (time.monotonic() - began) / settings.PUSH_EVERY_SECONDS
    told = viewer.told()
    assert 5 <= len(told) <= most
    assert told[-1]["done"] == number
    sequences = [each["seq"] for each in told]
    assert sequences == sorted(set(sequences))


@pytest.mark.parametrize("trouble", ["hung", "refused", "throttled"])
def test_a_way_that_is_blocked_delays_no_change_and_fails_none(api, admin, trouble):
    ids = [queued() for _ in range(5)]
    viewers = [Viewer(api, admin, f"/ws/runs/{run_id}/") for run_id in ids]
    for viewer in viewers:
        if trouble == "hung":
            api.connections.hung.add(viewer.id)
        else:
            api.connections.answers[viewer.id] = {"refused": 500, "throttled": 429}[trouble]
    for run_id in ids:
        claim = begin(run_id)
        for number in range(20):
            step(run_id, number)
        finish(claim)
    assert Run.objects.filter(state=State.SUCCEEDED).count() == 5
    assert [viewer.told() for viewer in viewers] == [[]] * 5


def test_a_push_that_the_table_refuses_is_tried_again(api, admin):
    run_id = queued()
    viewer = Viewer(api, admin, f"/ws/runs/{run_id}/")
    name, api.layer.table.name = api.layer.table.name, "none-of-ours"
    with structlog.testing.capture_logs() as lines:
        claim = begin(run_id)
        wait_for(lambda: lines, "the first failure")
    assert lines[0]["event"] == "pushes_not_made"
    assert "ResourceNotFoundException" in lines[0]["error"]
    api.layer.table.name = name
    wait_for(viewer.told, "another try")
    finish(claim)


def test_a_request_ends_when_what_it_has_changed_is_pushed_since_its_function_is_frozen_then(api, admin, settings):
    settings.PUSH_WAIT_SECONDS = 60
    run_id = queued()
    viewer = Viewer(api, admin, f"/ws/runs/{run_id}/")
    finish(begin(run_id))
    request_finished.send(sender=WSGIHandler)
    assert viewer.states()[-1] == "succeeded"


def test_a_request_waits_no_longer_than_it_may_and_on_a_server_with_an_event_loop_not_at_all(api, admin, settings):
    settings.PUSH_WAIT_SECONDS = 0.3
    hanging = threading.Event()

    def ended_after(sender: type) -> float:
        pushing.soon(sender.__name__, lambda: hanging.wait(60))
        began = time.monotonic()
        request_finished.send(sender=sender)
        return time.monotonic() - began

    try:
        # The push hangs for a minute.
        assert 0.3 <= ended_after(WSGIHandler) < 30
        settings.PUSH_WAIT_SECONDS = 60
        assert ended_after(ASGIHandler) < 30
        began = time.monotonic()
        request_finished.send(sender=WSGIHandler)
        assert time.monotonic() - began < 30, "a request that has asked for no push waits for none"
    finally:
        hanging.set()


def test_a_process_that_ends_waits_for_what_is_pushed_and_no_longer_than_it_may(api, admin, settings):
    hanging = threading.Event()
    settings.PUSH_WAIT_SECONDS = 60
    run_id = queued()
    viewer = Viewer(api, admin, f"/ws/runs/{run_id}/")
    finish(begin(run_id))
    worker_process_shutdown.send(sender=None)
    assert viewer.states()[-1] == "succeeded"
    try:
        settings.PUSH_WAIT_SECONDS = 0.3
        pushing.soon("hangs for a minute", lambda: hanging.wait(60))
        began = time.monotonic()
        worker_process_shutdown.send(sender=None)
        assert time.monotonic() - began < 30
    finally:
        hanging.set()


def test_the_console_is_told_at_once_and_once_more_when_the_second_is_over(api, admin):
    viewer = Viewer(api, admin, "/ws/console/")
    Feed.objects.update(pulsed_at=timezone.now() - HOUR)
    ids = [queued() for _ in range(5)]
    wait_for(lambda: len(viewer.told()) == 1, "the first")
    for run_id in ids:
        finish(begin(run_id))
    wait_for(lambda: len(viewer.told()) >= 2 and not Feed.objects.get().is_owed, "the last")
    told = viewer.told()
    assert told[0] == {"type": "changed", "kind": "console", "seq": 1, "topics": ["runs"]}
    assert [each["seq"] for each in told] == list(range(1, len(told) + 1))


def test_the_console_is_told_at_most_once_a_second_however_much_changes(api, admin):
    viewer = Viewer(api, admin, "/ws/console/")
    began = time.monotonic()
    while len(viewer.told()) < 3:
        finish(begin(queued()))
        assert time.monotonic() < began + 120
    assert len(viewer.told()) <= 1 + (time.monotonic() - began) / watching.PULSE_SECONDS


def test_a_dataset_that_changes_is_shown(api, admin):
    dataset = datasets.create(admin)
    Dataset.objects.filter(pk=dataset.pk).update(state=Dataset.State.QUEUED, generation=1)
    dataset.refresh_from_db()
    viewer = Viewer(api, admin, f"/ws/datasets/{dataset.pk}/")
    datasets.advance(dataset, Dataset.State.SPLITTING, came_from=[Dataset.State.QUEUED])
    wait_for(lambda: viewer.states() == ["splitting"], "the change")
    datasets.fail(dataset, "It is broken.")
    wait_for(lambda: viewer.states() == ["splitting", "failed"], "the end")
    assert viewer.told()[-1]["problem"] == "It is broken."


def test_the_thread_has_one_connection_which_is_closed_when_there_is_nothing_to_do(api, admin):
    if connection.vendor == "sqlite":

        def held() -> int:
            name = str(connection.settings_dict["NAME"])
            return sum(each.path == name for each in psutil.Process().open_files())
    else:

        def held() -> int:
            with connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
                return int(cursor.fetchone()[0])

    ids = [queued() for _ in range(3)]
    viewers = [Viewer(api, admin, f"/ws/runs/{run_id}/") for run_id in ids]
    assert pushing.flush(30)
    connection.ensure_connection()
    before = held()
    for run_id in ids:
        finish(begin(run_id))
    wait_for(lambda: all("succeeded" in viewer.states() for viewer in viewers), "the ends")
    assert held() <= before + 1
    # SQLite keeps the file of a connection that is closed for the next one, as long as there is another.
    most = before if connection.vendor == "postgresql" else before + 1
    wait_for(lambda: held() <= most, "the end of the connection")


def test_pushes_that_hold_up_a_writer_or_are_held_up_by_one_break_nothing(api, admin):
    """On SQLite one writes at a time, and the console's pulse writes."""
    run_id = queued()
    viewer, console = Viewer(api, admin, f"/ws/runs/{run_id}/"), Viewer(api, admin, "/ws/console/")
    with structlog.testing.capture_logs() as lines:
        claim = begin(run_id)
        for number in range(30):
            with transaction.atomic():
                Run.objects.filter(pk=run_id).update(receives=number)
                step(run_id, number)
        finish(claim)
        wait_for(lambda: "succeeded" in viewer.states() and console.told(), "the end")
    assert [line for line in lines if line["event"] == "pushes_not_made"] == []
    assert json.dumps(viewer.told()).count('"succeeded"') == 1
