"""What sockets need to be remembered, each until it does not matter any more."""

from __future__ import annotations

from django.db import models


class Mark(models.Model):
    """Something that has happened, see realtime.marks.

    key: its kind, and a hash of the token, session or person that it is about; nobody signs in by what stands here.
    count: how often, where that is counted.
    """

    key = models.CharField(primary_key=True, max_length=100)
    until = models.DateTimeField(db_index=True)
    count = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return self.key
