"""What people are in the console: nobody in particular, viewers, operators, admins. A migration makes their groups."""

from __future__ import annotations

from enum import IntEnum

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser


class Role(IntEnum):
    """Each may do what those before it may."""

    NOBODY = 0  # sees what they asked for themselves
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


def role_of(user: AbstractBaseUser | AnonymousUser) -> Role:
    """By permission, whether through one of the groups or not; superusers have them all."""
    for role, permission in ((Role.ADMIN, "administer"), (Role.OPERATOR, "operate"), (Role.VIEWER, "view")):
        if user.has_perm(f"console.{permission}"):  # type: ignore[union-attr]
            return role
    return Role.NOBODY
