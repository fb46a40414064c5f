"""What datasets tell whoever listens in this process. Sent after the commit; a receiver that raises is logged."""

from __future__ import annotations

from django.dispatch import Signal

#: A dataset or its chunks have changed, or it was deleted; with dataset_id.
dataset_changed = Signal()
