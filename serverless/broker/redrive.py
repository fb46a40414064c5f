"""Looking into a dead-letter queue, sending messages back to work, discarding them: one, some or all.

SQS has no list, no selection and no reading without receiving. So each of these receives what it can get and hides it
meanwhile; at its end, what it did not take shows again at once. While one of them runs, others see less of the queue,
and if its process dies, what it held shows again when its visibility timeout is over. Each receive counts: from a
dead-letter queue with a redrive policy of its own, SQS would move messages on for being looked at. Of a group of a FIFO
queue only the first ten are seen, until those are gone.

A redriven message is sent to its target first and deleted afterwards. A process that dies in between leaves both: it
may come twice, but is not lost. Two people who redrive at the same time share the messages between them.

Needs sqs:ReceiveMessage, sqs:ChangeMessageVisibility and, but for `peek`, sqs:DeleteMessage on the dead-letter queue,
and sqs:SendMessage on the target.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from serverless.broker import dead_letters, envelope
from serverless.broker.errors import BrokerError
from serverless.broker.letters import DeadLetter
from serverless.broker.options import LARGEST_BYTES, LONGEST_IN_FLIGHT_SECONDS, MOST_ENTRIES, Options
from serverless.broker.queue_calls import ENVIRONMENT, QueueCalls, QueueError
from serverless.broker.sweep import PATIENCE_SECONDS, Sweep

log = logging.getLogger("serverless.broker")

MOST_REDRIVES = 3
MOST_ATTRIBUTES = 10

#: Messages stay hidden for so much longer than may be worked on them, for requests that were begun last.
_MARGIN_SECONDS = 60
_PEEK_MARGIN_SECONDS = 15
_LONGEST_SECONDS = LONGEST_IN_FLIGHT_SECONDS - _MARGIN_SECONDS
_STORY = {dead_letters.REASON, dead_letters.AT, dead_letters.QUEUE, dead_letters.WORKER, dead_letters.RECEIVES}

#: malformed: the broker would refuse it again at once. redriven_too_often: see most_redrives. no_room: nothing can be
#: added to its attributes, and so no RedriveCount. refused: SQS will not take it. failed: SQS did not take it for as
#: long as it was tried, and where no answer came at all may have taken it after all.
Reason = Literal["malformed", "redriven_too_often", "no_room", "refused", "failed"]


class RedriveTargetError(BrokerError, ValueError):
    """A dead-letter queue as the target of its own redrive."""

    def __init__(self, queue_url: str) -> None:
        super().__init__(queue_url)
        self.queue_url = queue_url

    def __str__(self) -> str:
        return (
            f"target_url={self.queue_url} is the dead-letter queue itself: its messages would go round in it. "
            "Name the queue that they came from."
        )


@dataclass(frozen=True)
class Listing:
    """What `peek` saw.

    letters: each message once, those first that were sent first.
    complete: nothing else was visible. False: the count or the time was used up, or SQS failed later on, or an answer
        of SQS got lost, which hides the messages in it for a while.
    hidden: so many could not be shown again and stay hidden, for a quarter of a minute longer than `seconds` at most.
    """

    letters: tuple[DeadLetter, ...]
    complete: bool
    hidden: int


@dataclass(frozen=True)
class Handled:
    """A message by its ids. task, task_id: None where it names none."""

    message_id: str
    task_id: str | None
    task: str | None


@dataclass(frozen=True)
class Moved(Handled):
    """A message that its target has.

    redrives: how often it was redriven, this time included.
    deleted: False if SQS did not take its deletion: it shows again in the dead-letter queue, and may be moved twice.
    """

    redrives: int
    deleted: bool


@dataclass(frozen=True)
class Left(Handled):
    """A message that was to be taken and stays in the dead-letter queue. detail: the reason in words."""

    reason: Reason
    detail: str


@dataclass(frozen=True)
class Redriven:
    """What `redrive` did, to the message.

    missing: of the ids that were asked for, those that no visible message had.
    complete: all is done: nothing more was visible, or all ids were found. False: see error; or time or `most` was used
        up, and calling again goes on; or an answer of SQS got lost, which hides the messages in it for a while.
    error: what ended it early, after something had been moved.
    """

    moved: tuple[Moved, ...]
    left: tuple[Left, ...]
    missing: frozenset[str]
    complete: bool
    error: QueueError | None


@dataclass(frozen=True)
class Discarded:
    """What `discard` and `discard_all` deleted; the rest as in Redriven."""

    discarded: tuple[Handled, ...]
    left: tuple[Left, ...]
    missing: frozenset[str]
    complete: bool
    error: QueueError | None


def peek(dead_letter_url: str, most: int = 50, seconds: float = 5.0, *, options: Options = ENVIRONMENT) -> Listing:
    """Messages of a dead-letter queue, which keeps them.

    most: messages, of up to a mebibyte each. seconds: after which no further request begins. Both bound what is seen:
    of a larger queue it is any part.
    Raises QueueError if SQS fails before anything was seen.
    """
    _check(most=most, seconds=seconds)
    found: list[DeadLetter] = []
    complete = False
    with Sweep(QueueCalls(options), dead_letter_url, seconds, _PEEK_MARGIN_SECONDS) as sweep:
        try:
            while len(found) < most and not complete and not sweep.over:
                received = sweep.receive(most - len(found))
                complete = received is None
                found += received or ()
        except QueueError as error:
            if not found:
                raise
            log.warning("listing stopped early: %s", error)
    earliest = datetime.min.replace(tzinfo=UTC)
    found.sort(key=lambda letter: (letter.sent_at or earliest, letter.message_id))
    return Listing(tuple(found), complete and sweep.sure, sweep.hidden)


def redrive(
    dead_letter_url: str,
    target_url: str,
    ids: Collection[str] | None = None,
    *,
    most: int | None = None,
    per_second: float | None = None,
    most_redrives: int = MOST_REDRIVES,
    force: bool = False,
    seconds: float = 60.0,
    on_sending: Callable[[Sequence[DeadLetter]], None] | None = None,
    on_moved: Callable[[Moved], None] | None = None,
    options: Options = ENVIRONMENT,
) -> Redriven:
    """Send messages of a dead-letter queue back to work.

    ids: of messages or tasks; default: all that were there when it began, by this machine's clock, so that what comes
        back meanwhile does not go round. It ends when each id was found once: where several messages have one task id,
        a message id says which.
    most: messages to move at most. per_second: messages to move at most, on average; default: no limit.
    most_redrives: a message that was redriven so often before is left. It carries its count as the attribute
        RedriveCount, which the broker, and SQS, keep when they dead-letter it again.
    force: move also what is malformed, was redriven too often or has no room for the count.
    seconds: after which nothing further begins; up to 12 hours less a minute. A process that dies leaves what it held
        hidden for so long and a minute.
    on_sending: called with up to ten messages right before they are sent; if it raises, that ends the redrive and they
        stay. The place to make records ready for a task that may run at once; what is not in `moved` later, was not
        sent as far as is known.
    on_moved: called with each message that the target has. If it raises, it is still called for what was sent together
        with that message, and ends the redrive.

    What else the message carried goes with it: body, attributes and MessageGroupId, but not the story of its dead
    letter. A task that has expired meanwhile is dropped by Celery; a body in S3 is kept no longer for it.
    Raises RedriveTargetError, and QueueError if SQS fails before anything was moved; later failures are in the result.
    """
    _check(most=most, per_second=per_second, most_redrives=most_redrives, seconds=seconds)
    if urlsplit(dead_letter_url).path == urlsplit(target_url).path:
        raise RedriveTargetError(target_url)
    wanted = _Wanted(ids, before=datetime.now(UTC))
    calls = QueueCalls(options)
    moved: list[Moved] = []
    left: list[Left] = []

    def send(sweep: Sweep, batch: list[DeadLetter]) -> QueueError | None:
        if on_sending is not None:
            on_sending(batch)
        entries = [_entry(letter, target_url) for letter in batch]
        failures, error = calls.batch("send_message_batch", target_url, entries, PATIENCE_SECONDS)
        left.extend(
            _left(batch[index], "failed" if failure.passing else "refused", failure.reason)
            for index, failure in failures.items()
        )
        sent = [letter for index, letter in enumerate(batch) if index not in failures]
        undeleted, not_deleting = sweep.delete(sent)
        there = [
            Moved(
                letter.message_id,
                letter.task_id,
                letter.task,
                letter.redrives + 1,
                deleted=letter.message_id not in undeleted,
            )
            for letter in sent
        ]
        moved.extend(there)
        _tell(on_moved, there)
        # Where nothing can be deleted, going on would double everything.
        return error or not_deleting

    def choose(letter: DeadLetter) -> bool:
        if not wanted.finds(letter):
            return False
        obstacle = None if force else _obstacle(letter, target_url, most_redrives)
        if obstacle is not None:
            left.append(_left(letter, *obstacle))
        return obstacle is None

    complete, error = _work_through(
        Sweep(calls, dead_letter_url, seconds, _MARGIN_SECONDS), wanted, choose, send, most=most, per_second=per_second
    )
    if error is not None and not moved:
        raise error
    log.info(
        'dead-letter queue "%s": %d messages were redriven to "%s", %d stay, %d were not found%s',
        _name(dead_letter_url),
        len(moved),
        _name(target_url),
        len(left),
        len(wanted.missing),
        f"; it ended early: {error}" if error else "",
    )
    return Redriven(tuple(moved), tuple(left), frozenset(wanted.missing), complete, error)


def discard(
    dead_letter_url: str,
    ids: Collection[str],
    *,
    seconds: float = 60.0,
    on_discarding: Callable[[Sequence[DeadLetter]], None] | None = None,
    options: Options = ENVIRONMENT,
) -> Discarded:
    """Delete messages of a dead-letter queue, by message or task id, for ever.

    on_discarding: called with up to ten messages right before they are deleted; if it raises, that ends the call and
        they stay. The place to record what becomes of their tasks.
    ids, seconds, errors: as in `redrive`.
    """
    wanted = _Wanted(ids, before=datetime.now(UTC))
    return _discard(dead_letter_url, wanted, seconds=seconds, on_discarding=on_discarding, options=options)


def discard_all(
    dead_letter_url: str,
    *,
    most: int | None = None,
    seconds: float = 60.0,
    on_discarding: Callable[[Sequence[DeadLetter]], None] | None = None,
    options: Options = ENVIRONMENT,
) -> Discarded:
    """Delete all messages that a dead-letter queue has, for ever; those stay that are sent to it meanwhile.

    (SQS's own PurgeQueue takes those along, and may be called once a minute.) What SQS itself moves there meanwhile
    goes: it bears the time when it was first sent. The clock is this machine's.
    most: messages to delete at most. The rest as in `discard`.
    """
    _check(most=most)
    wanted = _Wanted(None, before=datetime.now(UTC))
    return _discard(dead_letter_url, wanted, most=most, seconds=seconds, on_discarding=on_discarding, options=options)


def _discard(
    url: str,
    wanted: _Wanted,
    *,
    most: int | None = None,
    seconds: float,
    on_discarding: Callable[[Sequence[DeadLetter]], None] | None,
    options: Options,
) -> Discarded:
    _check(seconds=seconds)
    discarded: list[Handled] = []
    left: list[Left] = []

    def delete(sweep: Sweep, batch: list[DeadLetter]) -> QueueError | None:
        if on_discarding is not None:
            on_discarding(batch)
        undeleted, error = sweep.delete(batch)
        for letter in batch:
            if letter.message_id in undeleted:
                left.append(_left(letter, "failed", undeleted[letter.message_id]))
            else:
                discarded.append(Handled(letter.message_id, letter.task_id, letter.task))
        return error

    sweep = Sweep(QueueCalls(options), url, seconds, _MARGIN_SECONDS)
    complete, error = _work_through(sweep, wanted, wanted.finds, delete, most=most)
    if error is not None and not discarded:
        raise error
    log.info('dead-letter queue "%s": %d messages were discarded, %d stay', _name(url), len(discarded), len(left))
    return Discarded(tuple(discarded), tuple(left), frozenset(wanted.missing), complete, error)


def _work_through(
    sweep: Sweep,
    wanted: _Wanted,
    choose: Callable[[DeadLetter], bool],
    work: Callable[[Sweep, list[DeadLetter]], QueueError | None],
    *,
    most: int | None = None,
    per_second: float | None = None,
) -> tuple[bool, QueueError | None]:
    """Receive, choose, work on what was chosen, a batch at a time; whether that was all, and what ended it early."""
    pace = _Pace(per_second)
    done = 0
    with sweep:
        try:
            while not wanted.all_found:
                if sweep.over or (most is not None and done >= most):
                    return False, None
                received = sweep.receive(MOST_ENTRIES if most is None or wanted.ids else most - done)
                if received is None:
                    return sweep.sure, None
                chosen = [letter for letter in received if choose(letter)]
                room = len(chosen) if most is None else most - done
                for batch in _batches(chosen[:room], pace.burst):
                    if not pace.wait(len(batch), sweep.deadline):
                        return False, None
                    error = work(sweep, batch)
                    if error is not None:
                        return False, error
                    done += len(batch)
                if room < len(chosen):
                    return False, None
        except QueueError as error:
            return False, error
    return True, None


class _Wanted:
    """Which messages are meant: those of some ids, or all that were sent before a time.

    missing: ids that were not found yet.
    """

    def __init__(self, ids: Collection[str] | None, before: datetime) -> None:
        if isinstance(ids, str | bytes):
            raise TypeError(f"ids={ids!r} must be a set of ids, and is one text. Put it into a set.")
        self.ids = None if ids is None else frozenset(ids)
        self._before = before
        self.missing = set(self.ids or ())

    def finds(self, letter: DeadLetter) -> bool:
        if self.ids is None:
            return letter.sent_at is None or letter.sent_at < self._before
        hits = self.ids & {letter.message_id, letter.task_id}
        self.missing -= hits
        return bool(hits)

    @property
    def all_found(self) -> bool:
        return self.ids is not None and not self.missing


class _Pace:
    """At most so many messages a second. burst: how many to take at once."""

    def __init__(self, per_second: float | None) -> None:
        self._per_second = per_second
        self.burst = MOST_ENTRIES if per_second is None else max(1, min(MOST_ENTRIES, int(per_second)))
        self._next_at = time.monotonic()

    def wait(self, count: int, deadline: float) -> bool:
        """Wait until so many may go; False, at once, if that is after the deadline."""
        now = time.monotonic()
        if max(now, self._next_at) >= deadline:
            return False
        if self._next_at > now:
            time.sleep(self._next_at - now)
        if self._per_second is not None:
            self._next_at = max(now, self._next_at) + count / self._per_second
        return True


# Rules ---------------------------------------------------------------------------------------------------------------


def _obstacle(letter: DeadLetter, target_url: str, most_redrives: int) -> tuple[Reason, str] | None:
    """Why it must not be redriven unless somebody insists."""
    if letter.error is not None:
        return "malformed", f"it would come straight back: {letter.error}"
    if letter.redrives >= most_redrives:
        return "redriven_too_often", f"it was redriven {letter.redrives} times and came back each time."
    if dead_letters.REDRIVES not in _entry(letter, target_url).get("MessageAttributes", {}):
        return (
            "no_room",
            f"it has {letter.size_bytes} bytes and {len(letter.attributes)} attributes, and no room for one.",
        )
    return None


def _entry(letter: DeadLetter, target_url: str) -> dict[str, Any]:
    """What is sent to the target; without the count of redrives where there is no room for it."""
    attributes = {
        name: {key: part for key, part in value.items() if key in ("DataType", "StringValue", "BinaryValue")}
        for name, value in letter.attributes.items()
        if name not in _STORY
    }
    counted = {**attributes, dead_letters.REDRIVES: {"DataType": "Number", "StringValue": str(letter.redrives + 1)}}
    size = envelope.bytes_of(letter.body, {"MessageAttributes": counted})
    if len(counted) <= MOST_ATTRIBUTES and size <= LARGEST_BYTES:
        attributes = counted
    entry: dict[str, Any] = {"MessageBody": letter.body}
    if attributes:
        entry["MessageAttributes"] = attributes
    if target_url.endswith(".fifo"):
        entry["MessageGroupId"] = letter.group or "default"
        # The same for whoever redrives it; when it comes back it has another id.
        entry["MessageDeduplicationId"] = letter.message_id
    elif letter.group:
        entry["MessageGroupId"] = letter.group
    return entry


def _batches(chosen: Iterable[DeadLetter], most: int) -> Iterator[list[DeadLetter]]:
    """At most so many and a mebibyte each, in order."""
    batch: list[DeadLetter] = []
    size = 0
    for letter in chosen:
        # The count of redrives has 19 bytes.
        larger = letter.size_bytes + 32
        if batch and (len(batch) == most or size + larger > LARGEST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(letter)
        size += larger
    if batch:
        yield batch


def _left(letter: DeadLetter, reason: Reason, detail: str) -> Left:
    return Left(letter.message_id, letter.task_id, letter.task, reason, detail)


def _tell(on_moved: Callable[[Moved], None] | None, moved: Iterable[Moved]) -> None:
    """Tell of each, also if telling of one fails; that is raised afterwards."""
    if on_moved is None:
        return
    failed: Exception | None = None
    for each in moved:
        try:
            on_moved(each)
        except Exception as error:
            failed = failed or error
    if failed is not None:
        raise failed


def _check(
    *,
    most: int | None = None,
    per_second: float | None = None,
    most_redrives: int | None = None,
    seconds: float | None = None,
) -> None:
    if most is not None and most < 1:
        raise ValueError(f"most={most!r} must be 1 or more. Leave it out for no limit.")
    if per_second is not None and not 0 < per_second < math.inf:
        raise ValueError(f"per_second={per_second!r} must be above 0. Leave it out for no limit.")
    if most_redrives is not None and most_redrives < 0:
        raise ValueError(f"most_redrives={most_redrives!r} must be 0 or more. Use force=True for no limit.")
    if seconds is not None and not 0 < seconds <= _LONGEST_SECONDS:
        raise ValueError(f"seconds={seconds!r} must be above 0 and up to {_LONGEST_SECONDS}, SQS's 12 hours in flight.")


def _name(url: str) -> str:
    return url.rpartition("/")[2]
