"""The console's own tables: what was done, who may do it by token, for whom people work, who fails to sign in."""

from __future__ import annotations

from typing import Any, NoReturn

from django.conf import settings
from django.db import models


class AuditError(TypeError):
    """Something would change or delete what was written into the audit log."""

    def __init__(self) -> None:
        super().__init__("audit entries are written once, and neither changed nor deleted. Write another one.")


class AuditQuerySet(models.QuerySet["AuditEntry"]):
    """Reads, and adds."""

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AuditError

    update = bulk_update = update_or_create = delete = _refuse
    # It can be told to overwrite what is there.
    bulk_create = _refuse


class AuditEntry(models.Model):
    """Something that a person, or their token, did by way of the console. Never changed, never deleted.

    action, target: what was done, and to what: "retry", "run 3f2b...". outcome: "begun" comes before what cannot be in
    one transaction with its entry, and another entry says how that ended.
    detail: what else matters, without secrets.
    """

    class Outcome(models.TextChoices):
        BEGUN = "begun", "Begun"
        DONE = "done", "Done"
        REFUSED = "refused", "Refused"
        FAILED = "failed", "Failed"

    at = models.DateTimeField()
    actor = models.CharField(max_length=150)
    action = models.CharField(max_length=40)
    target = models.CharField(max_length=300)
    detail = models.JSONField(default=dict, blank=True)
    outcome = models.CharField(max_length=10, choices=Outcome.choices)

    objects = AuditQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "audit entries"
        indexes = (
            models.Index(fields=["actor", "id"], name="audit_by_actor"),
            models.Index(fields=["action", "id"], name="audit_by_action"),
            models.Index(fields=["target", "id"], name="audit_by_target"),
        )

    def __str__(self) -> str:
        return f"{self.actor}: {self.action} {self.target}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.pk:
            raise AuditError
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AuditError


class ApiToken(models.Model):
    """Lets a program act for a person, with that person's rights and no others.

    digest: of the token, which is shown once and kept nowhere. hint: how it begins, to tell it from others.
    used_at: to the minute.
    """

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=100)
    digest = models.CharField(max_length=64, unique=True)
    hint = models.CharField(max_length=12)
    created_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["owner", "name"], condition=models.Q(revoked_at=None), name="api_token_name_in_use_once"
            ),
        )

    def __str__(self) -> str:
        return self.name


class TenantMember(models.Model):
    """A person who works for one tenant: whatever their role, it reaches that tenant's runs and nothing else."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="tenant_member")
    tenant = models.CharField(max_length=100)

    def __str__(self) -> str:
        return f"{self.user_id} of {self.tenant}"


class SignInCount(models.Model):
    """How often signing in has failed of late, see console.throttle.

    key: kind and number of a bucket; there are so many and no more, whatever names and addresses are tried.
    """

    key = models.CharField(primary_key=True, max_length=20)
    failures = models.PositiveIntegerField(default=0)
    last_at = models.DateTimeField()
    closed_until = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.key


class Console(models.Model):
    """No table: it carries the permissions of the console's roles."""

    class Meta:
        managed = False
        default_permissions = ()
        permissions = (
            ("view", "Can see all runs, queues, workers and dead letters"),
            ("operate", "Can act on runs, queues, workers and dead letters"),
            ("administer", "Can discard dead letters and read the audit log"),
        )
