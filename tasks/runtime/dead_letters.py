"""A queue's dead letters, as people see them and act on them: the messages in SQS, and the runs that they belong to.

A run that ended with its message is not woken again: its chain and its chord have gone on without it. Redriving it
makes a new run of what is recorded, see tasks.runtime.retrying, and the dead letter is deleted. What was never recorded
goes back to its queue as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings

from django_app.ledger import redaction
from django_app.ledger.models import Run
from django_app.ledger.states import FINAL, Report
from serverless.broker import redrive as sqs_redrive
from serverless.broker.letters import DeadLetter
from tasks.runtime import recording, reports, retrying
from tasks.topology import TOPOLOGY

#: Letters that one call looks at.
_MOST = 500
_SECONDS = 15.0
_LONGEST_NAME = 255


@dataclass(frozen=True)
class Letter:
    """A message in a dead-letter queue. Nothing in it is secret, and all of it may be hostile.

    arguments: redacted, JSON; "" where they cannot be read. state: of its run; "" where none is recorded.
    error: what is wrong with the message's form; "" if nothing is.
    """

    message_id: str
    task: str
    task_id: str
    reason: str
    queue: str
    worker: str
    receives: int
    redrives: int
    size_bytes: int
    sent_at: datetime | None
    dead_lettered_at: datetime | None
    arguments: str
    error: str
    state: str


@dataclass(frozen=True)
class Listing:
    """complete: nothing else was visible."""

    letters: tuple[Letter, ...]
    complete: bool


@dataclass(frozen=True)
class Done:
    """What was done with dead letters.

    moved: (task id or "", what came of it) of each that left the dead-letter queue; left: (id, why) of each that stays.
    complete: False: there may be more, call again.
    """

    moved: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...]
    complete: bool


def url_of(queue: str) -> str:
    """A queue's dead-letter queue. Raises TopologyError for an unknown one."""
    return f"{settings.QUEUE_URL_PREFIX}{TOPOLOGY.queue(queue).dead_letter_name}"


def peek(queue: str, most: int = 50) -> Listing:
    """What lies in a queue's dead-letter queue. Raises TopologyError, and QueueError where SQS refuses."""
    listing = sqs_redrive.peek(url_of(queue), most, _SECONDS)
    return Listing(tuple(_described(listing.letters)), listing.complete)


def _described(letters: Iterable[DeadLetter]) -> list[Letter]:
    listed = list(letters)
    ids = {_clean(letter.task_id) for letter in listed}
    states = dict(Run.objects.filter(pk__in=ids).values_list("pk", "state"))
    return [_describe(letter, states) for letter in listed]


def _describe(letter: DeadLetter, states: dict[str, str]) -> Letter:
    arguments = letter.arguments()
    task, task_id = _clean(letter.task), _clean(letter.task_id)
    shown = ""
    if arguments is not None:
        names = recording.parameters_of(task)
        shown = redaction.shown(*arguments, names, settings.REDACTED_ARGUMENTS)
    return Letter(
        message_id=letter.message_id,
        task=task,
        task_id=task_id,
        reason=_clean(letter.reason, 1000),
        queue=_clean(letter.queue),
        worker=_clean(letter.worker),
        receives=letter.receives or 0,
        redrives=letter.redrives,
        size_bytes=letter.size_bytes,
        sent_at=letter.sent_at,
        dead_lettered_at=letter.dead_lettered_at,
        arguments=shown,
        error=_clean(letter.error, 1000),
        state=states.get(task_id, ""),
    )


def _clean(text: str | None, longest: int = _LONGEST_NAME) -> str:
    return (text or "").replace("\x00", "")[:longest]


def redrive(
    queue: str,
    message_ids: Collection[str] | None = None,
    *,
    by: str = "",
    per_second: float | None = None,
    force: bool = False,
) -> Done:
    """Work on dead letters once more. message_ids: those; None: all that are there, up to a bound.

    per_second: of those that go back to SQS. force: also what was redriven three times, or has a wrong form.
    Two who do it at the same time share the letters. Raises TopologyError and QueueError.
    """
    url = url_of(queue)
    listing = sqs_redrive.peek(url, _MOST, _SECONDS)
    wanted = [letter for letter in listing.letters if message_ids is None or letter.message_id in set(message_ids)]
    moved: list[tuple[str, str]] = []
    left: list[tuple[str, str]] = []
    obsolete, plain = [], []
    ended = Run.objects.exclude(message="").filter(state__in=FINAL)
    runs = ended.in_bulk([_clean(letter.task_id) for letter in wanted if letter.task_id])
    for letter in wanted:
        run = runs.get(_clean(letter.task_id))
        if run is None:
            plain.append(letter.message_id)
            continue
        try:
            again = retrying.retry(run, by)
        except retrying.RetryError as error:
            left.append((letter.message_id, str(error)))
        else:
            obsolete.append(letter.message_id)
            moved.append((run.pk, f"retried as run {again.pk}"))
    complete = listing.complete
    if obsolete:
        complete = sqs_redrive.discard(url, set(obsolete)).complete and complete
    if plain:
        target = f"{settings.QUEUE_URL_PREFIX}{queue}"
        done = sqs_redrive.redrive(url, target, set(plain), per_second=per_second, force=force)
        moved += [(_clean(each.task_id), "sent back to its queue") for each in done.moved]
        left += [(each.message_id, each.detail) for each in done.left]
        complete = complete and done.complete
    return Done(tuple(moved), tuple(left), complete)


def discard(queue: str, message_ids: Collection[str] | None = None, *, by: str = "") -> Done:
    """Delete dead letters for good; their runs, if they have not ended, end as dead. None: all that are there."""
    url = url_of(queue)
    on_discarding = _ending_runs(by)
    if message_ids is None:
        done = sqs_redrive.discard_all(url, most=_MOST, seconds=_SECONDS, on_discarding=on_discarding)
    else:
        done = sqs_redrive.discard(url, set(message_ids), seconds=_SECONDS, on_discarding=on_discarding)
    return Done(
        tuple((_clean(each.task_id), "discarded") for each in done.discarded),
        tuple((each.message_id, each.detail) for each in done.left),
        done.complete,
    )


def _ending_runs(by: str) -> Callable[[Iterable[DeadLetter]], None]:
    def end(letters: Iterable[DeadLetter]) -> None:
        ids = [_clean(letter.task_id) for letter in letters if letter.task_id]
        for run in Run.objects.filter(pk__in=ids).exclude(state__in=FINAL):
            reports.end_unsent(run, Report.DEAD, f"discarded by {by}" if by else "discarded")

    return end
