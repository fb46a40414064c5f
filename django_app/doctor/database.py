"""Subject "database": migrations, connections, bloat; and, by what they wrote into it, the housekeeping's rounds."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from django.apps import apps
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from django_app.doctor.findings import Finding, Severity, error, warning
from django_app.doctor.subjects import Examination, names, one_line, span, stage
from django_app.ledger.models import QueueSample
from tasks.topology import TOPOLOGY, Topology

#: Rows that wait for a vacuum: so many, and more than this share of those that live.
_DEAD_ROWS, _DEAD_SHARE = 10_000, 0.5
#: Free bytes of SQLite's file: so many, and more than this share of it.
_FREE_BYTES, _FREE_SHARE = 32 << 20, 0.5
#: Of the connections that the server has.
_CONNECTIONS_SHARE = 0.9
#: A round each minute; two may fail.
_LATE = datetime.timedelta(minutes=3)
_STANDS = datetime.timedelta(minutes=15)


def examine(this: Examination, topology: Topology = TOPOLOGY) -> Iterator[Finding]:
    """D160 to D165."""
    try:
        connection.ensure_connection()
    except DatabaseError as problem:
        yield error(
            "D160",
            "the database",
            f"does not answer: {one_line(str(problem))}",
            "nothing is enqueued, claimed or shown without it",
            "see to DATABASE_URL, its secret and the network between: python manage.py dbshell",
        )
        return
    this.tell(connection.display_name)
    executor = MigrationExecutor(connection)
    unapplied = [
        f"{each.app_label}.{each.name}" for each, _ in executor.migration_plan(executor.loader.graph.leaf_nodes())
    ]
    if unapplied:
        # What follows would ask for columns that are not there.
        yield error(
            "D161",
            "the database",
            f"{len(unapplied)} migrations are not applied: {names(unapplied)}",
            "it has the tables that this release needs",
            f'python manage.py migrate (on AWS: zappa manage {stage()} "migrate")',
        )
        return
    if connection.vendor == "postgresql":
        yield from _connections(this, topology)
        yield from _dead_rows()
    elif connection.vendor == "sqlite":
        yield from _free_pages()
    yield from _housekeeping(this)


# Connections ---------------------------------------------------------------------------------------------------------


def _connections(this: Examination, topology: Topology) -> Iterator[Finding]:
    most, used = _limit_and_use()
    # A child of a worker has one while it works, and its steward one; each a second while it tells those who watch.
    each = 2 if settings.SOCKETS_URL else 1
    needed = {name: each * pool.maximum * (pool.concurrency + 1) for name, pool in topology.pools.items()}
    all_needed = sum(needed.values())
    this.tell(f"{used} of {most} connections in use, {all_needed} wanted by all workers at their maximum")
    if used >= most * _CONNECTIONS_SHARE:
        yield error(
            "D162",
            "connections of the database",
            f"{used} of {most} are in use",
            f"below {_CONNECTIONS_SHARE:.0%}: whoever comes when none is left is refused",
            "lower maximum of the pools in tasks/topology.json, take a larger instance_class, or set database.proxy in "
            "infra/terraform; then terraform -chdir=infra/terraform apply",
        )
    elif all_needed > most:
        parts = ", ".join(f"{name} {count}" for name, count in needed.items())
        yield warning(
            "D163",
            "connections of the database",
            f"workers at their maximum want {all_needed} ({parts}), and it has {most}",
            "maximum x (concurrency + 1) of all pools, with room for the web side",
            "lower maximum of the pools in tasks/topology.json, take a larger instance_class, or set database.proxy in "
            "infra/terraform; then terraform -chdir=infra/terraform apply",
        )


def _limit_and_use() -> tuple[int, int]:
    """How many connections there may be, and how many there are: of the server, or of the database if that is less."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,"
            " count(*), (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),"
            " count(*) FILTER (WHERE datname = current_database())"
            " FROM pg_stat_activity"
            # Of others' sessions a user without pg_monitor does not learn the kind.
            " WHERE datid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'"
        )
        of_server, at_server, of_database, at_database = cursor.fetchone()
    return (of_database, at_database) if 0 <= of_database < of_server else (of_server, at_server)


# Bloat ---------------------------------------------------------------------------------------------------------------


def _dead_rows() -> Iterator[Finding]:
    tables = [model._meta.db_table for model in apps.get_app_config("ledger").get_models()]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname, n_dead_tup, n_live_tup, greatest(last_vacuum, last_autovacuum) FROM pg_stat_user_tables"
            " WHERE schemaname = ANY(current_schemas(false)) AND relname = ANY(%s) ORDER BY relname",
            [tables],
        )
        rows = cursor.fetchall()
    for table, dead, living, vacuumed in rows:
        if dead > _DEAD_ROWS and dead > living * _DEAD_SHARE:
            since = f"{vacuumed:%Y-%m-%d %H:%M} UTC" if vacuumed else "never"
            yield warning(
                "D164",
                f'table "{table}"',
                f"{dead} dead rows beside {living} living ones, last vacuumed: {since}",
                f"{_DEAD_SHARE:.0%} at most: each question reads them as well",
                f'python manage.py dbshell -- -c "VACUUM (ANALYZE) {table}"; if that frees nothing, end who has kept '
                "a transaction open for long: pg_stat_activity has them",
            )


def _free_pages() -> Iterator[Finding]:
    with connection.cursor() as cursor:
        free, pages, size = (
            cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_count", "page_size")
        )
    if free * size > _FREE_BYTES and free > pages * _FREE_SHARE:
        yield warning(
            "D164",
            f"file {settings.DATABASES['default']['NAME']}",
            f"{free * size >> 20} of {pages * size >> 20} MiB are free",
            f"{_FREE_SHARE:.0%} at most: SQLite gives nothing back by itself",
            'stop the stack; then python manage.py dbshell -- "VACUUM"',
        )


# Housekeeping --------------------------------------------------------------------------------------------------------


def _housekeeping(this: Examination) -> Iterator[Finding]:
    """Each round writes a sample of the queues."""
    newest = QueueSample.objects.order_by("-at").values_list("at", flat=True).first()
    # A sample bears the minute in which it was taken.
    age = this.now - newest if newest else None
    if age is not None and age <= _LATE:
        return
    yield Finding(
        Severity.WARNING if age is not None and age <= _STANDS else Severity.ERROR,
        "D165",
        "the housekeeping",
        f"its last round was {span(age.total_seconds())} ago" if age is not None else "it never made a round",
        "one each minute: it publishes what was left behind, marks lost workers, keeps schedules in step",
        f"python manage.py housekeeping; then see that the minute's event is on: zappa schedule {stage()} (on a "
        "laptop: make up)",
    )
