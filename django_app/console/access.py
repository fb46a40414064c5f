"""Who may see what. All pages and the API ask here, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db.models import QuerySet

from django_app.console.models import TenantMember
from django_app.console.roles import Role, role_of
from django_app.ledger.models import Run, Schedule


@dataclass(frozen=True)
class Access:
    """What a person may see.

    tenant: they work for that one only; None: for no tenant in particular.
    """

    username: str
    role: Role
    tenant: str | None = None

    @property
    def scope(self) -> Mapping[str, str] | None:
        """The condition on runs and schedules that they may see, by field: none for all. None: nothing at all."""
        if self.role >= Role.VIEWER:
            return {} if self.tenant is None else {"tenant": self.tenant}
        return {"requested_by": self.username} if self.username else None

    @property
    def sees_installation(self) -> bool:
        """Queues, workers, dead letters: what belongs to no tenant and to no person."""
        return self.role >= Role.VIEWER and self.tenant is None

    def may(self, role: Role) -> bool:
        return self.role >= role


def access_of(user: AbstractBaseUser | AnonymousUser) -> Access:
    """Of whoever is signed in; of a stranger it is none."""
    if not user.is_authenticated or not user.is_active:
        return Access("", Role.NOBODY)
    role = role_of(user)
    tenant = None
    if role > Role.NOBODY and not getattr(user, "is_superuser", False):
        tenant = TenantMember.objects.filter(user_id=user.pk).values_list("tenant", flat=True).first()
    return Access(user.get_username(), role, tenant)


def visible_runs(user: AbstractBaseUser | AnonymousUser | Access) -> QuerySet[Run]:
    """The runs that a person may see: all others do not exist for them."""
    scope = (user if isinstance(user, Access) else access_of(user)).scope
    return Run.objects.none() if scope is None else Run.objects.filter(**scope)


def visible_schedules(user: AbstractBaseUser | AnonymousUser | Access) -> QuerySet[Schedule]:
    """The schedules that a person may see, by the same rule as runs. Those of the code are nobody's in particular."""
    scope = (user if isinstance(user, Access) else access_of(user)).scope
    return Schedule.objects.none() if scope is None else Schedule.objects.filter(**scope)
