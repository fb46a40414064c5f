"""What has to be seen to from time to time: what nobody reported, what was lost on the way, what is left over.

`run` is called each minute. Every step is safe to repeat and to run twice at once, and looks at a bounded number of
records.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import structlog
from django.db.models import Exists, OuterRef, Q

from django_app.datasets import services
from django_app.datasets.models import Chunk, Dataset, Removal, Report

log = structlog.get_logger(__name__)

#: A browser would have reported an upload by then: it was closed, or lost its connection.
UNREPORTED_AFTER = datetime.timedelta(minutes=1)
#: All parts done for so long, and not merged: the chord lost count, as it does when a process dies between storing a
#: result and counting it.
UNMERGED_AFTER = datetime.timedelta(minutes=1)
#: A dataset that nobody began to work on, or a mail that nobody began to send, for so long is enqueued again: its
#: message may have been purged or dead-lettered. If it only waits behind others, nothing is done twice.
UNBEGUN_AFTER = datetime.timedelta(minutes=40)
#: Work that was begun and showed no progress for so long is started again: far longer than SQS hides a message.
STALLED_AFTER = datetime.timedelta(hours=6)
#: How often stalled work is started again before it counts as failed.
MOST_STALLS = 3
#: What is enqueued again because it may be lost is enqueued in so many rounds, not for ever.
_ROUNDS = datetime.timedelta(minutes=2)
#: Records that one round looks at, of each kind.
_AT_ONCE = 200


@dataclass
class Done:
    """What one round did."""

    uploads_started: int = 0
    uploads_expired: int = 0
    merges_enqueued: int = 0
    restarted: int = 0
    given_up: int = 0
    mails_enqueued: int = 0
    mails_uncertain: int = 0
    objects_removed: int = 0


def run(now: datetime.datetime, *, resume_all: bool = False) -> Done:
    """One round.

    resume_all: take up all unfinished work, however fresh, for a stack whose queues did not survive.
    """
    done = Done()
    _settle_uploads(now, done)
    _enqueue_lost_merges(now, done)
    _restart_stalled_work(now, done, resume_all=resume_all)
    _see_to_mails(now, done, resume_all=resume_all)
    _remove_leftovers(now, done)
    return done


def _settle_uploads(now: datetime.datetime, done: Done) -> None:
    pending = Dataset.objects.filter(state=Dataset.State.UPLOADING, created_at__lt=now - UNREPORTED_AFTER)
    # The next to expire first, so that the set drains however many there are.
    for dataset in pending.order_by("upload_expires_at")[:_AT_ONCE]:
        try:
            arrived = services.finish_upload(dataset)
        except Exception:
            # One of them must not stop the others.
            log.exception("upload_not_settled", dataset=str(dataset.pk))
            continue
        if arrived:
            done.uploads_started += 1
        elif dataset.upload_expires_at < now - services.UPLOAD_GRACE:
            services.fail(dataset, "The upload was never finished, and its form has expired. Start a new upload.")
            done.uploads_expired += 1


def _enqueue_lost_merges(now: datetime.datetime, done: Done) -> None:
    # Work whose merge does not succeed in a few rounds counts as stalled in the end.
    quiet = (now - UNMERGED_AFTER - _ROUNDS, now - UNMERGED_AFTER)
    profiling = Dataset.objects.filter(state=Dataset.State.PROFILING, touched_at__range=quiet)
    complete = profiling.filter(chunks__state=Chunk.State.DONE).exclude(
        Exists(Chunk.objects.filter(dataset=OuterRef("pk")).exclude(state=Chunk.State.DONE))
    )
    for dataset in complete.distinct().defer("layout", "profile")[:_AT_ONCE]:
        services.enqueue("merge", str(dataset.pk), dataset.generation)
        done.merges_enqueued += 1


def _restart_stalled_work(now: datetime.datetime, done: Done, *, resume_all: bool) -> None:
    stalled = Dataset.objects.unfinished()
    if not resume_all:
        unbegun = Q(state=Dataset.State.QUEUED, touched_at__lt=now - UNBEGUN_AFTER)
        stalled = stalled.filter(unbegun | Q(touched_at__lt=now - STALLED_AFTER))
    for dataset in stalled.order_by("touched_at")[: None if resume_all else _AT_ONCE]:
        begun = dataset.state != Dataset.State.QUEUED
        stalls = dataset.stalls + (begun and not resume_all)
        if stalls < MOST_STALLS:
            done.restarted += services.restart(dataset, stalls=stalls)
            continue
        services.fail(
            dataset,
            f"The work stopped {stalls} times without a result. Start it again from this page, or tell your operator.",
        )
        done.given_up += 1


def _see_to_mails(now: datetime.datetime, done: Done, *, resume_all: bool) -> None:
    unmailed = services.unmailed_reports()
    uncertain = Report.objects.filter(mail_state=Report.MailState.SENDING)
    if not resume_all:
        unmailed = unmailed.filter(built_at__range=(now - UNBEGUN_AFTER - _ROUNDS, now - UNBEGUN_AFTER))[:_AT_ONCE]
        uncertain = uncertain.filter(mail_claimed_at__lt=now - STALLED_AFTER)
    for report in unmailed:
        services.enqueue("mail", report.pk)
        done.mails_enqueued += 1
    done.mails_uncertain = uncertain.update(
        mail_state=Report.MailState.FAILED,
        mail_problem="The worker stopped while it was sending: the mail may have gone out, or not.",
    )


def _remove_leftovers(now: datetime.datetime, done: Done) -> None:
    for removal in Removal.objects.filter(due_at__lt=now)[:_AT_ONCE]:
        done.objects_removed += services.delete_objects(removal.prefixes)
        removal.delete()
