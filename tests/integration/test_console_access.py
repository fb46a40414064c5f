"""Who may see and do what: every address of the console, for every kind of person, by every method."""

from __future__ import annotations

import importlib
import json
import uuid

import pytest
from celery import shared_task
from django.apps import apps
from django.contrib.auth.models import AnonymousUser, Group, Permission, User
from django.test import Client
from django.urls import URLPattern, URLResolver
from django.utils import timezone

from django_app.console import tokens
from django_app.console.access import access_of, visible_runs
from django_app.console.actions import ACTIONS
from django_app.console.models import ApiToken, AuditEntry, TenantMember
from django_app.console.roles import Role
from django_app.console.urls import urlpatterns
from django_app.ledger.models import Attempt, Pause, Run, Schedule, Worker
from django_app.ledger.states import State

pytestmark = pytest.mark.django_db

PEOPLE = (
    "stranger",
    "nobody",
    "viewer",
    "operator",
    "admin",
    "superuser",
    "tenant viewer",
    "tenant operator",
    "tenant admin",
)
METHODS = ("get", "post", "put", "patch", "delete")
SECRET = "hunter2"


def run(**fields) -> Run:
    """A run as it may stand in the ledger."""
    now = timezone.now()
    defaults = {
        "id": str(uuid.uuid4()),
        "task": "shop.tasks.ship",
        "queue": "default",
        "state": State.FAILED,
        "arguments": json.dumps({"args": [1], "kwargs": {"password": "[redacted]"}}),
        "created_at": now,
        "publish_claimed_until": now,
    }
    return Run.objects.create(**{**defaults, **fields})


def message(*args: object, **kwargs: object) -> str:
    """A message as the ledger keeps it."""
    options = {"headers": {}, "content_type": "application/json"}
    return json.dumps({"body": json.dumps([args, kwargs, {}]), "encoding": "utf-8", "options": options})


def worker(**fields) -> Worker:
    now = timezone.now()
    defaults = {
        "name": "general@host",
        "kind": "prefork",
        "concurrency": 2,
        "pid": 17,
        "started_at": now,
        "seen_at": now,
        "lease_until": now + timezone.timedelta(minutes=1),
    }
    return Worker.objects.create(**{**defaults, **fields})


@shared_task(name="tests.console_access.nothing")
def nothing() -> None:
    """Scheduled, never run."""


def schedule(**fields) -> Schedule:
    """A schedule of somebody's, due each day."""
    defaults = {"name": "daily", "task": nothing.name, "timing": "0 8 * * *", "zone": "Europe/Berlin"}
    return Schedule.objects.create(**{**defaults, **fields})


def make_groups() -> None:
    """As the migration does: other tests may have emptied the tables."""
    importlib.import_module("django_app.console.migrations.0002_roles").make_groups(apps, None)


def person(kind: str, name: str = "") -> User | AnonymousUser:
    """Somebody of that kind; "tenant operator" is one of the tenant acme."""
    make_groups()
    if kind == "stranger":
        return AnonymousUser()
    # Without a password, whose hash would take longer than all else here.
    user = User.objects.create_user(name or kind.replace(" ", "-"))
    role = kind.removeprefix("tenant ")
    if role == "superuser":
        user.is_superuser = True
        user.save()
    elif role != "nobody":
        user.groups.add(Group.objects.get(name=f"Cloudqueue {role}s"))
    if kind.startswith("tenant "):
        TenantMember.objects.create(user=user, tenant="acme")
    return user


def client_of(user: User | AnonymousUser) -> Client:
    client = Client(raise_request_exception=False)
    if isinstance(user, User):
        client.force_login(user)
    return client


# The matrix ----------------------------------------------------------------------------------------------------------

#: What each of PEOPLE is answered, in their order. 302: the way to the sign-in page for strangers, else that it was
#: done, or explained. Whatever is not named is 405 for those who may see anything there.
ALL = (302, 200, 200, 200, 200, 200, 200, 200, 200)
INSTALLATION = (302, 404, 200, 200, 200, 200, 404, 404, 404)
ADMINS = (302, 404, 403, 403, 200, 200, 404, 404, 404)
MOVED = (302,) * 9
NOWHERE = (302, *(404,) * 8)
WRONG_METHOD = (302, *(405,) * 8)

PAGES: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "index": ("", {"get": MOVED}),
    "runs": ("runs/", {"get": ALL}),
    # One that only those see who see all runs; and one that is of the tenant as well.
    "run": ("run/{other}", {"get": (302, 404, 200, 200, 200, 200, 404, 404, 404)}),
    "edit": ("edit/{acme}", {"get": (302, 404, 403, 200, 200, 200, 403, 200, 200)}),
    "schedules": ("schedules/", {"get": ALL}),
    "schedule": ("schedule/other daily", {"get": (302, 404, 200, 200, 200, 200, 404, 404, 404)}),
    "new_schedule": (
        "schedules/new/",
        {
            "get": (302, 404, 403, 200, 200, 200, 404, 404, 404),
            "post": (302, 404, 403, 400, 400, 400, 404, 404, 404),
        },
    ),
    "edit_schedule": (
        "edit-schedule/acme daily",
        {
            "get": (302, 404, 403, 200, 200, 200, 403, 200, 200),
            "post": (302, 404, 403, 400, 400, 400, 403, 400, 400),
        },
    ),
    "queues": ("queues/", {"get": INSTALLATION}),
    "workers": ("workers/", {"get": INSTALLATION}),
    "failures": ("failures/", {"get": ALL}),
    "dead_letters": ("dead-letters/", {"get": INSTALLATION}),
    "dead_letters_of": ("dead-letters/default/", {"get": INSTALLATION}),
    "audit": ("audit/", {"get": ADMINS}),
    "tokens": ("tokens/", {"get": ALL, "post": (302, *(400,) * 8)}),
    "revoke_token": ("tokens/{token}/revoke/", {"post": NOWHERE}),
    "act": ("actions/unknown/", {"post": NOWHERE}),
}
API_ALL = (401, 200, 200, 200, 200, 200, 200, 200, 200)
API_INSTALLATION = (401, *INSTALLATION[1:])
API: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "api_runs": ("runs", {"get": API_ALL}),
    "api_run": ("runs/{other}", {"get": (401, 404, 200, 200, 200, 200, 404, 404, 404)}),
    "api_schedules": ("schedules", {"get": API_ALL}),
    "api_schedule": ("schedules/other daily", {"get": (401, 404, 200, 200, 200, 200, 404, 404, 404)}),
    "api_schedule_preview": ("schedule-preview?timing=every+hour", {"get": API_ALL}),
    "api_queues": ("queues", {"get": API_INSTALLATION}),
    "api_workers": ("workers", {"get": API_INSTALLATION}),
    "api_failures": ("failures", {"get": API_ALL}),
    "api_dead_letter_counts": ("dead-letters", {"get": API_INSTALLATION}),
    # 409: the tests' broker is not SQS.
    "api_dead_letters": ("dead-letters/default", {"get": (401, 404, 409, 409, 409, 409, 404, 404, 404)}),
    "api_audit": ("audit", {"get": (401, *ADMINS[1:])}),
    "api_openapi": ("openapi.json", {"get": API_ALL}),
    "api_nothing": ("nowhere", dict.fromkeys(METHODS, (401, *((404,) * 8)))),
}
OPERATORS = ("operator", "admin", "superuser")
_TENANTS_TOO = ({*OPERATORS, "tenant operator", "tenant admin"}, {"viewer", "tenant viewer"})
#: For each action: what it is told, and who may do it; who sees its object and may not; all others find nothing there.
DOING: dict[str, tuple[dict[str, object], set[str], set[str]]] = {
    "revoke": ({"run": "{acme}"}, {*OPERATORS, "tenant operator", "tenant admin"}, {"viewer", "tenant viewer"}),
    "retry": ({"run": "{acme}"}, {*OPERATORS, "tenant operator", "tenant admin"}, {"viewer", "tenant viewer"}),
    "retry-failures": (
        {"fingerprint": "0" * 16},
        {*OPERATORS, "tenant operator", "tenant admin"},
        {"nobody", "viewer", "tenant viewer"},
    ),
    "pause": ({"kind": "queue", "name": "default", "reason": "a test"}, {*OPERATORS}, {"viewer"}),
    "resume": ({"kind": "queue", "name": "default"}, {*OPERATORS}, {"viewer"}),
    "stop-worker": ({"worker": "general@host"}, {*OPERATORS}, {"viewer"}),
    "redrive": ({"queue": "default"}, {*OPERATORS}, {"viewer"}),
    "discard": ({"queue": "default"}, {"admin", "superuser"}, {"viewer", "operator"}),
    "create-schedule": (
        {"name": "new", "task": "tests.console_access.nothing", "timing": "every hour"},
        {*OPERATORS},
        {"viewer"},
    ),
    "change-schedule": ({"schedule": "acme daily", "timing": "every hour"}, *_TENANTS_TOO),
    "delete-schedule": ({"schedule": "acme daily"}, *_TENANTS_TOO),
    "pause-schedule": ({"schedule": "acme daily"}, *_TENANTS_TOO),
    "resume-schedule": ({"schedule": "acme daily"}, *_TENANTS_TOO),
    "run-schedule": ({"schedule": "acme daily"}, *_TENANTS_TOO),
    "backfill-schedule": (
        {"schedule": "acme daily", "since": "2026-01-05T00:00", "until": "2026-01-06T00:00"},
        *_TENANTS_TOO,
    ),
    "sync-schedule": ({"schedule": "acme daily"}, *_TENANTS_TOO),
}


def names(patterns: list[URLPattern | URLResolver]) -> set[str]:
    """Names of all addresses, those below others as well."""
    found: set[str] = set()
    for each in patterns:
        found |= names(each.url_patterns) if isinstance(each, URLResolver) else {str(each.name)}
    return found


def test_every_address_stands_in_the_matrix():
    assert names(urlpatterns) == set(PAGES) | set(API) | {f"api_act_{name}" for name in ACTIONS}


def test_every_action_stands_in_the_matrix():
    assert set(DOING) == set(ACTIONS)


@pytest.fixture
def there():
    """What the matrix asks for: runs and schedules of the tenant and of another one, another person's token."""
    owner = User.objects.create_user("somebody-else")
    token, _ = tokens.issue(owner, "theirs")
    worker()
    schedule(name="acme daily", tenant="acme")
    schedule(name="other daily", tenant="other")
    return {"acme": run(tenant="acme", message=message(1)).pk, "other": run(tenant="other").pk, "token": token.pk}


def send(client: Client, method: str, path: str, fields: dict | None = None):
    return client.generic(method.upper(), path, json.dumps(fields or {}), "application/json")


@pytest.mark.parametrize("kind", PEOPLE)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_answers_each_person_by_each_method_as_the_matrix_says(name, kind, there):
    path, expected = PAGES[name]
    client = client_of(person(kind))
    for method in METHODS:
        told = client.generic(method.upper(), f"/console/{path.format(**there)}").status_code
        assert told == expected.get(method, WRONG_METHOD)[PEOPLE.index(kind)], (method, path)


@pytest.mark.parametrize("kind", PEOPLE)
@pytest.mark.parametrize("name", API)
def test_an_address_of_the_api_answers_each_person_by_each_method_as_the_matrix_says(name, kind, there):
    path, expected = API[name]
    client = client_of(person(kind))
    for method in METHODS:
        answer = send(client, method, f"/console/api/v1/{path.format(**there)}")
        wrong_method = (401, *(405,) * 8)
        assert answer.status_code == expected.get(method, wrong_method)[PEOPLE.index(kind)], (method, path)
        assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("kind", PEOPLE)
@pytest.mark.parametrize("name", DOING)
def test_an_action_is_done_for_those_who_may_and_for_nobody_else(name, kind, there):
    raw, may, see = DOING[name]
    fields = {key: value.format(**there) for key, value in raw.items()}
    client = client_of(person(kind))
    page = client.post(f"/console/actions/{name}/", fields).status_code
    acted = AuditEntry.objects.filter(action=name).count()
    called = send(client, "post", f"/console/api/v1/actions/{name}", fields).status_code
    if kind == "stranger":
        assert (page, called, acted) == (302, 401, 0)
    elif kind in may:
        # Done, or told why not: both are written down. 502: here is no EventBridge.
        assert (page, called in (200, 409, 502)) == (302, True), called
        assert acted >= 1
    else:
        status = 403 if kind in see else 404
        assert (page, called, acted) == (status, status, 0)
    for method in ("get", "put", "patch", "delete"):
        assert client.generic(method.upper(), f"/console/actions/{name}/").status_code == (
            302 if kind == "stranger" else 405
        )
        wrong = 401 if kind == "stranger" else 405
        assert send(client, method, f"/console/api/v1/actions/{name}").status_code == wrong


@pytest.mark.parametrize("kind", PEOPLE)
@pytest.mark.parametrize("name", ["revoke", "retry"])
def test_what_one_may_not_see_is_not_found_whatever_one_may_do_elsewhere(name, kind, there):
    client = client_of(person(kind))
    page = client.post(f"/console/actions/{name}/", {"run": there["other"]}).status_code
    if kind == "stranger":
        assert page == 302
    elif kind in ("nobody", "tenant viewer", "tenant operator", "tenant admin"):
        assert page == 404
    else:
        assert page in (302, 403)
    missing = client.post(f"/console/actions/{name}/", {"run": "no-such-run"}).status_code
    assert missing == (302 if kind == "stranger" else 404)


def test_strangers_are_sent_to_the_sign_in_page():
    answer = Client().get("/console/queues/")
    assert answer.headers["location"] == "/sign-in/?next=/console/queues/"


# Runs ----------------------------------------------------------------------------------------------------------------


def test_people_without_a_role_see_the_runs_that_they_asked_for_and_no_others():
    user = person("nobody", "ada")
    mine, theirs, systems = run(requested_by="ada"), run(requested_by="bob"), run()
    for owner in ("ada", "bob", ""):
        schedule(name=f"of {owner or 'the code'}", requested_by=owner)
    client = client_of(user)
    assert [each["name"] for each in client.get("/console/api/v1/schedules").json()["schedules"]] == ["of ada"]
    assert client.get("/console/schedule/of ada").status_code == 200
    assert client.get("/console/schedule/of bob").status_code == 404
    assert client.post("/console/actions/pause-schedule/", {"schedule": "of ada"}).status_code == 403
    page = client.get("/console/runs/").content.decode()
    assert mine.pk in page
    assert theirs.pk not in page
    assert systems.pk not in page
    assert client.get(f"/console/run/{mine.pk}").status_code == 200
    assert client.get(f"/console/run/{theirs.pk}").status_code == 404
    assert [each["id"] for each in client.get("/console/api/v1/runs").json()["runs"]] == [mine.pk]
    failures = client.get("/console/api/v1/failures").json()["failures"]
    assert [each["newest_id"] for each in failures] == [mine.pk]
    assert failures[0]["runs"] == 1


def test_people_without_a_role_may_not_act_on_their_own_runs_either():
    client = client_of(person("nobody", "ada"))
    mine = run(requested_by="ada")
    assert client.post("/console/actions/retry/", {"run": mine.pk}).status_code == 403
    page = client.get(f"/console/run/{mine.pk}").content.decode()
    assert "Retry" not in page
    assert "Revoke" not in page


def test_no_filter_leads_to_another_persons_or_tenants_runs():
    run(requested_by="bob", tenant="other", fingerprint="a" * 16, task="other.task")
    for kind in ("nobody", "tenant admin"):
        client = client_of(person(kind))
        for query in (
            "tenant=other",
            "task=other.task",
            "fingerprint=" + "a" * 16,
            "queue=default",
            "state=failed",
            "q=args",
        ):
            assert client.get(f"/console/api/v1/runs?{query}").json()["runs"] == [], query


def test_a_tenants_people_see_that_tenants_runs_only_and_no_workers_or_queues_in_the_menu():
    acme, other = run(tenant="acme"), run(tenant="other")
    page = client_of(person("tenant operator")).get("/console/runs/").content.decode()
    assert acme.pk in page
    assert other.pk not in page
    assert "/console/queues/" not in page
    assert "/console/audit/" not in page


def test_a_run_of_the_same_workflow_that_is_not_theirs_is_not_shown():
    mine = run(requested_by="ada", root_id="root", group_id="group", parent_id="parent")
    theirs = run(requested_by="bob", root_id="root", group_id="group", task="secret.task")
    run(id="parent", requested_by="bob", task="secret.parent")
    client = client_of(person("nobody", "ada"))
    page = client.get(f"/console/run/{mine.pk}").content.decode()
    assert theirs.pk not in page
    assert "secret." not in page
    assert [each["id"] for each in client.get(f"/console/api/v1/runs/{mine.pk}").json()["workflow"]] == [mine.pk]


def test_a_name_that_was_never_set_is_nobodys():
    run(requested_by="")
    assert not visible_runs(AnonymousUser()).exists()
    assert visible_runs(access_of(AnonymousUser())).count() == 0


def test_somebody_who_has_left_sees_nothing():
    user = person("admin")
    User.objects.filter(pk=user.pk).update(is_active=False)
    user = User.objects.get(pk=user.pk)
    run(requested_by=user.username)
    assert not visible_runs(user).exists()


def test_a_role_can_be_given_without_its_group():
    user = person("nobody")
    user.user_permissions.add(Permission.objects.get(codename="operate", content_type__app_label="console"))
    assert access_of(User.objects.get(pk=user.pk)).role == Role.OPERATOR


def test_superusers_are_of_no_tenant():
    user = person("superuser")
    TenantMember.objects.create(user=user, tenant="acme")
    assert access_of(user).sees_installation


# Secrets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in PEOPLE if kind != "stranger"])
def test_no_page_and_no_answer_shows_what_the_redacted_copy_hides(kind):
    user = person(kind)
    made = run(message=message(password=SECRET), requested_by=user.username, tenant="acme", fingerprint="f" * 16)
    Attempt.objects.create(run=made, number=1, ended_at=timezone.now(), outcome="failed")
    client = client_of(user)
    edited = client.get(f"/console/edit/{made.pk}")
    assert edited.status_code == (403 if kind in ("nobody", "viewer", "tenant viewer") else 200)
    for path in (
        "/console/runs/",
        f"/console/run/{made.pk}",
        f"/console/edit/{made.pk}",
        "/console/failures/",
        "/console/api/v1/runs",
        f"/console/api/v1/runs/{made.pk}",
        "/console/audit/",
    ):
        answer = client.get(path)
        assert SECRET not in answer.content.decode(), path


def test_a_search_finds_nothing_by_what_is_hidden():
    run(message=message(password=SECRET))
    client = client_of(person("admin"))
    assert client.get(f"/console/api/v1/runs?q={SECRET}").json()["runs"] == []
    assert len(client.get("/console/api/v1/runs?q=redacted").json()["runs"]) == 1


# Changes need a token of the page ------------------------------------------------------------------------------------


def test_no_other_site_can_have_something_done():
    user = person("superuser")
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    made = run()
    assert client.post("/console/actions/retry/", {"run": made.pk}).status_code == 403
    assert client.post("/console/tokens/", {"name": "x"}).status_code == 403
    answer = client.post("/console/api/v1/actions/retry", {"run": made.pk}, content_type="application/json")
    assert answer.status_code == 403
    assert answer.json()["error"]["thing"] == "CSRF token"
    assert not AuditEntry.objects.exists()


def test_a_page_of_ours_may_call_the_api_with_its_csrf_token():
    client = Client(enforce_csrf_checks=True)
    client.force_login(person("superuser"))
    client.get("/console/runs/")
    client.get("/console/tokens/")
    token = client.cookies["csrftoken"].value
    answer = client.post(
        "/console/api/v1/actions/pause",
        {"kind": "queue", "name": "low"},
        content_type="application/json",
        headers={"X-CSRFToken": token},
    )
    assert answer.status_code == 200
    assert Pause.objects.get().by == "superuser"


# Tokens --------------------------------------------------------------------------------------------------------------


def bearer(text: str, scheme: str = "Bearer") -> dict[str, str]:
    return {"Authorization": f"{scheme} {text}"}


def test_a_token_has_its_owners_rights_and_no_others():
    viewer = person("viewer")
    _, text = tokens.issue(viewer, "dashboard")
    other = run()
    client = Client(enforce_csrf_checks=True)
    assert client.get(f"/console/api/v1/runs/{other.pk}", headers=bearer(text)).status_code == 200
    assert client.get("/console/api/v1/audit", headers=bearer(text)).status_code == 403
    body = {"kind": "queue", "name": "low"}
    asked = client.post("/console/api/v1/actions/pause", body, "application/json", headers=bearer(text))
    assert asked.status_code == 403
    viewer.groups.add(Group.objects.get(name="Cloudqueue operators"))
    asked = client.post("/console/api/v1/actions/pause", body, "application/json", headers=bearer(text, "bearer"))
    assert asked.status_code == 200
    entry = AuditEntry.objects.get(action="pause")
    assert (entry.actor, entry.detail["token"]) == ("viewer", "dashboard")


def test_a_token_opens_no_page():
    _, text = tokens.issue(person("superuser"), "x")
    assert Client().get("/console/runs/", headers=bearer(text)).status_code == 302


@pytest.mark.parametrize("text", ["", "cq_unknown", "x" * 200, "cq_" + "x" * 43, "cq_\x00", "Ünïcode"])
def test_what_is_no_token_is_refused_though_a_session_is_there(text):
    client = client_of(person("superuser"))
    answer = client.get("/console/api/v1/runs", headers=bearer(text))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_password_is_no_token():
    person("superuser", "root")
    assert (
        Client().get("/console/api/v1/runs", headers={"Authorization": "Basic cm9vdDphLXBhc3N3b3Jk"}).status_code == 401
    )


def test_a_token_that_was_revoked_or_whose_owner_has_left_is_refused():
    user = person("viewer")
    token, text = tokens.issue(user, "one")
    tokens.revoke(user, token.pk)
    assert Client().get("/console/api/v1/runs", headers=bearer(text)).status_code == 401
    _, text = tokens.issue(user, "two")
    assert Client().get("/console/api/v1/runs", headers=bearer(text)).status_code == 200
    User.objects.filter(pk=user.pk).update(is_active=False)
    assert Client().get("/console/api/v1/runs", headers=bearer(text)).status_code == 401


def test_a_token_is_shown_once_and_kept_as_a_digest_only():
    user = person("nobody")
    client = client_of(user)
    page = client.post("/console/tokens/", {"name": "deploys"}).content.decode()
    token = ApiToken.objects.get()
    text = page.partition("<code>cq_")[2].partition("</code>")[0]
    assert len(text) >= 43
    assert text not in str(list(ApiToken.objects.values_list())) + str(list(AuditEntry.objects.values_list()))
    assert text not in client.get("/console/tokens/").content.decode()
    assert Client().get("/console/api/v1/runs", headers=bearer(f"cq_{text}")).status_code == 200
    token.refresh_from_db()
    assert token.used_at is not None


def test_people_see_and_revoke_their_own_tokens_only():
    theirs, _ = tokens.issue(person("admin"), "theirs")
    client = client_of(person("superuser"))
    assert "theirs" not in client.get("/console/tokens/").content.decode()
    assert client.post(f"/console/tokens/{theirs.pk}/revoke/").status_code == 404
    theirs.refresh_from_db()
    assert theirs.revoked_at is None
    assert client.post(f"/console/tokens/{10**30}/revoke/").status_code == 404


def test_tokens_are_bounded_and_their_names_are_used_once():
    client = client_of(person("viewer"))
    for number in range(tokens.MOST):
        assert client.post("/console/tokens/", {"name": f"number {number}"}).status_code == 200
    assert client.post("/console/tokens/", {"name": "one more"}).status_code == 409
    ApiToken.objects.filter(name="number 0").update(revoked_at=timezone.now())
    again = client.post("/console/tokens/", {"name": "number 1"})
    assert again.status_code == 409
    assert "one of that name is in use" in again.content.decode()
    assert client.post("/console/tokens/", {"name": "number 0"}).status_code == 200
    assert client.post("/console/tokens/", {"name": "  "}).status_code == 400
    assert client.post("/console/tokens/", {"name": "x" * 101}).status_code == 400


# The admin -----------------------------------------------------------------------------------------------------------


def test_the_admin_shows_audit_entries_and_changes_none():
    entry = AuditEntry.objects.create(at=timezone.now(), actor="ada", action="retry", target="run 1", outcome="done")
    user = person("superuser")
    User.objects.update(is_staff=True)
    client = client_of(user)
    assert "run 1" in client.get("/admin/console/auditentry/").content.decode()
    assert client.get(f"/admin/console/auditentry/{entry.pk}/change/").status_code == 200
    assert client.post(f"/admin/console/auditentry/{entry.pk}/change/", {"actor": "bob"}).status_code == 403
    assert client.post(f"/admin/console/auditentry/{entry.pk}/delete/", {"post": "yes"}).status_code == 403
    assert client.get("/admin/console/auditentry/add/").status_code == 403


def test_an_admin_can_revoke_anybodys_token_and_sees_no_digest():
    token, text = tokens.issue(person("viewer"), "leaked")
    user = person("superuser")
    User.objects.filter(pk=user.pk).update(is_staff=True)
    client = client_of(user)
    page = client.get(f"/admin/console/apitoken/{token.pk}/change/").content.decode()
    assert "leaked" in page
    assert token.digest not in page
    client.post("/admin/console/apitoken/", {"action": "revoke", "_selected_action": [token.pk]})
    assert Client().get("/console/api/v1/runs", headers=bearer(text)).status_code == 401
    assert AuditEntry.objects.get(action="revoke-token").actor == "superuser"
