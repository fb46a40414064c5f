"""Keeps the local cloud's objects and sent mail between two runs: saved when it stops, restored when it starts.

Queues are not kept: the database knows which work is unfinished, and the stack starts it again.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
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
    (beside / "index.json").write_text(json.dumps({"objects": objects, "mails": mails}))
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
