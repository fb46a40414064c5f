from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest

from django_app.ledger.models import Run


@admin.register(Run)
class RunAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """To look at: runs change by what happens to them."""

    list_display = ("id", "task", "queue", "state", "created_at", "published_at")
    list_filter = ("state", "queue")
    search_fields = ("id", "task", "root_id")
    # Arguments may hold what not every operator may see.
    exclude = ("message",)
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Run | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Run | None = None) -> bool:
        return False
