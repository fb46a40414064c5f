"""Metrics as CloudWatch and Prometheus read them: the rules of both formats, without either."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from django_app import prometheus
from django_app.ledger import metrics
from django_app.ledger.metrics import Bounded, Metric, MetricError
from django_app.prometheus import Gauge
from tasks.runtime import metrics as task_metrics
from tasks.runtime.logs import Ended, wait_seconds

NOW = 1_790_000_000_000
#: The schema of the specification, as CloudWatch publishes it.
UNIT = (
    r"^(Seconds|Microseconds|Milliseconds|Bytes|Kilobytes|Megabytes|Gigabytes|Terabytes|Bits|Kilobits|Megabits|Gigabits"
    r"|Terabits|Percent|Count|Bytes/Second|Kilobytes/Second|Megabytes/Second|Gigabytes/Second|Terabytes/Second"
    r"|Bits/Second|Kilobits/Second|Megabits/Second|Gigabits/Second|Terabits/Second|Count/Second|None)$"
)


def faults(text: str) -> list[str]:
    """What the specification forbids of a line; independent of what wrote it."""
    told = json.loads(text)
    found = ["more than one line"] if "\n" in text else []
    found += ["too long"] if len(text.encode()) > 1 << 20 else []
    meta = told["_aws"]
    found += [] if isinstance(meta["Timestamp"], int) else ["no timestamp"]
    for directive in meta["CloudWatchMetrics"]:
        found += [] if set(directive) == {"Namespace", "Dimensions", "Metrics"} else ["unknown members"]
        found += [] if 1 <= len(directive["Namespace"]) <= 1024 else ["namespace"]
        found += [] if directive["Dimensions"] else ["no dimension set"]
        for chosen in directive["Dimensions"]:
            found += [] if len(chosen) <= 30 else ["dimensions in a set"]
            for name in chosen:
                found += [] if 1 <= len(name) <= 250 else ["dimension name"]
                value = told.get(name)
                found += [] if isinstance(value, str) and 1 <= len(value) <= 1024 else [f"dimension {name}"]
        found += [] if 1 <= len(directive["Metrics"]) <= 100 else ["number of metrics"]
        for metric in directive["Metrics"]:
            found += [] if 1 <= len(metric["Name"]) <= 1024 else ["metric name"]
            found += [] if re.match(UNIT, metric["Unit"]) else ["unit"]
            value = told.get(metric["Name"])
            found += [] if isinstance(value, int | float) and not isinstance(value, bool) else ["value"]
    return found


def test_a_line_is_what_cloudwatch_reads():
    told = metrics.document(
        "Cloudqueue",
        NOW,
        {"Queue": "high", "Task": "shop.ship"},
        [Metric("RunTime", 0.25, "Seconds"), Metric("RunsFailed", 1)],
        sets=[("Queue", "Task"), ("Queue",), ()],
        fields={"RunId": "abc"},
    )
    assert faults(metrics.line(told)) == []
    assert told == {
        "_aws": {
            "Timestamp": NOW,
            "CloudWatchMetrics": [
                {
                    "Namespace": "Cloudqueue",
                    "Dimensions": [["Queue", "Task"], ["Queue"], []],
                    "Metrics": [{"Name": "RunTime", "Unit": "Seconds"}, {"Name": "RunsFailed", "Unit": "Count"}],
                }
            ],
        },
        "Queue": "high",
        "Task": "shop.ship",
        "RunTime": 0.25,
        "RunsFailed": 1,
        "RunId": "abc",
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"namespace": ""}, "METRICS_NAMESPACE"),
        ({"namespace": "AWS/SQS"}, "not begin with AWS/"),
        ({"namespace": "a" * 257}, "1 to 256"),
        ({"namespace": "blåbær"}, "METRICS_NAMESPACE"),
        ({"metrics": []}, "1 to 100"),
        ({"metrics": [Metric(f"m{number}", 1) for number in range(101)]}, "101 metrics"),
        ({"metrics": [Metric("", 1)]}, "1 to 1024"),
        ({"metrics": [Metric("m" * 1025, 1)]}, "1 to 1024"),
        ({"metrics": [Metric("m", 1, "Furlongs")]}, '"Furlongs"'),
        ({"metrics": [Metric("m", math.nan)]}, "cannot be kept"),
        ({"metrics": [Metric("m", math.inf)]}, "cannot be kept"),
        ({"metrics": [Metric("m", True)]}, "not a number"),
        ({"metrics": [Metric("m", 1), Metric("m", 2)]}, "stands for one thing"),
        ({"metrics": [Metric("_aws", 1)]}, "stands for one thing"),
        ({"fields": {"m": "again"}}, "stands for one thing"),
        ({"dimensions": {f"d{number}": "x" for number in range(31)}}, "exceed 30"),
        ({"dimensions": {"d" * 251: "x"}}, "250"),
        ({"dimensions": {":d": "x"}}, "colon"),
        ({"dimensions": {"d": ""}}, "1 to 1024"),
        ({"dimensions": {"d": "  "}}, "1 to 1024"),
        ({"dimensions": {"d": "x" * 1025}}, "1 to 1024"),
        ({"dimensions": {"d": "bl\u00e5"}}, "ASCII"),
        ({"dimensions": {"d": "a\nb"}}, "ASCII"),
        ({"sets": []}, "which may be empty"),
        ({"sets": [("Queue", "Tenant")]}, '"Tenant" has no value'),
    ],
)
def test_what_cloudwatch_would_drop_is_refused_with_the_rule(changes, said):
    asked = {"namespace": "Shop", "dimensions": {"Queue": "high"}, "metrics": [Metric("m", 1)], **changes}
    namespace, dimensions, values = asked.pop("namespace"), asked.pop("dimensions"), asked.pop("metrics")
    with pytest.raises(MetricError, match=re.escape(said)):
        metrics.document(namespace, NOW, dimensions, values, **asked)


def test_a_line_of_more_than_a_megabyte_is_refused():
    told = metrics.document("Shop", NOW, {}, [Metric("m", 1)], fields={"note": "x" * (1 << 20)})
    with pytest.raises(MetricError, match="exceeds 1048576"):
        metrics.line(told)


@given(st.lists(st.text() | st.integers(0, 50).map("task {}".format), max_size=300))
@example([f"task {number}" for number in range(12)])
def test_however_many_names_there_are_cloudwatch_sees_a_bounded_number(names):
    bounded = Bounded(10)
    told = [bounded(name) for name in names]
    assert len(set(told) - {metrics.OTHER}) <= 10
    for name in set(told):
        assert faults(metrics.line(metrics.document("Shop", NOW, {"Task": name}, [Metric("m", 1)]))) == []
    # A name that was seen once is told the same ever after.
    assert all(bounded(name) == said for name, said in zip(names, told, strict=True) if said != metrics.OTHER)


@given(
    task=st.text(),
    queue=st.sampled_from(["high", "default", "unknown", ""]),
    outcome=st.sampled_from(["succeeded", "failed", "retried", "revoked", "expired", "dead", "lost", "returned"]),
    wait=st.none() | st.floats(0, 1e9),
    seconds=st.none() | st.floats(0, 1e6),
)
def test_every_outcome_makes_a_line_that_cloudwatch_takes(task, queue, outcome, wait, seconds):
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr("django.conf.settings.METRICS", "emf")
        task_metrics.tell(Ended(task, queue, "id", outcome, wait_seconds=wait, seconds=seconds))
    text = out.getvalue()
    assert text.endswith("\n")
    assert faults(text.removesuffix("\n")) == []
    told = json.loads(text)
    assert told[f"Runs{outcome.capitalize()}"] == 1
    assert ("WaitTime" in told, "RunTime" in told) == (wait is not None, seconds is not None)
    assert told["Queue"] in ("high", "default", "other")


@pytest.mark.parametrize(
    ("headers", "started", "waited"),
    [
        ({"enqueued_at": 1000.0}, 1002.5, 2.5),
        # A delay is no wait.
        ({"enqueued_at": 1000.0, "eta": "1970-01-01T00:20:00+00:00"}, 1203.0, 3.0),
        # What was due before it was enqueued waits from then on.
        ({"enqueued_at": 1000.0, "eta": "1970-01-01T00:10:00+00:00"}, 1003.0, 3.0),
        # Two machines' clocks may differ.
        ({"enqueued_at": 1000.0}, 999.0, 0.0),
        ({"enqueued_at": 1000.0, "eta": "soon"}, 1001.0, 1.0),
        ({"enqueued_at": "soon"}, 1001.0, None),
        ({}, 1001.0, None),
    ],
)
def test_a_wait_counts_from_when_a_task_might_have_begun(headers, started, waited):
    assert wait_seconds(headers, started) == waited


def test_without_metrics_nothing_is_printed(settings, capsys):
    assert settings.METRICS == "off"
    task_metrics.tell(Ended("shop.ship", "high", "id", "succeeded"))
    assert capsys.readouterr().out == ""


ESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


def parse(page: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """A page as Prometheus's own parser reads it: names, labels and values by the grammar of format 0.0.4."""
    label = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
    line = re.compile(rf"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{{((?:{label}(?:,{label})*)?)\}})? (\S+)")
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    assert page.endswith("\n")
    declared = set()
    for text in page[:-1].split("\n"):
        if text.startswith("# "):
            kind, name, _ = text[2:].split(" ", 2)
            assert kind in ("HELP", "TYPE")
            declared.add((kind, name))
            continue
        match = line.fullmatch(text)
        assert match, text
        assert {("HELP", match[1]), ("TYPE", match[1])} <= declared

        labels = tuple(
            (name, re.sub(r'\\["\\n]', lambda each: ESCAPED[each[0]], value))
            for name, value in re.findall(label, match[2] or "")
        )
        assert (match[1], labels) not in found
        found[match[1], labels] = float(match[match.lastindex])
    return found


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.floats(allow_nan=False), max_size=5))
def test_label_values_come_through_whatever_they_hold(values):
    page = prometheus.exposition([Gauge("runs", "Runs.", {(("task", task),): value for task, value in values.items()})])
    page.encode()
    assert parse(page) == {("cloudqueue_runs", (("task", task),)): value for task, value in values.items()}


def test_a_page_is_written_as_the_format_says():
    gauges = [
        Gauge("lag_seconds", "Lag\nof \\ all.", {(): 1.5}),
        Gauge("runs", "Runs.", {(("state", 'a "quoted" \\ \n one'), ("queue", "high")): 10_000}),
        Gauge("odd", "Odd.", {(("of", "nan"),): math.nan, (("of", "inf"),): math.inf, (("of", "neg"),): -math.inf}),
        Gauge("empty", "None.", {}),
    ]
    assert prometheus.exposition(gauges) == (
        "# HELP cloudqueue_lag_seconds Lag\\nof \\\\ all.\n"
        "# TYPE cloudqueue_lag_seconds gauge\n"
        "cloudqueue_lag_seconds 1.5\n"
        "# HELP cloudqueue_runs Runs.\n"
        "# TYPE cloudqueue_runs gauge\n"
        'cloudqueue_runs{state="a \\"quoted\\" \\\\ \\n one",queue="high"} 10000\n'
        "# HELP cloudqueue_odd Odd.\n"
        "# TYPE cloudqueue_odd gauge\n"
        'cloudqueue_odd{of="nan"} NaN\n'
        'cloudqueue_odd{of="inf"} +Inf\n'
        'cloudqueue_odd{of="neg"} -Inf\n'
        "# HELP cloudqueue_empty None.\n"
        "# TYPE cloudqueue_empty gauge\n"
    )


def test_what_no_utf8_can_say_does_not_break_the_page():
    prometheus.exposition([Gauge("runs", "Runs.", {(("task", "\ud800"),): 1})]).encode()
