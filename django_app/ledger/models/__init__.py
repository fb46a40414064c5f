"""The ledger's tables."""

from django_app.ledger.models.feeds import Feed
from django_app.ledger.models.fleet import Command, Errand, Pause, QueueSample, Reply, Revocation, Worker
from django_app.ledger.models.runs import Attempt, OnceMark, Run, UniqueRun
from django_app.ledger.models.schedules import Overlap, Schedule, ScheduleSource
from django_app.ledger.models.workflows import Chord, ChordPart, SavedGroup

__all__ = [
    "Attempt",
    "Chord",
    "ChordPart",
    "Command",
    "Errand",
    "Feed",
    "OnceMark",
    "Overlap",
    "Pause",
    "QueueSample",
    "Reply",
    "Revocation",
    "Run",
    "SavedGroup",
    "Schedule",
    "ScheduleSource",
    "UniqueRun",
    "Worker",
]
