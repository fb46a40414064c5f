"""From a change to the sockets that show it, without making whoever changes something wait.

    change, commit -> signal -> pusher's queue -> its thread: announce -> the layer's group

One push a run or dataset every PUSH_EVERY_SECONDS, the first at once and the last always; the console at most one a
second in the whole installation. Nothing is pushed of what nobody watches, see ledger.watching.
"""

from django_app.realtime.pushing.wiring import connect, flush, soon

__all__ = ["connect", "flush", "soon"]
