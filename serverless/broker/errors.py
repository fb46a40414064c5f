"""What can go wrong in the broker, as exceptions that say what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kombu.exceptions import OperationalError

#: What shows that a message itself is at fault when Celery stumbles over it, and not its surroundings.
SHAPE_ERRORS = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, OverflowError)


class BrokerError(Exception):
    """Any error of this package."""


class OptionError(BrokerError, ValueError):
    """A transport option breaks a rule; the message names it, the value, the rule and the remedy."""


class UndeclaredQueueError(BrokerError, KeyError):
    """A queue that is neither in predefined_queues nor found in SQS."""

    def __str__(self) -> str:
        return str(self.args[0])


class EnvelopeError(BrokerError, ValueError):
    """A message that cannot become a Celery message; it is dead-lettered, since retrying cannot help."""


class ClaimCheckError(EnvelopeError):
    """A claim check that points nowhere, outside its bucket and prefix, or at something else than was put there."""


class RemoteControlError(BrokerError, NotImplementedError):
    """Remote control and events, which Celery sends by broadcast; SQS has none."""


class PriorityError(BrokerError, ValueError):
    """A priority outside 0 to 9, where priorities choose a queue."""


class DelayError(BrokerError, ValueError):
    """A delay that SQS cannot keep and nobody else was set to keep."""


@dataclass(frozen=True)
class Unsent:
    """One message that was not sent.

    reason: SQS's code and words, or the error of the connection. passing: sending it again may work.
    """

    task_id: str | None
    queue: str
    reason: str
    passing: bool = True


class PublishError(BrokerError, OperationalError):
    """Messages that were not sent, each with its task id; those that are not named were sent.

    unsent: what failed, after everything that could pass was tried again.
    sent: how many messages of the same call SQS took.
    """

    def __init__(self, unsent: Sequence[Unsent], sent: int) -> None:
        self.unsent = tuple(unsent)
        self.sent = sent
        first = self.unsent[0]
        others = f" and {len(self.unsent) - 1} more" if len(self.unsent) > 1 else ""
        super().__init__(
            f"{len(self.unsent)} of {len(self.unsent) + sent} messages were not sent: "
            f'task {first.task_id} to queue "{first.queue}": {first.reason.rstrip(".")}{others}. '
            + ("Send them again by their task ids: " if first.passing else "Sending them again would not help: ")
            + "the attribute `unsent` lists them all."
        )
