"""Messages as they are kept: unreadable without a key where there is one, and whole however large or binary they are."""

from __future__ import annotations

import base64
import datetime
import logging
from typing import Any
from uuid import uuid4

import pytest
from celery import chord, shared_task
from celery.result import AsyncResult
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.utils import timezone
from kombu.exceptions import EncodeError

from django_app.ledger import housekeeping, sealing, services
from django_app.ledger.models import Run
from django_app.ledger.sealing import SealError
from django_app.ledger.states import State
from tasks.celery import app
from tasks.runtime import arrivals, publishing, reports
from tasks.runtime.testing import captured_runs

pytestmark = pytest.mark.django_db(transaction=True)
SECRET = "hunter2-correct-horse"
LATER = datetime.timedelta(minutes=2)


@shared_task(name="tests.sealing.note")
def note(*arguments: Any, **named: Any) -> None:
    """Enqueued, never run."""


@shared_task(name="tests.sealing.measure")
def measure(value: Any) -> list[Any]:
    return [type(value).__name__, len(value)]


@shared_task(name="tests.sealing.insist", bind=True)
def insist(self: Any, value: str) -> int:
    if not self.request.retries:
        raise self.retry(countdown=0)
    return len(value)


def make_key() -> str:
    return Fernet.generate_key().decode()


@pytest.fixture
def keys(settings) -> list[str]:
    """One key, set."""
    settings.RUN_KEYS = [make_key()]
    return settings.RUN_KEYS


@pytest.fixture(autouse=True)
def empty_queues():
    published()
    yield
    published()


@pytest.fixture
def unsent(monkeypatch):
    """As if processes died between their commit and the sending, until it is called."""
    monkeypatch.setattr(publishing, "publish", lambda runs: 0)
    return monkeypatch.undo


def published() -> list[Any]:
    """First arguments of the messages in all queues of the in-memory broker, which are taken out."""
    found = []
    with app.connection_for_read() as broker:
        for queue in app.amqp.queues.values():
            bound = queue(broker.default_channel)
            while (message := bound.get(no_ack=True)) is not None:
                found.append(message.decode()[0][0])
    return found


def columns() -> str:
    """All that anybody can read of all runs."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM ledger_run")
        return repr(cursor.fetchall())


# Sealed -------------------------------------------------------------------------------------------------------------


def test_without_a_key_a_message_is_kept_as_it_is():
    note.delay(SECRET)
    assert SECRET in Run.objects.get().message


def test_with_a_key_nobody_can_read_the_message_in_the_database_and_it_is_published_all_the_same(keys):
    note.delay({"password": SECRET})
    assert published() == [{"password": SECRET}]
    run = Run.objects.get()
    assert run.state == State.QUEUED
    assert run.message.startswith("fernet:")
    assert SECRET not in columns()
    assert base64.b64encode(SECRET.encode())[:20].decode() not in columns()
    assert SECRET in publishing.unpack(run.message)[0]


def test_what_was_left_behind_sealed_is_published_by_the_housekeeping(keys, unsent):
    with transaction.atomic():
        note.delay(SECRET)
    assert SECRET not in Run.objects.get().message
    unsent()
    assert housekeeping.run(timezone.now() + LATER).runs_published == 1
    assert published() == [SECRET]


def test_many_at_once_are_sealed_each(keys):
    from serverless.broker import bulk

    with bulk(app):
        for number in range(3):
            note.delay({"password": f"{SECRET} {number}"})
    assert SECRET not in columns()
    assert len(published()) == 3


def test_a_retry_is_sealed_as_well(keys):
    with captured_runs(execute=True) as runs:
        insist.delay(SECRET)
    run = Run.objects.get()
    assert (run.state, run.retries, len(runs)) == (State.SUCCEEDED, 1, 2)
    assert publishing.unpack(run.message)[1]["headers"]["retries"] == 1
    assert SECRET not in run.message


def test_what_arrives_from_elsewhere_is_sealed_as_well(keys):
    request = {"id": "i", "delivery_info": {"routing_key": "default"}}
    services.record_arrived(arrivals.describe(note, "i", [SECRET], {}, request))
    run = Run.objects.get()
    assert SECRET not in run.message
    assert SECRET in publishing.unpack(run.message)[0]


def test_a_message_is_sealed_once(keys):
    sealed = sealing.seal("text")
    assert sealing.seal(sealed) == sealed
    assert sealing.unseal(sealed) == "text"
    assert sealing.seal("") == ""


def test_what_was_kept_before_there_was_a_key_is_published_after(settings, unsent):
    note.delay(1)
    settings.RUN_KEYS = [make_key()]
    unsent()
    assert housekeeping.run(timezone.now() + LATER).runs_published == 1
    assert published() == [1]


# Other keys ---------------------------------------------------------------------------------------------------------


def test_a_new_key_in_front_seals_and_the_older_ones_open(keys, settings, unsent):
    note.delay("old")
    old = settings.RUN_KEYS[0]
    new = make_key()
    settings.RUN_KEYS = [new, old]
    note.delay("new")
    unsent()
    settings.RUN_KEYS = [new]
    (kept,) = [run for run in Run.objects.all() if "old" not in run.arguments]
    assert "new" in publishing.unpack(kept.message)[0]
    settings.RUN_KEYS = [new, old]
    assert housekeeping.run(timezone.now() + LATER).runs_published == 2
    assert sorted(published()) == ["new", "old"]


def test_a_run_whose_key_is_gone_stays_pending_says_why_and_holds_up_no_other(keys, settings, unsent, caplog):
    lost = note.delay("lost").id
    settings.RUN_KEYS = [make_key()]
    note.delay("found")
    unsent()
    with caplog.at_level(logging.ERROR):
        assert housekeeping.run(timezone.now() + LATER).runs_published == 1
    assert published() == ["found"]
    assert Run.objects.get(pk=lost).state == State.PENDING
    (told,) = (record.msg for record in caplog.records if record.levelno == logging.ERROR)
    assert (told["event"], told["task_id"], told["task"]) == ("run_not_published", lost, note.name)
    assert told["error"] == (
        "a message was sealed with none of the 1 keys in RUN_KEYS: add the older key at the end of the list."
    )
    # With the key it goes.
    settings.RUN_KEYS = [*settings.RUN_KEYS, *keys]
    assert housekeeping.run(timezone.now() + 2 * LATER).runs_published == 1
    assert published() == ["lost"]


def test_a_run_whose_keys_are_all_gone_says_so(keys, settings, unsent):
    note.delay("lost")
    settings.RUN_KEYS = []
    with pytest.raises(SealError, match="RUN_KEYS is empty: set the key that it was sealed with"):
        publishing.unpack(Run.objects.get().message)
    note.delay("found")
    unsent()
    assert housekeeping.run(timezone.now() + LATER).runs_published == 1
    assert published() == ["found"]


def test_a_sealed_message_that_was_changed_is_not_sent(keys, unsent):
    note.delay("lost")
    run = Run.objects.get()
    Run.objects.update(message=run.message[:-9] + "A" * 9)
    unsent()
    assert housekeeping.run(timezone.now() + LATER).runs_published == 0
    assert Run.objects.get().state == State.PENDING


def test_a_run_whose_key_is_gone_can_be_revoked(keys, settings, unsent):
    run_id = note.delay("lost").id
    settings.RUN_KEYS = [make_key()]
    assert reports.revoke_runs([run_id], by="ada") == [run_id]
    assert Run.objects.get().state == State.REVOKED


@pytest.mark.parametrize("key", ["", "short", "x" * 44, "é" * 44, "not base64 at all, and of forty-four characters"])
def test_a_key_that_is_none_is_refused_at_the_call_and_says_how_to_make_one(settings, key):
    settings.RUN_KEYS = [make_key(), key]
    with pytest.raises(ImproperlyConfigured) as raised:
        note.delay(1)
    assert str(raised.value).startswith("RUN_KEYS holds 2 keys, and one of them is no key: ")
    assert "Fernet.generate_key()" in str(raised.value)
    assert key not in str(raised.value) or not key
    assert not Run.objects.exists()


# Large, binary, and no JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_key", [False, True])
@pytest.mark.parametrize(
    ("value", "measured"),
    [
        ("é" * (1 << 20), ["str", 1 << 20]),
        (b"\xff\x00" * (1 << 19), ["bytes", 1 << 20]),
        (list(range(100_000)), ["list", 100_000]),
        ("\x00 and half \ud800 a pair", ["str", 19]),
        (b"", ["bytes", 0]),
    ],
    ids=["text of a megabyte", "a megabyte of bytes", "a long list", "strange characters", "no bytes"],
)
def test_an_argument_comes_out_as_it_went_in(value, measured, has_key, settings):
    if has_key:
        settings.RUN_KEYS = [make_key()]
    with captured_runs(execute=True) as runs:
        result = measure.delay(value)
    assert runs[0].state == State.SUCCEEDED, runs[0].error
    assert AsyncResult(result.id).get(timeout=1) == measured
    assert len(runs[0].arguments) < 5000


def test_what_celerys_json_takes_is_recorded_and_what_it_does_not_take_fails_at_the_call():
    note.delay(uuid4(), timezone.now(), datetime.date(2030, 1, 2))
    assert Run.objects.count() == 1
    for value in (object(), {1, 2}, 1j, note, float, {(1, 2): 3}):
        with pytest.raises((EncodeError, TypeError)):
            note.delay(value)
    assert Run.objects.count() == 1


def test_a_chord_of_sealed_messages_runs(keys):
    with captured_runs(execute=True):
        result = chord([measure.s("a"), measure.s("bc")], measure.s()).delay()
    assert AsyncResult(result.id).get(timeout=1) == ["list", 2]
