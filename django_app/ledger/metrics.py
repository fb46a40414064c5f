"""Metrics in CloudWatch's embedded format: a line of JSON among the logs, of which CloudWatch makes metrics by itself.

No call to AWS, no permission and no daemon is needed; where nobody reads the lines (METRICS=off) none is printed.
docs/observability.md lists every metric.
Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_METRICS = 100
MOST_DIMENSIONS = 30
MOST_BYTES = 1 << 20
_LONGEST_METRIC_NAME = 1024
_LONGEST_DIMENSION_NAME = 250
_LONGEST_DIMENSION_VALUE = 1024
_LONGEST_NAMESPACE = 256
_LONGEST_FIELD = 255
_NAMESPACE_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .-_/#:")
UNITS = frozenset(
    {"Seconds", "Microseconds", "Milliseconds", "Bytes", "Kilobytes", "Megabytes", "Gigabytes", "Terabytes", "Bits"}
    | {"Kilobits", "Megabits", "Gigabits", "Terabits", "Percent", "Count", "Bytes/Second", "Kilobytes/Second"}
    | {"Megabytes/Second", "Gigabytes/Second", "Terabytes/Second", "Bits/Second", "Kilobits/Second", "Megabits/Second"}
    | {"Gigabits/Second", "Terabits/Second", "Count/Second", "None"}
)
#: What stands for every name beyond the bound.
OTHER = "other"


class MetricError(ValueError):
    """A line that CloudWatch would not take."""


@dataclass(frozen=True)
class Metric:
    """One value. unit: of UNITS."""

    name: str
    value: float
    unit: str = "Count"


def document(
    namespace: str,
    at_milliseconds: int,
    dimensions: Mapping[str, str],
    metrics: Sequence[Metric],
    *,
    sets: Sequence[Collection[str]] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One line's object.

    at_milliseconds: since the epoch. dimensions: name to value.
    sets: which dimensions are kept together: each set makes a metric of its own out of every value. Default: all of
    them, once; an empty set sums over everything.
    fields: what else the line tells, to find it in the logs by; no metric comes of it.
    Raises MetricError.
    """
    chosen = [list(dimensions)] if sets is None else [list(each) for each in sets]
    fields = fields or {}
    _check_namespace(namespace)
    _check_metrics(metrics)
    _check_dimensions(dimensions, chosen)
    names = [*dimensions, *(metric.name for metric in metrics), *fields, "_aws"]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise MetricError(f"{', '.join(twice)}: a name stands for one thing in a line. Rename one.")
    directive = {
        "Namespace": namespace,
        "Dimensions": chosen,
        "Metrics": [{"Name": metric.name, "Unit": metric.unit} for metric in metrics],
    }
    return {
        "_aws": {"Timestamp": at_milliseconds, "CloudWatchMetrics": [directive]},
        **dimensions,
        **{metric.name: metric.value for metric in metrics},
        **fields,
    }


def line(told: Mapping[str, Any]) -> str:
    """A document as one line of JSON. Raises MetricError for one that is too long."""
    text = json.dumps(told, separators=(",", ":"), allow_nan=False)
    if len(text.encode()) > MOST_BYTES:
        raise MetricError(f"a line of {len(text.encode())} bytes exceeds {MOST_BYTES}, the most that CloudWatch keeps.")
    return text


def _check_namespace(namespace: str) -> None:
    is_plain = set(namespace) <= _NAMESPACE_CHARACTERS
    if not namespace.strip() or len(namespace) > _LONGEST_NAMESPACE or namespace.startswith("AWS/") or not is_plain:
        raise MetricError(
            f'namespace "{namespace}" must be 1 to {_LONGEST_NAMESPACE} letters, digits and . - _ / # :, and not begin '
            "with AWS/. Correct METRICS_NAMESPACE."
        )


def _check_metrics(metrics: Sequence[Metric]) -> None:
    if not 1 <= len(metrics) <= MOST_METRICS:
        raise MetricError(f"{len(metrics)} metrics in one line: there must be 1 to {MOST_METRICS}. Write more lines.")
    for metric in metrics:
        if not 1 <= len(metric.name) <= _LONGEST_METRIC_NAME:
            raise MetricError(f'metric "{metric.name[:50]}" must have 1 to {_LONGEST_METRIC_NAME} characters.')
        if metric.unit not in UNITS:
            raise MetricError(f'metric {metric.name}: unit "{metric.unit}" is unknown to CloudWatch. Use one of UNITS.')
        if isinstance(metric.value, bool) or not isinstance(metric.value, int | float):
            raise MetricError(f"metric {metric.name}: {metric.value!r} is not a number.")
        if not math.isfinite(metric.value):
            raise MetricError(f"metric {metric.name}: {metric.value!r} cannot be kept. Leave it out.")


def _check_dimensions(dimensions: Mapping[str, str], sets: Sequence[Sequence[str]]) -> None:
    if not sets:
        raise MetricError("no set of dimensions: give one, which may be empty.")
    for chosen in sets:
        if len(chosen) > MOST_DIMENSIONS:
            raise MetricError(f"{len(chosen)} dimensions in one set exceed {MOST_DIMENSIONS}. Leave some out.")
        for name in chosen:
            if name not in dimensions:
                raise MetricError(f'dimension "{name}" has no value.')
    for name, value in dimensions.items():
        is_name = 1 <= len(name) <= _LONGEST_DIMENSION_NAME and name.isascii() and not name.startswith(":")
        if not is_name or not name.isprintable():
            raise MetricError(f'dimension "{name[:50]}" must be 1 to 250 ASCII characters and not begin with a colon.')
        is_text = isinstance(value, str) and value.isascii() and value.isprintable() and value.strip()
        if not is_text or len(value) > _LONGEST_DIMENSION_VALUE:
            raise MetricError(f"dimension {name}={value!r} must be a text of 1 to 1024 ASCII characters.")


@dataclass
class Bounded:
    """The first so many names as they are, `other` for the rest: each name in CloudWatch is paid for by the month."""

    most: int
    _seen: set[str] = field(default_factory=set)

    def __call__(self, name: str) -> str:
        """The name, as a dimension may have it."""
        if name not in self._seen:
            is_fit = bool(name.strip()) and name.isascii() and name.isprintable() and len(name) <= _LONGEST_FIELD
            if not is_fit or len(self._seen) >= self.most:
                return OTHER
            self._seen.add(name)
        return name


def is_on() -> bool:
    """Whether lines are wanted."""
    from django.conf import settings

    return bool(settings.METRICS == "emf")


def emit(
    at_milliseconds: int,
    dimensions: Mapping[str, str],
    metrics: Sequence[Metric],
    *,
    sets: Sequence[Collection[str]] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> None:
    """Print one line to stdout, if METRICS says so. Raises MetricError, see document."""
    if not is_on():
        return
    from django.conf import settings

    told = document(settings.METRICS_NAMESPACE, at_milliseconds, dimensions, metrics, sets=sets, fields=fields)
    # One write: processes of one worker share the stream.
    sys.stdout.write(line(told) + "\n")
    sys.stdout.flush()
