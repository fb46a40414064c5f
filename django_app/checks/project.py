"""What checks look at, read once a round."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from celery import current_app
from django.apps import apps
from django.conf import settings

from django_app.checks import reading, sources
from django_app.checks.reading import Definition, Doing
from django_app.checks.sources import SourcePlace
from tasks.topology import TOPOLOGY, Topology


class Project:
    """The Celery app with its tasks, the topology, the files.

    tasks: by name, without Celery's own. folder: where zappa_settings.json lies. files: what to read, with the names of
    modules.
    """

    def __init__(
        self,
        app: Any,
        tasks: Mapping[str, Any],
        topology: Topology = TOPOLOGY,
        folder: Path | None = None,
        files: Mapping[Path, str] | None = None,
    ) -> None:
        self.app = app
        self.tasks = tasks
        self.topology = topology
        self.folder = (folder or Path(settings.BASE_DIR)).resolve()
        self.files = files or {}

    @classmethod
    def of_this_process(cls) -> Project:
        """With all tasks of this release."""
        app: Any = current_app
        app.loader.import_default_modules()
        app.finalize()
        tasks = {name: task for name, task in app.tasks.items() if not name.startswith("celery.")}
        # A package was checked before it was built, and in it what is installed lies beside what is ours.
        return cls(app, tasks, files=dict(_files(tasks)) if find_spec("serverless.deploying") else None)

    @cached_property
    def doings(self) -> list[Doing]:
        return [doing for read in self._read for doing in read.doings]

    @cached_property
    def definitions(self) -> list[Definition]:
        return [definition for read in self._read for definition in read.definitions]

    def place_of(self, task: Any) -> SourcePlace | str:
        """Where a task is defined; its name, if that is not known."""
        return self._places.get(task.name) or f"task {task.name}"

    @cached_property
    def _places(self) -> dict[str, SourcePlace]:
        return {each.task.name: each.place for each in self.definitions}

    @cached_property
    def _read(self) -> list[reading.Read]:
        return [reading.read(source) for source in sources.read(self.files.items(), self.folder)]


def _files(tasks: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Files of installed apps and of tasks, except those that are somebody else's, with their modules' names."""
    for config in apps.get_app_configs():
        folder = Path(config.path).resolve()
        if not sources.is_installed(folder):
            yield from sources.files_below(folder, config.name)
    for module in {type(task).__module__ for task in tasks.values()}:
        found = _file_of(module)
        if found is not None and not sources.is_installed(found):
            yield found, module


def _file_of(name: str) -> Path | None:
    """The file of a loaded module."""
    module = sys.modules.get(name)
    file = inspect.getsourcefile(module) if module is not None else None
    return Path(file).resolve() if file else None
