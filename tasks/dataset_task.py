"""What the tasks that work on a dataset share: its owner is told when one of them ends in error."""

from __future__ import annotations

from typing import Any

from django_app.datasets import services
from tasks.runtime.task import Task


class DatasetTask(Task):
    """A task whose first two arguments are a dataset's id and generation."""

    abstract = True

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        super().on_failure(exc, task_id, args, kwargs, einfo)
        dataset = services.current(*args[:2])
        if dataset is not None:
            services.fail(dataset, f"Something went wrong on our side; your operator finds it under task {task_id}.")
