"""`manage.py doctor`: silent on a healthy stage, loud on each thing that is broken, and it changes nothing."""

from __future__ import annotations

import datetime
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.urls import resolve
from django.utils import timezone

from django_app.doctor import running
from django_app.doctor.findings import Finding, Severity, exit_status
from django_app.ledger.models import QueueSample, Run, Schedule, Worker
from serverless import aws, inspection
from serverless.local import provision
from serverless.local.cloud import NAMES_ARGUMENTS, environment
from tasks.celery import app
from tasks.runtime.schedules import declared
from tasks.topology import TOPOLOGY
from tests.conftest import ROOT, run_cloud
from tests.environment import DATABASE_URL
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
PAGE = (ROOT / "docs" / "doctor.md").read_text()
SOURCES = "".join(path.read_text() for path in sorted((ROOT / "django_app" / "doctor").glob("*.py")))
IS_POSTGRES = DATABASE_URL.startswith("postgres")
GROUP = "cloudqueue-doctor"
#: Those of a clean process; in this one other tests have registered tasks of their own, which checks may not like.
SUBJECTS = [subject for subject in running.SUBJECTS if subject != "checks"]
#: Long: machines that run tests are slow.
SECONDS = 120
NOW = timezone.now


@pytest.fixture(autouse=True)
def stage(cloud, settings, monkeypatch) -> Iterator[None]:
    """All that belongs to a stage, as it should be."""
    for name, value in environment(cloud).items():
        if name.startswith(("SCHEDULE_", "QUEUE_URL", "DEFAULT_FROM")):
            setattr(settings, name, value)
    settings.BROKER_URL = "sqs://"
    in_code = app.conf.beat_schedule
    app.conf.beat_schedule = {}
    settings.SCHEDULE_GROUP = GROUP
    settings.EMAIL_BACKEND = "anymail.backends.amazon_ses.EmailBackend"
    settings.CHANNEL_LAYERS = {"default": {"CONFIG": {"table": NAMES_ARGUMENTS["sockets_table"]}}}
    repair(cloud)
    if not IS_POSTGRES:
        # What earlier tests have deleted is no finding of this one's.
        with connection.cursor() as cursor:
            cursor.execute("VACUUM")
    QueueSample.objects.create(queue="default", at=NOW())
    yield
    app.conf.beat_schedule = in_code
    for name, value in environment(cloud).items():
        monkeypatch.setenv(name, value)
    aws.forget_clients()
    for page in aws.client("scheduler").get_paginator("list_schedules").paginate(GroupName=GROUP):
        for each in page["Schedules"]:
            aws.client("scheduler").delete_schedule(GroupName=GROUP, Name=each["Name"])


@pytest.fixture(scope="module", autouse=True)
def whole_again(cloud_url) -> Iterator[None]:
    """Other tests find the cloud as it was."""
    yield
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(cloud_url).items():
            patch.setenv(name, value)
        aws.forget_clients()
        repair(cloud_url)
    aws.forget_clients()


def repair(cloud: str) -> None:
    # SQS empties a queue once a minute at most.
    sqs = aws.client("sqs")
    for url in sqs.list_queues(QueueNamePrefix=NAMES_ARGUMENTS["queue_prefix"]).get("QueueUrls", ()):
        sqs.delete_queue(QueueUrl=url)
    names = NAMES_ARGUMENTS | {"schedule_group": GROUP}
    provision.provision(provision.Names(**names, web_origins=("http://testserver",)), cloud)


def found(*subjects: str, seconds: float = SECONDS, ahead: float = 0.0) -> dict[str, Finding]:
    """Findings by id. ahead: how far this machine's clock is ahead."""
    done = list(running.examine(subjects or SUBJECTS, seconds, clock=lambda: time.time() + ahead))
    return {each.id: each for examined in done for each in examined.findings}


def url_of(queue: str) -> str:
    return f"{os.environ['QUEUE_URL_PREFIX']}{queue}"


def ago(**length: float) -> datetime.datetime:
    return NOW() - datetime.timedelta(**length)


def a_run(id_: str = "r1", **fields: Any) -> Run:
    defaults = {"task": "tasks.reports.build_report", "queue": "default", "created_at": NOW()}
    return Run.objects.create(id=id_, **{**defaults, "publish_claimed_until": NOW(), **fields})


def a_worker(name: str = "general@box", **fields: Any) -> Worker:
    lives = {"seen_at": NOW(), "started_at": ago(hours=1), "lease_until": NOW() + datetime.timedelta(minutes=5)}
    return Worker.objects.create(
        name=name, **{"pool": "general", "kind": "prefork", "concurrency": 2, "pid": 1, **lives, **fields}
    )


def a_schedule(name: str = "nightly", **fields: Any) -> Schedule:
    schedule = Schedule(
        name=name, **{"task": "tasks.sessions.clear_expired_sessions", "timing": "0 3 * * *", "zone": "UTC", **fields}
    )
    schedule.save()
    schedule.refresh_from_db()
    return schedule


@pytest.fixture
def everything() -> None:
    """Something of each kind, some of it broken."""
    a_run("pending", created_at=ago(hours=1))
    a_run("waits", state="queued", published_at=ago(hours=1), created_at=ago(hours=1))
    a_run("dead", state="dead", queue="low", finished_at=ago(hours=2))
    a_worker(release="1")
    a_worker("lost@box", state="lost")
    a_schedule()
    a_schedule("forgotten")
    Schedule.objects.filter(name="forgotten").update(synced_at=None, sync_error="refused", changed_at=ago(hours=1))
    aws.client("sqs").send_message(QueueUrl=url_of("low-dead"), MessageBody="x")
    aws.client("sqs").send_message(QueueUrl=url_of("high"), MessageBody="x")
    aws.client("sqs").set_queue_attributes(QueueUrl=url_of("high"), Attributes={"VisibilityTimeout": "30"})


# The whole -----------------------------------------------------------------------------------------------------------


def test_a_healthy_stage_has_no_findings():
    a_worker()
    a_schedule()
    a_run(state="queued", published_at=NOW())
    done = list(running.examine(SUBJECTS, SECONDS))
    assert [each for examined in done for each in examined.findings] == []
    assert [each.subject for each in done] == SUBJECTS
    told = {each.subject: each.told for each in done}
    assert told["aws"] == "account 123456789012 as arn:aws:sts::123456789012:user/moto"
    assert told["queues"] == "9 of 9 queues answered, 0 messages in them"
    assert told["workers"] == "1 at work"


def test_nothing_is_changed_by_looking(everything):
    called: list[str] = []
    sessions = aws.boto3.session.Session

    def session(*args: Any, **options: Any) -> Any:
        made = sessions(*args, **options)
        made.events.register("before-call", lambda model, **_: called.append(model.name))
        return made

    before = state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aws.boto3.session, "Session", session)
        aws.forget_clients()
        ids = set(found())
    aws.forget_clients()
    assert {"D111", "D112", "D113", "D121", "D131", "D150"} <= ids
    assert state() == before
    reading = {"GetCallerIdentity", "HeadBucket", "Query", "GetScheduleGroup", "GetSendQuota", "GetQueueAttributes"}
    assert reading <= set(called) <= reading | {"ListSchedules", "GetSchedule"}


def state() -> dict[str, Any]:
    """All rows of all tables, and what the cloud holds."""
    told: dict[str, Any] = {
        model._meta.db_table: sorted(map(str, model._base_manager.values_list()))
        for model in apps.get_models()
        if model._meta.managed
    }
    sqs = aws.client("sqs")
    for url in sqs.list_queues()["QueueUrls"]:
        told[url] = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    told["schedules"] = aws.client("scheduler").list_schedules(GroupName=GROUP)["Schedules"]
    told["objects"] = aws.client("s3").list_objects_v2(Bucket=NAMES_ARGUMENTS["bucket"]).get("Contents")
    told["sockets"] = aws.client("dynamodb").scan(TableName=NAMES_ARGUMENTS["sockets_table"])["Items"]
    return told


def test_the_database_itself_refuses_what_an_examination_would_write(monkeypatch):
    def writes(this: Any) -> Iterator[Finding]:
        a_run("written")
        yield from ()

    monkeypatch.setitem(running.SUBJECTS, "writes", writes)
    finding = found("writes")["D100"]
    assert re.search("readonly|read-only", finding.value), finding.value
    assert not Run.objects.exists()


# The command ---------------------------------------------------------------------------------------------------------


def doctor(*words: str) -> tuple[int, str]:
    """Exit status and output, in this process."""
    out = io.StringIO()
    try:
        call_command("doctor", "--timeout", str(SECONDS), *words, stdout=out, no_color=True)
    except SystemExit as exit_:
        return int(exit_.code or 0), out.getvalue()
    return 0, out.getvalue()


def test_the_exit_status_is_that_of_the_worst():
    assert [exit_status(each) for each in Severity] == [0, 0, 1, 2]
    only = ("--only", "queues")
    assert doctor(*only)[0] == 0
    aws.client("sqs").send_message(QueueUrl=url_of("low-dead"), MessageBody="x")
    assert doctor(*only)[0] == 1
    aws.client("sqs").delete_queue(QueueUrl=url_of("low"))
    assert doctor(*only)[0] == 2


def test_a_note_alone_ends_well():
    a_run(state="queued", message="x" * (300 << 10), published_at=NOW())
    status, text = doctor("--only", "runs")
    assert (status, "note     D152" in text) == (0, True), text


def test_people_get_a_table_and_each_finding_with_what_to_do():
    aws.client("sqs").send_message(QueueUrl=url_of("low-dead"), MessageBody="x")
    _, text = doctor("--only", "queues", "--only", "clocks")
    lines = text.splitlines()
    assert re.match(r"ok +clocks +\d+\.\d s  [+-]0 s to AWS; [+-]0\.\d s to the database", lines[0]), text
    assert re.match(r"warning +queues +\d+\.\d s  9 of 9 queues answered, 1 messages", lines[1]), text
    assert 'warning  D112  dead-letter queue "low-dead"' in lines
    assert "         see     docs/doctor.md#d112" in lines
    assert lines[-1] == "2 examinations: 0 errors, 1 warnings, 0 notes. Nothing was changed."
    (page,) = re.findall(r"redrive or discard: http://testserver(\S+)", text)
    assert resolve(page).kwargs == {"queue": "low"}


def test_progress_is_shown_on_a_terminal_alone(capsys):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for kind, shown in ((Terminal, ["clocks", "runs"]), (io.StringIO, [])):
        errors = kind()
        call_command("doctor", "--only", "runs", "--only", "clocks", stdout=io.StringIO(), stderr=errors)
        assert re.findall(r"examining (\w+) \.\.\.", errors.getvalue()) == shown


@pytest.mark.parametrize("seconds", ["0", "-1", "601", "nan"])
def test_a_timeout_that_is_none_is_refused(seconds):
    with pytest.raises(CommandError, match="must be above 0, and 600 at most"):
        call_command("doctor", f"--timeout={seconds}")


def test_in_a_function_all_of_it_ends_before_the_function_is_ended(monkeypatch):
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "shop-production")
    most = json.loads((ROOT / "zappa_settings.json").read_text())["base"]["timeout_seconds"]
    assert running.default_seconds() * len(running.SUBJECTS) < most
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_NAME")
    assert running.default_seconds() == 15


def test_an_unknown_subject_is_refused_with_those_that_are_known():
    with pytest.raises(CommandError, match=r"invalid choice: 'queue'.*'queues'"):
        call_command("doctor", "--only", "queue")


def test_machines_get_json_and_nothing_else_from_a_clean_process(cloud, settings):
    """With the system checks, and the schedules of code, which are silent on what is shipped."""
    app.conf.beat_schedule = settings.CELERY_BEAT_SCHEDULE
    declared.load()
    name = str(connection.settings_dict["NAME"])
    url = urlunsplit(urlsplit(DATABASE_URL)._replace(path=f"/{name}")) if IS_POSTGRES else f"sqlite:///{name}"
    kept = {each: os.environ[each] for each in ("PATH", "HOME") if each in os.environ}
    variables = {"SECRET_KEY": "of this test", "DATABASE_URL": url, "RELEASE": "7", **environment(cloud)}
    done = subprocess.run(
        [sys.executable, "manage.py", "doctor", "--json", "--timeout", str(SECONDS)],
        cwd=ROOT,
        env={**kept, **variables, "SCHEDULE_GROUP": GROUP},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    told = json.loads(done.stdout)
    assert (told["findings"], done.returncode, done.stderr) == ([], 0, "")
    assert (told["severity"], told["exit_status"], told["release"]) == ("ok", 0, "7")
    assert [each["subject"] for each in told["examinations"]] == list(running.SUBJECTS)


def test_json_holds_all_of_a_finding():
    aws.client("sqs").delete_queue(QueueUrl=url_of("low"))
    status, text = doctor("--only", "queues", "--json")
    (finding,) = json.loads(text)["findings"]
    assert (status, finding["severity"], finding["id"], finding["subject"]) == (2, "error", "D110", "queues")
    assert finding["thing"] == 'queue "low"'
    assert finding["rule"] == "tasks/topology.json declares it"
    assert finding["page"] == "docs/doctor.md#d110"
    assert "terraform -chdir=infra/terraform apply" in finding["remedy"]


def test_what_the_system_checks_find_is_told_under_their_own_ids():
    a_run(task="shop.gone", state="queued", published_at=NOW())
    finding = found("checks")["cloudqueue.W015"]
    assert (finding.severity, finding.where) == (Severity.WARNING, "docs/checks.md#w015")
    assert "1 run of it have not ended" in finding.value
    assert 'shared_task(name="shop.gone")' in finding.remedy


def test_a_check_that_is_silenced_is_silent_here_too(settings):
    a_run(task="shop.gone", state="queued", published_at=NOW())
    settings.SILENCED_SYSTEM_CHECKS = ["cloudqueue.W015"]
    assert "cloudqueue.W015" not in found("checks")


@pytest.mark.parametrize("is_dual_stack", ["true", "false"])
def test_what_production_must_not_have_is_asked_where_the_cloud_is_aws(settings, monkeypatch, is_dual_stack):
    settings.DEBUG = False
    assert "cloudqueue.E024" not in found("checks")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_USE_DUALSTACK_ENDPOINT", is_dual_stack)
    aws.forget_clients()
    assert inspection.is_aws()
    assert "cloudqueue.E024" in found("checks")


# Examinations that cannot be made ------------------------------------------------------------------------------------


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address where somebody listens, and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_an_examination_that_does_not_end_in_its_time_is_a_finding(black_hole, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", black_hole)
    aws.forget_clients()
    finding = found("aws", seconds=0.5)["D100"]
    assert (finding.severity, finding.thing) == (Severity.ERROR, 'examination "aws"')
    assert finding.value == "did not end within 0.5 s"
    assert finding.remedy.endswith("python manage.py doctor --only aws --timeout 2")


def test_an_examination_that_fails_is_a_finding_and_stops_no_other():
    table = Schedule._meta.db_table
    with connection.schema_editor() as editor:
        editor.alter_db_table(Schedule, table, "elsewhere")
    try:
        told = {each.subject: each for each in running.examine(["schedules", "clocks"], SECONDS)}
    finally:
        with connection.schema_editor() as editor:
            editor.alter_db_table(Schedule, "elsewhere", table)
    (finding,) = told["schedules"].findings
    assert (finding.id, table in finding.value) == ("D100", True), finding
    assert finding.value.startswith("failed: ")
    assert told["clocks"].findings == ()


def test_a_database_that_does_not_answer_is_a_finding_and_hides_nothing_of_aws(monkeypatch):
    monkeypatch.setitem(connections.databases["default"], "NAME", "/nowhere/at/all" if not IS_POSTGRES else "nowhere")
    told = {each.subject: each for each in running.examine(["aws", "database", "runs"], SECONDS)}
    (finding,) = told["database"].findings
    assert (finding.id, finding.severity) == ("D160", Severity.ERROR)
    assert "\n" not in finding.value
    assert [each.value for each in told["runs"].findings] == ["needs the database, which does not answer"]
    assert told["aws"].findings == ()


# AWS -----------------------------------------------------------------------------------------------------------------


def test_an_aws_that_cannot_be_reached_is_one_finding(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        aws.forget_clients()
        told = found("aws")
    assert list(told) == ["D101"]
    assert "AWS_ENDPOINT_URL" in told["D101"].remedy


def test_a_process_without_credentials_is_told_so(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    aws.forget_clients()
    finding = found("aws")["D101"]
    assert "has no credentials" in finding.value
    assert finding.remedy.startswith("aws sts get-caller-identity")


def test_permissions_that_the_role_lacks_are_named(tmp_path, settings, monkeypatch):
    """In a cloud of its own, which from some moment on asks who may do what."""
    with run_cloud(tmp_path, "http://testserver") as url:
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        settings.QUEUE_URL_PREFIX = os.environ["QUEUE_URL_PREFIX"]
        settings.SCHEDULE_GROUP = ""
        aws.forget_clients()
        make: Any = aws.client
        iam = make("iam")
        iam.create_user(UserName="web")
        key = iam.create_access_key(UserName="web")["AccessKey"]
        allowed = {"Effect": "Allow", "Action": ["dynamodb:Query"], "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.put_user_policy(UserName="web", PolicyName="own", PolicyDocument=policy)
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{url}/moto-api/reset-auth", b"0", headers, method="POST")
        urllib.request.urlopen(request, timeout=30).close()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        aws.forget_clients()
        done = {each.subject: each.findings for each in running.examine(["aws", "queues"], SECONDS)}
    told = {each.thing: (each.id, each.severity, each.value.partition(" ")[0]) for each in done["aws"]}
    assert told == {
        'bucket "cloudqueue-files"': ("D102", Severity.ERROR, "s3:ListBucket"),
        # Nothing of ours but the doctor asks that.
        "mails of SES": ("D102", Severity.NOTE, "ses:GetSendQuota"),
    }
    assert {each.id for each in done["queues"]} == {"D102"}
    errors = [each for each in done["queues"] if each.severity == Severity.ERROR]
    # What EventBridge gave up is nothing of the web side's.
    assert len(errors) == 2 * len(TOPOLOGY.queues) == len(done["queues"]) - 1
    assert all("sqs:GetQueueAttributes is refused" in each.value for each in errors)
    assert all("grant sqs:GetQueueAttributes on it" in each.remedy for each in errors)


@pytest.mark.parametrize(("name", "thing"), [("FILES_BUCKET", "bucket"), ("SCHEDULE_GROUP", "schedule group")])
def test_a_part_that_is_missing_is_named(name, thing, settings):
    setattr(settings, name, "no-such-thing")
    finding = found("aws")["D103"]
    assert (finding.severity, finding.thing) == (Severity.ERROR, f'{thing} "no-such-thing"')


def test_a_table_of_sockets_that_is_missing_is_named():
    aws.client("dynamodb").delete_table(TableName=NAMES_ARGUMENTS["sockets_table"])
    assert found("aws")["D103"].thing == f'table of sockets "{NAMES_ARGUMENTS["sockets_table"]}"'


def test_a_quota_of_mails_that_is_nearly_used_up_is_told(tmp_path, monkeypatch, settings):
    with run_cloud(tmp_path, "http://testserver") as url:
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        settings.SCHEDULE_GROUP = ""
        aws.forget_clients()
        make: Any = aws.client
        ses, sender = make("ses"), NAMES_ARGUMENTS["sender"]
        for _ in range(160):
            body = {"Subject": {"Data": "s"}, "Body": {"Text": {"Data": "b"}}}
            ses.send_email(Source=sender, Destination={"ToAddresses": ["a@example.com"]}, Message=body)
        told = found("aws")
    assert told["D104"].value == "160 of 200 sent in 24 hours"


# Clocks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead", "severity"), [(20, Severity.WARNING), (-20, Severity.WARNING), (400, Severity.ERROR)]
)
def test_a_clock_that_is_off_is_told_of_both(ahead, severity):
    told = found("clocks", ahead=ahead)
    for id_, other in (("D140", "AWS"), ("D141", "the database")):
        assert told[id_].severity == severity
        assert told[id_].value.endswith(f"{'ahead of' if ahead > 0 else 'behind'} {other}")
        seconds = float(re.match(r"\d+", told[id_].value)[0]) * (60 if " min" in told[id_].value else 1)
        # What the answer took may hide some of it.
        assert 5 <= seconds <= abs(ahead) + 30


@pytest.mark.parametrize(
    ("before", "after", "ahead"),
    [(100, 101, 0), (99, 103, 0), (110, 112, 9), (90, 92, -8), (80, 110, 0), (101, 200, 0), (0, 100, 0)],
)
def test_what_the_way_of_an_answer_takes_is_not_taken_for_a_clock_that_is_off(before, after, ahead):
    assert inspection.certainly_ahead(before, after, 100, 101) == ahead


# Queues --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["datasets", "datasets-dead"])
def test_a_queue_that_is_missing_is_named(name):
    aws.client("sqs").delete_queue(QueueUrl=url_of(name))
    finding = found("queues")["D110"]
    assert (finding.severity, f'"{name}"' in finding.thing) == (Severity.ERROR, True)


def test_queues_without_an_address_are_one_finding(settings):
    settings.QUEUE_URL_PREFIX = ""
    assert found("queues")["D110"].value == "QUEUE_URL_PREFIX is not set"


@pytest.mark.parametrize(
    ("attributes", "value", "severity"),
    [
        ({"VisibilityTimeout": "30"}, "visibility timeout is 30 s", Severity.WARNING),
        ({"MessageRetentionPeriod": "3600"}, "retention is 3600 s", Severity.WARNING),
        ({"ReceiveMessageWaitTimeSeconds": "0"}, "wait of a receive is 0 s", Severity.WARNING),
        ({"MaximumMessageSize": "65536"}, "largest message is 65536 bytes", Severity.ERROR),
        ({"RedrivePolicy": ""}, "it has no redrive policy", Severity.ERROR),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_queue_that_differs_from_the_topology_is_told(attributes, value, severity):
    aws.client("sqs").set_queue_attributes(QueueUrl=url_of("high"), Attributes=attributes)
    (finding,) = next(running.examine(["queues"], SECONDS)).findings
    assert (finding.id, finding.thing, finding.severity) == ("D111", 'queue "high"', severity)
    assert finding.value == value


@pytest.mark.parametrize(("target", "most"), [("low-dead", 20), ("high-dead", 3)])
def test_a_redrive_policy_that_is_another_is_told(target, most):
    arn = f"arn:aws:sqs:us-east-1:123456789012:{NAMES_ARGUMENTS['queue_prefix']}{target}"
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": most})
    aws.client("sqs").set_queue_attributes(QueueUrl=url_of("high"), Attributes={"RedrivePolicy": policy})
    assert found("queues")["D111"].value == f"redrive policy is to {arn} after {most} receives"


def test_a_dead_letter_queue_that_keeps_too_short_is_told():
    attributes = {"MessageRetentionPeriod": "345600"}
    aws.client("sqs").set_queue_attributes(QueueUrl=url_of("high-dead"), Attributes=attributes)
    finding = found("queues")["D111"]
    assert (finding.thing, finding.value) == ('dead-letter queue "high-dead"', "retention is 345600 s")


def test_dead_letters_are_counted_with_the_oldest_run_among_them():
    for _ in range(3):
        aws.client("sqs").send_message(QueueUrl=url_of("low-dead"), MessageBody="x")
    old = ago(days=3)
    a_run("old", state="dead", queue="low", finished_at=old, created_at=old)
    a_run("new", state="dead", queue="low", finished_at=ago(days=1), created_at=old)
    a_run("other", state="dead", queue="high", finished_at=ago(days=5), created_at=ago(days=5))
    finding = found("queues")["D112"]
    assert finding.value == f"3 messages, the oldest recorded run since {old:%Y-%m-%d %H:%M} UTC"


def test_what_eventbridge_could_not_deliver_counts_as_dead_letters(cloud):
    url = f"{cloud}/123456789012/{NAMES_ARGUMENTS['schedule_dead_letter_queue']}"
    aws.client("sqs").send_message(QueueUrl=url, MessageBody="x")
    finding = found("queues")["D112"]
    assert (finding.value, "could not deliver" in finding.thing) == ("1 message", True)
    assert f"aws sqs receive-message --queue-url {url} " in finding.remedy


def test_work_that_waits_longer_than_its_pool_accepts_is_told():
    a_worker()
    a_run(state="queued", published_at=NOW())
    assert "D113" not in found("queues")
    Run.objects.update(published_at=ago(minutes=10))
    finding = found("queues")["D113"]
    assert (finding.thing, finding.value) == ('queue "default"', "its oldest run waits for 10 min")
    assert finding.rule.startswith("60 s: acceptable_wait_seconds")


def test_another_broker_is_not_asked_for_queues_of_sqs(settings):
    settings.BROKER_URL = "memory://"
    (done,) = running.examine(["queues"], SECONDS)
    assert (done.findings, done.told) == ((), "the broker is memory, so SQS is not asked")


# Schedules -----------------------------------------------------------------------------------------------------------


def test_schedules_without_a_clock_are_an_error(settings):
    a_schedule()
    settings.SCHEDULE_GROUP = ""
    assert found("schedules")["D120"].severity == Severity.ERROR


def test_a_schedule_that_eventbridge_does_not_know_is_told_with_its_reason():
    a_schedule()
    Schedule.objects.update(synced_at=None, sync_error="too many", changed_at=ago(minutes=1))
    assert "D121" not in found("schedules")
    Schedule.objects.update(changed_at=ago(hours=3))
    finding = found("schedules")["D121"]
    assert finding.value == "EventBridge does not know it since 3.0 h: too many"
    assert finding.remedy == "python manage.py schedules sync"


def test_what_eventbridge_has_otherwise_than_the_table_is_told():
    a_schedule("kept")
    a_schedule("lost")
    a_schedule("left")
    scheduler = aws.client("scheduler")
    names = {each["Name"] for each in scheduler.list_schedules(GroupName=GROUP)["Schedules"]}
    a_schedule("touched")
    (touched,) = {each["Name"] for each in scheduler.list_schedules(GroupName=GROUP)["Schedules"]} - names
    assert found("schedules") == {}

    told: Any = scheduler.get_schedule(GroupName=GROUP, Name=touched)
    kept = ("FlexibleTimeWindow", "GroupName", "Name", "ScheduleExpression", "Target")
    scheduler.update_schedule(**{key: told[key] for key in kept}, State="DISABLED")
    assert found("schedules")["D122"].value == "was changed by hand in touched"

    lost = next(
        name for name in names if scheduler.get_schedule(GroupName=GROUP, Name=name)["Description"][:5] == "lost:"
    )
    scheduler.delete_schedule(GroupName=GROUP, Name=lost)
    Schedule.objects.filter(name="left")._raw_delete("default")
    value = found("schedules")["D122"].value
    assert re.fullmatch(r"lacks lost; was changed by hand in touched; has, of no row, \S+", value), value


def test_a_group_that_cannot_be_listed_is_a_finding(black_hole, settings):
    a_schedule()
    settings.QUEUE_URL_PREFIX = "https://nowhere/"
    assert "holds no account id" in found("schedules")["D122"].value


def test_due_times_that_nobody_accounts_for_are_told():
    a_schedule()
    Schedule.objects.update(next_check_at=ago(minutes=30))
    finding = found("schedules")["D123"]
    assert (finding.thing, finding.value) == ("schedules nightly", "due times are not accounted for since 30 min")


def test_schedules_of_code_that_the_table_has_otherwise_are_told():
    entry = {"task": "tasks.sessions.clear_expired_sessions", "schedule": 3600}
    app.conf.beat_schedule = {"kept": entry, "changed": entry}
    declared.load()
    assert found("schedules") == {}
    app.conf.beat_schedule = {"changed": entry | {"schedule": 7200}, "new": entry}
    finding = found("schedules")["D124"]
    assert finding.value == "lacks new; has otherwise changed; has, but code no more, kept"
    declared.load()
    assert found("schedules") == {}


# Workers -------------------------------------------------------------------------------------------------------------


def test_a_pool_with_work_and_nobody_at_it_is_an_error():
    a_run(state="queued", published_at=ago(minutes=10))
    finding = found("workers")["D130"]
    assert (finding.severity, finding.thing) == (Severity.ERROR, 'pool "general"')
    assert finding.value == 'no worker, and queue "default" has work since 10 min'
    assert "--cluster cloudqueue --services general" in finding.remedy
    worker = a_worker("datasets@box", pool="datasets")
    assert "D130" in found("workers")
    Worker.objects.filter(pk=worker.pk).update(pool="general")
    assert "D130" not in found("workers")


def test_work_that_has_just_come_wakes_a_pool_first():
    a_run(state="queued", published_at=ago(minutes=1))
    assert "D130" not in found("workers")


@pytest.mark.parametrize("fields", [{"state": "lost"}, {"lease_until": ago(minutes=2)}])
def test_a_worker_that_was_lost_is_told_for_an_hour(fields):
    a_worker("general@gone", **fields, seen_at=ago(minutes=5))
    assert found("workers")["D131"].thing == "workers general@gone"
    Worker.objects.update(seen_at=ago(hours=2))
    assert "D131" not in found("workers")


def test_a_worker_that_ended_as_it_should_is_no_finding():
    a_worker(state="stopped", lease_until=ago(minutes=2))
    assert found("workers") == {}


def test_workers_of_another_release_are_told(settings):
    # The web side's is named after its package.
    settings.RELEASE = "9f2c"
    a_worker("a@box", release="1", started_at=ago(hours=2))
    a_worker("b@box", release="2")
    a_worker("c@box", release="1", state="draining")
    finding = found("workers")["D132"]
    assert (finding.thing, finding.value) == ("workers a@box", 'release "1"')
    assert finding.rule.startswith('release "2"')


# Runs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("minutes", "severity"), [(10, Severity.WARNING), (60, Severity.ERROR)])
def test_runs_that_stay_pending_are_told(minutes, severity):
    a_run(created_at=ago(minutes=minutes))
    assert found("runs")["D150"].severity == severity


def test_a_run_that_is_pending_for_its_time_is_no_finding():
    a_run(created_at=ago(hours=1), not_before=NOW() + datetime.timedelta(hours=1))
    assert found("runs") == {}


def test_messages_that_go_by_way_of_s3_are_a_note_and_those_near_the_limit_a_warning():
    a_run("small", state="queued", message="x" * (100 << 10), published_at=NOW())
    assert found("runs") == {}
    a_run("large", state="running", message="x" * (300 << 10))
    told = found("runs")
    assert (list(told), told["D152"].severity) == (["D152"], Severity.NOTE)
    assert "1 of 2 open runs" in told["D152"].value
    a_run("huge", state="queued", message="x" * (52 << 20), published_at=NOW())
    told = found("runs")
    assert (list(told), told["D151"].severity) == (["D151"], Severity.WARNING)
    assert told["D151"].value == f"its message has {52 << 20} bytes"
    Run.objects.update(state="succeeded", finished_at=NOW())
    assert found("runs") == {}


# The database --------------------------------------------------------------------------------------------------------


def test_migrations_that_are_not_applied_are_an_error():
    with connection.cursor() as cursor:
        cursor.execute("SELECT max(name) FROM django_migrations WHERE app = 'ledger'")
        (name,) = cursor.fetchone()
        cursor.execute("UPDATE django_migrations SET app = 'elsewhere' WHERE app = 'ledger' AND name = %s", [name])
    try:
        finding = found("database")["D161"]
    finally:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE django_migrations SET app = 'ledger' WHERE app = 'elsewhere'")
    assert finding.value == f"1 migrations are not applied: ledger.{name}"


@pytest.mark.parametrize(
    ("samples", "severity"), [([5], Severity.WARNING), ([60, 90], Severity.ERROR), ([], Severity.ERROR)]
)
def test_a_housekeeping_that_makes_no_rounds_is_told(samples, severity):
    QueueSample.objects.all().delete()
    for minutes in samples:
        QueueSample.objects.create(queue="low", at=ago(minutes=minutes))
    finding = found("database")["D165"]
    assert finding.severity == severity
    told = {5: "its last round was 5 min ago", 60: "its last round was 60 min ago"}
    assert finding.value == (told[samples[0]] if samples else "it never made a round")


@pytest.mark.skipif(IS_POSTGRES, reason="of SQLite's file")
def test_a_file_that_is_mostly_free_is_told():
    a_run(state="succeeded", message="x" * (40 << 20), finished_at=NOW())
    assert "D164" not in found("database")
    Run.objects.all().delete()
    finding = found("database")["D164"]
    assert re.fullmatch(r"4\d of 4\d MiB are free", finding.value), finding.value


@pytest.mark.skipif(not IS_POSTGRES, reason="of Postgres, which .ci/with-postgres starts")
def test_a_table_of_dead_rows_is_told():
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE ledger_queuesample SET (autovacuum_enabled = false)")
    try:
        minutes = (ago(minutes=number) for number in range(10, 11_010))
        QueueSample.objects.bulk_create((QueueSample(queue="low", at=at) for at in minutes), batch_size=1000)
        QueueSample.objects.filter(queue="low").delete()

        def told() -> bool:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_stat_force_next_flush()")
            return "D164" in found("database")

        wait_for(told, "the finding")
        assert re.match("11000 dead rows", found("database")["D164"].value)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE ledger_queuesample RESET (autovacuum_enabled)")
            cursor.execute("VACUUM ledger_queuesample")


@pytest.mark.skipif(not IS_POSTGRES, reason="of Postgres, which .ci/with-postgres starts")
@pytest.mark.parametrize(("limit", "id_", "severity"), [(1, "D162", Severity.ERROR), (40, "D163", Severity.WARNING)])
def test_too_few_connections_are_told(limit, id_, severity):
    """By a limit of the database's own, which hinders no superuser."""
    name = connection.settings_dict["NAME"]
    with connection.cursor() as cursor:
        cursor.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT {limit}')
    try:
        told = found("database")
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT -1')
    assert (told[id_].severity, told[id_].thing) == (severity, "connections of the database")
    assert f" {limit}" in told[id_].value


# The page ------------------------------------------------------------------------------------------------------------


def test_every_finding_has_a_section_and_a_test():
    ids = set(re.findall(r'"(D1\d\d)"', SOURCES))
    assert set(re.findall(r"^### (D1\d\d)$", PAGE, re.MULTILINE)) == ids
    assert ids <= set(re.findall(r'"(D1\d\d)"', Path(__file__).read_text()))


def test_every_subject_is_on_the_page():
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(running.SUBJECTS)


def test_each_examination_says_which_findings_are_its_own():
    for subject, examine in running.SUBJECTS.items():
        source = (ROOT / "django_app" / "doctor" / f"{examine.__module__.rpartition('.')[2]}.py").read_text()
        first, *rest = re.findall(r"D1\d\d", str(examine.__doc__)) or [""]
        named = (
            {first, *rest}
            if " to " not in str(examine.__doc__)
            else {f"D{number}" for number in range(int(first[1:]), int(rest[-1][1:]) + 1)}
        )
        assert set(re.findall(r'"(D1\d\d)"', source)) <= named | {"D101"}, subject
