"""System checks: the pitfalls of Celery, SQS and Lambda, found by `manage.py check`. docs/checks.md has each of them.

Django loads this module alone; what checks need is loaded when they are run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core import checks
from django.core.checks import CheckMessage
from django.db import DEFAULT_DB_ALIAS

#: Of `manage.py check --tag`.
TAG = "cloudqueue"


def register() -> None:
    """Have Django run the checks: with every management command, with `check --deploy`, with `check --database`."""
    checks.register(at_any_time, TAG)
    checks.register(in_production, TAG, deploy=True)
    checks.register(in_the_database, TAG, checks.Tags.database)


def at_any_time(**_: Any) -> list[CheckMessage]:
    """What code and configuration say by themselves."""
    from django_app.checks import running

    return running.run(running.AT_ANY_TIME)


def in_production(**_: Any) -> list[CheckMessage]:
    """What a laptop may have, and production must not."""
    from django_app.checks import running

    return running.run(running.IN_PRODUCTION)


def in_the_database(*, databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """What work that is under way needs of this release."""
    if DEFAULT_DB_ALIAS not in (databases or ()):
        return []
    from django_app.checks import running

    return running.run(running.IN_THE_DATABASE)
