"""Results that are too long for a row: kept in S3, with a reference in their place."""

from __future__ import annotations

import uuid

from django.conf import settings

from serverless.objects import Bucket

_INLINE, _IN_S3 = "=", "s3:"
PREFIX = "results/"


def keep(text: str, run_id: str) -> str:
    """What to write in the row for it. Raises what S3 raises."""
    if len(text) <= settings.RESULT_INLINE_BYTES and len(text.encode()) <= settings.RESULT_INLINE_BYTES:
        return _INLINE + text
    # A key of its own for each attempt: one that was taken over must not change what another has stored.
    key = f"{PREFIX}{run_id}/{uuid.uuid4().hex}"
    Bucket(settings.FILES_BUCKET).write(key, text.encode(), content_type="application/json")
    return _IN_S3 + key


def read(kept: str) -> str | None:
    """What was kept; None where nothing was. Raises ObjectMissingError where S3 no longer has it."""
    if not kept:
        return None
    if kept.startswith(_INLINE):
        return kept[1:]
    return Bucket(settings.FILES_BUCKET).read(kept.removeprefix(_IN_S3)).decode()


def forget(kept: str) -> None:
    """Delete what stands in S3."""
    if kept.startswith(_IN_S3):
        Bucket(settings.FILES_BUCKET).delete_prefix(kept.removeprefix(_IN_S3).rpartition("/")[0] + "/")
