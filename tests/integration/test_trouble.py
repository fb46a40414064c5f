"""What visitors see while the site is worked on, or something of ours fails."""

from __future__ import annotations

import importlib

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError
from django.test import AsyncClient, Client, override_settings

from django_app import addresses, env


@pytest.fixture
def visitor() -> Client:
    return Client(raise_request_exception=False)


@override_settings(MAINTENANCE=True)
def test_a_site_that_is_worked_on_says_so_and_answers_probes(visitor):
    """Without a database: none is set up here."""
    answer = visitor.get("/sign-in/")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "120")
    assert answer.headers["Cache-Control"] == "no-store"
    assert "being worked on" in answer.text
    assert visitor.post("/console/api/runs").status_code == 503
    assert visitor.get("/healthz").status_code == 200
    answer = visitor.get("/datasets/", headers={"Accept": "application/json"})
    assert answer.json()["error"] == {"rule": "The site is being worked on.", "remedy": "Try again in 120 seconds."}


@override_settings(MAINTENANCE=True)
async def _ask_async() -> int:
    return (await AsyncClient().get("/sign-in/")).status_code


def test_a_site_on_an_asgi_server_is_closed_as_well():
    from asgiref.sync import async_to_sync

    assert async_to_sync(_ask_async)() == 503


def test_a_database_that_is_away_is_a_503_without_its_cause(visitor, monkeypatch):
    def fail(*args, **kwargs):
        raise OperationalError("connection to db.internal failed for user web")

    monkeypatch.setattr("django_app.console.sign_in.SignInView.get_context_data", fail)
    answer = visitor.get("/sign-in/")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    assert "db.internal" not in answer.text
    assert "Nothing is lost" in answer.text


def test_addresses_in_mails_carry_the_sites_path_once(settings):
    settings.PUBLIC_URL, settings.PUBLIC_PREFIX = "https://site.example/dev", "/dev"
    # A thread of a worker knows no prefix.
    assert addresses.public("/datasets/1/") == "https://site.example/dev/datasets/1/"
    assert addresses.public("/dev/datasets/1/") == "https://site.example/dev/datasets/1/"
    assert addresses.public("/developers/") == "https://site.example/dev/developers/"
    settings.PUBLIC_URL, settings.PUBLIC_PREFIX = "https://site.example", ""
    assert addresses.public("/datasets/1/") == "https://site.example/datasets/1/"


def test_a_pattern_for_secrets_that_is_none_is_said_at_the_start(monkeypatch):
    monkeypatch.setenv("REDACTED_ARGUMENTS", "passw|(")
    try:
        with pytest.raises(ImproperlyConfigured, match=r'REDACTED_ARGUMENTS="passw\|\(" is no regular expression'):
            importlib.reload(env)
    finally:
        monkeypatch.undo()
        importlib.reload(env)
