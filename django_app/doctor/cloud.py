"""Subject "aws": whether AWS answers, to whom, and whether what a stage is made of is there and may be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from django.conf import settings

from django_app.doctor.findings import Finding, Severity, warning
from django_app.doctor.subjects import Examination, not_told
from serverless import inspection
from serverless.inspection import NotToldError, Why

#: Of SES's quota.
_MUCH_SENT = 0.8


def examine(this: Examination) -> Iterator[Finding]:
    """D101, D102, D103, D104."""
    try:
        identity = inspection.identity(this.clock)
    except NotToldError as problem:
        # With neither network nor credentials nothing that follows could be told.
        yield replace(not_told("AWS", problem), id="D101", remedy=_remedy(problem))
        return
    this.tell(f"account {identity.account} as {identity.arn}")
    for thing, ask, name in _parts():
        try:
            ask(name)
        except NotToldError as problem:
            yield not_told(f'{thing} "{name}"', problem)
    yield from _mail()


def _remedy(problem: NotToldError) -> str:
    if problem.why == Why.REFUSED:
        return "aws sts get-caller-identity; mend role or credentials until that answers"
    return "see to the network, AWS_REGION and AWS_ENDPOINT_URL of this process"


def _parts() -> Iterator[tuple[str, Callable[[str], Any], str]]:
    yield "bucket", inspection.bucket, settings.FILES_BUCKET
    layer = settings.CHANNEL_LAYERS.get("default", {}).get("CONFIG", {})
    if "table" in layer:
        yield "table of sockets", inspection.table, layer["table"]
    if settings.SCHEDULE_GROUP:
        yield "schedule group", inspection.schedule_group, settings.SCHEDULE_GROUP


def _mail() -> Iterator[Finding]:
    if "amazon_ses" not in settings.EMAIL_BACKEND:
        return
    try:
        quota = inspection.mail_quota()
    except NotToldError as problem:
        # Nothing but the doctor asks it, so roles need not allow it.
        rule = "for this look alone: whoever sends needs another permission"
        yield replace(not_told("mails of SES", problem), severity=Severity.NOTE, rule=rule)
        return
    # SES says -1 where there is no limit.
    if 0 <= quota.most * _MUCH_SENT <= quota.sent:
        yield warning(
            "D104",
            "mails of SES",
            f"{quota.sent:.0f} of {quota.most:.0f} sent in 24 hours",
            "a fifth of the quota is left; above it each mail is refused",
            "aws service-quotas list-service-quotas --service-code ses; ask for more by aws service-quotas "
            "request-service-quota-increase",
        )
