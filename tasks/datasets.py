"""Large files: cut a file, profile its pieces side by side, merge what they found.

    profile_dataset -> chord(profile_chunk x N) -> merge_profile -> reports.build_report -> emails.send_report

Each task may be delivered twice and may die at any point: what it writes is written under a fixed key, and a step
that was taken already is not taken again. The parser is imported inside the tasks, so that the web side, which
imports this module to enqueue, does not load it.
"""

from __future__ import annotations

from typing import Any

from celery import chord
from celery.canvas import Signature
from django.conf import settings

from django_app.datasets import services
from django_app.datasets.models import Chunk, Dataset
from django_app.datasets.profile.errors import InputError
from serverless.objects import ObjectMissingError
from tasks.celery import app
from tasks.dataset_task import DatasetTask
from tasks.reports import build_report
from tasks.runtime.task import Task

_SAMPLE_BYTES = 256 << 10
_MOST_WAITS = 20
_GONE = "The uploaded file was removed or replaced. Make a new dataset and upload it there."


@app.task(base=DatasetTask, bind=True)
def profile_dataset(self: Task, dataset_id: str, generation: int) -> Any:
    """Cut the file into ranges of whole records and put one task a range in the queue."""
    from django_app.datasets.profile.split import split
    from django_app.datasets.profile.summary import Summary, choose_related

    dataset = services.current(dataset_id, generation)
    if dataset is None:
        return None
    state = Dataset.State
    # Delivered again after its worker died: what was published may or may not have arrived, so all is done again.
    services.advance(dataset, state.SPLITTING, came_from=[state.QUEUED, state.SPLITTING, state.PROFILING])
    bucket = services.bucket()
    try:
        layout = split(bucket.stream(dataset.upload_key, etag=dataset.etag), settings.CHUNK_BYTES)
        first = layout.ranges[0]
        head = bucket.read(
            dataset.upload_key, start=first.start, stop=min(first.stop, first.start + _SAMPLE_BYTES), etag=dataset.etag
        )
        related = choose_related(_sample(Summary, head, layout))
    except InputError as error:
        return services.fail(dataset, str(error))
    except ObjectMissingError:
        return services.fail(dataset, _GONE)
    described: dict[str, object] = {
        "columns": list(layout.columns),
        "separator": layout.separator,
        "related": list(related),
    }
    if not services.lay_out(dataset, described, [(part.start, part.stop, part.first_line) for part in layout.ranges]):
        return None
    header = [profile_chunk.si(dataset_id, generation, index) for index in range(len(layout.ranges))]
    callback: Signature[Any] = merge_profile.si(dataset_id, generation)
    chord(header)(callback)
    return len(header)


def _sample(summary: Any, head: bytes, layout: Any) -> Any:
    """Summarise the first records; the last one may be cut off, so it is left out where others remain."""
    end = head.rfind(b"\n") + 1
    try:
        return summary.of(head[:end] or head, layout.columns, layout.separator, ())
    except InputError:
        # Cut inside a quoted field, or wrong: the chunk's own task finds out, and says which line.
        return summary.none(len(layout.columns), ())


@app.task(base=DatasetTask, bind=True)
def profile_chunk(self: Task, dataset_id: str, generation: int, index: int) -> int | None:
    """Summarise one range of records; returns its number of rows."""
    from django_app.datasets.profile.summary import Summary

    dataset = services.current(dataset_id, generation)
    if dataset is None or dataset.layout is None:
        return None
    chunk = Chunk.objects.filter(dataset=dataset, index=index).first()
    if chunk is None:
        return None
    if chunk.state == Chunk.State.DONE:
        return chunk.rows
    services.chunk_state(chunk, Chunk.State.RUNNING)
    bucket, layout = services.bucket(), dataset.layout
    chunk.dataset = dataset
    try:
        data = bucket.read(dataset.upload_key, start=chunk.start, stop=chunk.stop, etag=dataset.etag)
        summary = Summary.of(
            data, tuple(layout["columns"]), layout["separator"], tuple(layout["related"]), chunk.first_line
        )
    except InputError as error:
        services.fail(dataset, str(error))
        return None
    except ObjectMissingError:
        services.fail(dataset, _GONE)
        return None
    bucket.write(chunk.summary_key, summary.encode())
    services.chunk_state(chunk, Chunk.State.DONE, summary.rows)
    if not Dataset.objects.filter(pk=dataset.pk).exists():
        # Deleted while this ran: its objects may have been removed before ours was written.
        bucket.delete_prefix(dataset.work_prefix)
    return summary.rows


@app.task(base=DatasetTask, bind=True, max_retries=_MOST_WAITS)
def merge_profile(self: Task, dataset_id: str, generation: int) -> None:
    """Merge the chunks' summaries, in the order of the file, and have the report written."""
    from django_app.datasets.profile.summary import Summary

    dataset = services.current(dataset_id, generation)
    if dataset is None or dataset.layout is None:
        return
    if dataset.state == Dataset.State.REPORTING:
        # Delivered again: whether the report was enqueued is not known, and writing it twice does no harm.
        build_report.delay(dataset_id, generation)
        return
    chunks = list(dataset.chunks.all())
    if not all(chunk.state == Chunk.State.DONE for chunk in chunks):
        # A chord that counted a repeated delivery twice calls early; the chunks' own records are the truth.
        if self.request.retries >= _MOST_WAITS:
            # A later delivery of the same step is on its way; if none is, the housekeeping starts the work again.
            return
        raise self.retry(countdown=3)
    layout = dataset.layout
    whole = Summary.none(len(layout["columns"]), tuple(layout["related"]))
    bucket = services.bucket()
    for chunk in chunks:
        chunk.dataset = dataset
        whole.merge(Summary.decode(bucket.read(chunk.summary_key)))
    if whole.rows == 0:
        services.fail(dataset, "The file has a header and no rows. Upload one with at least one row of data.")
        return
    report = services.finish_profile(dataset, whole.finish(tuple(layout["columns"])))
    if report is not None:
        build_report.delay(dataset_id, generation)


@app.task(base=Task)
def delete_objects(prefixes: list[str]) -> int:
    """Remove what a deleted dataset left in the bucket; returns how many objects that were."""
    return services.delete_objects(prefixes)
