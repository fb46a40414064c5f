"""What people watch as a whole, and are told of at most once a second."""

from __future__ import annotations

from django.db import models


class Feed(models.Model):
    """A page that is live, such as the console's. See ledger.watching.

    watched_until: somebody watches it. pulsed_at: when those were last told that something has changed.
    sequence: how often they were told. is_owed: something has changed since, and is to be told when a second is over.
    """

    name = models.CharField(primary_key=True, max_length=40)
    watched_until = models.DateTimeField()
    pulsed_at = models.DateTimeField()
    sequence = models.PositiveBigIntegerField(default=0)
    is_owed = models.BooleanField(default=False)

    def __str__(self) -> str:
        return self.name
