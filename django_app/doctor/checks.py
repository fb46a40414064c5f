"""Subject "checks": what `manage.py check` finds in this process's code and settings."""

from __future__ import annotations

from collections.abc import Iterator

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage

from django_app.checks import running
from django_app.doctor.findings import Finding, Severity
from django_app.doctor.subjects import Examination
from serverless import inspection

_PAGE = " See "


def examine(this: Examination) -> Iterator[Finding]:
    """Under their own ids; what production must not have only where the cloud is AWS."""
    is_production = inspection.is_aws() and not settings.DEBUG
    # Those of the database last: without it the others are told all the same.
    asked = (running.AT_ANY_TIME, running.IN_PRODUCTION if is_production else (), running.IN_THE_DATABASE)
    for group in asked:
        for message in running.run(group):
            if not message.is_silenced():
                yield _finding(message)
    this.tell(f"{sum(map(len, asked))} system checks")


def _finding(message: CheckMessage) -> Finding:
    remedy, _, page = (message.hint or "").rpartition(_PAGE)
    severity = Severity.ERROR if message.level >= checks.ERROR else Severity.WARNING
    rule = "as its page says"
    return Finding(severity, str(message.id), str(message.obj), str(message.msg), rule, remedy, page)
