from __future__ import annotations

from django.apps import AppConfig


class RealtimeConfig(AppConfig):
    """Sockets by which pages see what changes, as it changes."""

    name = "django_app.realtime"
    label = "realtime"
    verbose_name = "Real time"

    def ready(self) -> None:
        from django_app.realtime import endings, pushing

        endings.connect()
        pushing.connect()
