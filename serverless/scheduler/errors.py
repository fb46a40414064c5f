"""What can be wrong with a schedule, as exceptions that say what to do."""

from __future__ import annotations


class ScheduleError(ValueError):
    """Any error of this package."""


class ExpressionError(ScheduleError):
    """An EventBridge expression that is none."""


class TimingError(ScheduleError):
    """A timing that cannot be had: nonsense, or beyond what EventBridge can do."""
