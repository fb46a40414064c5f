"""What can be done with a dataset. Views, tasks and commands change datasets through these functions only.

Nothing here imports a task or a parser: the web side runs it, and starts work through the dotted path in settings.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterable
from functools import partial

import structlog
from django.conf import settings
from django.contrib.auth.models import User
from django.db import models, transaction
from django.db.models import Count, F, Q
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.module_loading import import_string

from django_app.datasets import signals
from django_app.datasets.models import Chunk, Dataset, Removal, Report
from serverless.objects import Bucket, ObjectInfo, ObjectMissingError, PresignedPost

log = structlog.get_logger(__name__)

#: An upload that began before its form expired may take so long to arrive.
UPLOAD_GRACE = datetime.timedelta(hours=1)
#: How often a dataset is read that changes under the reader's hands.
_MOST_LOOKS = 3


def bucket() -> Bucket:
    return Bucket(settings.FILES_BUCKET)


# Upload ------------------------------------------------------------------------------------------------------------


def create(owner: User) -> Dataset:
    """A dataset that waits for its file."""
    expires = timezone.now() + datetime.timedelta(seconds=settings.UPLOAD_EXPIRES_SECONDS)
    return Dataset.objects.create(owner=owner, upload_expires_at=expires)


def upload_form(dataset: Dataset, redirect_url: str | None) -> PresignedPost:
    """The form with which a browser uploads this dataset's file straight to S3, valid until the upload expires.

    redirect_url: where S3 sends a browser without scripts afterwards; None answers a script with 204.
    """
    left = max(1, int((dataset.upload_expires_at - timezone.now()).total_seconds()))
    return bucket().presigned_post(
        dataset.upload_key,
        # An empty file may arrive: its owner then gets our message, not S3's XML.
        smallest_bytes=0,
        largest_bytes=settings.UPLOAD_LIMIT_BYTES,
        expires_seconds=left,
        redirect_url=redirect_url,
    )


def finish_upload(dataset: Dataset) -> bool:
    """Start work if the file has arrived; returns whether it has. Safe to repeat and to run twice at once."""
    try:
        info = bucket().info(dataset.upload_key)
    except ObjectMissingError:
        return False
    if info.size_bytes > settings.UPLOAD_LIMIT_BYTES:
        # S3 keeps the policy's range; this holds for whoever reaches the bucket in another way.
        size, limit = filesizeformat(info.size_bytes), filesizeformat(settings.UPLOAD_LIMIT_BYTES)
        fail(dataset, f"The file has {size}; at most {limit} are taken. Upload a smaller file.")
        return True
    with transaction.atomic():
        started = Dataset.objects.filter(pk=dataset.pk, state=Dataset.State.UPLOADING).update(
            **_as_queued(info), generation=1
        )
        if started:
            dataset.refresh_from_db()
            _start(dataset)
            _tell(dataset.pk)
    return True


def _as_queued(info: ObjectInfo) -> dict[str, object]:
    name = info.filename.replace("\\", "/").rsplit("/", 1)[-1]
    return {
        "state": Dataset.State.QUEUED,
        "name": _printable(name)[:255],
        "size_bytes": info.size_bytes,
        "etag": info.etag,
        **_touched(),
    }


def _touched() -> dict[str, object]:
    """What every change of a dataset changes that those who watch it are told of, see `_tell`."""
    return {"touched_at": timezone.now(), "sequence": F("sequence") + 1}


def _tell(dataset_id: uuid.UUID) -> None:
    """Tell, after the commit, that a dataset has changed."""
    tell = partial(signals.dataset_changed.send_robust, sender=Dataset, dataset_id=dataset_id)
    transaction.on_commit(tell, robust=True)


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())


def _start(dataset: Dataset) -> None:
    enqueue("profile", str(dataset.pk), dataset.generation)


def enqueue(name: str, *arguments: object) -> None:
    """Enqueue one of settings.DATASET_TASKS: recorded in this transaction, published after its commit."""
    import_string(settings.DATASET_TASKS[name]).delay(*arguments)


# Work --------------------------------------------------------------------------------------------------------------


def current(dataset_id: str, generation: int) -> Dataset | None:
    """The dataset if it still exists and this generation of work is still wanted, else None."""
    found = Dataset.objects.filter(pk=dataset_id, generation=generation).first()
    return found if found and found.is_working else None


def advance(dataset: Dataset, state: Dataset.State, *, came_from: Iterable[Dataset.State]) -> bool:
    """Move to a later state; False if someone else did, or the work is no longer wanted."""
    moved = Dataset.objects.filter(pk=dataset.pk, generation=dataset.generation, state__in=list(came_from)).update(
        state=state, **_touched()
    )
    if moved:
        dataset.state = state
        _tell(dataset.pk)
    return bool(moved)


def fail(dataset: Dataset, problem: str) -> None:
    """End the work with a message for its owner. What is already ready or failed stays so."""
    changed = (
        Dataset.objects.filter(pk=dataset.pk, generation=dataset.generation)
        .exclude(state__in=[Dataset.State.READY, Dataset.State.FAILED])
        .update(state=Dataset.State.FAILED, problem=_printable(problem)[:2000], **_touched())
    )
    if changed:
        _tell(dataset.pk)
        log.info("dataset_failed", dataset=str(dataset.pk), problem=problem)


@transaction.atomic
def lay_out(dataset: Dataset, layout: dict[str, object], ranges: Iterable[tuple[int, int, int]]) -> bool:
    """Record how the file is read and the chunks it is worked on in: (start, stop, first line) each."""
    if not advance(dataset, Dataset.State.PROFILING, came_from=[Dataset.State.SPLITTING]):
        return False
    Chunk.objects.filter(dataset=dataset).delete()
    Chunk.objects.bulk_create(
        Chunk(dataset=dataset, index=index, start=start, stop=stop, first_line=line)
        for index, (start, stop, line) in enumerate(ranges)
    )
    Dataset.objects.filter(pk=dataset.pk).update(layout=layout)
    dataset.layout = layout
    return True


def chunk_state(chunk: Chunk, state: Chunk.State, rows: int | None = None) -> None:
    """Record a chunk's progress, never backwards, and that the dataset is alive."""
    Chunk.objects.filter(pk=chunk.pk).exclude(state=Chunk.State.DONE).update(state=state, rows=rows)
    Dataset.objects.filter(pk=chunk.dataset_id).update(**_touched())
    _tell(chunk.dataset_id)


@transaction.atomic
def finish_profile(dataset: Dataset, profile: object) -> Report | None:
    """Record the finished statistics and the report that is to be written; None if someone else did."""
    if not advance(dataset, Dataset.State.REPORTING, came_from=[Dataset.State.PROFILING]):
        return None
    Dataset.objects.filter(pk=dataset.pk).update(profile=profile)
    Report.objects.filter(dataset=dataset).exclude(generation=dataset.generation).delete()
    report, _ = Report.objects.get_or_create(dataset=dataset, defaults={"generation": dataset.generation})
    return report


def finish_report(report: Report) -> None:
    """The report's files are in the bucket: the dataset is ready."""
    with transaction.atomic():
        Report.objects.filter(pk=report.pk, built_at=None).update(built_at=timezone.now())
        advance(report.dataset, Dataset.State.READY, came_from=[Dataset.State.REPORTING])


def progress(dataset: Dataset) -> dict[str, int]:
    """Chunks in all, running and done."""
    counted = dataset.chunks.aggregate(
        total=Count("pk"),
        running=Count("pk", filter=Q(state=Chunk.State.RUNNING)),
        done=Count("pk", filter=Q(state=Chunk.State.DONE)),
    )
    return {name: int(value) for name, value in counted.items()}


def parts(dataset: Dataset, most: int) -> tuple[list[Chunk], dict[str, int]]:
    """The first parts and their counts, see `progress`, as they are under the dataset's number.

    A dataset that changes meanwhile is read again: parts newer than the number would have what comes under the next one
    look like a step back.
    """
    for _ in range(_MOST_LOOKS):
        found = list(dataset.chunks.all()[:most]), progress(dataset)
        before = dataset.sequence
        dataset.refresh_from_db(fields=["sequence", "state", "problem"])
        if dataset.sequence == before:
            return found
    # No part is older than the number that it is shown under.
    dataset.sequence = before
    return found


def current_report(dataset_id: str) -> Report | None:
    """The report of a dataset as it stands now, with its owner; None while there is none."""
    reports = Report.objects.select_related("dataset__owner").filter(built_at__isnull=False)
    return reports.filter(dataset_id=dataset_id, generation=F("dataset__generation")).first()


# Mail --------------------------------------------------------------------------------------------------------------


def unmailed_reports() -> models.QuerySet[Report]:
    """Reports that are built and that nobody has begun to mail."""
    return Report.objects.filter(built_at__isnull=False, mail_state=Report.MailState.WAITING)


def claim_mail(report: Report) -> bool:
    """Take the one right to mail this report. False if it was taken before: it may have gone out."""
    return bool(
        Report.objects.filter(pk=report.pk, mail_state=Report.MailState.WAITING).update(
            mail_state=Report.MailState.SENDING, mail_claimed_at=timezone.now()
        )
    )


def release_mail(report: Report) -> None:
    """The mail certainly did not go out (SES refused it), so that another try may claim it."""
    Report.objects.filter(pk=report.pk, mail_state=Report.MailState.SENDING).update(mail_state=Report.MailState.WAITING)


def mail_sent(report: Report, recipient: str, message_id: str) -> None:
    Report.objects.filter(pk=report.pk).update(
        mail_state=Report.MailState.SENT, mailed_at=timezone.now(), mailed_to=recipient, message_id=message_id
    )


def mail_failed(report: Report, problem: str) -> None:
    Report.objects.filter(pk=report.pk).exclude(mail_state=Report.MailState.SENT).update(
        mail_state=Report.MailState.FAILED, mail_problem=_printable(problem)[:2000]
    )


@transaction.atomic
def mail_again(report: Report) -> None:
    """The owner asks for another mail of the same report."""
    Report.objects.filter(pk=report.pk).update(mail_state=Report.MailState.WAITING, mail_problem="")
    enqueue("mail", report.pk)


# Again, and away --------------------------------------------------------------------------------------------------


@transaction.atomic
def restart(dataset: Dataset, *, stalls: int = 0) -> bool:
    """Work on the uploaded file again, from the start. False if another restart came first, or no file was accepted.

    stalls: how often the work has stalled so far; a person who starts it again begins at 0.
    """
    restarted = (
        Dataset.objects.filter(pk=dataset.pk, generation=dataset.generation)
        .exclude(state=Dataset.State.UPLOADING)
        # Never accepted, for its size or because it never arrived: there is nothing to run again.
        .exclude(etag="")
        .update(
            state=Dataset.State.QUEUED,
            problem="",
            generation=dataset.generation + 1,
            stalls=stalls,
            **_touched(),
        )
    )
    if restarted:
        Chunk.objects.filter(dataset=dataset).delete()
        dataset.refresh_from_db()
        _start(dataset)
        _tell(dataset.pk)
    return bool(restarted)


@transaction.atomic
def delete(dataset: Dataset) -> None:
    """Remove the records now, the objects right after, and once more when no upload can arrive any more."""
    prefixes = list(dataset.prefixes)
    # The upload form outlives the record, and a message may be lost: what is there later is removed later.
    Removal.objects.create(prefixes=prefixes, due_at=max(timezone.now(), dataset.upload_expires_at) + UPLOAD_GRACE)
    _tell(dataset.pk)
    dataset.delete()
    enqueue("delete_objects", prefixes)


def delete_objects(prefixes: Iterable[str]) -> int:
    """Remove everything under these prefixes; returns how many objects that were."""
    return sum(bucket().delete_prefix(prefix) for prefix in prefixes)
