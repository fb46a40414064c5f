"""The steward itself: a process with the database and nothing else.

Two threads speak to the database. The main one does what must be prompt, each thing one short statement: leases,
signs of life, commands and answers. The other records outcomes, which may take as long as what follows from them, and
has a connection only while it needs one. Both try again for as long as the database is away.

It ends with its worker: when that says stop, closes the pipe or is gone. What is pending then has a few seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections import OrderedDict, deque
from functools import partial
from typing import Any

import structlog
from django.db import (
    DEFAULT_DB_ALIAS,
    InterfaceError,
    InternalError,
    OperationalError,
    connection,
    connections,
    transaction,
)

from tasks.runtime.steward import protocol
from tasks.topology import TOPOLOGY

#: The database is away; InternalError: it has become a replica, and somebody else is the one to ask.
_DATABASE_ERRORS = (OperationalError, InterfaceError, InternalError)

#: A sign of life is written so often; sooner where leases are short, or when the worker begins to drain.
_BEAT_SECONDS = 5.0
#: How often it is asked for workers of a newer release; by workers whose own has a name.
_RELEASES_SECONDS = 15.0
#: How often the database is asked for commands, by one statement over an index.
_LISTEN_SECONDS = 0.2
#: How far back it looks for commands that were committed late, and how many it remembers for that.
_LOOK_BACK_SECONDS = 300.0
_MOST_KNOWN = 1000
_MOST_COMMANDS = 200
#: Revocations that a worker keeps in memory; the claim asks the database about all of them.
_MOST_REVOCATIONS = 10_000
#: Runs renewed by one statement.
_AT_ONCE = 200
#: How long a statement may wait for a row that somebody else has locked, on Postgres.
_LOCK_MILLISECONDS = 2000
_FIRST_PAUSE_SECONDS = 0.1
#: Short: what is held must be renewed as soon as the database is back.
_LONGEST_PAUSE_SECONDS = 1.0
_LONGEST_OUTCOME_PAUSE_SECONDS = 60.0
#: Trouble that goes on is told again after this.
_REMIND_SECONDS = 300.0
#: A connection that records no outcomes is closed after this.
_IDLE_SECONDS = 30.0
#: For what is pending when the worker stops, and when it is gone; and for the mere note that it has stopped.
_STOP_SECONDS = 10.0
_GONE_SECONDS = 5.0
_NOTE_SECONDS = 3.0
#: libpq's own: a server that has vanished is noticed within 15 seconds.
_POSTGRES = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
}
_SQLITE_TIMEOUT_SECONDS = 5


def main() -> int:
    parser = argparse.ArgumentParser(description="A worker's steward. Workers start it themselves.")
    parser.add_argument("--parent", type=int, required=True, help="the worker's process id")
    parent = parser.parse_args().parent
    # What others print must not get between the lines.
    speak = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    import django

    django.setup()
    return Steward(parent, sys.stdin.fileno(), speak).run()


class Trouble:
    """Something that fails again and again: logged when it begins, every five minutes, and when it ends."""

    def __init__(self, log: structlog.stdlib.BoundLogger, event: str) -> None:
        self._log, self._event = log, event
        self.tries = 0
        self._began = self._told = 0.0

    def failed(self, error: BaseException, longest_pause: float) -> float:
        """Count a failure; seconds to wait before the next try."""
        now = time.monotonic()
        self.tries += 1
        if self.tries == 1:
            self._began = now
        if self.tries == 1 or now - self._told > _REMIND_SECONDS:
            self._told = now
            self._log.error(f"{self._event}_fails", error=f"{type(error).__name__}: {error}", tries=self.tries)
        return min(longest_pause, _FIRST_PAUSE_SECONDS * 2.0 ** min(self.tries - 1, 16))

    def worked(self) -> None:
        if self.tries:
            self._log.warning(
                f"{self._event}_works_again", tries=self.tries, seconds=round(time.monotonic() - self._began, 1)
            )
        self.tries = 0


class Steward:
    """See the module. parent: the worker's process id. listen, speak: file descriptors of the pipes."""

    def __init__(self, parent: int, listen: int, speak: int) -> None:
        self._log = structlog.get_logger("tasks.runtime.steward")
        self._parent, self._listen, self._speak = parent, listen, speak
        self._speaking = threading.Lock()
        self._worker = ""
        self._listens = False
        self._changed = threading.Condition()
        # What the worker has said, guarded by the above:
        self._to_renew: dict[str, float] = {}
        self._facts: dict[str, Any] | None = None
        self._replies: deque[dict[str, Any]] = deque()
        self._outcomes: deque[tuple[float, dict[str, Any], int]] = deque()
        self._is_recording = False
        self._end_by: float | None = None
        self._is_stop = False
        # Of the main thread:
        self._above: int | None = None
        self._known: OrderedDict[int, float] = OrderedDict()
        self._is_ready = False
        self._has_beaten = False
        self._is_draining = False
        self._has_stopped = False
        self._renew_due = 0.0
        self._beat_due = 0.0
        self._releases_due = 0.0
        self._newer_release = ""
        self._listen_due = 0.0
        self._is_round = False

    def run(self) -> int:
        _settle_for_outages()
        for each in (self._hear, self._watch, self._record_outcomes):
            threading.Thread(target=each, daemon=True, name=each.__name__).start()
        trouble = Trouble(self._log, "database")
        while True:
            pause = self._look(trouble)
            if pause:
                with self._changed:
                    self._changed.wait_for(self._is_over, pause)
            else:
                with self._changed:
                    self._changed.wait_for(self._has_something_to_do, max(0.0, self._next_due() - time.monotonic()))
            if self._is_over():
                return 0
            if self._is_round:
                self._is_round = False
                self._say("alive")

    # The worker ------------------------------------------------------------------------------------------------------

    def _say(self, do: str, **fields: Any) -> None:
        line = protocol.encode(do, **fields)
        try:
            with self._speaking:
                while line:
                    line = line[os.write(self._speak, line) :]
        except OSError:
            self._end(_GONE_SECONDS)

    def _hear(self) -> None:
        lines = protocol.Lines()
        while True:
            try:
                read = os.read(self._listen, 1 << 16)
            except OSError:
                read = b""
            if not read:
                self._end(_GONE_SECONDS)
                return
            for line in lines.take(read):
                message = protocol.decode(line)
                if message is None:
                    self._log.error("worker_not_understood", line=line[:200].decode(errors="replace"))
                    continue
                with self._changed:
                    self._note(message)
                    self._changed.notify_all()

    def _note(self, message: dict[str, Any]) -> None:
        now = time.monotonic()
        match message["do"]:
            case "hello":
                self._worker, self._listens = message["worker"], message["listens"]
                self._above = message["above"]
                self._known = OrderedDict.fromkeys(message["seen"], now)
            case "renew":
                self._to_renew.update(dict.fromkeys(message["runs"], now))
            case "facts":
                message.pop("do")
                self._facts = message
                self._is_round = True
            case "reply":
                self._replies.append(message)
            case "lost" | "return" | "finish":
                self._outcomes.append((now, message, 0))
            case "stop":
                self._is_stop = True
                self._end(_STOP_SECONDS)

    def _end(self, seconds: float) -> None:
        """Finish what is pending within so many seconds."""
        with self._changed:
            if self._end_by is None:
                self._end_by = time.monotonic() + seconds
            self._changed.notify_all()

    def _watch(self) -> None:
        """End with the worker, whatever the other threads are waiting for."""
        while True:
            time.sleep(0.5)
            if os.getppid() != self._parent:
                self._end(_GONE_SECONDS)
            if self._end_by is not None and time.monotonic() > self._end_by + 1.0:
                pending = len(self._outcomes) + self._is_recording
                self._log.error("steward_gave_up", worker=self._worker, outcomes=pending)
                os._exit(1)

    def _is_over(self) -> bool:
        if self._end_by is None:
            return False
        is_done = not (
            self._outcomes or self._is_recording or self._replies or (self._is_stop and not self._has_stopped)
        )
        return is_done or time.monotonic() > self._end_by

    # The prompt part -------------------------------------------------------------------------------------------------

    def _has_something_to_do(self) -> bool:
        now = time.monotonic()
        return bool(
            (self._to_renew and now >= self._renew_due)
            or self._replies
            or self._facts_are_due(now)
            or self._may_say_that_it_stopped()
            or self._is_over()
        )

    def _facts_are_due(self, now: float) -> bool:
        return self._facts is not None and (now >= self._beat_due or self._facts["is_draining"] != self._is_draining)

    def _may_say_that_it_stopped(self) -> bool:
        return self._is_stop and not (self._has_stopped or self._outcomes or self._is_recording)

    def _next_due(self) -> float:
        due = [time.monotonic() + 1.0]
        if self._listens:
            due.append(self._listen_due)
        if self._to_renew:
            due.append(self._renew_due)
        if self._facts is not None:
            due.append(self._beat_due)
        return min(due)

    def _look(self, trouble: Trouble) -> float:
        """One round of everything that is due; seconds to wait if something failed."""
        if not self._worker:
            return 0.0
        pause = 0.0
        for do in (self._renew, self._beat, self._send_replies, self._get_ready, self._ask_for_commands, self._retire):
            try:
                do()
            except _DATABASE_ERRORS as error:
                connection.close()
                return trouble.failed(error, _LONGEST_PAUSE_SECONDS)
            except Exception as error:
                # Such as a table that is not there yet. The others go on.
                pause = trouble.failed(error, _LONGEST_PAUSE_SECONDS)
                if trouble.tries == 1:
                    self._log.exception("steward_failed", doing=do.__name__)
        if not pause:
            trouble.worked()
        return pause

    def _renew(self) -> None:
        now = time.monotonic()
        with self._changed:
            # What has not been renewed for a lease is not held any more.
            self._to_renew = {run: at for run, at in self._to_renew.items() if now - at < TOPOLOGY.lease_seconds}
            asked = dict(self._to_renew)
        runs = list(asked)
        for start in range(0, len(runs), _AT_ONCE):
            done = self._renew_unlocked(runs[start : start + _AT_ONCE])
            with self._changed:
                for run in done:
                    if self._to_renew.get(run) == asked[run]:
                        del self._to_renew[run]
        # What somebody has locked is tried again, but not without a pause.
        self._renew_due = time.monotonic() + (_LONGEST_PAUSE_SECONDS if self._to_renew else 0.0)

    def _renew_unlocked(self, runs: list[str]) -> list[str]:
        """Renew them together; where somebody has locked one for long, the others all the same."""
        from django_app.ledger import claims

        renew = partial(claims.renew, self._worker, lease_seconds=TOPOLOGY.lease_seconds)
        if connection.vendor != "postgresql":
            renew(run_ids=runs)
            return runs
        try:
            with transaction.atomic():
                with connection.cursor() as cursor:
                    cursor.execute(f"SET LOCAL lock_timeout = {_LOCK_MILLISECONDS}")
                renew(run_ids=runs)
        except _DATABASE_ERRORS as error:
            if getattr(error.__cause__, "sqlstate", None) != "55P03" or len(runs) == 1:  # lock_not_available
                raise
            half = len(runs) // 2
            done: list[str] = []
            for part in (runs[:half], runs[half:]):
                try:
                    done += self._renew_unlocked(part)
                except _DATABASE_ERRORS:
                    if not connection.is_usable():
                        raise
            return done
        return runs

    def _beat(self) -> None:
        from django_app.ledger import fleet

        with self._changed:
            facts = self._facts
            if facts is None or not self._facts_are_due(time.monotonic()):
                return
            self._facts = None
        pids = [self._parent, *_descendants(self._parent)]
        sign = fleet.Sign(**facts, release=_release(), load=_load(), memory_bytes=sum(map(_memory_bytes, pids)))
        fleet.beat(self._worker, sign, TOPOLOGY.lease_seconds, is_first=not self._has_beaten)
        self._has_beaten, self._is_draining = True, sign.is_draining
        self._beat_due = time.monotonic() + min(_BEAT_SECONDS, TOPOLOGY.lease_seconds / 4)
        self._look_for_newer_release()

    def _look_for_newer_release(self) -> None:
        """Tell the worker that it is being replaced, so that it lets go of its container soon."""
        from django_app.ledger import fleet

        now = time.monotonic()
        if now < self._releases_due or not _release():
            return
        self._releases_due = now + _RELEASES_SECONDS
        found = fleet.newer_release(self._worker)
        if found != self._newer_release:
            self._newer_release = found
            self._say("newer", release=found)

    def _send_replies(self) -> None:
        from django_app.ledger import fleet

        while self._replies:
            reply = self._replies[0]
            fleet.answer(reply["ticket"], reply["body"])
            self._replies.popleft()
            self._say("done", number=reply["number"])

    def _get_ready(self) -> None:
        from django_app.ledger import fleet

        if self._is_ready:
            return
        if self._above is None:
            self._above = fleet.newest_command()
        ids, stamps = fleet.revocations(_MOST_REVOCATIONS)
        self._say("ready", above=self._above, ids=ids, stamps=stamps)
        self._is_ready = True

    def _ask_for_commands(self) -> None:
        from django_app.ledger import fleet

        now = time.monotonic()
        if not self._listens or self._above is None or now < self._listen_due:
            return
        self._listen_due = now + _LISTEN_SECONDS
        for number, body in fleet.commands(self._above, self._known, _MOST_COMMANDS):
            self._known[number] = now
            self._say("command", command=number, body=body)
        while self._known:
            number, at = next(iter(self._known.items()))
            if len(self._known) <= _MOST_KNOWN and now - at < _LOOK_BACK_SECONDS:
                return
            del self._known[number]
            self._above = max(self._above, number)

    def _retire(self) -> None:
        from django_app.ledger import fleet

        if self._may_say_that_it_stopped():
            fleet.stop(self._worker)
            self._has_stopped = True

    # Outcomes --------------------------------------------------------------------------------------------------------

    def _record_outcomes(self) -> None:
        trouble = Trouble(self._log, "recording_outcomes")
        while True:
            with self._changed:
                self._is_recording = False
                self._changed.notify_all()
                if not self._changed.wait_for(lambda: bool(self._outcomes), _IDLE_SECONDS):
                    connection.close()
                    continue
                due, message, tries = self._outcomes[0]
                wait = due - time.monotonic()
                if wait > 0:
                    # The one behind it may be due.
                    self._outcomes.rotate(-1)
                    self._changed.wait(min(wait, 0.05))
                    continue
                self._outcomes.popleft()
                self._is_recording = True
            try:
                self._record(message)
            except _DATABASE_ERRORS as error:
                connection.close()
                pause = trouble.failed(error, _LONGEST_PAUSE_SECONDS)
                with self._changed:
                    self._outcomes.appendleft((time.monotonic() + pause, message, tries))
            except Exception as error:
                # Not the database's fault: others must not wait behind it.
                pause = min(_LONGEST_OUTCOME_PAUSE_SECONDS, 2.0**tries)
                if tries % 10 == 0:
                    self._log.exception("outcome_not_recorded", worker=self._worker, tries=tries + 1, error=str(error))
                with self._changed:
                    self._outcomes.append((time.monotonic() + pause, message, tries + 1))
            else:
                trouble.worked()
                self._say("done", number=message["number"])

    def _record(self, message: dict[str, Any]) -> None:
        from django_app.ledger import claims

        if message["do"] in ("lost", "return"):
            tell = claims.lose if message["do"] == "lost" else claims.give_back
            tell(message["run"], self._worker, message["why"], message["holder"])
            return
        from tasks.runtime.reports import finish_for_main

        finish_for_main(message["kind"], message["request"], message["error"])


def _settle_for_outages() -> None:
    """Have a database that does not answer noticed early: nobody but this process waits for it."""
    database = connections.settings[DEFAULT_DB_ALIAS]
    options = database.setdefault("OPTIONS", {})
    if "postgresql" in database["ENGINE"]:
        options.update(
            {key: value for key, value in _POSTGRES.items() if key == "connect_timeout" or key not in options}
        )
    elif "sqlite" in database["ENGINE"]:
        options["timeout"] = _SQLITE_TIMEOUT_SECONDS


def _release() -> str:
    from django.conf import settings

    return str(settings.RELEASE)


def _load() -> float:
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0


def _descendants(pid: int) -> list[int]:
    """The processes below one; none where there is no /proc."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as handle:
                children = [int(child) for child in handle.read().split()]
            for child in children:
                found += [child, *_descendants(child)]
    except (OSError, ValueError):
        return found
    return found


def _memory_bytes(pid: int) -> int:
    """Memory of a process, what it shares with others counted by its part; 0 where that cannot be known."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as handle:
            for line in handle:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0
