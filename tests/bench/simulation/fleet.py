"""Messages, and the workers that hold them."""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field

from tests.bench.simulation.shapes import Work


@dataclass(eq=False)
class Message:
    """started_at: when a process first began it."""

    work: Work
    started_at: float | None = None
    crashes: int = 0


class State(enum.Enum):
    STARTING = "its container starts"
    UP = "receives; protected where the variant protects"
    RESTING = "has stopped receiving, finishes, and gives its protection up"
    STOPPING = "was told to stop"
    GONE = "is no more"


@dataclass(eq=False)
class Worker:
    """longest_seconds: the longest task that it has finished, which sets how long it keeps its protection."""

    slots: int
    room: int
    born_at: float
    state: State = State.STARTING
    protected: bool = False
    gone_at: float | None = None
    longest_seconds: float = 0.0
    running: dict[Message, float] = field(default_factory=dict)
    prefetched: deque[Message] = field(default_factory=deque)

    @property
    def held(self) -> int:
        return len(self.running) + len(self.prefetched)

    @property
    def has_room(self) -> bool:
        return self.state is State.UP and self.held < self.room
