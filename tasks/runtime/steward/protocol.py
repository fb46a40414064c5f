"""What a worker and its steward say to each other: JSON objects, one a line, each named by its `do`.

To the steward:

    hello   {worker, listens, above, seen}   first of all; listens: to commands; above and seen: those known already
    facts   {kind, concurrency, ...}         the worker lives; as fleet.Sign has it, but for what the steward measures
    renew   {runs}                           SQS has renewed the leases of these messages
    lost    {number, run, why, holder}       a child process died at a run
    return  {number, run, why, holder}       a run was cut off, since the worker stops: it is no crash
    finish  {number, kind, request, error}   an outcome that only the worker's main process saw
    reply   {number, ticket, body}           an answer to a command; body: JSON
    stop    {}                               finish what is pending, note that the worker has stopped, and end

From the steward:

    ready    {above, ids, stamps}            what is revoked; above: the newest command when it began to listen
    command  {command, body}                 body: kombu's pidbox message, JSON
    done     {number}                        the database has it
    newer    {release}                       of a worker of this pool that has started since, with another release
    alive    {}                              it has been round, whether the database answers or not

What carries a number is said again to the next steward until it is done.
"""

from __future__ import annotations

from typing import Any

from kombu.utils.json import JSONEncoder, dumps, loads


def encode(do: str, **fields: Any) -> bytes:
    """One line. What JSON cannot say is said by its repr: an outcome must not be lost for that."""
    text: str = dumps({"do": do, **fields}, cls=_Encoder, skipkeys=True)
    return text.encode() + b"\n"


class _Encoder(JSONEncoder):
    def default(self, o: Any) -> Any:
        try:
            return super().default(o)
        except TypeError:
            return repr(o)


def decode(line: bytes) -> dict[str, Any] | None:
    """What a line says; None for one that is not of this protocol."""
    try:
        message = loads(line)
    except (ValueError, TypeError, KeyError):
        return None
    return message if isinstance(message, dict) and isinstance(message.get("do"), str) else None


class Lines:
    """Makes lines of what is read from a pipe in pieces."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def take(self, read: bytes) -> list[bytes]:
        """The lines that are complete with this piece."""
        *complete, rest = read.split(b"\n")
        if complete:
            complete[0] = b"".join([*self._pieces, complete[0]])
            self._pieces = []
        if rest:
            self._pieces.append(rest)
        return complete
