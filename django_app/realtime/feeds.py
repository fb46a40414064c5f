"""What can be watched: one run, one dataset, the console. Of each, who may watch it and what they are shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from django.contrib.auth.models import AbstractUser
from django.urls import path

from django_app.console import shown
from django_app.console.access import access_of, visible_runs
from django_app.datasets import services
from django_app.datasets.models import Chunk, Dataset
from django_app.ledger import watching
from django_app.ledger.models import Feed as Pulse
from django_app.ledger.models import Run
from django_app.realtime import groups

Content = dict[str, Any]

#: Parts of a dataset that are shown one by one.
_MOST_CHUNKS = 400
#: How often a dataset is read that changes under the reader's hands.
_MOST_LOOKS = 3
_LONGEST_NOTE, _LONGEST_ERROR, _LONGEST_PROBLEM = 200, 500, 2000
#: All that the console may be told of.
_TOPICS = ["runs"]
_LETTERS = {Chunk.State.DONE: "d", Chunk.State.RUNNING: "r", Chunk.State.WAITING: "w"}


class Feed(ABC):
    """One thing that can be watched. Made anew for each question, of what the socket's path says."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def group(self) -> str:
        """The layer's group of those who watch it."""

    @abstractmethod
    def may_watch(self, user: AbstractUser) -> bool:
        """Whether it is there, and theirs to see."""

    @abstractmethod
    def watch(self) -> None:
        """Note that somebody watches: of what nobody watches nothing is told."""

    @abstractmethod
    def snapshot(self, user: AbstractUser) -> Content | None:
        """All that is shown of it, as it is now; None if this person may not see it, or it is not there."""

    @abstractmethod
    def is_there(self) -> bool:
        """Whether it exists, whoever may see it."""

    def change(self, user: AbstractUser, told: Mapping[str, Any]) -> Content | None:
        """What a person is shown when it has changed. told: what whoever changed it said. None: as for snapshot."""
        return self.snapshot(user)


class RunFeed(Feed):
    kind = "run"

    def __init__(self, pk: str) -> None:
        self._pk = pk

    @property
    def group(self) -> str:
        return groups.run(self._pk)

    def may_watch(self, user: AbstractUser) -> bool:
        return visible_runs(user).filter(pk=self._pk).exists()

    def watch(self) -> None:
        watching.watch(self._pk)

    def is_there(self) -> bool:
        return Run.objects.filter(pk=self._pk).exists()

    def snapshot(self, user: AbstractUser) -> Content | None:
        fields = ("state", "sequence", "progress_done", "progress_total", "progress_note", "attempts", "error")
        run = visible_runs(user).filter(pk=self._pk).only(*fields).first()
        if run is None:
            return None
        return {
            "type": "state",
            "kind": self.kind,
            "id": run.pk,
            "seq": run.sequence,
            "is_final": run.is_final,
            "state": run.state,
            "done": run.progress_done,
            "total": run.progress_total,
            "note": shown.plain(run.progress_note, _LONGEST_NOTE),
            "attempts": run.attempts,
            "error": shown.plain(run.error, _LONGEST_ERROR),
        }


class DatasetFeed(Feed):
    kind = "dataset"

    def __init__(self, pk: UUID) -> None:
        self._pk = pk

    @property
    def group(self) -> str:
        return groups.dataset(self._pk)

    def may_watch(self, user: AbstractUser) -> bool:
        return Dataset.objects.owned_by(user).filter(pk=self._pk).exists()

    def watch(self) -> None:
        """All that is told of a dataset is told by its own changes, which are few."""

    def is_there(self) -> bool:
        return Dataset.objects.filter(pk=self._pk).exists()

    def snapshot(self, user: AbstractUser) -> Content | None:
        dataset, states = self._read(user)
        if dataset is None:
            return None
        if len(states) <= _MOST_CHUNKS:
            done, total = states.count(Chunk.State.DONE), len(states)
        else:
            counted = services.progress(dataset)
            done, total = counted["done"], counted["total"]
        return {
            "type": "state",
            "kind": self.kind,
            "id": str(dataset.pk),
            "seq": dataset.sequence,
            "is_final": dataset.state in (Dataset.State.READY, Dataset.State.FAILED),
            "state": dataset.state,
            "label": dataset.get_state_display(),
            "done": done,
            "total": total,
            "chunks": "".join(_LETTERS[Chunk.State(state)] for state in states[:_MOST_CHUNKS]),
            "problem": shown.lines(dataset.problem, _LONGEST_PROBLEM),
        }

    def _read(self, user: AbstractUser) -> tuple[Dataset | None, list[str]]:
        """It, and the states of its first parts, as they are under its number.

        Parts that are newer than that would have what comes under the next one look like a step back.
        """
        mine = Dataset.objects.owned_by(user).only("state", "problem", "sequence").filter(pk=self._pk)
        for _ in range(_MOST_LOOKS):
            dataset = mine.first()
            if dataset is None:
                return None, []
            parts = list(dataset.chunks.values_list("state", "dataset__sequence")[: _MOST_CHUNKS + 1])
            if not parts or parts[0][1] == dataset.sequence:
                break
        return dataset, [state for state, _ in parts]


class ConsoleFeed(Feed):
    """That something has changed, and nothing of what: pages ask for themselves.

    For those who see the whole installation. To others it would tell when somebody else is at work.
    """

    kind = "console"

    @property
    def group(self) -> str:
        return groups.CONSOLE

    def may_watch(self, user: AbstractUser) -> bool:
        return access_of(user).sees_installation

    def watch(self) -> None:
        watching.watch_console()

    def is_there(self) -> bool:
        return True

    def snapshot(self, user: AbstractUser) -> Content | None:
        """What was told last, to those who may have missed it."""
        last = Pulse.objects.filter(name=self.kind).values_list("sequence", flat=True).first()
        return self.change(user, {"seq": last or 0, "topics": _TOPICS})

    def change(self, user: AbstractUser, told: Mapping[str, Any]) -> Content | None:
        if not self.may_watch(user):
            return None
        return {"type": "changed", "kind": self.kind, "seq": told["seq"], "topics": told["topics"]}


#: The feed of each path. Ids of runs may hold anything, so they stand last.
_PATHS: dict[str, Any] = {
    "ws/console/": ConsoleFeed,
    "ws/datasets/<uuid:pk>/": DatasetFeed,
    "ws/runs/<id:pk>/": RunFeed,
}
PATTERNS = [path(route, feed) for route, feed in _PATHS.items()]


def find(asked: str) -> Feed | None:
    """The feed at a path, such as /ws/runs/7/, decoded; None if there is none."""
    if not asked.startswith("/"):
        return None
    for pattern in PATTERNS:
        match = pattern.resolve(asked[1:])
        if match is not None:
            feed: Feed = match.func(**match.kwargs)
            return feed
    return None
