from django.apps import AppConfig


class DatasetsConfig(AppConfig):
    """The worked example: upload a CSV, profile it, report on it, mail the report."""

    name = "django_app.datasets"
    verbose_name = "Datasets"

    def ready(self) -> None:
        from django_app.datasets import subscriptions

        subscriptions.connect()
