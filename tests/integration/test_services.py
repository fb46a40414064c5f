"""The rules of a dataset's life, against a real database and the local cloud."""

from __future__ import annotations

import datetime
import threading
from dataclasses import asdict

import httpx
import pytest
from celery.signals import before_task_publish
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone

from django_app.datasets import housekeeping, services
from django_app.datasets.models import Chunk, Dataset, Report
from django_app.ledger.models import Run
from tasks.reports import build_report

pytestmark = pytest.mark.django_db(transaction=True)
STATE = Dataset.State


@pytest.fixture
def enqueued():
    """Names and arguments of the tasks that were published."""
    found = []

    def keep(sender, body, **_):
        found.append((sender, body[0]))

    before_task_publish.connect(keep)
    yield found
    before_task_publish.disconnect(keep)


@pytest.fixture
def owner() -> User:
    return User.objects.create(username="ada", email="ada@example.com")


def dataset(owner: User, **fields) -> Dataset:
    values = {"state": STATE.QUEUED, "generation": 1, "etag": '"e"', "upload_expires_at": timezone.now(), **fields}
    return Dataset.objects.create(owner=owner, **values)


def upload(made: Dataset, content: bytes = b"a,b\n1,2\n", name: str = "sales.csv") -> None:
    form = services.upload_form(made, redirect_url=None)
    httpx.post(form.url, data=dict(form.fields), files={"file": (name, content)}).raise_for_status()


def test_an_upload_that_arrived_starts_the_work_once(cloud, owner, enqueued):
    made = services.create(owner)
    assert not services.finish_upload(made)
    upload(made, name="C:\\data\\sales\u202e.csv")
    assert services.finish_upload(made)
    assert services.finish_upload(made)
    made.refresh_from_db()
    assert (made.state, made.name, made.size_bytes, made.generation) == ("queued", "sales.csv", 8, 1)
    assert enqueued == [("tasks.datasets.profile_dataset", (str(made.pk), 1))]


def test_two_requests_at_once_start_the_work_once(cloud, owner, enqueued):
    made = services.create(owner)
    upload(made)
    barrier = threading.Barrier(4)

    def finish() -> None:
        barrier.wait()
        services.finish_upload(Dataset.objects.get(pk=made.pk))
        connection.close()

    threads = [threading.Thread(target=finish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(enqueued) == 1


def test_a_rolled_back_start_enqueues_nothing(cloud, owner, enqueued):
    made = services.create(owner)
    upload(made)

    with transaction.atomic():
        services.finish_upload(made)
        transaction.set_rollback(True)
    made.refresh_from_db()
    assert made.state == "uploading"
    assert len(enqueued) == 1
    assert not Run.objects.exists()


def test_work_of_an_earlier_generation_has_no_say(owner):
    made = dataset(owner)
    stale = services.current(str(made.pk), 1)
    assert services.restart(made)
    assert services.current(str(made.pk), 1) is None
    services.fail(stale, "from the past")
    assert not services.advance(stale, STATE.SPLITTING, came_from=[STATE.QUEUED])
    made.refresh_from_db()
    assert (made.state, made.problem, made.generation) == ("queued", "", 2)


def test_two_restarts_at_once_are_one(owner, enqueued):
    made = dataset(owner, state=STATE.FAILED)
    again = Dataset.objects.get(pk=made.pk)
    assert services.restart(made)
    assert not services.restart(again)
    assert len(enqueued) == 1


@pytest.mark.parametrize("state", [STATE.READY, STATE.FAILED])
def test_what_has_ended_does_not_fail_any_more(owner, state):
    made = dataset(owner, state=state, problem="before")
    services.fail(made, "after")
    made.refresh_from_db()
    assert (made.state, made.problem) == (state, "before")


def test_housekeeping_starts_an_upload_that_nobody_reported(cloud, owner, enqueued):
    made = services.create(owner)
    upload(made)
    later = timezone.now() + datetime.timedelta(minutes=2)
    assert housekeeping.run(later).uploads_started == 1
    assert housekeeping.run(later).uploads_started == 0
    assert len(enqueued) == 1


@pytest.mark.parametrize("name", ["=?x?q?a?=.csv", "=?utf-8?b?a?=", "=?utf-8?q?=ff?=.csv"])
def test_a_file_name_that_looks_encoded_and_is_not_is_only_a_name(cloud, owner, name):
    made = services.create(owner)
    upload(made, name=name)
    assert services.finish_upload(made)
    made.refresh_from_db()
    assert made.name == name.rpartition("/")[2]


def test_one_upload_that_cannot_be_settled_does_not_stop_the_others(cloud, owner, monkeypatch):
    bad, good = services.create(owner), services.create(owner)
    upload(good)
    original = services.finish_upload

    def finish(made):
        if made.pk == bad.pk:
            raise OSError("storage answered nonsense")
        return original(made)

    monkeypatch.setattr(services, "finish_upload", finish)
    assert housekeeping.run(timezone.now() + datetime.timedelta(minutes=2)).uploads_started == 1


def test_many_pending_uploads_do_not_starve_one_that_arrived(cloud, owner):
    mine = services.create(owner)
    upload(mine)
    now = timezone.now()
    Dataset.objects.bulk_create(
        Dataset(owner=owner, upload_expires_at=mine.upload_expires_at + datetime.timedelta(seconds=n))
        for n in range(1, 220)
    )
    assert housekeeping.run(now + datetime.timedelta(minutes=2)).uploads_started == 1


def test_a_file_that_was_never_accepted_cannot_be_run_again(cloud, owner, settings, enqueued):
    made = services.create(owner)
    upload(made)
    settings.UPLOAD_LIMIT_BYTES = 3
    assert services.finish_upload(made)
    made.refresh_from_db()
    assert (made.state, "at most 3" in made.problem) == ("failed", True)
    assert not services.restart(made)
    assert enqueued == []


def test_an_upload_that_arrives_after_the_deletion_is_removed_as_well(cloud, owner):
    made = services.create(owner)
    form, prefixes = services.upload_form(made, redirect_url=None), made.prefixes
    expires = made.upload_expires_at
    services.delete(made)
    httpx.post(form.url, data=dict(form.fields), files={"file": ("late.csv", b"a\n1\n")}).raise_for_status()
    assert housekeeping.run(expires).objects_removed == 0
    assert housekeeping.run(expires + services.UPLOAD_GRACE * 2).objects_removed == 1
    assert [key for prefix in prefixes for key in services.bucket().keys(prefix)] == []
    assert housekeeping.run(expires + services.UPLOAD_GRACE * 2).objects_removed == 0


def test_a_report_whose_mail_was_never_begun_is_mailed_when_the_stack_starts(owner, enqueued):
    made = dataset(owner, state=STATE.READY)
    report = Report.objects.create(dataset=made, generation=1, built_at=timezone.now())
    housekeeping.run(timezone.now(), resume_all=True)
    assert enqueued == [("tasks.emails.send_report", (report.pk,))]


def test_a_report_whose_mail_was_lost_is_mailed_after_a_while_and_not_for_ever(owner, enqueued):
    report = Report.objects.create(dataset=dataset(owner, state=STATE.READY), generation=1, built_at=timezone.now())
    for minutes in range(120):
        housekeeping.run(timezone.now() + datetime.timedelta(minutes=minutes))
    assert 1 <= len(enqueued) <= 3
    assert set(enqueued) == {("tasks.emails.send_report", (report.pk,))}


def test_a_report_task_delivered_again_enqueues_the_mail_that_may_be_missing(owner, enqueued):
    made = dataset(owner, state=STATE.READY)
    report = Report.objects.create(dataset=made, generation=1, built_at=timezone.now())
    build_report.apply(args=[str(made.pk), 1])
    assert enqueued == [("tasks.emails.send_report", (report.pk,))]


def test_a_merge_is_tried_a_few_times_only(owner, enqueued):
    made = dataset(owner, state=STATE.PROFILING)
    Chunk.objects.create(dataset=made, index=0, start=0, stop=1, first_line=1, state=Chunk.State.DONE)
    for minute in range(10):
        housekeeping.run(timezone.now() + datetime.timedelta(minutes=minute))
    assert 1 <= len(enqueued) <= 3


def test_housekeeping_leaves_an_upload_alone_while_its_browser_may_report_it(cloud, owner, enqueued):
    upload(services.create(owner))
    assert housekeeping.run(timezone.now()).uploads_started == 0
    assert enqueued == []


def test_an_upload_that_is_never_finished_says_so(cloud, owner):
    made = services.create(owner)
    last = made.upload_expires_at + services.UPLOAD_GRACE
    assert housekeeping.run(last - datetime.timedelta(seconds=1)).uploads_expired == 0
    assert housekeeping.run(last + datetime.timedelta(seconds=1)).uploads_expired == 1
    made.refresh_from_db()
    assert made.problem == "The upload was never finished, and its form has expired. Start a new upload."


def test_stalled_work_is_started_again_and_given_up_in_the_end(owner, enqueued):
    made = dataset(owner, state=STATE.PROFILING)
    now = timezone.now() + housekeeping.UNBEGUN_AFTER * 2
    assert housekeeping.run(now).restarted == 0
    for wanted in ({"restarted": 1}, {"restarted": 1}, {"given_up": 1}):
        now += housekeeping.STALLED_AFTER * 2
        assert wanted.items() <= asdict(housekeeping.run(now)).items()
        Dataset.objects.filter(state=STATE.QUEUED).update(state=STATE.SPLITTING)
    made.refresh_from_db()
    assert made.state == "failed"
    assert made.problem.startswith("The work stopped 3 times without a result.")
    assert len(enqueued) == 2


@pytest.mark.parametrize(("states", "enqueues"), [("done done", 1), ("done running", 0), ("", 0)])
def test_parts_that_are_all_done_and_were_not_merged_are_merged(owner, enqueued, states, enqueues):
    made = dataset(owner, state=STATE.PROFILING)
    for index, state in enumerate(states.split()):
        Chunk.objects.create(dataset=made, index=index, start=0, stop=1, first_line=1, state=state)
    assert housekeeping.run(timezone.now()).merges_enqueued == 0
    assert housekeeping.run(timezone.now() + housekeeping.UNMERGED_AFTER * 2).merges_enqueued == enqueues
    assert enqueued == [("tasks.datasets.merge_profile", (str(made.pk), 1))] * enqueues


def test_work_that_nobody_began_is_enqueued_again_and_never_given_up(owner, enqueued):
    made = dataset(owner)
    now = timezone.now()
    assert housekeeping.run(now).restarted == 0
    for _ in range(5):
        now += housekeeping.UNBEGUN_AFTER * 2
        assert housekeeping.run(now).restarted == 1
        Dataset.objects.update(touched_at=now)
    made.refresh_from_db()
    assert (made.state, made.stalls, made.generation) == ("queued", 0, 6)


def test_a_stack_that_starts_anew_resumes_all_unfinished_work(owner, enqueued):
    for state in STATE:
        dataset(owner, state=state, upload_expires_at=timezone.now() + datetime.timedelta(hours=1))
    assert housekeeping.run(timezone.now(), resume_all=True).restarted == 4


def test_a_mail_that_was_never_confirmed_is_said_to_be_uncertain(owner):
    report = Report.objects.create(dataset=dataset(owner, state=STATE.READY), generation=1)
    assert services.claim_mail(report)
    assert housekeeping.run(timezone.now()).mails_uncertain == 0
    assert housekeeping.run(timezone.now() + housekeeping.STALLED_AFTER * 2).mails_uncertain == 1
    report.refresh_from_db()
    assert (report.mail_state, "may have gone out, or not" in report.mail_problem) == ("failed", True)


def test_a_message_to_the_owner_has_no_control_characters(owner):
    made = dataset(owner)
    services.fail(made, "bad \x00\x1b[31m cell")
    made.refresh_from_db()
    assert made.problem == "bad [31m cell"


def test_the_migrations_are_those_that_the_models_need():
    call_command("makemigrations", check=True, dry_run=True)
