"""System checks over what is configured: schedules, zappa_settings.json, and the settings of production."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from django_app.checks import production, schedules, stages
from django_app.checks.project import Project
from tasks.celery import app as shipped
from tests.conftest import ROOT
from tests.unit.test_checks import found

# Schedules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"task": "tasks.sessions.clear_expired_sessions", "schedule": 3600}, ""),
        ({"task": "tasks.sessions.clear_expired_session", "schedule": 3600}, "is none of this release."),
        ({"task": "tasks.sessions.clear_expired_sessions", "schedule": 3600, "args": [1]}, "cannot be called with 1"),
        ({"task": "tasks.sessions.clear_expired_sessions", "schedule": 3}, "3 seconds"),
        ({"task": "tasks.sessions.clear_expired_sessions", "schedul": 3}, '"schedul" is no key of an entry.'),
        ("nightly", "'nightly' is no entry."),
    ],
)
def test_a_schedule_in_code_that_could_never_run_is_found(entry, told, monkeypatch):
    monkeypatch.setitem(shipped.conf, "beat_schedule", {"nightly": entry})
    said = found(schedules.in_code, Project(shipped, {}))
    assert bool(said) == bool(told)
    assert told in " ".join(said)


def test_rules_of_no_schedule_are_found(settings):
    settings.SCHEDULE_RULES = {"clear expired session": {"overlap": "skip"}}
    (finding,) = schedules.in_code(Project(shipped, {}))
    assert (finding.number, finding.remedy) == ("E016", 'Did you mean "clear expired sessions"?')


# zappa_settings.json -------------------------------------------------------------------------------------------------

SHIPPED_STAGES = json.loads((ROOT / "zappa_settings.json").read_text())


def stage_with(folder: Path, **changed: Any) -> Project:
    """A project whose stage "dev" is like the shipped one, but for what is changed."""
    raw = {"base": SHIPPED_STAGES["base"], "dev": {**SHIPPED_STAGES["dev"], **changed}}
    (folder / "zappa_settings.json").write_text(json.dumps(raw))
    return Project(shipped, {}, folder=folder)


def test_the_shipped_stages_are_in_order():
    project = Project(shipped, {}, folder=ROOT)
    for check in (stages.unsafe, stages.secrets, stages.events, stages.timeouts):
        assert found(check, project) == []


def test_a_project_without_zappa_has_no_stages(tmp_path):
    for check in (stages.unsafe, stages.secrets, stages.events, stages.timeouts):
        assert found(check, Project(shipped, {}, folder=tmp_path)) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"dev": 1}', '{"dev": {"extends": "dev"}}'])
def test_a_file_that_is_no_settings_is_told_once(tmp_path, text):
    (tmp_path / "zappa_settings.json").write_text(text)
    project = Project(shipped, {}, folder=tmp_path)
    assert len(found(stages.unsafe, project)) == 1
    for check in (stages.secrets, stages.events, stages.timeouts):
        assert found(check, project) == []


#: What JSON may hold, and some of what a stage does.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kwargs", "event", "a"]), inner),
    max_leaves=5,
)


@hypothesis_settings(deadline=None)
@given(
    changed=st.dictionaries(
        st.sampled_from(["events", "timeout_seconds", "aws_environment_variables", "extends", "debug", "name"]), VALUES
    )
)
def test_whatever_a_stage_holds_no_check_falls_over(tmp_path_factory, changed):
    project = stage_with(tmp_path_factory.mktemp("stage"), **changed)
    for check in (stages.unsafe, stages.secrets, stages.events, stages.timeouts):
        found(check, project)


def test_an_unsafe_stage_is_refused_as_a_deploy_refuses_it(tmp_path):
    (told,) = found(stages.unsafe, stage_with(tmp_path, debug=True))
    assert told == 'E018 zappa_settings.json: stage "dev": debug=true must be false, see docs/lambda.md.'


FERNET = "q" * 42 + "8="
SECRETS = {
    "a password in an address": "postgres://cloudqueue:hush-hush@db.example/cloudqueue",
    "an access key of AWS": "AKIA" + "ABCDEFGHIJ234567",
    "a private key": "-----BEGIN EC PRIVATE KEY-----\nMHcCAQ",
    "a key of Fernet": f"{FERNET},{FERNET}",
    "a token": "sk_live_" + "4" * 24,
}


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("place", ["aws_environment_variables", "tags"])
def test_a_secret_is_found_by_its_looks_and_not_repeated(tmp_path, kind, place):
    secret = SECRETS[kind]
    (finding,) = stages.secrets(stage_with(tmp_path, **{place: {"NAME": secret}}))
    assert finding.text.startswith(f"dev.{place}.NAME holds {kind}.")
    assert secret not in str(finding.message())


def test_keys_of_runs_are_secret_whatever_they_look_like(tmp_path):
    (told,) = found(stages.secrets, stage_with(tmp_path, aws_environment_variables={"RUN_KEYS": "short"}))
    assert "dev.aws_environment_variables.RUN_KEYS holds keys that open recorded messages." in told


@pytest.mark.parametrize(
    "value",
    ["postgres://cloudqueue@db.example/cloudqueue", "https://site.example:8443/a@b", "/cloudqueue/dev", "a" * 64, ""],
)
def test_what_is_no_secret_is_left_alone(tmp_path, value):
    assert found(stages.secrets, stage_with(tmp_path, aws_environment_variables={"NAME": value})) == []


def test_an_event_that_nothing_handles_is_found(tmp_path, settings):
    events = [{"name": "nightly", "function": "x.y", "kwargs": {"event": "housekeping"}}]
    project = stage_with(tmp_path, events=events)
    (finding,) = stages.events(project)
    assert finding.text.startswith(
        'stage "dev": event "nightly" names "housekeping", which is no name of EVENT_HANDLERS'
    )
    assert finding.remedy == 'Did you mean "housekeeping"?'
    settings.EVENT_HANDLERS = {"housekeping": "serverless.entrypoints.clock.housekeeping_rond"}
    (told,) = found(stages.events, project)
    assert told.startswith(
        'E020 EVENT_HANDLERS: "housekeping" is "serverless.entrypoints.clock.housekeeping_rond", which'
    )


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"timeout_seconds": 29}, ""),
        ({"timeout_seconds": 30}, "timeout_seconds=30 exceeds 29, after which API Gateway answers 504"),
        ({"timeout_seconds": 300, "apigateway_enabled": False}, ""),
        ({"timeout_seconds": 20}, "timeout_seconds=20 is not above publish_seconds=20"),
        ({"timeout_seconds": "29"}, "timeout_seconds='29' is no number."),
    ],
)
def test_a_functions_time_lies_between_what_it_waits_for_and_what_waits_for_it(tmp_path, changed, told):
    said = found(stages.timeouts, stage_with(tmp_path, **changed))
    assert bool(said) == bool(told)
    assert told in " ".join(said)


# Production ----------------------------------------------------------------------------------------------------------

SAFE = {
    "DEBUG": False,
    "ALLOWED_HOSTS": ["site.example", ".site.example"],
    "PUBLIC_URL": "https://site.example",
    "SESSION_COOKIE_SECURE": True,
    "CSRF_COOKIE_SECURE": True,
    "CSRF_TRUSTED_ORIGINS": ["https://site.example"],
    "RUN_KEYS": [FERNET],
    "BROKER_URL": "sqs://",
    "QUEUE_URL_PREFIX": "https://sqs.eu-central-1.amazonaws.com/111122223333/shop-",
}
ALL = (
    production.debug,
    production.hosts,
    production.https,
    production.cookies,
    production.csrf,
    production.run_keys,
    production.queue_addresses,
)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, []),
        ({"DEBUG": True}, ["E022 DEBUG"]),
        ({"ALLOWED_HOSTS": ["*", "site.example"]}, ["E023 ALLOWED_HOSTS"]),
        ({"ALLOWED_HOSTS": [".execute-api.eu-central-1.amazonaws.com"]}, ["E023 ALLOWED_HOSTS"]),
        ({"ALLOWED_HOSTS": ["abc.execute-api.eu-central-1.amazonaws.com"]}, []),
        ({"PUBLIC_URL": "http://site.example"}, ["E024 PUBLIC_URL"]),
        ({"PUBLIC_URL": "https://127.0.0.1:8000"}, ["E024 PUBLIC_URL"]),
        ({"SESSION_COOKIE_SECURE": False}, ["E025 SESSION_COOKIE_SECURE"]),
        ({"SESSION_COOKIE_HTTPONLY": False}, ["E025 SESSION_COOKIE_HTTPONLY"]),
        ({"SESSION_COOKIE_SAMESITE": "None"}, ["E025 SESSION_COOKIE_SAMESITE"]),
        ({"CSRF_COOKIE_SECURE": False}, ["E025 CSRF_COOKIE_SECURE"]),
        ({"CSRF_COOKIE_SECURE": False, "CSRF_USE_SESSIONS": True}, []),
        ({"MIDDLEWARE": []}, ["E026 MIDDLEWARE"]),
        (
            {"CSRF_TRUSTED_ORIGINS": ["http://site.example", "https://*.site.example"]},
            ["E026 CSRF_TRUSTED_ORIGINS"] * 2,
        ),
        ({"RUN_KEYS": []}, ["E028 RUN_KEYS"]),
        ({"RUN_KEYS": [], "RECORD_RUNS": False}, []),
        ({"QUEUE_URL_PREFIX": ""}, ["E029 QUEUE_URL_PREFIX"]),
        ({"QUEUE_URL_PREFIX": "", "BROKER_URL": "memory://"}, []),
    ],
)
def test_what_production_must_not_have_is_found(settings, changed, told):
    for name, value in {**SAFE, **changed}.items():
        setattr(settings, name, value)
    project = Project(shipped, {})
    assert [each.split(":")[0] for check in ALL for each in found(check, project)] == told


@pytest.mark.parametrize(
    ("engine", "is_wrong"), [("django.db.backends.sqlite3", True), ("django_app.postgresql", False)]
)
def test_a_database_in_a_file_is_found(engine, is_wrong, settings, monkeypatch):
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", engine)
    told = found(production.database, Project(shipped, {}))
    assert [each.split(":")[0] for each in told] == (['E027 DATABASES["default"]'] if is_wrong else [])
