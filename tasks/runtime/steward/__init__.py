"""The steward: a small process beside a worker that speaks to the database in its stead.

A prefork worker's main process never opens a database connection: it forks, and a connection, or a thread that holds
SQLite's lock, breaks beside a fork; and no outage may stop its event loop. So the worker spawns a process of its own,
and says to it over a pipe what the database must hear: which runs it still holds, that a child process died, an outcome
that only it saw, that it lives, answers to remote control. Commands and revocations come back the same way.

    start(app, worker_name, facts)     spawn it, in the worker's main process
    current()                          the Steward of this process, or None
    stop()                             have it finish what is pending, and end it

`client.py` is the worker's side, `process.py` the other, `protocol.py` what they say to each other.
"""

from tasks.runtime.steward.client import Steward, current, renew, start, stop

__all__ = ["Steward", "current", "renew", "start", "stop"]
