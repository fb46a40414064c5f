"""A report that is mailed again and again: asked for on the dataset's page, mailed once a due time."""

from __future__ import annotations

import datetime
import html
import re
import subprocess
import sys

import boto3
import pytest
from anymail.exceptions import AnymailAPIError
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from django_app.datasets import subscriptions
from django_app.datasets.models import Dataset, Report
from django_app.ledger.models import OnceMark, Schedule
from serverless.local.cloud import NAMES_ARGUMENTS
from serverless.scheduler import timing
from serverless.scheduler.wanted import prefix
from tasks.reports import ReportNotMailedError, mail_report
from tasks.runtime.once import DoneBefore
from tests.conftest import ROOT
from tests.integration.test_mail import report, ses
from tests.integration.test_main_job import SMALL, mail_about, page_id
from tests.threads import at_once
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
__all__ = ["report", "ses"]

MONDAY = {"day": "mon", "time": "08:00", "zone": "Europe/Berlin"}


# The mail ------------------------------------------------------------------------------------------------------------


def send(report: Report, run_id: str = "report@1") -> object:
    """What comes of one execution."""
    try:
        return mail_report.apply(kwargs={"dataset_id": str(report.dataset_id)}, task_id=run_id).result
    except DoneBefore as done:
        # A worker takes that as the task's result.
        return done.result


def test_each_due_time_mails_the_report_and_a_second_delivery_does_not(report, ses):
    assert send(report) == "m1"
    send(report)
    assert ses.requests == 1
    assert send(report, "report@2") == "m2"
    report.refresh_from_db()
    # The mail that was sent when it was built has a state of its own.
    assert report.mail_state == "waiting"


def test_a_mail_that_a_worker_died_over_is_not_repeated_and_the_run_says_so(report, ses):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("django.core.mail.EmailMultiAlternatives.send", lambda self: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            send(report)
    assert send(report) == "The worker stopped while it was sending: the mail may have gone out, or not."
    assert ses.requests == 0


def test_throttling_is_tried_again_until_it_goes_through_and_each_try_mails_once(report, ses):
    ses.answers = [(429, "TooManyRequestsException")] * 3
    send(report)
    assert ses.requests == 4
    assert OnceMark.objects.count() == 4
    send(report)
    assert ses.requests == 4


@pytest.mark.parametrize(
    "answer", ["cut", (500, "InternalFailure"), (400, "MessageRejected")], ids=["cut", "500", "400"]
)
def test_what_may_have_gone_out_or_is_refused_for_good_fails_the_run_and_is_not_repeated(report, ses, answer):
    ses.answers = [answer]
    assert isinstance(send(report), AnymailAPIError)
    send(report)
    assert ses.requests == 1


def test_an_owner_without_an_address_is_told_by_the_runs_error(report, ses):
    User.objects.update(email="")
    failed = send(report)
    assert isinstance(failed, ReportNotMailedError)
    assert str(failed) == "account ada has no e-mail address. Add one; the next mail goes there."
    User.objects.update(email="ada@example.com")
    # Nothing was begun, so it may be tried again under the same id.
    assert send(report) == "m1"


def test_without_a_report_at_that_time_nothing_is_mailed(report, ses):
    Dataset.objects.update(generation=2)
    assert send(report) is None
    Report.objects.all().delete()
    assert send(report) is None
    assert ses.requests == 0


def test_ids_of_runs_may_be_as_long_as_they_get(report, ses):
    ses.answers = [(429, "TooManyRequestsException")]
    for number in range(2):
        send(report, f"{'x' * 254}{number}")
    assert ses.requests == 3


# The page ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(report) -> Client:
    made = Client()
    made.force_login(report.dataset.owner)
    return made


def press(client: Client, report: Report, path: str = "", **fields: str) -> str:
    """Press a button of the dataset's page; what the next page says."""
    answer = client.post(f"{report.dataset.get_absolute_url()}mails/{path}", fields, follow=True)
    assert answer.status_code == 200
    page = html.unescape(answer.content.decode())
    return " ".join(re.findall(r'<p class="notice [^"]*" role="status">(.*?)</p>', page))


def part_of(client: Client, report: Report) -> str:
    page = html.unescape(client.get(report.dataset.get_absolute_url()).content.decode())
    return page.partition('<div id="mails">')[2].partition("<iframe")[0]


def test_the_page_proposes_monday_at_eight_and_makes_a_schedule_of_its_owners(client, report):
    part = part_of(client, report)
    for proposed in (
        '<option value="mon" selected>every Monday',
        'value="08:00"',
        "<option selected>UTC</option>",
        "data-own-zone",
    ):
        assert proposed in part
    assert press(client, report, **MONDAY) == "The report is mailed every Monday at 08:00, Europe/Berlin."
    made = Schedule.objects.get()
    assert made.name == "report sales.csv for ada"
    assert (made.task, made.args, made.kwargs) == (
        "tasks.reports.mail_report",
        [],
        {"dataset_id": str(report.dataset_id)},
    )
    assert (made.timing, made.zone, made.overlap, made.catch_up_seconds) == (
        "0 8 * * mon",
        "Europe/Berlin",
        "skip",
        86_400,
    )
    assert (made.source, made.requested_by, made.pause_after_failures) == ("people", "ada", 5)
    part = part_of(client, report)
    assert re.search(
        r"Mailed to you every Monday at 08:00, Europe/Berlin.\s+Next <time[^>]*>Mon \d{4}-\d\d-\d\d 08:00", part
    )
    assert "data-own-zone" not in part


def test_another_time_changes_the_schedule_that_is_there(client, report):
    press(client, report, **MONDAY)
    press(client, report, day="mon-fri", time="17:05", zone="Asia/Kolkata")
    made = Schedule.objects.get()
    assert (made.timing, made.zone) == ("5 17 * * mon-fri", "Asia/Kolkata")
    part = part_of(client, report)
    assert '<option value="mon-fri" selected>' in part
    assert 'value="17:05"' in part


def test_one_press_pauses_resumes_and_ends_it(client, report):
    press(client, report, **MONDAY)
    assert press(client, report, "pause/") == "Mails are paused."
    assert Schedule.objects.get().paused_by == "ada"
    assert ">Resume mails</button>" in part_of(client, report)
    assert press(client, report, "pause/") == "They were paused or ended already."
    assert press(client, report, "resume/") == "Mails go on."
    assert press(client, report, "resume/") == "They were not paused."
    assert press(client, report, "end/") == "The report is mailed no more."
    assert not Schedule.objects.exists()
    assert press(client, report, "end/") == "It was ended already."
    assert ">Mail me this report</button>" in part_of(client, report)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"day": "someday"},
            'day "someday": none of mon, tue, wed, thu, fri, sat, sun, mon-fri, *. Choose one of them.',
        ),
        ({"time": "25:00"}, 'time "25:00": it is none of a day. Write hours and minutes, such as 08:00.'),
        ({"time": "8"}, "it is none of a day"),
        ({"time": "08:00\x00"}, "The report is mailed"),
        ({"zone": "Europe/Berlni"}, 'Did you mean "Europe/Berlin"?'),
        ({"zone": ""}, "time zone"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_do(client, report, fields, said):
    assert said in press(client, report, **{**MONDAY, **fields})
    assert Schedule.objects.exists() == ("mailed" in said)


def test_only_the_owner_can_ask_for_it_pause_it_and_end_it(client, report):
    press(client, report, **MONDAY)
    other = Client()
    other.force_login(User.objects.create(username="eve"))
    for path in ("", "pause/", "resume/", "end/"):
        assert other.post(f"{report.dataset.get_absolute_url()}mails/{path}", MONDAY).status_code == 404
        assert client.get(f"{report.dataset.get_absolute_url()}mails/{path}").status_code == 405
    assert not Schedule.objects.get().is_paused


def test_without_a_report_there_is_nothing_to_ask_for(client, report):
    Report.objects.all().delete()
    assert client.post(f"{report.dataset.get_absolute_url()}mails/", MONDAY).status_code == 404


def test_it_goes_with_its_dataset_and_with_its_owner(client, report):
    press(client, report, **MONDAY)
    client.post(f"{report.dataset.get_absolute_url()}delete/")
    assert not Schedule.objects.exists()
    dataset = Dataset.objects.create(owner=report.dataset.owner, name="b.csv", upload_expires_at=timezone.now())
    subscriptions.subscribe(dataset, **MONDAY)
    User.objects.all().delete()
    assert not Schedule.objects.exists()


def test_what_an_operator_made_of_it_is_shown_and_what_they_deleted_can_be_asked_for_again(client, report):
    press(client, report, **MONDAY)
    made = Schedule.objects.get()
    made.timing = "every 90 minutes"
    made.save()
    assert "Mailed to you every 90 minutes" in part_of(client, report)
    made.delete()
    assert "Mailed to you" not in part_of(client, report)
    press(client, report, **MONDAY)
    assert Schedule.objects.count() == 1


def test_two_datasets_of_one_name_have_each_a_schedule(client, report):
    twin = Dataset.objects.create(owner=report.dataset.owner, name="sales.csv", upload_expires_at=timezone.now())
    names = [subscriptions.subscribe(each, **MONDAY).name for each in (report.dataset, twin)]
    assert names == ["report sales.csv for ada", f"report sales.csv {twin.pk} for ada"]


def test_two_presses_at_once_make_one_schedule(report):
    at_once(2, lambda _: subscriptions.subscribe(Dataset.objects.get(), **MONDAY))
    assert Schedule.objects.count() == 1
    assert Dataset.objects.get().mail_schedule == Schedule.objects.get().name


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(
        st.sampled_from("a@ \x7f\u202e\n") | st.characters(codec="utf-8", exclude_characters="\x00"), max_size=255
    ),
    username=st.text("aÜ.@+-_", min_size=1, max_size=150),
    day=st.sampled_from([*subscriptions.DAYS]),
    time=st.times().map(lambda time: f"{time:%H:%M}"),
)
def test_whatever_a_dataset_and_its_owner_are_called_the_schedule_can_be_made(name, username, day, time, db):
    User.objects.all().delete()
    owner = User.objects.create(username=username)
    dataset = Dataset.objects.create(owner=owner, name=name, upload_expires_at=timezone.now())
    made = subscriptions.subscribe(dataset, day, time, "UTC")
    assert "@" not in made.name
    assert subscriptions.choice(made) == {"day": day, "time": time, "zone": "UTC"}
    assert timing.parse(made.timing, made.zone).text == made.timing


# All of it -----------------------------------------------------------------------------------------------------------


def test_a_subscription_made_on_the_page_mails_the_report_when_its_monday_comes(stack, visitor, tmp_path):
    page = visitor.upload("weekly.csv", SMALL)
    assert visitor.await_end(page).state == "ready"
    wait_for(lambda: len(mail_about(stack, "weekly.csv")) == 1, "the mail of the report itself")
    visitor.client.get(page)
    assert visitor.post(f"{page}mails/", MONDAY).status_code == 302

    name = "report weekly.csv for demo"
    client = boto3.client(
        "scheduler",
        endpoint_url=stack.cloud_url,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    found = client.list_schedules(GroupName=NAMES_ARGUMENTS["schedule_group"], NamePrefix=prefix(name))["Schedules"]
    assert len(found) == 1
    one = client.get_schedule(GroupName=NAMES_ARGUMENTS["schedule_group"], Name=found[0]["Name"])
    assert (one["ScheduleExpression"], one["ScheduleExpressionTimezone"]) == ("cron(0 8 ? * MON *)", "Europe/Berlin")

    due = timing.parse("0 8 * * mon", "Europe/Berlin").next(datetime.datetime.now(datetime.UTC), 1)[0]
    for _ in range(2):
        # EventBridge may fire twice.
        clock = [sys.executable, "-m", "serverless.local.clock", "--state", str(tmp_path / "clock.json")]
        subprocess.run([*clock, "--now", due.isoformat()], env=stack.environment, cwd=ROOT, check=True, timeout=60)
    wait_for(lambda: len(mail_about(stack, "weekly.csv")) == 2, "the mail of Monday")
    mail = mail_about(stack, "weekly.csv")[-1]
    assert mail["To"] == "demo@example.com"
    assert [part.get_filename() for part in mail.iter_attachments()] == ["report.pdf"]

    run_id = f"{name}@{due:%Y-%m-%dT%H:%M:%SZ}"
    told = f"from django_app.ledger.models import Run; print(*Run.objects.filter(schedule={name!r}).values_list('id', 'state'))"
    shown = lambda: stack.manage("shell", "--no-imports", "--command", told).strip().splitlines()[-1]  # noqa: E731
    wait_for(lambda: shown() == str((run_id, "succeeded")), "the one run of that due time")
    assert "The last one:" in visitor.client.get(page).text

    visitor.post(f"{page}delete/")
    assert page_id(page)
    gone = client.list_schedules(GroupName=NAMES_ARGUMENTS["schedule_group"], NamePrefix=prefix(name))["Schedules"]
    assert gone == []
    assert len(mail_about(stack, "weekly.csv")) == 2
