"""One invocation of a function, as handlers of events see it."""

from __future__ import annotations

from dataclasses import dataclass

from serverless.invocations.http import LambdaContext


@dataclass(frozen=True)
class Invocation:
    """context: Lambda's own."""

    context: LambdaContext

    @property
    def request_id(self) -> str:
        return self.context.aws_request_id

    def remaining_seconds(self) -> float:
        """Until Lambda ends the function."""
        return self.context.get_remaining_time_in_millis() / 1000
