"""Where a page gets the address of a socket: who gets one, for what, how often, and what it looks like."""

from __future__ import annotations

import base64
import datetime
import json
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from django_app import housekeeping
from django_app.console import tokens as api_tokens
from django_app.datasets.models import Dataset
from django_app.realtime import marks, tokens
from django_app.realtime.models import Mark
from tests.integration.test_console_access import client_of, person, run
from tests.realtime_sockets import ask_address, token_of
from tests.threads import at_once

pytestmark = pytest.mark.django_db

GATEWAY = "wss://a1b2.execute-api.eu-central-1.amazonaws.com/prod"


@pytest.fixture(autouse=True)
def sockets(settings):
    settings.SOCKETS_URL = GATEWAY
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}


@pytest.fixture
def alice() -> Client:
    return client_of(person("nobody", "alice"))


@pytest.mark.parametrize("pk", ["7", "a/b c", "50%", "ä&token=x#?", "🚲"])
def test_the_address_of_a_gateway_has_path_and_token_in_its_query(alice, pk: str):
    run(id=pk, requested_by="alice")
    answer = ask_address(alice, f"/ws/runs/{quote(pk, safe='')}/")
    assert answer.status_code == 200
    told = answer.json()
    assert told["expires_in"] == 60
    assert told["url"].startswith(f"{GATEWAY}?path=")
    query = parse_qs(urlsplit(told["url"]).query, strict_parsing=True)
    assert query["path"] == [f"/ws/runs/{pk}/"]
    assert tokens.redeem(query["token"][0], f"/ws/runs/{pk}/").user == str(User.objects.get().pk)
    assert set(query) == {"path", "token"}
    assert "no-store" in answer["Cache-Control"]


@pytest.mark.parametrize(
    ("public", "visited", "expected"),
    [
        ("http://testserver", "testserver", "ws://testserver/ws/runs/a%2520b/"),
        ("https://site.example/dev", "site.example", "wss://site.example/dev/ws/runs/a%2520b/"),
        ("http://127.0.0.1:8000", "localhost:8000", "ws://localhost:8000/ws/runs/a%2520b/"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", "ws://127.0.0.1:8000/ws/runs/a%2520b/"),
        ("http://127.0.0.1:8000", "evil.example", "ws://127.0.0.1:8000/ws/runs/a%2520b/"),
    ],
)
def test_the_address_of_a_server_that_holds_sockets_is_where_the_page_is(
    alice, settings, public: str, visited: str, expected: str
):
    settings.SOCKETS_URL = "redis://127.0.0.1:6379/0"
    parts = urlsplit(public)
    settings.PUBLIC_ORIGIN, settings.PUBLIC_PREFIX = f"{parts.scheme}://{parts.netloc}", parts.path
    settings.EXTRA_HOSTS, settings.ALLOWED_HOSTS = ["localhost"], ["*"]
    run(id="a%20b", requested_by="alice")
    answer = ask_address(alice, "/ws/runs/a%2520b/", headers={"host": visited})
    url, _, query = answer.json()["url"].partition("?")
    assert url == expected
    assert list(parse_qs(query)) == ["token"]


PEOPLE = {
    "nobody": ("own",),
    "viewer": ("own", "acme", "other", "console"),
    "tenant operator": ("acme",),
    "superuser": ("own", "acme", "other", "console"),
}


@pytest.mark.parametrize("kind", PEOPLE)
def test_each_person_gets_addresses_of_what_they_may_see(kind: str):
    user = person(kind)
    somebody = person("nobody", "somebody")
    made = {
        "own": f"/ws/runs/{run(requested_by=user.get_username()).pk}/",
        "acme": f"/ws/runs/{run(tenant='acme').pk}/",
        "other": f"/ws/runs/{run(tenant='other').pk}/",
        "none": "/ws/runs/there-is-none/",
        "console": "/ws/console/",
        "dataset": f"/ws/datasets/{Dataset.objects.create(owner=user, upload_expires_at=timezone.now()).pk}/",
        "theirs": f"/ws/datasets/{Dataset.objects.create(owner=somebody, upload_expires_at=timezone.now()).pk}/",
    }
    answers = {name: ask_address(client_of(user), path) for name, path in made.items()}
    may = {*PEOPLE[kind], "dataset"}
    assert {name: answer.status_code for name, answer in answers.items()} == {
        name: 200 if name in may else 404 for name in made
    }
    # Whether there is something else is not told.
    assert len({answers[name].content for name in made if name not in may}) <= 1


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "ws/console/",
        "//ws/console/",
        "/ws/console",
        "/ws/console/?token=x",
        "/WS/console/",
        "/ws/runs/",
        "/ws/runs//",
        "/ws/runs/%00/",
        "/ws/runs/%ff/",
        "/ws/datasets/7/",
        "/ws/datasets/5068EB7D-C199-422A-AD00-B0FAEDFDA8D6/",
        "https://evil.example/ws/console/",
        "/ws/runs/" + "x" * 5000 + "/",
        "/ws/runs/\ud83d/".encode("utf-8", "replace").decode(),
        "/realtime/address/",
    ],
)
def test_a_path_that_leads_to_no_socket_is_not_found(path: str):
    client = client_of(person("superuser"))
    answer = ask_address(client, path)
    assert answer.status_code == 404
    assert answer.json()["error"].startswith("path: there is nothing there")


def test_a_stranger_is_told_to_sign_in():
    answer = ask_address(Client(), "/ws/console/")
    assert (answer.status_code, answer.json()) == (401, {"error": "Nobody has signed in. Sign in, and ask again."})


def test_a_person_who_was_deactivated_is_a_stranger(alice):
    User.objects.update(is_active=False)
    assert ask_address(alice, "/ws/console/").status_code == 401


def test_a_token_of_the_api_gets_no_address(alice):
    _, text = api_tokens.issue(User.objects.get(), "a program")
    answer = Client().post(
        reverse("realtime:address"), {"path": "/ws/console/"}, headers={"authorization": f"Bearer {text}"}
    )
    assert answer.status_code == 401


@pytest.mark.parametrize("method", ["get", "put", "patch", "delete", "head", "options"])
def test_an_address_is_asked_for_by_post(alice, method: str):
    answer = getattr(alice, method)(reverse("realtime:address"))
    assert (answer.status_code, answer["Allow"]) == (405, "POST")


def test_a_page_of_another_site_cannot_ask():
    client = Client(enforce_csrf_checks=True)
    client.force_login(person("superuser"))
    assert ask_address(client, "/ws/console/").status_code == 403
    client.cookies["csrftoken"] = "x" * 32
    assert ask_address(client, "/ws/console/", headers={"x-csrftoken": "x" * 32}).status_code == 200


def test_a_site_without_sockets_says_so(alice, settings):
    settings.SOCKETS_URL = ""
    answer = ask_address(alice, "/ws/console/")
    assert answer.status_code == 503
    assert "SOCKETS_URL is not set" in answer.json()["error"]


def test_addresses_are_given_so_many_times_a_minute_to_each_person(alice, monkeypatch):
    monkeypatch.setattr(marks, "MOST_ADDRESSES", 5)
    run(id="7", requested_by="alice")
    others = client_of(person("superuser"))
    answers = []
    # A minute may end in between; in no minute are there more.
    while len(answers) < 4 * marks.MOST_ADDRESSES and (not answers or answers[-1].status_code == 200):
        answers.append(ask_address(alice, "/ws/runs/7/"))
    assert answers[-1].status_code == 429
    assert len(answers) > marks.MOST_ADDRESSES
    assert 1 <= int(answers[-1]["Retry-After"]) <= 60
    assert "Ask again in" in answers[-1].json()["error"]
    assert ask_address(others, "/ws/runs/7/").status_code == 200


def test_what_is_asked_for_in_vain_counts_as_well(alice):
    assert ask_address(alice, "/nothing/").status_code == 404
    assert Mark.objects.get().count == 1


def test_a_token_tells_nothing_that_is_secret(alice):
    run(id="7", requested_by="alice")
    user = User.objects.get()
    token = token_of(ask_address(alice, "/ws/runs/7/").json()["url"])
    body = token.partition(":")[0]
    told = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert told["user"] == str(user.pk)
    session = alice.session
    for secret in (session.session_key, user.password, user.get_session_auth_hash()):
        assert secret not in json.dumps(told)
    assert len(token) < 500


def test_a_token_outlives_a_new_key_that_the_old_one_is_kept_beside(alice, settings):
    user = User.objects.get()
    until = timezone.now() + datetime.timedelta(hours=1)
    token = tokens.issue(user, alice.session.session_key, until, "/ws/runs/7/")
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another"
    claims = tokens.redeem(token, "/ws/runs/7/")
    assert claims.knows_password_of(user)
    settings.SECRET_KEY_FALLBACKS = []
    assert not claims.knows_password_of(user)


# Marks ---------------------------------------------------------------------------------------------------------------


def test_the_minutes_round_forgets_what_does_not_matter_any_more():
    now = timezone.now()
    Mark.objects.bulk_create(
        Mark(key=f"token:{number}", until=now + datetime.timedelta(seconds=number)) for number in range(-3, 3)
    )
    assert housekeeping.run(now)["marks_forgotten"] == 3
    assert Mark.objects.count() == 3
    assert housekeeping.run(now)["marks_forgotten"] == 0


def test_one_round_forgets_so_many_and_the_oldest_first():
    now = timezone.now()
    Mark.objects.bulk_create(
        Mark(key=f"token:{number}", until=now - datetime.timedelta(seconds=number)) for number in range(1, 6)
    )
    assert marks.forget(now, 2) == 2
    assert set(Mark.objects.values_list("key", flat=True)) == {"token:1", "token:2", "token:3"}


@pytest.mark.django_db(transaction=True)
def test_of_many_who_come_with_one_token_at_once_one_is_let_in():
    until = timezone.now() + datetime.timedelta(minutes=1)
    assert sorted(at_once(6, lambda _: marks.spend("one", until))) == [False] * 5 + [True]


@pytest.mark.django_db(transaction=True)
def test_those_who_ask_at_once_are_all_counted(monkeypatch):
    monkeypatch.setattr(marks, "MOST_ADDRESSES", 4)
    answers = at_once(8, lambda _: marks.admit(7))
    counts = list(Mark.objects.values_list("count", flat=True))
    # All in one minute, or in two.
    assert max(counts) <= 4
    assert answers.count(0) == sum(counts)
    assert answers.count(0) == 4 or len(counts) == 2
