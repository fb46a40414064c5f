"""Who may open and go on watching, asked of the database each time."""

from __future__ import annotations

from enum import StrEnum

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser
from django.core.exceptions import ValidationError

from django_app.realtime import marks
from django_app.realtime.tokens import Claims


class Bye(StrEnum):
    """Why a socket ends."""

    SIGNED_OUT = "signed_out"
    NOT_ALLOWED = "not_allowed"
    GONE = "gone"


def person(claims: Claims) -> AbstractUser | None:
    """Whoever signed in, fresh from the database; None if they have left since, or that session has ended.

    One query. What else they may see, their permissions and their tenant are asked for by whoever needs it.
    """
    users = get_user_model()._default_manager.annotate(has_ended=marks.has_ended(claims.session))
    try:
        user: AbstractUser | None = users.filter(pk=claims.user).first()
    except (ValueError, ValidationError):
        # Signed by an earlier release, whose users had another kind of key.
        return None
    if user is None or not user.is_active or user.has_ended or not claims.knows_password_of(user):  # type: ignore[attr-defined]
        return None
    return user
