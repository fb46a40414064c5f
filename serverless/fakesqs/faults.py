"""What can go wrong on the way, on demand."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["error", "reset", "cut", "black_hole", "lost_answer", "partial"]


@dataclass
class Fault:
    """One thing that goes wrong.

    operation: such as ReceiveMessage, or "*" for all.
    kind: error (an answer of `status` and `code`), reset (the connection, at once), cut (the answer breaks off in its
        middle), black_hole (no answer, the connection stays open), lost_answer (the request is carried out and the
        connection reset: the caller cannot know), partial (a batch fails for `share` of its entries with `code`).
    times: how often; None is always. share: the part of requests (or of entries) that it hits, 0 to 1.
    sender_fault: of partial failures.
    """

    operation: str
    kind: Kind
    status: int = 500
    code: str = "InternalFailure"
    times: int | None = 1
    share: float = 1.0
    sender_fault: bool = False
    hits: int = field(default=0, compare=False)

    def strikes(self, operation: str, randomness: random.Random) -> bool:
        """Whether it hits this request; counts it if so."""
        if self.operation not in ("*", operation) or (self.times is not None and self.hits >= self.times):
            return False
        if self.kind != "partial" and randomness.random() >= self.share:
            return False
        self.hits += 1
        return True
