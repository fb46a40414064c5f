"""Binds the Celery app to Django, so that any installed app's `shared_task` and `tasks.py` work."""

from __future__ import annotations

from django.apps import AppConfig
from django.conf import settings
from django.utils.module_loading import import_string


class CloudqueueConfig(AppConfig):
    """Loads the Celery app that settings name, before any view or command enqueues through it."""

    name = "django_app"
    label = "cloudqueue"
    verbose_name = "Cloudqueue"

    def ready(self) -> None:
        # By dotted path: tasks stand on a floor above Django's records.
        import_string(settings.CELERY_APP).set_default()
