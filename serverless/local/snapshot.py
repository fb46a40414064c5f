"""Keeps the local cloud's objects, sent mail and schedules between two runs: saved at its stop, restored at its start.

Queues are not kept: the database knows which work is unfinished, and the stack starts it again. Schedules are, with the
times of their creation, for time goes on while a laptop is off: the clock plays what was due meanwhile.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.scheduler.models import Schedule, ScheduleGroup, scheduler_backends
from moto.ses.models import RawMessage, ses_backends


def save(folder: Path) -> None:
    """Write everything to a folder beside, then put it in the place of the old one."""
    beside = folder.with_name(folder.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    objects: list[dict[str, Any]] = []
    for bucket in s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets.values():
        for key, stored in bucket.keys.items():
            file = f"{len(objects)}.object"
            (beside / file).write_bytes(stored.value)
            objects.append({"bucket": bucket.name, "key": key, "file": file, "metadata": dict(stored.metadata)})
    mails = [
        {"region": region, "id": mail.id, "from": mail.source, "to": mail.destinations, "raw": mail.raw_data}
        for region, backend in ses_backends[DEFAULT_ACCOUNT_ID].items()
        for mail in backend.sent_messages
        if isinstance(mail, RawMessage)
    ]
    (beside / "index.json").write_text(json.dumps({"objects": objects, "mails": mails, "schedules": _schedules()}))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(beside, folder)


def restore(folder: Path) -> None:
    """Load what `save` wrote, into buckets that exist; nothing where nothing was saved."""
    index = folder / "index.json"
    if not index.exists():
        return
    saved = json.loads(index.read_text())
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for entry in saved["objects"]:
        if entry["bucket"] in backend.buckets:
            stored = backend.put_object(entry["bucket"], entry["key"], (folder / entry["file"]).read_bytes())
            stored.set_metadata(entry["metadata"])
    for mail in saved["mails"]:
        ses_backends[DEFAULT_ACCOUNT_ID][mail["region"]].sent_messages.append(
            RawMessage(mail["id"], mail["from"], mail["to"], mail["raw"])
        )
    for entry in saved.get("schedules", []):
        _restore_schedule(entry)


#: What a schedule is created with, but for its group's place.
_SCHEDULE_ARGUMENTS = (
    *("description", "schedule_expression", "schedule_expression_timezone", "flexible_time_window", "target", "state"),
    *("kms_key_arn", "end_date", "action_after_completion", "name", "group_name"),
)
_SCHEDULE_TIMES = ("start_date", "creation_date", "last_modified_date")


def _schedules() -> list[dict[str, Any]]:
    return [
        {"region": region} | {name: getattr(schedule, name) for name in (*_SCHEDULE_ARGUMENTS, *_SCHEDULE_TIMES)}
        for region, backend in scheduler_backends[DEFAULT_ACCOUNT_ID].items()
        for group in backend.schedule_groups.values()
        for schedule in group.schedules.values()
    ]


def _restore_schedule(entry: dict[str, Any]) -> None:
    region = entry["region"]
    groups = scheduler_backends[DEFAULT_ACCOUNT_ID][region].schedule_groups
    name = entry["group_name"]
    if name not in groups:
        groups[name] = ScheduleGroup(region, DEFAULT_ACCOUNT_ID, name)
    given = {name: entry[name] for name in _SCHEDULE_ARGUMENTS}
    made = Schedule(region=region, account_id=DEFAULT_ACCOUNT_ID, start_date=None, **given)
    # A start of long ago is refused of a new one.
    for time in _SCHEDULE_TIMES:
        setattr(made, time, entry[time])
    groups[name].add_schedule(made)
