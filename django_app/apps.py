"""Binds the Celery app to Django, so that any installed app's `shared_task` and `tasks.py` work."""

from __future__ import annotations

import os

from django.apps import AppConfig
from django.conf import settings
from django.utils.module_loading import import_string

from django_app import checks


class CloudqueueConfig(AppConfig):
    """Loads the Celery app that settings name, before any view or command enqueues through it."""

    name = "django_app"
    label = "cloudqueue"
    verbose_name = "Cloudqueue"

    def ready(self) -> None:
        # By dotted path: tasks stand on a floor above Django's records.
        import_string(settings.CELERY_APP).set_default()
        checks.register()
        # Whenever Celery imports the tasks' modules, in a worker or for a page, it would have Django run all checks,
        # ours among them, which import these modules; and it drops what is found.
        os.environ["CELERY_SKIP_CHECKS"] = "true"
