"""Tokens by which programs use the API for a person."""

from __future__ import annotations

import datetime
import hashlib
import secrets

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone

from django_app.console import audit
from django_app.console.errors import InvalidError, NotVisibleError, RefusalError
from django_app.console.models import ApiToken

PREFIX = "cq_"
#: Tokens that one person may have in use.
MOST = 20
_LONGEST_NAME = 100
#: How exactly it is known when a token was used last: a write for each call would cost more than the call.
_USED_EXACTLY = datetime.timedelta(minutes=1)


def issue(owner: User, name: str) -> tuple[ApiToken, str]:
    """A new token and its text, which nobody can read again. Raises InvalidError, RefusalError."""
    name = audit.clean(name).strip()
    if not name or len(name) > _LONGEST_NAME:
        raise InvalidError(
            "name", name[:40], f"a token's name has 1 to {_LONGEST_NAME} characters", "Say what it is for."
        )
    text = PREFIX + secrets.token_urlsafe(32)
    with transaction.atomic():
        # One person's are made one after the other, or their bound would hold for none of two at once.
        User.objects.select_for_update().get(pk=owner.pk)
        in_use = ApiToken.objects.filter(owner=owner, revoked_at=None)
        if in_use.count() >= MOST:
            raise RefusalError("tokens", owner.get_username(), f"{MOST} are in use", "Revoke one first.")
        try:
            with transaction.atomic():
                token = ApiToken.objects.create(
                    owner=owner, name=name, digest=_digest(text), hint=text[:8], created_at=timezone.now()
                )
        except IntegrityError:
            raise RefusalError(
                "token", name, "one of that name is in use", "Revoke it, or choose another name."
            ) from None
        audit.write(owner.get_username(), "issue-token", f"token {name}", {"hint": token.hint})
    return token, text


def revoke(owner: User, token_id: int) -> ApiToken:
    """Nobody gets in by it any more. Raises NotVisibleError for one that is not theirs, RefusalError."""
    with transaction.atomic():
        token = ApiToken.objects.select_for_update().filter(pk=token_id, owner=owner).first()
        if token is None:
            raise NotVisibleError
        return _revoke(token, owner.get_username())


def revoke_any(token: ApiToken, by: str) -> ApiToken:
    """For the admin. Raises RefusalError."""
    with transaction.atomic():
        return _revoke(ApiToken.objects.select_for_update().get(pk=token.pk), by)


def _revoke(token: ApiToken, by: str) -> ApiToken:
    if token.revoked_at is not None:
        rule = f"it was already revoked at {token.revoked_at:%Y-%m-%d %H:%M:%S} UTC"
        raise RefusalError("token", token.name, rule, "Nothing is left to do.")
    token.revoked_at = timezone.now()
    token.save(update_fields=["revoked_at"])
    audit.write(by, "revoke-token", f"token {token.name}", {"owner": token.owner.get_username(), "hint": token.hint})
    return token


def authenticate(text: str) -> ApiToken | None:
    """The token of that text, with its owner; None for one that is unknown, revoked, or of somebody who has left."""
    if not text.startswith(PREFIX) or len(text) > 100:
        return None
    found = ApiToken.objects.select_related("owner").filter(digest=_digest(text), revoked_at=None).first()
    if found is None or not found.owner.is_active:
        return None
    now = timezone.now()
    if found.used_at is None or now - found.used_at > _USED_EXACTLY:
        ApiToken.objects.filter(pk=found.pk).update(used_at=now)
    return found


def _digest(text: str) -> str:
    # A random text of 256 bits needs no salt and no slow hash.
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
