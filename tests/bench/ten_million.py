"""Fill Postgres with runs by the million, then ask everything that the console, the housekeeping and workers ask.

    .ci/with-postgres .venv/bin/python -m tests.bench.ten_million [--rows 10000000] [--samples 20] [--delete 1000000]
        [--lists 300] [--most-ms 100] [--message-bytes 1000] [--keep] [--database-url URL] [--only TEXT] [--json]

The server is the one of CLOUDQUEUE_TEST_DATABASE_URL; the database is made and dropped, unless --keep keeps it, for
another time to be named with --database-url and the same --rows. Ten million runs and their attempts need some 30 GB
and half an hour.

Exits with 1 if the 95th percentile of a question exceeds --most-ms (of the housekeeping's batches: of a statement), if
one reads the whole of a large table, or if deleting old runs makes another UPDATE wait for a second. What exceeds is
measured once more before it counts. An execution plan is looked at for each question, with values of its first sample.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import itertools
import json
import math
import os
import random
import re
import secrets
import shutil
import statistics
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg

from tests.bench.ledger_speed import database

DAYS = 30
QUEUES = ("default", "high", "low", "datasets", "reports")
TASKS, TENANTS, FINGERPRINTS, USERS, WORKERS, LIMITS = 40, 200, 300, 500, 50, 20
#: Tables of which no question may read every row.
LARGE = frozenset({"ledger_run", "ledger_attempt"})
#: What a run and its attempt take on disk beside the message, and again while indexes are made.
BYTES_A_RUN = 2000
MOST_WAIT_SECONDS = 1.0
_BATCH = 500


# Filling -------------------------------------------------------------------------------------------------------------

#: Columns of a run that RUNS makes; all others are as they usually are.
GIVEN = (
    *("id", "task", "queue", "state", "message", "arguments", "not_before", "parent_id", "root_id", "group_id"),
    *("is_chord_part", "schedule", "tenant", "requested_by", "unique_key", "limit_key", "limit_at_once", "parked_for"),
    *("created_at", "publish_claimed_until", "published_at", "started_at", "finished_at", "attempts", "holder"),
    *("worker", "receives", "lease_until", "result", "error", "fingerprint"),
)

# u(k): a number from 0 to 1, the same each time. OFFSET 0: each is worked out once.
RUNS = """
SELECT
  id, task, queue, state,
  rpad('{"body": "[[' || n || '], {}, {}]", "options": ', %(message_bytes)s, 'x') AS message,
  '{"args": [' || n || '], "kwargs": {"email": "user' || n %% 1000 || '@example.org"}}' AS arguments,
  CASE WHEN is_late THEN now() + u3 * interval '30 days' END AS not_before,
  CASE WHEN n %% 10 = 0 THEN '' ELSE root_id END AS parent_id,
  root_id, CASE WHEN root_id = id THEN '' ELSE 'group ' || root_id END AS group_id, root_id <> id AS is_chord_part,
  CASE WHEN u4 < 0.02 THEN 'nightly' ELSE '' END AS schedule,
  CASE WHEN n < %(rows)s * 0.0001 THEN 'tenant rare' WHEN u5 < 0.8 THEN 'tenant ' || floor(200 * u6 ^ 3) ELSE '' END
    AS tenant,
  CASE WHEN u7 < 0.7 THEN 'user' || floor(500 * u8 ^ 2) ELSE '' END AS requested_by,
  CASE WHEN u9 < 0.01 THEN task || ' key' || n ELSE '' END AS unique_key,
  CASE WHEN u10 < 0.05 THEN 'limited key' || floor(20 * u11 ^ 2) ELSE '' END AS limit_key,
  CASE WHEN u10 < 0.05 THEN 5 END AS limit_at_once,
  CASE WHEN state = 'waiting' THEN CASE WHEN u10 < 0.05 THEN 'limit' ELSE 'paused' END ELSE '' END AS parked_for,
  created_at,
  CASE WHEN is_late THEN now() + u3 * interval '30 days' - interval '14 min' ELSE created_at + interval '60 s' END
    AS publish_claimed_until,
  CASE WHEN state <> 'pending' THEN created_at + interval '20 ms' END AS published_at,
  started_at, CASE WHEN is_final THEN started_at + u2 * interval '30 s' END AS finished_at,
  CASE WHEN started_at IS NULL THEN 0 WHEN state IN ('failed', 'dead') THEN 1 + n %% 3 ELSE 1 END AS attempts,
  CASE WHEN state = 'running' THEN md5(n::text) ELSE '' END AS holder,
  CASE WHEN started_at IS NULL THEN '' ELSE 'w' || n %% 50 || '@host' END AS worker,
  CASE WHEN started_at IS NULL THEN 0 ELSE 1 END AS receives,
  CASE WHEN state = 'running' THEN now() + CASE WHEN n %% 500 = 1 THEN interval '-5 min' ELSE interval '60 min' END END
    AS lease_until,
  CASE WHEN state = 'succeeded' THEN '={"rows": ' || n || '}' ELSE '' END AS result,
  CASE WHEN state IN ('failed', 'dead') THEN 'ValueError: order ' || n || ' has no address' ELSE '' END AS error,
  CASE WHEN state IN ('failed', 'dead') THEN left(md5('fingerprint ' || floor(300 * u9 ^ 2)), 16) ELSE '' END
    AS fingerprint
FROM (
  SELECT *,
    state IN ('succeeded', 'failed', 'dead', 'revoked', 'expired') AS is_final,
    CASE WHEN state NOT IN ('pending', 'queued', 'waiting') THEN created_at + u1 * interval '60 s' END AS started_at
  FROM (
    SELECT *,
      CASE
        WHEN is_late OR (age < %(rows)s * 0.0005 AND n %% 3 = 0) THEN 'pending'
        WHEN age < %(rows)s * 0.003 THEN 'queued'
        WHEN (age < %(rows)s * 0.004 AND n %% 5 = 0) OR n %% 20000 = 11 THEN 'waiting'
        WHEN age < %(rows)s * 0.004 AND n %% 50 = 1 THEN 'running'
        WHEN n %% 100000 = 13 THEN 'lost'
        WHEN u0 < 0.015 THEN 'failed'
        WHEN u0 < 0.017 THEN 'dead'
        WHEN u0 < 0.020 THEN 'revoked'
        WHEN u0 < 0.021 THEN 'expired'
        ELSE 'succeeded'
      END AS state,
      CASE WHEN n < %(rows)s * 0.0001 THEN 'tasks.rare' ELSE 'tasks.app.work' || floor(40 * u2 ^ 2) END AS task,
      (%(queues)s::text[])[1 + floor(5 * u3 ^ 2)] AS queue,
      md5('run ' || CASE
        -- One workflow of very many runs, three in ten runs in workflows of ten, the others by themselves.
        WHEN n BETWEEN %(rows)s / 2 AND %(rows)s * 0.502 THEN %(rows)s / 2
        WHEN n / 10 %% 10 < 3 THEN n - n %% 10 + 1
        ELSE n
      END)::uuid::text AS root_id
    FROM (
      SELECT n, %(rows)s - n AS age, md5('run ' || n)::uuid::text AS id, n %% 500 = 7 AS is_late,
        now() - (%(rows)s - n) * (interval '30 days' / %(rows)s) AS created_at, u.*
      FROM generate_series(%(first)s::bigint, %(last)s::bigint) n, LATERAL (SELECT {uniform}) u OFFSET 0
    ) numbered OFFSET 0
  ) named OFFSET 0
) stated
"""

ATTEMPTS = """
INSERT INTO ledger_attempt
  (run_id, number, holder, worker, receives, started_at, ended_at, outcome, error, traceback, log_tail)
SELECT id, number, md5(id || number), worker, 1, started_at, finished_at,
  CASE state WHEN 'expired' THEN 'revoked' ELSE state END, error,
  CASE WHEN error = '' THEN '' ELSE rpad('Traceback (most recent call last): ', 1500, 'File "app.py", line 1, in work ') END,
  ''
FROM ledger_run, generate_series(1, attempts) number WHERE finished_at IS NOT NULL
"""

OTHERS = """
INSERT INTO ledger_oncemark (key, run_id, value, created_at)
  SELECT 'run ' || id, id, '', created_at FROM ledger_run WHERE schedule <> '';
INSERT INTO ledger_uniquerun (key, run_id, until)
  SELECT unique_key, id, created_at + interval '1 day' FROM ledger_run WHERE unique_key <> '';
INSERT INTO ledger_chord (group_id, size, done, header, created_at, finished_at)
  SELECT group_id, count(*), count(*), '', min(created_at), max(finished_at) FROM ledger_run WHERE group_id <> ''
    AND state <> 'succeeded' GROUP BY group_id;
INSERT INTO ledger_chordpart (chord_id, part_id, position, result)
  SELECT group_id, id, 0, '=["FAILURE", null]' FROM ledger_run WHERE group_id <> '' AND state <> 'succeeded';
INSERT INTO ledger_queuesample (queue, at, depth, in_flight, delayed, oldest_age_seconds, dead)
  SELECT queue, date_trunc('minute', now()) - minute * interval '1 min', 10, 5, 0, 1.5, 0
  FROM unnest(ARRAY['default', 'high', 'low', 'datasets']) queue, generate_series(1, 1440 * 30) minute;
INSERT INTO ledger_pause (key, by, reason, created_at) VALUES ('task:tasks.rare', 'ada', '', now());
INSERT INTO ledger_revocation (header, value, by, created_at, expires_at)
  SELECT '', md5('gone ' || n), 'ada', now(), now() + interval '14 days' FROM generate_series(1, 5000) n;
INSERT INTO ledger_worker (name, pool, kind, concurrency, queues, release, pid, state, busy, held, processed, load,
    memory_bytes, started_at, seen_at, lease_until)
  SELECT 'w' || n || '@host', 'general', 'prefork', 4, 'default', '', n, 'running', 2, 10, 1000, 0.5, 1, now(), now(),
    now() + interval '1 h' FROM generate_series(0, 49) n;
INSERT INTO console_auditentry (at, actor, action, target, detail, outcome)
  SELECT now() - n * interval '1 min', 'user' || n % 20, (ARRAY['retry', 'revoke', 'pause'])[1 + n % 3], 'run ' || n,
    '{}', 'done' FROM generate_series(1, 40000) n;
"""

#: What a column that is not named above holds in every row, by its type.
_USUAL = {"text": "''", "character varying": "''", "jsonb": "'{}'", "boolean": "false"}


def run_id(number: int) -> str:
    """Of the run with that number, counted from 1, the oldest."""
    return str(uuid.UUID(hashlib.md5(f"run {number}".encode(), usedforsecurity=False).hexdigest()))


def fill(connection: psycopg.Connection[Any], rows: int, message_bytes: int) -> None:
    """Insert so many runs, and what goes with them, into empty tables; their indexes are made afterwards."""
    connection.execute("SET synchronous_commit = off")
    connection.execute("SET maintenance_work_mem = '1GB'")
    uniform = ", ".join(f"(hashint8extended(n, {k}) & 1048575) / 1048576.0::float8 AS u{k}" for k in range(12))
    query = RUNS.replace("{uniform}", uniform)
    usual = {
        name: _USUAL.get(kind, "0")
        for name, (kind, is_nullable) in _columns(connection).items()
        if name not in GIVEN and not is_nullable
    }
    with _without_indexes(connection, ("ledger_run", "ledger_attempt")):
        parameters = {"rows": rows, "message_bytes": message_bytes, "queues": list(QUEUES)}
        names, expressions = ", ".join([*GIVEN, *usual]), ", ".join([*GIVEN, *usual.values()])
        for first in range(1, rows + 1, 1_000_000):
            connection.execute(
                f"INSERT INTO ledger_run ({names}) SELECT {expressions} FROM ({query}) filled",  # noqa: S608 - all of it ours
                {**parameters, "first": first, "last": min(rows, first + 999_999)},
            )
        connection.execute(ATTEMPTS)
    for statement in OTHERS.split(";\n"):
        if statement.strip():
            connection.execute(statement)
    # What autovacuum would do in time.
    connection.execute("VACUUM (ANALYZE)")


def _columns(connection: psycopg.Connection[Any]) -> dict[str, tuple[str, bool]]:
    found = connection.execute(
        "SELECT column_name, data_type, is_nullable = 'YES' FROM information_schema.columns WHERE table_name = 'ledger_run'"
    )
    return {name: (kind, is_nullable) for name, kind, is_nullable in found}


@contextmanager
def _without_indexes(connection: psycopg.Connection[Any], tables: tuple[str, ...]) -> Iterator[None]:
    """Drop keys and indexes of tables for the block, and make them again after it."""
    constraints = connection.execute(
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE conrelid = ANY (%s::regclass[]) AND contype IN ('p', 'f', 'u') ORDER BY contype = 'p'",
        [list(tables)],
    ).fetchall()
    for table, name, _ in constraints:
        connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    indexes = connection.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = ANY (%s)", [list(tables)]
    ).fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    yield
    for _, definition in indexes:
        connection.execute(definition)
    for table, name, definition in reversed(constraints):
        connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")


# Asking --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A question. make: what is to be called, with values drawn at random.

    is_batch: it does many things of which each is to be quick. It runs in a transaction that is taken back.
    """

    name: str
    make: Callable[[random.Random], Callable[[], object]]
    is_batch: bool = False


@dataclass
class Answer:
    """How long a question takes, in milliseconds. first_p95_ms: before it was measured once more, where it was.

    pages: of 8 KiB, that the statement which reads most looked at. scans: statements that read a large table as a whole.
    """

    name: str
    samples: int
    p50_ms: float
    p95_ms: float
    pages: int = 0
    call_p50_ms: float = 0.0
    first_p95_ms: float | None = None
    scans: list[str] = field(default_factory=list)


class Watch:
    """Times each statement of Django's connection; on demand looks at its plan first."""

    def __init__(self) -> None:
        self.is_explaining = False
        self.milliseconds: list[float] = []
        self.scans: list[str] = []
        self.pages = 0

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if self.is_explaining and re.match(r"\s*(SELECT|UPDATE|DELETE|INSERT|WITH|EXECUTE)\b", sql):
            self._explain(context["connection"], sql, params)
        began = time.perf_counter()
        try:
            return execute(sql, params, many, context)
        finally:
            self.milliseconds.append((time.perf_counter() - began) * 1000)

    def _explain(self, django: Any, sql: str, params: Any) -> None:
        begin, undo = ("SAVEPOINT plan", "ROLLBACK TO plan") if django.in_atomic_block else ("BEGIN", "ROLLBACK")
        with django.connection.cursor() as cursor:
            cursor.execute(begin)
            cursor.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + sql, params)
            [plan] = cursor.fetchone()[0]
            cursor.execute(undo)
        root = plan["Plan"]
        self.pages = max(self.pages, root.get("Shared Hit Blocks", 0) + root.get("Shared Read Blocks", 0))
        for node in nodes(root):
            if node["Node Type"] == "Seq Scan" and node.get("Relation Name") in LARGE:
                self.scans.append(sql[:1500])


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from nodes(each)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def ask(case: Case, watch: Watch, samples: int, most_ms: float) -> Answer:
    """Put a question so often, each time with other values."""
    watch.scans, watch.pages = [], 0
    watch.is_explaining = True
    _once(case, watch, random.Random(0))
    watch.is_explaining = False
    drawn = random.Random(case.name)
    calls, times = _times(case, watch, drawn, samples)
    answer = Answer(case.name, samples, percentile(times, 0.5), percentile(times, 0.95), watch.pages)
    if answer.p95_ms > most_ms:
        # The machine may have been busy with something else, or the first to ask had to read from the disk.
        answer.first_p95_ms = answer.p95_ms
        calls, times = _times(case, watch, drawn, max(20, samples))
        answer.p50_ms, answer.p95_ms = percentile(times, 0.5), percentile(times, 0.95)
    answer.call_p50_ms = percentile(calls, 0.5)
    answer.scans = watch.scans
    return answer


def _times(case: Case, watch: Watch, drawn: random.Random, samples: int) -> tuple[list[float], list[float]]:
    """(of calls, of what counts: statements of a batch, else calls)."""
    calls, times = [], []
    for _ in range(samples):
        watch.milliseconds.clear()
        took = _once(case, watch, drawn)
        calls.append(took)
        times += watch.milliseconds if case.is_batch else [took]
    return calls, times


def _once(case: Case, watch: Watch, drawn: random.Random) -> float:
    from django.db import connection, transaction

    work = case.make(drawn)
    with connection.execute_wrapper(watch):
        began = time.perf_counter()
        if case.is_batch:
            with transaction.atomic():
                work()
                transaction.set_rollback(True)
        else:
            work()
        return (time.perf_counter() - began) * 1000


# Questions -----------------------------------------------------------------------------------------------------------


class Values:
    """Values to ask for: common ones, rare ones, and some that no run has."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def run_id(self, drawn: random.Random, share: float = 1.0) -> str:
        """Of any run, or of one of the newest part."""
        return run_id(drawn.randint(max(1, int(self.rows * (1 - share))), self.rows))

    def of(self, name: str, drawn: random.Random) -> str:
        from django_app.ledger.states import State

        fingerprint = hashlib.md5(f"fingerprint {drawn.randrange(FINGERPRINTS)}".encode(), usedforsecurity=False)
        return {
            "state": drawn.choice(list(State)).value,
            "task": drawn.choice([f"tasks.app.work{drawn.randrange(TASKS)}", "tasks.app.work0", "tasks.rare", "none"]),
            "queue": drawn.choice([*QUEUES, "none"]),
            "worker": drawn.choice([f"w{drawn.randrange(WORKERS)}@host", "none"]),
            "schedule": drawn.choice(["nightly", "none"]),
            "tenant": drawn.choice([f"tenant {drawn.randrange(TENANTS)}", "tenant 0", "tenant rare", "none"]),
            "fingerprint": drawn.choice([fingerprint.hexdigest()[:16], "0" * 16]),
            "requested_by": drawn.choice([f"user{drawn.randrange(USERS)}", "user0", "none"]),
        }[name]


def console_cases(values: Values) -> Iterator[Case]:
    """Every public function of django_app.console.queries; lists with every combination of filters."""
    from django.core.cache import cache

    from django_app.console import queries
    from django_app.console.access import Access
    from django_app.console.filters import EQUAL, Cursor, Filters
    from django_app.console.roles import Role
    from django_app.ledger.models import Run
    from tasks.runtime import retrying

    now = datetime.datetime.now(datetime.UTC)
    day, month = datetime.timedelta(days=1), datetime.timedelta(days=DAYS)
    accesses = {
        "all": lambda drawn: Access("ada", Role.ADMIN),
        "one tenant's": lambda drawn: Access("ada", Role.VIEWER, values.of("tenant", drawn)),
        "one person's": lambda drawn: Access(values.of("requested_by", drawn), Role.NOBODY),
    }

    def listed(names: tuple[str, ...], how: tuple[str, str, str, str], drawn: random.Random) -> Any:
        age, sought, page, access = how
        since = {"": None, "1 day": now - day, "30 days": now - month}[age]
        q = {"": "", "common": "example", "rare": f"user{drawn.randrange(1000)}@", "none": "nothing has this"}[sought]
        after = Cursor(now - month * drawn.random(), run_id(1)) if page == "deep" else None
        filters = Filters({name: values.of(name, drawn) for name in names}, since, q)
        return partial(queries.find_runs, accesses[access](drawn), filters, after)

    for size in range(len(EQUAL) + 1):
        for names in itertools.combinations(EQUAL, size):
            for age, sought, page, access in itertools.product(
                ("", "1 day", "30 days"), ("", "common", "rare", "none"), ("first", "deep"), accesses
            ):
                if (size > 2 or age == "30 days") and (sought == "common" or age == "1 day"):
                    continue  # no plan differs from those that are asked
                told = " ".join([*names, f"since {age}" if age else "", f"q {sought}" if sought else "", page, access])
                how = (age, sought, page, access)
                yield Case(f"find_runs {' '.join(told.split())}", partial(listed, names, how))

    def related(access: str, drawn: random.Random) -> Any:
        run = Run.objects.get(pk=run_id(values.rows // 2 + 1) if drawn.random() < 0.2 else values.run_id(drawn))
        return partial(queries.related, accesses[access](drawn), run, retrying.retry_id(run.pk))

    for access, access_of in accesses.items():
        scoped: dict[str, Callable[[random.Random], Callable[[], object]]] = {
            "count_states": lambda drawn, of=access_of: partial(queries.count_states, of(drawn)),
            "related": partial(related, access),
            "failures 1 day": lambda drawn, of=access_of: partial(queries.failures, of(drawn), now - day),
            "failures 30 days": lambda drawn, of=access_of: partial(queries.failures, of(drawn), now - month),
            "failed_ids": lambda drawn, of=access_of: partial(
                queries.failed_ids, of(drawn), values.of("fingerprint", drawn), None, _BATCH
            ),
        }
        for name, make in scoped.items():
            yield Case(f"{name} {access}", make)

    def throughput(drawn: random.Random) -> Any:
        cache.clear()
        return partial(queries.throughput, now)

    plain: dict[str, Callable[[random.Random], Callable[[], object]]] = {
        "attempts": lambda drawn: partial(queries.attempts, Run(pk=values.run_id(drawn))),
        "latest_samples": lambda drawn: partial(queries.latest_samples, now),
        "throughput": throughput,
        "pauses": lambda drawn: queries.pauses,
        "workers": lambda drawn: queries.workers,
        "audit_entries": lambda drawn: partial(
            queries.audit_entries,
            drawn.choice([{}, {"actor": "user3"}, {"action": "retry"}, {"target": "run 7"}, {"actor": "nobody"}]),
            drawn.choice([None, 20_000]),
        ),
        "tokens": lambda drawn: partial(queries.tokens, 1),
    }
    for name, make in plain.items():
        yield Case(name, make)


def known_questions() -> set[str]:
    """Names of the functions by which the console reads."""
    from django_app.console import queries

    return {
        name
        for name, each in vars(queries).items()
        if callable(each) and getattr(each, "__module__", "") == queries.__name__ and name[0].islower()
    }


def ledger_cases(values: Values) -> Iterator[Case]:
    """What the housekeeping, a scrape of /metrics, producers and workers ask."""
    from django.db import transaction
    from django.utils import timezone

    from django_app import prometheus
    from django_app.ledger import (
        claims,
        figures,
        fleet,
        housekeeping,
        outcomes,
        parking,
        retention,
        samples,
        services,
        uniqueness,
    )
    from django_app.ledger.models import Run
    from django_app.ledger.states import Outcome, Report, State
    from tasks.celery import app

    now = timezone.now()
    old = now - datetime.timedelta(days=DAYS - 3)
    stats = {queue: samples.Stats() for queue in QUEUES}
    yield Case("metrics, all of a scrape", lambda drawn: lambda: list(prometheus.collect(now)))
    yield Case("publish_lag_seconds", lambda drawn: partial(figures.publish_lag_seconds, now))
    yield Case("result of a run", lambda drawn: partial(app.backend._get_task_meta_for, values.run_id(drawn)))
    batches: dict[str, Callable[[], object]] = {
        "claim_unpublished": lambda: services.claim_unpublished(now, _BATCH),
        "lose_overdue": lambda: claims.lose_overdue(_BATCH, 60),
        "workers lost": lambda: fleet.lose_overdue(_BATCH),
        "release_due": lambda: parking.release_due(_BATCH),
        "sample": lambda: (samples.is_taken(now), samples.were_taken_before(now), samples.sample(now, stats)),
        "orphans": lambda: list(housekeeping._orphans(now)),
        "forget runs": lambda: services.forget(old, _BATCH),
        "forget marks": lambda: retention.forget_marks(old, _BATCH),
        "forget chords": lambda: retention.forget_chords(old, _BATCH),
        "forget groups": lambda: retention.forget_groups(old, _BATCH),
        "forget unique keys": lambda: uniqueness.forget(old, _BATCH),
        "forget samples": lambda: samples.forget(old, _BATCH),
        "forget workers": lambda: fleet.forget(old, _BATCH),
        "forget commands": lambda: fleet.forget_commands(now, _BATCH),
    }
    for name, work in batches.items():
        yield Case(name, lambda drawn, work=work: work, is_batch=True)

    def new(number: int) -> list[Run]:
        return [
            Run(id=str(uuid.uuid4()), task="tasks.app.work1", queue="default", message="x" * 1000)
            for _ in range(number)
        ]

    def life(condition: dict[str, Any], limit: Any, drawn: random.Random) -> Callable[[], object]:
        ids = list(
            Run.objects.filter(state=State.QUEUED, **condition)
            .order_by("-created_at")
            .values_list("pk", flat=True)[:200]
        )
        chosen = drawn.choice(ids)

        def live() -> None:
            claim = claims.claim(chosen, claims.Claimant(secrets.token_hex(16), "w1@host", 60, limit=limit))
            if claim.run_id:
                with transaction.atomic():
                    ended = outcomes.Ended(Outcome.SUCCEEDED, claim=claim, result="=1")
                    outcomes.finish(chosen, Report.SUCCEEDED, ended)

        return live

    yield Case("record one", lambda drawn: partial(services.record, new(1)), is_batch=True)
    yield Case("record a group of 100", lambda drawn: partial(services.record, new(100)), is_batch=True)
    yield Case(
        "mark 100 published",
        lambda drawn: partial(services.mark_published, list(Run.objects.filter(state=State.PENDING)[:100])),
        is_batch=True,
    )
    yield Case("claim and outcome", partial(life, {"limit_key": ""}, None), is_batch=True)
    # Neither is reached: what is looked through is the most.
    limits = {"slots": parking.Limit(at_once=10**6), "rate": parking.Limit(begun=1000, period_seconds=60)}
    for name, limit in limits.items():
        yield Case(
            f"claim and outcome, limited {name}", partial(life, {"limit_key": "limited key0"}, limit), is_batch=True
        )
    yield Case(
        "renew 100 leases",
        lambda drawn: partial(claims.renew, "w1@host", [values.run_id(drawn, 0.004) for _ in range(100)], 60.0),
        is_batch=True,
    )


# Retention -----------------------------------------------------------------------------------------------------------


def retain(url: str, values: Values, delete: int) -> dict[str, float]:
    """Delete so many of the oldest runs as the housekeeping does, while another connection changes other rows.

    Milliseconds of a batch of 500, the first and the last tenth; the longest and the median UPDATE of the other.
    """
    from django_app.ledger import services

    waits: list[float] = []
    is_over = threading.Event()

    def write() -> None:
        drawn = random.Random(1)
        with psycopg.connect(url, autocommit=True) as other:
            while not is_over.is_set():
                began = time.perf_counter()
                other.execute(
                    "UPDATE ledger_run SET holder = %s, started_at = now(), lease_until = now() WHERE id = %s",
                    ["bench", values.run_id(drawn, 0.2)],
                )
                waits.append((time.perf_counter() - began) * 1000)
                time.sleep(0.002)

    writer = threading.Thread(target=write)
    share = delete / values.rows + 0.01
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=DAYS) * (1 - share)
    batches: list[float] = []
    deleted = 0
    began = time.monotonic()
    writer.start()
    try:
        while deleted < delete:
            at = time.perf_counter()
            done = services.forget(before, _BATCH)
            batches.append((time.perf_counter() - at) * 1000)
            if not done:
                break
            deleted += done
    finally:
        is_over.set()
        writer.join()
    tenth = max(1, len(batches) // 10)
    return {
        "deleted": deleted,
        "rows_a_second": deleted / (time.monotonic() - began),
        "first_batches_ms": statistics.median(batches[:tenth]),
        "last_batches_ms": statistics.median(batches[-tenth:]),
        "longest_batch_ms": max(batches),
        "updates": len(waits),
        "update_p50_ms": statistics.median(waits),
        "longest_update_ms": max(waits),
    }


# Command line --------------------------------------------------------------------------------------------------------


def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Everything, on a database whose URL Django has; filled unless it is filled already."""
    from django.core.management import call_command

    report: dict[str, Any] = {"rows": options.rows}
    began = time.monotonic()
    with psycopg.connect(url, autocommit=True) as connection:
        call_command("migrate", verbosity=0)
        if connection.execute("SELECT 1 FROM ledger_run LIMIT 1").fetchone() is None:
            fill(connection, options.rows, options.message_bytes)
        report["fill_seconds"] = time.monotonic() - began
        report["states"] = dict(connection.execute("SELECT state, count(*) FROM ledger_run GROUP BY state").fetchall())
        sizes = (
            "SELECT pg_table_size('ledger_run'), pg_indexes_size('ledger_run'), pg_database_size(current_database())"
        )
        report["table_bytes"], report["index_bytes"], report["database_bytes"] = connection.execute(sizes).fetchone()
    values = Values(options.rows)
    watch = Watch()
    cases = [*console_cases(values), *ledger_cases(values)]
    report["not_asked"] = sorted(known_questions() - {case.name.split()[0] for case in cases})
    lists = [case for case in cases if case.name.startswith("find_runs") and options.only in case.name]
    if options.lists is not None and options.lists < len(lists):
        lists = random.Random(options.rows).sample(lists, options.lists)
    others = [case for case in cases if not case.name.startswith("find_runs") and options.only in case.name]
    answers = [ask(case, watch, options.samples, options.most_ms) for case in [*lists, *others]]
    report["answers"] = [vars(answer) for answer in answers]
    report["slow"] = [answer.name for answer in answers if answer.p95_ms > options.most_ms]
    report["scans"] = {answer.name: answer.scans for answer in answers if answer.scans}
    if options.delete:
        report["retention"] = retain(url, values, options.delete)
    report["seconds"] = time.monotonic() - began
    return report


def faults(report: dict[str, Any]) -> list[str]:
    """What is not as it should be."""
    found = [f"too slow: {name}" for name in report["slow"]]
    found += [f"reads a whole table: {name}: {scans[0]}" for name, scans in report["scans"].items()]
    found += [f"not asked: {name}" for name in report["not_asked"]]
    if report.get("retention", {}).get("longest_update_ms", 0.0) >= MOST_WAIT_SECONDS * 1000:
        found.append(f"retention makes others wait: {report['retention']}")
    return found


def grouped(answers: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The lists of runs in one line for each number of conditions; all others as they are."""
    lists: dict[str, list[dict[str, Any]]] = {}
    for answer in answers:
        words = answer["name"].split()
        if words[0] != "find_runs":
            yield answer
            continue
        known = sum(word in ("state", "task", "queue", "schedule", "worker", "tenant", "fingerprint") for word in words)
        searched = ", search" if "q" in words else ""
        lists.setdefault(f"find_runs, {known} conditions{searched}", []).append(answer)
    for name, some in lists.items():
        yield {
            "name": f"{name} ({len(some)} kinds)",
            "p50_ms": statistics.median(each["p50_ms"] for each in some),
            "p95_ms": max(each["p95_ms"] for each in some),
            "pages": max(each["pages"] for each in some),
        }


def show(report: dict[str, Any]) -> None:
    gib = 1 << 30
    print(
        f"{report['rows']} runs, table {report['table_bytes'] / gib:.2f} GiB, indexes {report['index_bytes'] / gib:.2f} "
        f"GiB, database {report['database_bytes'] / gib:.2f} GiB, filled in {report['fill_seconds']:.0f} s"
    )
    print(report["states"])
    print(f"{'question':62}{'p50 ms':>9}{'p95 ms':>9}{'pages':>8}")
    for answer in grouped(report["answers"]):
        print(f"{answer['name']:62}{answer['p50_ms']:9.2f}{answer['p95_ms']:9.2f}{answer['pages']:8}")
    if "retention" in report:
        print("retention:", ", ".join(f"{key} {value:.4g}" for key, value in report["retention"].items()))
    print(f"{report['seconds']:.0f} s in all")


def check_disk(rows: int, message_bytes: int) -> None:
    """Exit where the folder of this machine's disk cannot hold it. (Postgres's own may lie elsewhere.)"""
    needed = rows * (BYTES_A_RUN + message_bytes)
    free = shutil.disk_usage("/").free
    if free < needed:
        raise SystemExit(
            f"{rows} runs need some {needed / 1e9:.0f} GB, and {free / 1e9:.0f} are free. Ask for fewer: --rows, --message-bytes."
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="also of a database that was kept")
    parser.add_argument("--samples", type=int, default=20, help="of each question")
    parser.add_argument("--lists", type=int, help="kinds of lists of runs, chosen at random; default: all, some 3000")
    parser.add_argument("--delete", type=int, default=1_000_000, help="runs, by retention; 0: none")
    parser.add_argument("--most-ms", type=float, default=100.0, help="the 95th percentile of a question")
    parser.add_argument("--message-bytes", type=int, default=1000)
    parser.add_argument("--only", default="", help="questions whose name holds this text")
    parser.add_argument("--keep", action="store_true", help="the database, and print its URL")
    parser.add_argument("--database-url", help="a database that was kept")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    server_url = os.environ.get("CLOUDQUEUE_TEST_DATABASE_URL", "")
    if not options.database_url:
        if not server_url.startswith("postgres"):
            raise SystemExit("CLOUDQUEUE_TEST_DATABASE_URL names no Postgres: run it by .ci/with-postgres")
        check_disk(options.rows, options.message_bytes)
    with ExitStack() as stack:
        url = options.database_url or stack.enter_context(database(server_url, is_kept=options.keep))
        if options.keep:
            print(f"kept: {url}", file=sys.stderr)
        os.environ.update(DATABASE_URL=url, SECRET_KEY="bench", BROKER_URL="memory://", LOG_LEVEL="ERROR")
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_app.settings")
        import django

        django.setup()
        report = measure(url, options)
        from django.db import connections

        connections.close_all()
    print(json.dumps(report)) if options.json else show(report)
    found = faults(report)
    for each in found:
        print(f"FAULT {each}", file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
