from __future__ import annotations

from django.apps import AppConfig
from django.urls import register_converter


class ConsoleConfig(AppConfig):
    name = "django_app.console"
    label = "console"
    verbose_name = "Console"

    def ready(self) -> None:
        from django_app.console.converters import IdConverter

        register_converter(IdConverter, "id")
