"""Open sockets end when their person signs out, leaves, or may do something else than before."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.db import transaction
from django.test import Client
from django.urls import reverse

from django_app.console.models import TenantMember
from django_app.realtime import announce, pushing
from django_app.realtime.models import Mark
from tests.integration.test_console_access import client_of, run
from tests.realtime_sockets import (
    PATIENCE_SECONDS,
    SYNC,
    GatewayVisit,
    House,
    awaited,
    db,
    issued,
    on_gateway,
    signed_in,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("old_connections_may_be_closed")]


@pytest.fixture
def house(open_house: House) -> Iterator[House]:
    """Where whoever closes a socket need not be the process that has it."""
    yield open_house
    assert pushing.flush(PATIENCE_SECONDS)


SIGNED_OUT = {"type": "bye", "why": "signed_out"}
NOT_ALLOWED = {"type": "bye", "why": "not_allowed"}


def viewers() -> Group:
    return Group.objects.get(name="Cloudqueue viewers")


def new_password(user: User) -> None:
    user.set_password("another")
    user.save()


def deactivate(user: User) -> None:
    user.is_active = False
    user.save()


def become(**fields: bool) -> Callable[[User], None]:
    def change(user: User) -> None:
        for name, value in fields.items():
            setattr(user, name, value)
        user.save(update_fields=list(fields))

    return change


def admins() -> Group:
    return Group.objects.get(name="Cloudqueue admins")


def be_taken_in(user: User) -> None:
    admins().user_set.add(user)


def be_put_out(user: User) -> None:
    viewers().user_set.remove(user)


def be_taken_a_permission(user: User) -> None:
    view().user_set.remove(user)


def view() -> Permission:
    return Permission.objects.get(codename="view", content_type__app_label="console")


#: What happens to somebody who is a viewer by group and by permission, and what their socket hears. None: that it is
#: closed, so that it connects anew.
CHANGES: dict[str, tuple[Callable[[User], object], dict[str, str] | None]] = {
    "signs out everywhere": (new_password, SIGNED_OUT),
    "is deactivated": (deactivate, SIGNED_OUT),
    "is deleted": (lambda user: user.delete(), SIGNED_OUT),
    "becomes a superuser": (become(is_superuser=True), None),
    "becomes staff": (become(is_staff=True), None),
    "joins a group": (lambda user: user.groups.add(admins()), None),
    "leaves a group": (lambda user: user.groups.remove(viewers()), None),
    "leaves all groups": (lambda user: user.groups.clear(), None),
    "is taken into a group": (be_taken_in, None),
    "is put out of a group": (be_put_out, None),
    "is put out with all others": (lambda user: viewers().user_set.clear(), None),
    "is given a permission": (lambda user: user.user_permissions.add(Permission.objects.first()), None),
    "is taken a permission": (lambda user: user.user_permissions.remove(view()), None),
    "is taken all permissions": (lambda user: user.user_permissions.clear(), None),
    "is taken a permission from there": (be_taken_a_permission, None),
    "has a group that is given a permission": (
        lambda user: viewers().permissions.add(Permission.objects.first()),
        None,
    ),
    "has a group that is taken all": (lambda user: viewers().permissions.clear(), None),
    "has a group that is taken one from there": (lambda user: view().group_set.remove(viewers()), None),
    "has a group that is deleted": (lambda user: viewers().delete(), None),
    "works for one tenant": (lambda user: TenantMember.objects.create(user=user, tenant="acme"), NOT_ALLOWED),
    "loses all": (
        lambda user: (user.user_permissions.clear(), user.groups.clear()),
        NOT_ALLOWED,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
@awaited
async def test_a_change_of_rights_ends_the_sockets_of_that_person(house: House, name: str):
    change, heard = CHANGES[name]
    user, client = await db(signed_in, "viewer")
    await db(lambda: user.user_permissions.add(view()))
    _, others = await db(signed_in, "operator")
    path = f"/ws/runs/{(await db(run)).pk}/"
    user = await db(User.objects.get, pk=user.pk)
    visit, other = [await house.visit(each, path) for each in (client, others)]
    await db(change, user)
    assert await db(pushing.flush, PATIENCE_SECONDS)
    if heard is not None:
        assert await visit.hear() == heard
    assert await visit.is_closed()
    await other.hears_nothing()
    await other.leave()


@awaited
async def test_a_tenant_that_is_taken_away_ends_sockets(house: House):
    user, client = await db(signed_in, "tenant viewer")
    visit = await house.visit(client, f"/ws/runs/{(await db(run, tenant='acme')).pk}/")
    await db(lambda: TenantMember.objects.get(user=user).delete())
    assert await db(pushing.flush, PATIENCE_SECONDS)
    assert await visit.is_closed()


@awaited
async def test_signing_out_ends_the_sockets_of_that_browser(house: House):
    user, client = await db(signed_in, "viewer")
    elsewhere = await db(client_of, user)
    path = f"/ws/runs/{(await db(run)).pk}/"
    visits = [await house.visit(client, path) for _ in range(2)]
    other = await house.visit(elsewhere, path)
    assert (await db(client.post, reverse("logout"))).status_code == 302
    assert await db(pushing.flush, PATIENCE_SECONDS)
    for visit in visits:
        assert await visit.hear() == SIGNED_OUT
        assert await visit.is_closed()
    await other.hears_nothing()
    await other.leave()


@pytest.mark.parametrize("name", ["viewer", "somebody-else"])
@awaited
async def test_signing_in_anew_ends_the_sockets_of_the_session_before(house: House, name: str):
    """As another person or as the same: that session is over, and no signal of Django's says so."""
    user, client = await db(signed_in, "viewer")
    visit = await house.visit(client, f"/ws/runs/{(await db(run)).pk}/")
    again = user if name == "viewer" else await db(User.objects.create_user, name)
    before = await db(lambda: client.session.session_key)
    await db(again.set_password, "correct horse")
    await db(User.objects.filter(pk=again.pk).update, password=again.password)
    answer = await db(client.post, reverse("login"), {"username": again.username, "password": "correct horse"})
    assert answer.status_code == 302
    assert before != await db(lambda: client.session.session_key)
    assert await db(pushing.flush, PATIENCE_SECONDS)
    assert await visit.hear() == SIGNED_OUT
    assert await visit.is_closed()


@awaited
async def test_signing_in_elsewhere_ends_nothing(house: House):
    user, client = await db(signed_in, "viewer")
    visit = await house.visit(client, f"/ws/runs/{(await db(run)).pk}/")
    await db(client_of, user)
    await db(User.objects.create_user, "new")
    assert await db(pushing.flush, PATIENCE_SECONDS)
    await visit.hears_nothing()
    await visit.leave()


@awaited
async def test_what_is_rolled_back_ends_nothing(house: House):
    user, client = await db(signed_in, "viewer")
    visit = await house.visit(client, f"/ws/runs/{(await db(run)).pk}/")

    def change() -> None:
        with transaction.atomic():
            deactivate(user)
            transaction.set_rollback(True)

    await db(change)
    assert await db(pushing.flush, PATIENCE_SECONDS)
    await visit.hears_nothing()
    await visit.leave()


@awaited
async def test_a_socket_that_could_not_be_closed_shows_nothing_more(cloud, settings):
    with on_gateway(settings) as house:
        _, client = await db(signed_in, "viewer")
        shown = await db(run)
        path = f"/ws/runs/{shown.pk}/"
        visit = house.new_visit()
        assert isinstance(visit, GatewayVisit)
        assert await visit.connect(path, await db(issued, client, path))
        assert (await visit.ask(SYNC))["type"] == "state"
        answers = visit._api.connections.answers
        answers[visit._socket.id] = 500
        await db(client.logout)
        assert await db(pushing.flush, PATIENCE_SECONDS)
        answers.clear()
        await db(announce.run_changed, shown.pk)
        assert await visit.hear() == SIGNED_OUT
        assert await visit.is_closed()


def test_without_sockets_signing_out_leaves_no_mark_and_wakes_nobody(settings):
    settings.SOCKETS_URL = ""
    user, client = signed_in("viewer")
    client.logout()
    user.groups.clear()
    assert isinstance(client, Client)
    assert not Mark.objects.exists()
    assert pushing.flush(0)
