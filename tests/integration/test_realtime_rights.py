"""Who may open a socket and for how long: one suite over API Gateway's layer, Redis and memory."""

from __future__ import annotations

import datetime
import json

import pytest
from django.contrib.auth.models import Group, User
from django.contrib.sessions.models import Session
from django.db import connection
from django.utils import timezone

from django_app.console.models import TenantMember
from django_app.realtime import announce, groups, marks, tokens
from django_app.realtime.models import Mark
from tests.integration.test_console_access import client_of, person, run
from tests.realtime_sockets import (
    PING,
    SYNC,
    House,
    awaited,
    dataset,
    db,
    forged,
    in_memory,
    issued,
    on_gateway,
    signed_in,
)

# Channels closes the connection of a transaction that a test would have begun.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("old_connections_may_be_closed")]

# Who may watch --------------------------------------------------------------------------------------------------------

SEES_OTHERS = {"viewer", "operator", "admin", "superuser"}
SEES_ACME = SEES_OTHERS | {"tenant viewer", "tenant operator", "tenant admin"}


@pytest.mark.parametrize("kind", ["nobody", *sorted(SEES_ACME)])
@awaited
async def test_each_person_watches_what_the_console_shows_them(house: House, kind: str):
    user, client = await db(signed_in, kind)
    owned = {
        (await db(run, tenant="acme", requested_by="else")).pk: kind in SEES_ACME,
        (await db(run, tenant="other", requested_by="else")).pk: kind in SEES_OTHERS,
        (await db(run, requested_by=user.get_username())).pk: kind in SEES_OTHERS | {"nobody"},
        "there-is-none": False,
    }
    expected = {f"/ws/runs/{pk}/": may for pk, may in owned.items()} | {"/ws/console/": kind in SEES_OTHERS}
    others = await db(person, "nobody", "else")
    expected[f"/ws/datasets/{(await db(dataset, others)).pk}/"] = False
    expected[f"/ws/datasets/{(await db(dataset, user)).pk}/"] = True
    for path, may in expected.items():
        # Of a token for each path they might even have one: rights are asked for when it is used.
        visit = house.new_visit()
        assert await visit.connect(path, await db(forged, user, client, path)) == may, path
        if may:
            assert (await visit.ask(SYNC))["kind"] in path
            await visit.leave()


@awaited
async def test_a_token_opens_one_socket_at_its_path_and_no_other(house: House):
    _, client = await db(signed_in, "nobody", "alice")
    mine, also_mine = await db(run, requested_by="alice"), await db(run, requested_by="alice")
    path = f"/ws/runs/{mine.pk}/"
    token = await db(issued, client, path)
    for wrong in (f"/ws/runs/{also_mine.pk}/", f"/ws/runs/{mine.pk}", f"//ws/runs/{mine.pk}/", "/ws/console/", "/"):
        assert not await house.new_visit().connect(wrong, token)
    visit = house.new_visit()
    assert await visit.connect(path, token)
    assert not await house.new_visit().connect(path, token), "it has been used"
    await visit.hears_nothing()
    await visit.leave()
    assert not await house.new_visit().connect(path, token), "still"


@awaited
async def test_a_token_that_is_changed_or_missing_or_doubled_lets_nobody_in(house: House):
    _, client = await db(signed_in, "nobody", "alice")
    mine = await db(run, requested_by="alice")
    path = f"/ws/runs/{mine.pk}/"
    token = await db(issued, client, path)
    body, stamp, signature = token.split(":")
    wrong = ["", token[:-1], f"{body}:{stamp}:{signature[::-1]}", f"{body[:-2]}AA:{stamp}:{signature}", token * 20, "é"]
    wrong.append(signature)
    for each in wrong:
        assert not await house.new_visit().connect(path, each), each
    for query in (f"token={token}&token={token}", "token", "tokens=1", f"TOKEN={token}"):
        assert not await house.new_visit().connect(path, "", query=query), query
    visit = house.new_visit()
    assert await visit.connect(path, token), "none of them has used it up"
    await visit.leave()


@awaited
async def test_a_token_of_another_person_shows_what_that_person_may_see(house: House):
    """Who steals one within its minute is that person for one path; for no other, and for nothing of the thief's."""
    bob, bobs = await db(signed_in, "nobody", "bob")
    await db(signed_in, "nobody", "alice")
    hers = await db(run, requested_by="alice")
    path = f"/ws/runs/{hers.pk}/"
    assert not await house.new_visit().connect(path, await db(forged, bob, bobs, path))


@awaited
async def test_a_token_expires(house: House, settings):
    settings.SOCKET_TOKEN_SECONDS = -1
    _, client = await db(signed_in, "nobody", "alice")
    mine = await db(run, requested_by="alice")
    path = f"/ws/runs/{mine.pk}/"
    token = await db(issued, client, path)
    assert not await house.new_visit().connect(path, token)
    settings.SOCKET_TOKEN_SECONDS = 600
    visit = house.new_visit()
    assert await visit.connect(path, token), "in time it would have let them in"
    await visit.leave()


@awaited
async def test_a_token_ends_with_its_session(house: House):
    user, client = await db(signed_in, "nobody", "alice")
    mine = await db(run, requested_by="alice")
    path = f"/ws/runs/{mine.pk}/"
    over = timezone.now() - datetime.timedelta(seconds=1)
    assert not await house.new_visit().connect(path, await db(forged, user, client, path, until=over))
    token, other = await db(issued, client, path), await db(client_of, user)
    await db(client.logout)
    assert not await house.new_visit().connect(path, token)
    # Another session of the same person goes on.
    visit = await house.visit(other, path)
    assert (await visit.ask(SYNC))["id"] == mine.pk
    await visit.leave()


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "",
        "null",
        "https://testserver",
        "http://testserver:8000",
        "http://evil.example",
        "http://testserver.evil.example",
        "http://testserver@evil.example",
        "http://evil.example@testserver",
        "http://testserver/path",
        "http://testserver:port",
        "http://testserver:99999",
        "http://testserver:0",
        "http://[",
        "http://",
        "testserver",
        "http://testserver http://testserver",
        "http://tests\u00e9rver",
    ],
)
@awaited
async def test_a_page_of_another_site_opens_no_socket_and_uses_no_token_up(house: House, origin: str | None):
    _, client = await db(signed_in, "nobody", "alice")
    mine = await db(run, requested_by="alice")
    path = f"/ws/runs/{mine.pk}/"
    token = await db(issued, client, path)
    assert not await house.new_visit().connect(path, token, origin=origin)
    visit = house.new_visit()
    assert await visit.connect(path, token, origin="http://testserver")
    await visit.leave()


# Who may not any more -------------------------------------------------------------------------------------------------


def deactivate(user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)


def new_password(user: User) -> None:
    user.set_password("another")
    User.objects.filter(pk=user.pk).update(password=user.password)


def end_session(user: User) -> None:
    for key in user_sessions(user):
        marks.end_session(tokens.session_hash(key))


def user_sessions(user: User) -> list[str]:
    return [each.pk for each in Session.objects.all() if each.get_decoded().get("_auth_user_id") == str(user.pk)]


def be_deleted(user: User) -> None:
    leave_group(user)
    User.objects.filter(pk=user.pk)._raw_delete(connection.alias)


def leave_group(user: User) -> None:
    through = User.groups.through
    through.objects.filter(user=user).delete()


def lose_permissions(user: User) -> None:
    Group.permissions.through.objects.filter(group__user=user).delete()


def join_tenant(user: User) -> None:
    TenantMember.objects.bulk_create([TenantMember(user=user, tenant="acme")])


#: Written past all signals: nothing but the next question can notice.
LOSSES = {
    deactivate: "signed_out",
    new_password: "signed_out",
    end_session: "signed_out",
    be_deleted: "signed_out",
    leave_group: "not_allowed",
    lose_permissions: "not_allowed",
    join_tenant: "not_allowed",
}


NOTICED = [
    *((loss, "push") for loss in LOSSES),
    *((loss, by) for loss in (end_session, leave_group) for by in ("sync", "close_user")),
]


@pytest.mark.parametrize(("loss", "by"), NOTICED, ids=lambda each: getattr(each, "__name__", each))
@awaited
async def test_whoever_may_not_watch_any_more_is_shown_nothing_more(house: House, loss, by: str):
    user, client = await db(signed_in, "viewer")
    _, other = await db(signed_in, "operator")
    shown = await db(run, tenant="other")
    visit, staying = [await house.visit(each, f"/ws/runs/{shown.pk}/") for each in (client, other)]
    assert (await visit.ask(SYNC))["type"] == "state"
    await db(loss, user)
    if by == "push":
        await db(announce.run_changed, shown.pk)
        assert (await staying.hear())["type"] == "state"
    elif by == "sync":
        await visit.say(SYNC)
    else:
        await db(announce.close_user, user.pk)
    assert await visit.hear() == {"type": "bye", "why": LOSSES[loss]}
    assert await visit.is_closed()
    await staying.hears_nothing()
    await staying.leave()


@awaited
async def test_what_is_gone_says_so(house: House):
    user, client = await db(signed_in, "nobody", "alice")
    shown, data = await db(run, requested_by="alice"), await db(dataset, user)
    visits = [await house.visit(client, path) for path in (f"/ws/runs/{shown.pk}/", f"/ws/datasets/{data.pk}/")]
    await db(shown.delete)
    await db(data.delete)
    for visit in visits:
        await visit.say(SYNC)
        assert await visit.hear() == {"type": "bye", "why": "gone"}
        assert await visit.is_closed()


@awaited
async def test_a_console_that_one_sees_no_more_is_closed(house: House):
    user, client = await db(signed_in, "viewer")
    visit = await house.visit(client, "/ws/console/")
    await db(leave_group, user)
    await db(announce.console_changed, ["runs"], 3)
    assert await visit.hear() == {"type": "bye", "why": "not_allowed"}
    assert await visit.is_closed()


@awaited
async def test_whoever_may_go_on_is_closed_without_a_word_and_connects_anew(house: House):
    user, client = await db(signed_in, "viewer")
    shown = await db(run)
    visit = await house.visit(client, f"/ws/runs/{shown.pk}/")
    await db(announce.close_user, user.pk)
    assert await visit.is_closed()
    visit = await house.visit(client, f"/ws/runs/{shown.pk}/")
    await db(announce.close_members, (await db(user.groups.get)).pk)
    assert await visit.is_closed()


@awaited
async def test_closing_ones_sockets_leaves_those_of_all_others(house: House):
    alice, hers = await db(signed_in, "viewer", "alice")
    _, his = await db(signed_in, "viewer", "bob")
    shown = await db(run)
    hers_too = await db(client_of, alice)
    path = f"/ws/runs/{shown.pk}/"
    first, second, other = [await house.visit(client, path) for client in (hers, hers_too, his)]
    ended = tokens.session_hash(await db(lambda: hers.session.session_key))
    await db(announce.close_session, ended, "signed_out")
    assert await first.hear() == {"type": "bye", "why": "signed_out"}
    assert await first.is_closed()
    await second.hears_nothing()
    await db(announce.close_user, alice.pk)
    assert await second.is_closed()
    await other.hears_nothing()
    await db(announce.run_changed, shown.pk)
    assert (await other.hear())["id"] == shown.pk
    await other.leave()


@awaited
async def test_a_socket_ends_when_it_is_old(settings):
    with in_memory(settings) as house:
        user, client = await db(signed_in, "viewer")
        shown = await db(run)
        session = tokens.session_hash(await db(lambda: client.session.session_key))
        told = await db(forged, user, client, f"/ws/runs/{shown.pk}/")
        claims = await db(tokens.redeem, told, f"/ws/runs/{shown.pk}/")
        assert claims.session == session
        for question in (SYNC, PING, None):
            visit = house.new_visit()
            # As the scope stands two hours later.
            old = {**claims.as_json(), "until": claims.until - 8000}
            assert await visit.connect(f"/ws/runs/{shown.pk}/", "", claims=old)  # type: ignore[call-arg]
            await (visit.say(question) if question else db(announce.run_changed, shown.pk))
            assert await visit.is_closed()


# What is kept ---------------------------------------------------------------------------------------------------------


@awaited
async def test_nothing_is_kept_by_which_somebody_could_get_in(cloud, settings):
    with on_gateway(settings) as house:
        user, client = await db(signed_in, "nobody", "alice")
        mine = await db(run, requested_by="alice")
        path = f"/ws/runs/{mine.pk}/"
        token = await db(issued, client, path)
        visit = house.new_visit()
        assert await visit.connect(path, token)
        await visit.ask(SYNC)
        layer = visit._api.layer  # type: ignore[attr-defined]
        rows = json.dumps(layer.table.client().scan(TableName=layer.table.name)["Items"])
        kept = [*(await db(lambda: list(Mark.objects.values_list("key", flat=True))))]
        secrets = [token, *token.split(":"), await db(lambda: client.session.session_key)]
        for secret in secrets:
            assert secret not in rows
            assert not [key for key in kept if secret in key]
        assert user.password not in rows or not user.password
        # The state that is kept between two events is none, and the group's name tells no id.
        assert groups.run(mine.pk) in rows
        await visit.leave()
        assert layer.table.client().scan(TableName=layer.table.name)["Items"] == []


@awaited
async def test_a_socket_that_is_left_leaves_its_groups(settings):
    from channels.layers import get_channel_layer

    with in_memory(settings) as house:
        _, client = await db(signed_in, "nobody", "alice")
        mine = await db(run, requested_by="alice")
        visit = await house.visit(client, f"/ws/runs/{mine.pk}/")
        assert len(get_channel_layer().groups) == 3
        await visit.leave()
        assert get_channel_layer().groups == {}
