"""Compare the chunk task's statistics with one-process polars on the same bytes, in interleaved rounds.

    .venv/bin/python -m tests.bench.profile_speed [--rounds 7] [--json]

Both run on one thread. polars computes what the summary holds: counts, nulls, extremes, mean, deviation, distinct
counts, the same quantiles, the ten most frequent values, all correlations and rows by day.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import statistics
import time

for library in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[library] = "1"

import polars as pl

from django_app.datasets.profile import limits
from django_app.datasets.profile.split import split
from django_app.datasets.profile.summary import Summary, choose_related
from serverless.local.flights import flights_csv

CHUNK_BYTES = 8 << 20
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def with_polars(data: bytes, header: bytes) -> object:
    frame = pl.read_csv(io.BytesIO(header + data), null_values=list(limits.NULLS), infer_schema_length=10_000)
    numeric = [name for name in frame.columns if frame[name].dtype.is_numeric()]
    figures = frame.select(
        pl.all().null_count().name.suffix("_nulls"),
        pl.all().min().name.suffix("_min"),
        pl.all().max().name.suffix("_max"),
        pl.all().n_unique().name.suffix("_distinct"),
        pl.col(numeric).mean().name.suffix("_mean"),
        pl.col(numeric).std().name.suffix("_std"),
        *(pl.col(numeric).quantile(rank).name.suffix(f"_{rank}") for rank in QUANTILES),
    )
    top = [frame[name].value_counts(sort=True).head(10) for name in frame.columns]
    pairs = itertools.combinations(numeric[: limits.MOST_CORRELATED], 2)
    related = frame.select(pl.corr(first, second).alias(f"{first}/{second}") for first, second in pairs)
    days = frame.group_by(pl.col("time_hour").cast(pl.String).str.slice(0, 10)).len()
    return figures, top, related, days


def compare(rounds: int) -> dict[str, float]:
    """Median seconds of CPU of each, and ours in relation to polars (1 is as fast, 0.5 takes twice as long)."""
    data = flights_csv()
    layout = split([data], CHUNK_BYTES)
    first = layout.ranges[0]
    header, chunk = data[: first.start], data[first.start : first.stop]
    head = Summary.of(chunk[: chunk.index(b"\n", 1 << 18) + 1], layout.columns, layout.separator, ())
    related = choose_related(head)
    ours, theirs, ratios = [], [], []
    for number in range(rounds + 1):
        began = time.process_time()
        with_polars(chunk, header)
        between = time.process_time()
        Summary.of(chunk, layout.columns, layout.separator, related).encode()
        ended = time.process_time()
        if number:  # the first round warms both up
            theirs.append(between - began)
            ours.append(ended - between)
            ratios.append(theirs[-1] / ours[-1])
    return {
        "ours_seconds": statistics.median(ours),
        "polars_seconds": statistics.median(theirs),
        "throughput_ratio": statistics.median(ratios),
        "megabytes": len(chunk) / 1e6,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = compare(options.rounds)
    if options.json:
        print(json.dumps(found))
    else:
        print(
            f"{found['megabytes']:.1f} MB: chunk task {found['ours_seconds']:.3f} s of CPU, "
            f"polars {found['polars_seconds']:.3f} s; throughput {found['throughput_ratio']:.2f} of polars'"
        )
