"""The worker's side: what the main process says to its steward, and the thread that keeps one at its side.

Everything here may be called from any thread and from signal handlers, and nothing waits: what is said goes into a
queue, which the thread empties into the pipe. The thread starts the steward, starts it again when it dies, and says
again what was not confirmed.

The worker forks beside all that. A forked child closes its copies of the pipes, or the steward would not notice that
the worker is gone; and no fork happens while pipes are made, or the worker would not notice that the steward is.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from kombu.asynchronous import get_event_loop

from tasks.runtime.steward import protocol
from tasks.runtime.steward.child import Bell, Child
from tasks.topology import TOPOLOGY

log = structlog.get_logger(__name__)

#: How often the worker says how it is.
_FACTS_SECONDS = 2.0
#: A steward that has not been round for so long stands still: another takes its place.
_SILENCE_SECONDS = 120.0
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 15.0
#: One that has lived so long has started well.
_PROVEN_SECONDS = 30.0
#: At the end, for what is pending. The steward itself gives up a little earlier.
_STOP_SECONDS = 15.0
#: Commands that are remembered, so that none is obeyed twice.
_MOST_SEEN = 1000
#: Commands that wait for the worker to be ready; answers that wait for the database.
_MOST_WAITING = 1000
_REPLY_SECONDS = 60.0


@dataclass
class _Unconfirmed:
    """A line that is said again until it is done. born: time.monotonic(). then: what it allows."""

    line: bytes
    born: float
    then: Callable[[], None] | None = None
    is_reply: bool = False


class Steward:
    """A worker's main process's way to the database.

    facts: called every few seconds in this object's thread; what fleet.Sign has, but for release, load and memory.
    on_command: called in the event loop with each command's body. Commands that come before it is set wait for it.
    """

    def __init__(self, app: Any, worker_name: str, facts: Callable[[], dict[str, Any]]) -> None:
        self.worker = worker_name
        #: Set once the database has been asked what is revoked.
        self.ready = threading.Event()
        #: (task ids, stamped headers with their values).
        self.revocations: tuple[list[str], dict[str, list[str]]] = ([], {})
        #: A release of which another worker of this pool has started since this one, "" for none.
        self.newer_release = ""
        #: Called in the event loop when the revocations have changed.
        self.on_ready: Callable[[], object] = lambda: None
        self._app = app
        self._facts = facts
        self._on_command: Callable[[str], object] | None = None
        self._commands: deque[str] = deque(maxlen=_MOST_WAITING)
        self._said: deque[Callable[[], None]] = deque()
        self._finished: deque[tuple[int, Callable[[], None]]] = deque()
        #: Outcomes whose `then` has not been called.
        self._open: set[int] = set()
        self._numbers = iter(range(1, sys.maxsize))
        self._bell = Bell()
        self._thread = threading.Thread(target=self._run, name="steward", daemon=True)
        # Of the thread alone:
        self._child: Child | None = None
        self._unconfirmed: OrderedDict[int, _Unconfirmed] = OrderedDict()
        self._unsent: deque[int] = deque()
        self._held: dict[str, float] = {}
        self._to_renew: set[str] = set()
        self._above: int | None = None
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._facts_due = 0.0
        self._heard_at = 0.0
        self._stop_by: float | None = None

    # What the worker says --------------------------------------------------------------------------------------------

    def renew(self, task_ids: Sequence[str]) -> None:
        """SQS has renewed these messages' leases: renew the runs' too, as soon as the database can be reached."""
        self._say(partial(self._note_held, list(task_ids)))

    def lost(self, run_id: str, why: str, holder: str = "") -> None:
        """A child process died at a run. holder: of that attempt, so that a late report does not strike the next."""
        self._keep(partial(protocol.encode, "lost", run=run_id, why=why, holder=holder))

    def cut_off(self, run_id: str, why: str, holder: str) -> None:
        """A stop has ended a run that was at work, and its message goes back. As for `lost`, but no crash."""
        self._keep(partial(protocol.encode, "return", run=run_id, why=why, holder=holder))

    def finish(self, kind: str, request: dict[str, Any], error: dict[str, Any], then: Callable[[], None]) -> None:
        """Record an outcome that only the main process saw; `then` is called in its event loop once that is durable.

        It is recorded by tasks.runtime.reports.finish_for_main, in the steward.
        """
        # Encoded now: what it refers to may change.
        line = protocol.encode(
            "finish", number=(number := next(self._numbers)), kind=kind, request=request, error=error
        )
        self._open.add(number)
        self._say(partial(self._note, number, _Unconfirmed(line, time.monotonic(), then)))

    def reply(self, ticket: str, body: str) -> None:
        """Answer a command. body: JSON."""
        self._keep(partial(protocol.encode, "reply", ticket=ticket, body=body), is_reply=True)

    def tell_facts(self) -> None:
        """Say how the worker is now, and not only in a few seconds."""
        self._say(self._hurry_facts)

    def obey(self, on_command: Callable[[str], object]) -> None:
        """Have commands handled, first those that have come already."""
        self._on_command = on_command
        self._soon(self._handle_commands)

    def drain(self, seconds: float) -> bool:
        """At the end, in the main thread: wait until all outcomes are durable, and call what that allows."""
        deadline = time.monotonic() + seconds
        while self._open and time.monotonic() < deadline:
            self._call_finished()
            time.sleep(0.02)
        self._call_finished()
        if self._open:
            log.error("outcomes_not_recorded", worker=self.worker, outcomes=len(self._open))
        return not self._open

    def stop(self, seconds: float = _STOP_SECONDS) -> None:
        """Have the steward finish what is pending, note that the worker has stopped, and end. Waits for that."""
        self._say(partial(self._note_stop, time.monotonic() + seconds))
        if self._thread.is_alive():
            self._thread.join(seconds + 5.0)

    def start(self) -> None:
        self._thread.start()

    def _keep(self, encode: Callable[..., bytes], *, is_reply: bool = False) -> None:
        number = next(self._numbers)
        kept = _Unconfirmed(encode(number=number), time.monotonic(), is_reply=is_reply)
        self._say(partial(self._note, number, kept))

    def _say(self, note: Callable[[], None]) -> None:
        self._said.append(note)
        self._bell.ring()

    # Back in the event loop ------------------------------------------------------------------------------------------

    def _soon(self, function: Callable[[], object]) -> None:
        hub = get_event_loop()
        if hub is not None:
            hub.call_soon(function)
        else:
            function()

    def _call_finished(self) -> None:
        while self._finished:
            number, then = self._finished.popleft()
            try:
                then()
            except Exception:
                log.exception("outcome_not_settled", worker=self.worker)
            finally:
                self._open.discard(number)

    def _handle_commands(self) -> None:
        while self._on_command is not None and self._commands:
            body = self._commands.popleft()
            try:
                self._on_command(body)
            except Exception:
                log.exception("command_failed", worker=self.worker)

    # The thread ------------------------------------------------------------------------------------------------------

    def _note_held(self, task_ids: list[str]) -> None:
        now = time.monotonic()
        self._held.update(dict.fromkeys(task_ids, now))
        self._to_renew.update(task_ids)
        self._forget_held(now)

    def _forget_held(self, now: float) -> None:
        """What is held is renewed several times a lease."""
        for task_id in [each for each, at in self._held.items() if now - at > TOPOLOGY.lease_seconds]:
            del self._held[task_id]
            self._to_renew.discard(task_id)

    def _note(self, number: int, unconfirmed: _Unconfirmed) -> None:
        self._unconfirmed[number] = unconfirmed
        self._unsent.append(number)
        if unconfirmed.is_reply:
            self._forget_replies(time.monotonic())

    def _forget_replies(self, now: float) -> None:
        """Whoever asked has gone: answers are not kept over an outage."""
        replies = [number for number, each in self._unconfirmed.items() if each.is_reply]
        surplus = set(replies[: max(0, len(replies) - _MOST_WAITING)])
        for number in replies:
            if number in surplus or now - self._unconfirmed[number].born > _REPLY_SECONDS:
                del self._unconfirmed[number]

    def _hurry_facts(self) -> None:
        self._facts_due = 0.0

    def _note_stop(self, deadline: float) -> None:
        self._stop_by = deadline

    def _run(self) -> None:
        pause = 0.0
        while True:
            self._wait(pause)
            if self._is_over(time.monotonic()):
                return
            began = time.monotonic()
            try:
                has_ended = self._attend()
            except Exception:
                log.exception("steward_failed", worker=self.worker)
                has_ended = False
            if has_ended:
                return
            is_proven = time.monotonic() - began > _PROVEN_SECONDS
            pause = _FIRST_PAUSE_SECONDS if is_proven else min(_LONGEST_PAUSE_SECONDS, 2 * pause + _FIRST_PAUSE_SECONDS)
            log.error(
                "steward_died",
                worker=self.worker,
                status=self._child.status if self._child else None,
                again_in_seconds=round(pause, 1),
            )

    def _wait(self, seconds: float) -> None:
        """A pause that a stop ends."""
        until = time.monotonic() + seconds * random.uniform(0.75, 1.0)
        while (left := until - time.monotonic()) > 0 and self._stop_by is None:
            time.sleep(min(left, 0.1))
            self._hear_the_worker()

    def _is_over(self, now: float) -> bool:
        return self._stop_by is not None and now >= self._stop_by

    def _hear_the_worker(self) -> None:
        while self._said:
            note = self._said.popleft()
            try:
                note()
            except Exception:
                log.exception("steward_not_told", worker=self.worker)

    def _attend(self) -> bool:
        """One steward's life; whether it ended because it was told to."""
        with _spawning:
            child = self._child = Child(self._bell)
        child.write(self._hello())
        self._unsent = deque(self._unconfirmed)
        self._forget_held(time.monotonic())
        self._to_renew = set(self._held)
        self._facts_due, self._heard_at = 0.0, time.monotonic()
        is_told_to_stop = False
        try:
            while True:
                self._hear_the_worker()
                now = time.monotonic()
                if self._is_over(now) or now - self._heard_at > _SILENCE_SECONDS:
                    log.error("steward_stood_still", worker=self.worker)
                    return self._is_over(now)
                if child.has_taken_all:
                    lines = self._next_lines(now)
                    if not lines and self._stop_by is not None and not is_told_to_stop:
                        lines = protocol.encode("stop")
                        is_told_to_stop = True
                    child.write(lines)
                for line in child.exchange(min(1.0, self._facts_due - now) if child.has_taken_all else 1.0):
                    self._hear_the_steward(line)
        except EOFError:
            return is_told_to_stop and child.ended_well()
        finally:
            child.end()

    def _hello(self) -> bytes:
        return protocol.encode(
            "hello",
            worker=self.worker,
            listens=bool(self._app.conf.worker_enable_remote_control),
            above=self._above,
            seen=list(self._seen),
        )

    def _next_lines(self, now: float) -> bytes:
        """What there is to say, leases first."""
        said = bytearray()
        if self._to_renew:
            said += protocol.encode("renew", runs=list(self._to_renew))
            self._to_renew.clear()
        if now >= self._facts_due:
            self._facts_due = now + _FACTS_SECONDS
            try:
                said += protocol.encode("facts", **self._facts())
            except Exception:
                log.exception("worker_facts_failed", worker=self.worker)
        while self._unsent and len(said) < 65536:
            unconfirmed = self._unconfirmed.get(self._unsent.popleft())
            if unconfirmed is not None:
                said += unconfirmed.line
        return bytes(said)

    def _hear_the_steward(self, line: bytes) -> None:
        message = protocol.decode(line)
        if message is None:
            log.error("steward_not_understood", worker=self.worker, line=line[:200].decode(errors="replace"))
            return
        self._heard_at = time.monotonic()
        match message["do"]:
            case "done":
                unconfirmed = self._unconfirmed.pop(message["number"], None)
                if unconfirmed is not None and unconfirmed.then is not None:
                    self._finished.append((message["number"], unconfirmed.then))
                    self._soon(self._call_finished)
            case "command":
                self._note_command(message["command"], message["body"])
            case "newer":
                self.newer_release = str(message["release"])
            case "ready":
                if self._above is None:
                    self._above = message["above"]
                self.revocations = (message["ids"], message["stamps"])
                self.ready.set()
                self._soon(self.on_ready)

    def _note_command(self, number: int, body: str) -> None:
        if number in self._seen or self._above is None:
            return
        self._seen[number] = None
        while len(self._seen) > _MOST_SEEN:
            self._above = max(self._above, self._seen.popitem(last=False)[0])
        self._commands.append(body)
        self._soon(self._handle_commands)


# This process's ------------------------------------------------------------------------------------------------------

_current: tuple[int, Steward] | None = None
#: Held while pipes are made, and during each fork.
_spawning = threading.Lock()
_hooked = False


def start(app: Any, worker_name: str, facts: Callable[[], dict[str, Any]]) -> Steward:
    """Spawn this worker's steward. See Steward."""
    global _current, _hooked  # noqa: PLW0603
    if not _hooked:
        os.register_at_fork(before=_spawning.acquire, after_in_parent=_spawning.release, after_in_child=_forget_parents)
        _hooked = True
    made = Steward(app, worker_name, facts)
    _current = (os.getpid(), made)
    made.start()
    return made


def current() -> Steward | None:
    """This process's steward; None in a pool's child, and wherever none was started."""
    return _current[1] if _current is not None and _current[0] == os.getpid() else None


def stop(seconds: float = _STOP_SECONDS) -> None:
    """End this process's steward, if it has one; see Steward.stop."""
    global _current  # noqa: PLW0603
    steward = current()
    if steward is not None:
        steward.stop(seconds)
        _current = None


def renew(task_ids: Sequence[str]) -> None:
    """The broker's lease_hook."""
    steward = current()
    if steward is not None:
        steward.renew(task_ids)


def _forget_parents() -> None:
    """In a forked child, which has the parent's file descriptors and not its threads."""
    global _current  # noqa: PLW0603
    _spawning.release()
    if _current is None:
        return
    _, steward = _current
    _current = None
    steward._bell.close()
    if steward._child is not None:
        steward._child.close_pipes()
