"""A call that is repeated is answered as it was, and done once."""

from __future__ import annotations

import threading

from tests.infra.replays import Replaying
from tests.threads import at_once


class Counting:
    """Answers with how often it was asked. statuses: of its first answers; then 200."""

    def __init__(self, *statuses: str) -> None:
        self.statuses = list(statuses)
        self.asked = 0
        self._lock = threading.Lock()

    def __call__(self, environ, start_response):
        with self._lock:
            self.asked += 1
            asked = self.asked
            status = self.statuses.pop(0) if self.statuses else "200 OK"
        start_response(status, [("X", "y")])
        return [b"asked ", str(asked).encode()]


def ask(application, name: str | None) -> tuple[str, bytes]:
    told = []
    environ = {"HTTP_AMZ_SDK_INVOCATION_ID": name} if name else {}
    body = b"".join(application(environ, lambda status, headers: told.append(status)))
    return told[0], body


def test_a_repetition_is_answered_as_the_first_was_and_another_call_by_itself():
    counting = Counting()
    replaying = Replaying(counting)
    assert ask(replaying, "a") == ask(replaying, "a") == ("200 OK", b"asked 1")
    assert ask(replaying, "b") == ("200 OK", b"asked 2")
    assert ask(replaying, None) == ("200 OK", b"asked 3")
    assert ask(replaying, None) == ("200 OK", b"asked 4")


def test_after_an_error_it_is_done_again():
    replaying = Replaying(Counting("500 Oh", "429 Slow"))
    assert [ask(replaying, "a")[0] for _ in range(4)] == ["500 Oh", "429 Slow", "200 OK", "200 OK"]


def test_repetitions_at_once_are_done_once():
    counting = Counting()
    replaying = Replaying(counting)
    assert set(at_once(8, lambda _: ask(replaying, "a"))) == {("200 OK", b"asked 1")}
    assert counting.asked == 1
