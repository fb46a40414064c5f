from django.apps import AppConfig


class LedgerConfig(AppConfig):
    name = "django_app.ledger"
    label = "ledger"
    verbose_name = "Runs"
