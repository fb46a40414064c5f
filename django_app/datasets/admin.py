from django.contrib import admin
from django.http import HttpRequest

from django_app.datasets.models import Dataset


@admin.register(Dataset)
class DatasetAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """For looking, not for changing: state changes belong to services."""

    list_display = ("name", "owner", "state", "size_bytes", "created_at")
    list_filter = ("state",)
    search_fields = ("name", "owner__username")
    readonly_fields = tuple(field.name for field in Dataset._meta.fields)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Dataset | None = None) -> bool:
        # Deletion must remove the objects too, which the dataset's own page does.
        return False
