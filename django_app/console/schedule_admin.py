"""Schedules in Django's admin: the same rules as the console's, for those with the model's permissions."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from django_app.console import audit, schedule_queries
from django_app.console.errors import FieldsError
from django_app.console.schedule_queries import Standing
from django_app.console.services import schedules
from django_app.console.services.schedule_finding import target
from django_app.ledger.models import Schedule, ScheduleSource
from tasks.runtime.schedules import task_names

_KEPT_BY_US = (
    *("source", "requested_by", "tenant", "paused_at", "paused_by", "pause_reason", "resumed_at"),
    *("created_at", "changed_at", "checked_until", "next_check_at", "synced_at", "sync_error"),
)


class StandingFilter(admin.SimpleListFilter):
    """As the console's list has it."""

    title = "state"
    parameter_name = "standing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(each.value, each.value) for each in Standing]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Schedule]) -> QuerySet[Schedule]:
        chosen = self.value()
        return schedule_queries.in_state(
            queryset, Standing(chosen) if chosen in list(Standing) else None, timezone.now()
        )


class ScheduleForm(forms.ModelForm):  # type: ignore[type-arg]
    """Arguments as JSON; secrets among them are shown as "[redacted]", which keeps them."""

    class Meta:
        model = Schedule
        fields = ("name", *schedules.EDITABLE)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.initial.update(schedules.hidden(self.instance))
        if "task" in self.fields:
            self.fields["task"].help_text = f"One of {', '.join(task_names())}."

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        parts: dict[str, Any] = {name: cleaned[name] for name in schedules.WITH_SECRETS if name in cleaned}
        if self.instance.pk and len(parts) == len(schedules.WITH_SECRETS):
            stored = Schedule.objects.get(pk=self.instance.pk)
            if self._is_refused(Schedule.objects.get(pk=self.instance.pk), parts):
                # Then the model says why, of what was typed: it quotes arguments, and may not quote the old secrets.
                return cleaned
            try:
                cleaned |= schedules.with_secrets(stored, parts)
            except FieldsError as error:
                for field, fault in error.faults.items():
                    self.add_error(field, fault)
        return cleaned

    def _is_refused(self, stored: Schedule, parts: dict[str, Any]) -> bool:
        for name, value in {"task": self.cleaned_data.get("task", stored.task), **parts}.items():
            setattr(stored, name, value)
        try:
            schedules.check(stored)
        except FieldsError as error:
            return bool({"task", *schedules.WITH_SECRETS} & set(error.faults))
        return False


@admin.register(Schedule)
class ScheduleAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Those of people can be changed; those of the code are changed there. Changes are written into the audit log."""

    form = ScheduleForm
    list_display = ("name", "words", "zone", "task", "source", "requested_by", "paused_at", "is_in_step")
    list_filter = (StandingFilter, "source", "overlap")
    search_fields = ("name", "task", "requested_by")
    fields = ("name", *schedules.EDITABLE, *_KEPT_BY_US)
    show_full_result_count = False

    @admin.display(description="when")
    def words(self, schedule: Schedule) -> str:
        return schedule_queries.in_words(schedule)

    @admin.display(boolean=True, description="in step with EventBridge")
    def is_in_step(self, schedule: Schedule) -> bool:
        return schedule.synced_at is not None

    def get_readonly_fields(self, request: HttpRequest, obj: Schedule | None = None) -> tuple[str, ...]:
        # Its runs go by its name.
        return _KEPT_BY_US if obj is None else ("name", *_KEPT_BY_US)

    def get_fields(self, request: HttpRequest, obj: Schedule | None = None) -> tuple[str, ...]:
        if obj is not None and not self.has_change_permission(request, obj):
            # Without a form nothing would leave their secrets out.
            return tuple(name for name in self.fields if name not in schedules.WITH_SECRETS)
        return self.fields

    def has_change_permission(self, request: HttpRequest, obj: Schedule | None = None) -> bool:
        return super().has_change_permission(request, obj) and not _is_code(obj)

    def has_delete_permission(self, request: HttpRequest, obj: Schedule | None = None) -> bool:
        return super().has_delete_permission(request, obj) and not _is_code(obj)

    def save_model(self, request: HttpRequest, obj: Schedule, form: Any, change: bool) -> None:
        actor = request.user.get_username()
        if not change:
            obj.requested_by = actor
        super().save_model(request, obj, form, change)
        action = "change-schedule" if change else "create-schedule"
        audit.write(actor, action, target(obj.name), {"version": schedules.version(obj), "in": "admin"})

    def delete_model(self, request: HttpRequest, obj: Schedule) -> None:
        detail = schedules.told_of_deletion(obj) | {"in": "admin"}
        audit.write(request.user.get_username(), "delete-schedule", target(obj.name), detail)
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Schedule]) -> None:
        # One by one: a queryset's own delete() would leave EventBridge with them.
        for each in queryset:
            self.delete_model(request, each)


def _is_code(schedule: Schedule | None) -> bool:
    return schedule is not None and schedule.source == ScheduleSource.CODE
