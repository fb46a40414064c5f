"""Ends sockets whose person signs out, leaves, or may do something else than before.

That nothing more is shown does not hang on this: each message asks the database who its viewer is. Signing out alone
leaves no trace there, so it is noted first, in the request; closing the sockets follows, and may fail.

A session that nobody signs out of, but that is deleted from its table, ends with its sockets: after two hours at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db import transaction
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete
from django.http import HttpRequest

from django_app.console.models import TenantMember
from django_app.realtime import announce, marks, tokens
from django_app.realtime.rights import Bye

_CHANGES = ("post_add", "post_remove", "pre_clear")


def connect() -> None:
    """Listen to what happens to people."""
    user: Any = get_user_model()
    receivers: Iterable[tuple[Any, Callable[..., None], Any]] = (
        (user_logged_out, _signed_out, None),
        (user_logged_in, _signed_in, None),
        (post_save, _saved, user),
        (post_delete, _left, user),
        (m2m_changed, _groups_changed, user.groups.through),
        (m2m_changed, _permissions_changed, user.user_permissions.through),
        (m2m_changed, _group_permissions_changed, Group.permissions.through),
        (pre_delete, _group_goes, Group),
        (post_save, _member_changed, TenantMember),
        (post_delete, _member_changed, TenantMember),
    )
    for signal, receiver, sender in receivers:
        signal.connect(receiver, sender=sender, dispatch_uid=f"{__name__}{receiver.__name__}")


def _signed_out(request: HttpRequest | None = None, **_: Any) -> None:
    session = getattr(request, "session", None)
    if session is not None:
        _end_session(session.session_key)


def _signed_in(request: HttpRequest | None = None, **_: Any) -> None:
    """Whoever signs in again, as somebody else or not, leaves the session that they had; no signal tells of that."""
    if request is None:
        return
    before = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    if before != getattr(getattr(request, "session", None), "session_key", None):
        _end_session(before)


def _end_session(key: str | None) -> None:
    if not key or not settings.SOCKETS_URL:
        return
    ended = tokens.session_hash(key)
    marks.end_session(ended)
    _soon(f"session {ended}", partial(announce.close_session, ended, Bye.SIGNED_OUT.value))


def _saved(instance: Any, created: bool, update_fields: frozenset[str] | None = None, **_: Any) -> None:
    # Which is all that signing in changes of them.
    if not created and update_fields != frozenset({"last_login"}):
        _close(instance.pk)


def _left(instance: Any, **_: Any) -> None:
    _close(instance.pk)


def _groups_changed(instance: Any, action: str, reverse: bool, pk_set: set[Any] | None, **_: Any) -> None:
    """Of a person; or, reversed, the members of a group."""
    if action not in _CHANGES:
        return
    if not reverse:
        _close(instance.pk)
    elif pk_set is not None:
        for user_id in pk_set:
            _close(user_id)
    else:
        _group_goes(instance)


def _permissions_changed(instance: Any, action: str, reverse: bool, pk_set: set[Any] | None, **_: Any) -> None:
    if action not in _CHANGES:
        return
    if not reverse:
        _close(instance.pk)
    for user_id in (pk_set or ()) if reverse else ():
        _close(user_id)


def _group_permissions_changed(instance: Any, action: str, reverse: bool, pk_set: set[Any] | None, **_: Any) -> None:
    if action not in _CHANGES:
        return
    for group_id in (pk_set or ()) if reverse else (instance.pk,):
        _soon(f"members {group_id}", partial(announce.close_members, group_id))


def _group_goes(instance: Any, **_: Any) -> None:
    """Now, since nobody knows afterwards who was in it."""
    for user_id in list(instance.user_set.order_by("pk").values_list("pk", flat=True)[: announce.MOST_MEMBERS]):
        _close(user_id)


def _member_changed(instance: TenantMember, **_: Any) -> None:
    _close(instance.user_id)


def _close(user_id: Any) -> None:
    if user_id is not None:
        _soon(f"user {user_id}", partial(announce.close_user, user_id))


def _soon(key: str, work: Callable[[], None]) -> None:
    """After the commit, and not in the request's time."""
    if not settings.SOCKETS_URL:
        return
    from django_app.realtime import pushing

    transaction.on_commit(partial(pushing.soon, key, work), robust=True)
