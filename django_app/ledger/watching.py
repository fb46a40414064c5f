"""Who is watched, and how those who watch are told: `Run.sequence` grows, and a signal is sent after the commit.

That nobody watches, which is nearly always so, is known from the statement that changes the run: it costs no other.

A watch that begins while its run changes misses nothing, as long as whoever watches marks the run first and reads it
then. Both write the run's row, so one waits for the other's commit: either the change comes second and finds the mark,
or the mark comes second, and what is read after it has the change.

The console's mark is another row, which a change reads and does not wait for. So a change may be committed right after
the first watch has begun, and have seen none. It is owed from the beginning of the watch, therefore: the next change
tells it, or the minute's housekeeping.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from django.db import connection, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now
from django.db.models.sql import UpdateQuery
from django.utils import timezone

from django_app.ledger import signals
from django_app.ledger.models import Feed, Run
from django_app.ledger.statements import NOW, Statement
from django_app.ledger.states import FINAL, State

#: As long as a socket lives: API Gateway closes each two hours after it was opened.
WATCHED = datetime.timedelta(minutes=130)
#: A mark is renewed when less than this is left of it: it outlasts any socket that opens now.
_RENEWED = WATCHED - datetime.timedelta(minutes=10)
#: The name of the console's feed.
_CONSOLE = "console"
#: Which of the console's pages a changed run concerns.
_TOPICS = ("runs",)

#: What a statement that changes runs returns last: whether somebody watches the run, and whether anybody the console.
WATCHERS = (
    "COALESCE(watched_until > {now}, FALSE) AS is_watched, "
    "EXISTS(SELECT 1 FROM ledger_feed AS feed WHERE feed.name = 'console' AND feed.watched_until > {now}) "
    "AS is_console_watched"
)
#: What it sets.
FURTHER = "progress_sequence = progress_sequence + 1"

_WATCH = Statement(
    f"""
    UPDATE ledger_run SET watched_until = %s
    WHERE id = %s AND (watched_until IS NULL OR watched_until < %s)
        AND state NOT IN ({", ".join(f"'{each}'" for each in sorted(FINAL))})
    """  # noqa: S608 - all of it ours
)
_WATCH_CONSOLE = Statement(
    """
    INSERT INTO ledger_feed AS feed (name, watched_until, pulsed_at, sequence, is_owed) VALUES (%s, %s, %s, 0, TRUE)
    ON CONFLICT (name) DO UPDATE
    SET watched_until = excluded.watched_until,
        is_owed = feed.is_owed OR feed.watched_until <= {now},
        pulsed_at = CASE WHEN feed.watched_until <= {now} THEN excluded.pulsed_at ELSE feed.pulsed_at END
    WHERE feed.watched_until < %s
    """,
    **NOW,
)


def watch(run_id: str) -> None:
    """Somebody watches this run from now on; read it after this. One that is unknown or has ended is let be."""
    now = timezone.now()
    _WATCH.count([now + WATCHED, run_id, now + _RENEWED])


def watch_console() -> None:
    """Somebody watches the console from now on; what it shows is to be read after this."""
    now = timezone.now()
    # Whoever changes something next pays what is owed: nobody has taken it upon themselves.
    long_ago = now - datetime.timedelta(minutes=1)
    _WATCH_CONSOLE.count([_CONSOLE, now + WATCHED, long_ago, now + _RENEWED])


def update(runs: QuerySet[Run], *, state: State | None = None, **changes: Any) -> int:
    """Update runs and tell those who watch; how many runs there were. In one statement, as QuerySet.update does it.

    state: the one that they have then; None: they keep theirs.
    """
    query: UpdateQuery = runs.query.chain(UpdateQuery)  # type: ignore[assignment]
    if state is not None:
        changes["state"] = state
    query.add_update_values({**changes, "sequence": F("sequence") + 1})
    query.annotations = {}
    text, values = query.get_compiler(runs.db).as_sql()
    returned = f"id, state, {WATCHERS.format(**NOW[connection.vendor])}"
    with transaction.mark_for_rollback_on_error(using=runs.db), connection.cursor() as cursor:
        cursor.execute(f"{text} RETURNING {returned}", values)
        changed = cursor.fetchall()
    tell_of(changed)
    return len(changed)


def tell_of(changed: Iterable[Sequence[Any]]) -> None:
    """Tell of runs that have changed. changed: of each its id, its state, and what WATCHERS gave."""
    watched: dict[str, list[str]] = {}
    is_console_watched = False
    for run_id, state, is_watched, is_console in changed:
        if is_watched:
            watched.setdefault(state, []).append(run_id)
        is_console_watched = is_console_watched or bool(is_console)
    for state, ids in watched.items():
        tell(ids, state, is_console_watched=False)
    if is_console_watched:
        tell([], "", is_console_watched=True)


def tell(run_ids: Sequence[str], state: str, *, is_console_watched: bool) -> None:
    """Send the signals after the commit. run_ids: of runs that somebody watches."""
    if run_ids:
        send = partial(signals.run_changed.send_robust, sender=Run, run_ids=list(run_ids), state=str(state))
        transaction.on_commit(send, robust=True)
    if is_console_watched:
        send = partial(signals.console_changed.send_robust, sender=Feed, topics=_TOPICS)
        transaction.on_commit(send, robust=True)


# The console, at most once a second in the whole installation --------------------------------------------------------

#: How long who has changed something waits before it tells of it, where others have told of something just now.
PULSE_SECONDS = 1.0
_DUE = {
    "postgresql": {"due": f"pulsed_at <= statement_timestamp() - {PULSE_SECONDS} * interval '1 second'"},
    "sqlite": {"due": f"pulsed_at <= strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', '-{PULSE_SECONDS} seconds')"},
}
_WORDS = {vendor: NOW[vendor] | _DUE[vendor] for vendor in NOW}
#: One of those that come within a second takes it upon itself to tell when that is over.
_PULSE = Statement(
    """
    UPDATE ledger_feed SET is_owed = NOT ({due}),
        sequence = CASE WHEN {due} THEN sequence + 1 ELSE sequence END,
        pulsed_at = CASE WHEN {due} THEN {now} ELSE pulsed_at END
    WHERE name = %s AND watched_until > {now} AND ({due} OR NOT is_owed)
    RETURNING is_owed, sequence
    """,
    **_WORDS,
)
_PAY = Statement(
    """
    UPDATE ledger_feed SET is_owed = FALSE, sequence = sequence + 1, pulsed_at = {now}
    WHERE name = %s AND watched_until > {now} AND is_owed AND {due}
    RETURNING sequence
    """,
    **_WORDS,
)


def pulse() -> tuple[int | None, bool]:
    """Something has changed that the console shows: (sequence, whether it is to be told later).

    sequence: to be told with it now; None: not now. If later, call `pay` after PULSE_SECONDS.
    """
    found = _PULSE.rows([_CONSOLE])
    if not found:
        return None, False
    [(is_owed, sequence)] = found
    return (None, True) if is_owed else (sequence, False)


def pay() -> int | None:
    """The sequence with which to tell of what is owed; None where others have, or nothing is."""
    found = _PAY.rows([_CONSOLE])
    return found[0][0] if found else None


def tell_what_is_owed() -> None:
    """For the housekeeping: whoever owed it has ended within that second."""
    if Feed.objects.filter(name=_CONSOLE, is_owed=True, watched_until__gt=Now()).exists():
        tell([], "", is_console_watched=True)
