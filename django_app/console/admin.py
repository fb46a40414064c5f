from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from django_app.console import audit, tokens
from django_app.console.errors import RefusalError
from django_app.console.models import ApiToken, AuditEntry, TenantMember
from django_app.console.schedule_admin import ScheduleAdmin

__all__ = ["ApiTokenAdmin", "AuditEntryAdmin", "ScheduleAdmin", "TenantMemberAdmin"]


class _ToLookAt(admin.ModelAdmin):  # type: ignore[type-arg]
    """Nothing is added, changed or deleted here."""

    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(AuditEntry)
class AuditEntryAdmin(_ToLookAt):
    list_display = ("at", "actor", "action", "target", "outcome")
    ordering = ("-id",)


@admin.register(ApiToken)
class ApiTokenAdmin(_ToLookAt):
    """Tokens are made by their owners, in the console; here they can be revoked."""

    list_display = ("name", "owner", "hint", "created_at", "used_at", "revoked_at")
    list_select_related = ("owner",)
    exclude = ("digest",)
    actions = ("revoke",)

    @admin.action(description="Revoke the chosen tokens", permissions=["delete_tokens"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> None:
        for token in queryset:
            try:
                tokens.revoke_any(token, request.user.get_username())
            except RefusalError as error:
                self.message_user(request, str(error), messages.WARNING)

    def has_delete_tokens_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("console.delete_apitoken")


@admin.register(TenantMember)
class TenantMemberAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """For whom people work. Changes are written into the audit log."""

    list_display = ("user", "tenant")
    list_select_related = ("user",)
    autocomplete_fields = ("user",)

    def save_model(self, request: HttpRequest, obj: TenantMember, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        audit.write(request.user.get_username(), "set-tenant", f"user {obj.user}", {"tenant": obj.tenant})

    def delete_model(self, request: HttpRequest, obj: TenantMember) -> None:
        audit.write(request.user.get_username(), "unset-tenant", f"user {obj.user}", {"tenant": obj.tenant})
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[TenantMember]) -> None:
        for each in queryset:
            self.delete_model(request, each)
