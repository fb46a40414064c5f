"""What a stage costs idle, for a million tasks and for a million socket updates: the figures of docs/costs.md.

    python -m tests.infra.costs

prints the page's tables, from tasks/topology.json and the prices below. Dollars, us-east-1, on demand, without AWS's
free tiers.
"""

from __future__ import annotations

from collections.abc import Iterable

from serverless.scaling import aws_policies
from serverless.scaling.policy import FULLEST, Limits
from tasks.topology import TOPOLOGY, Pool, Topology

HOURS = 730
MINUTES = HOURS * 60

#: An hour of Fargate, Linux on x86; of Spot about so much of it.
VCPU_HOUR, GIB_HOUR, SPOT_SHARE = 0.04048, 0.004445, 0.3
#: A million requests, and what else is paid by use.
SQS_MILLION, LAMBDA_MILLION, LAMBDA_GB_SECOND = 0.40, 0.20, 0.0000133334
REST_MILLION, MESSAGES_MILLION, CONNECTION_MINUTES_MILLION = 3.50, 1.00, 0.25
DYNAMODB_READS_MILLION, SCHEDULER_MILLION, LOGS_GB, SES_THOUSAND = 0.125, 1.00, 0.50, 0.10
#: A month.
ALARM_METRIC, CUSTOM_METRIC, SECRET, GP3_GB = 0.10, 0.30, 0.40, 0.115
#: An hour.
DATABASE_MICRO, PROXY_VCPU, AURORA_UNIT = 0.016, 0.015, 0.12
NAT_GATEWAY, NAT_INSTANCE, PUBLIC_IPV4, ENDPOINT = 0.045, 0.0042, 0.005, 0.01

#: Of METRICS=emf, by queue and by housekeeping: docs/observability.md.
METRICS_A_QUEUE, METRICS_OF_HOUSEKEEPING = 5, 6
#: Seconds that a round of the housekeeping takes with nothing to do, at 1 GiB.
ROUND_SECONDS = 1.0
#: Requests to SQS for a task that is enqueued alone, with a backlog: docs/benchmarks.md.
REQUESTS_A_TASK = 1.25
#: Of a task's line in the log and its metrics.
BYTES_A_TASK = 1600

Rows = list[tuple[str, float]]


def money(dollars: float) -> str:
    return f"{dollars:,.2f}"


def limits(pool: Pool, topology: Topology = TOPOLOGY) -> Limits:
    """A pool as scaling sees it."""
    return Limits(
        pool=pool.name,
        minimum=pool.minimum,
        maximum=pool.maximum,
        slots=pool.concurrency,
        acceptable_wait_seconds=pool.acceptable_wait_seconds,
        mean_task_seconds=pool.mean_task_seconds,
        prefetch=max(queue.prefetch for queue in topology.queues_of_pool(pool.name)),
    )


def worker_hour(pool: Pool) -> float:
    """An hour of one container, on demand."""
    return pool.cpu_units / 1024 * VCPU_HOUR + pool.memory_mib / 1024 * GIB_HOUR


def scaling_metrics(topology: Topology = TOPOLOGY) -> int:
    """Metrics that scaling's own alarms look at; CloudWatch charges for each. Target tracking makes one of its own."""
    total = 0
    for name, pool in topology.pools.items():
        queues = len(topology.queues_of_pool(name))
        rules = aws_policies.of(limits(pool, topology), queues)
        alarms = 1 + sum(rule is not None for rule in (rules.wake, rules.give_back, rules.sleep))
        total += alarms * (2 * queues + 1)
    return total


def telling_metrics(*, proxy: bool, topology: Topology = TOPOLOGY) -> int:
    """Metrics that alarms look at which tell somebody: alarms.tf, of a stage that has been deployed."""
    of_stage, functions, database = 8, 2, 3
    queues = len(topology.queues)
    dead_letters = queues + 2
    pools = 2 * 2 * len(topology.pools)
    return of_stage + queues + dead_letters + 2 * functions + database + int(proxy) + pools


def idle(*, proxy: bool, topology: Topology = TOPOLOGY) -> Rows:
    """A month in which nobody asks for anything, with the smallest database."""
    queues = len(topology.queues)
    alarms = scaling_metrics(topology) + telling_metrics(proxy=proxy, topology=topology)
    metrics = METRICS_A_QUEUE * queues + METRICS_OF_HOUSEKEEPING
    awake = sum(pool.minimum * worker_hour(pool) * HOURS for pool in topology.pools.values())
    housekeeping = MINUTES * (LAMBDA_MILLION / 1e6 + ROUND_SECONDS * LAMBDA_GB_SECOND)
    rows = [
        ("Postgres, db.t4g.micro with 20 GB", DATABASE_MICRO * HOURS + GP3_GB * 20),
        (f"alarms, {alarms} metrics", alarms * ALARM_METRIC),
        (f"our metrics, {metrics} of them", metrics * CUSTOM_METRIC),
        ("the minute's housekeeping in the function", housekeeping),
        ("reading each queue once a minute", 2 * queues * MINUTES * SQS_MILLION / 1e6),
        ("the database's password", SECRET),
        ("workers", awake),
        ("network, egress = ipv6", 0.0),
    ]
    if proxy:
        rows.insert(1, ("RDS Proxy, of two vCPUs", 2 * PROXY_VCPU * HOURS))
    return rows


def choices() -> Rows:
    """What one may choose instead or in addition, a month."""
    return [
        ("database: the second zone", DATABASE_MICRO * HOURS + GP3_GB * 20),
        ("database: Aurora of half a unit, instead of db.t4g.micro", 0.5 * AURORA_UNIT * HOURS),
        ("egress = nat_instance", (NAT_INSTANCE + PUBLIC_IPV4) * HOURS),
        ("egress = nat_gateway, two zones", 2 * (NAT_GATEWAY + PUBLIC_IPV4) * HOURS),
        ("remote_shell with egress = ipv6", ENDPOINT * HOURS),
        *((f"one worker of {name} awake", worker_hour(pool) * HOURS) for name, pool in TOPOLOGY.pools.items()),
    ]


def million_tasks(pool: Pool) -> Rows:
    """A million tasks of a pool at steady load, when scaling keeps FULLEST of the slots busy."""
    hours = 1e6 * pool.mean_task_seconds / pool.concurrency / FULLEST / 3600
    share = SPOT_SHARE if pool.spot else 1.0
    return [
        (f"{hours:,.0f} hours of a worker{' on Spot' if pool.spot else ''}", hours * worker_hour(pool) * share),
        (f"{REQUESTS_A_TASK} requests to SQS each", REQUESTS_A_TASK * SQS_MILLION),
        ("lines in the log and metrics", 1e6 * BYTES_A_TASK / 1e9 * LOGS_GB),
    ]


def beside() -> Rows:
    """A million of what may come with a task."""
    return [
        ("enqueued by a request of its own, 0.1 s at 1 GiB", REST_MILLION + LAMBDA_MILLION + 1e5 * LAMBDA_GB_SECOND),
        ("enqueued by a schedule", SCHEDULER_MILLION),
        ("sends a mail", 1000 * SES_THOUSAND),
    ]


def million_updates() -> Rows:
    """A million updates of one page that is looked at, 32 KB at most each."""
    return [
        ("messages of API Gateway", MESSAGES_MILLION),
        ("reading who looks, twice", 2 * DYNAMODB_READS_MILLION),
        ("a million minutes of open sockets", CONNECTION_MINUTES_MILLION),
    ]


def table(head: str, rows: Iterable[tuple[str, float]], *, is_summed: bool = True) -> str:
    """As Markdown."""
    rows = list(rows)
    lines = [f"| {head} | $ |", "|---|---|", *(f"| {name} | {money(dollars)} |" for name, dollars in rows)]
    if is_summed:
        lines.append(f"| **together** | **{money(sum(dollars for _, dollars in rows))}** |")
    return "\n".join(lines)


def tables() -> list[str]:
    """All of the page's, in its order."""
    return [
        table("a month, without a proxy", idle(proxy=False)),
        table("a month, with a proxy", idle(proxy=True)),
        table("a month, more", choices(), is_summed=False),
        *(
            table(f"a million tasks of `{name}`, {pool.mean_task_seconds:g} s each", million_tasks(pool))
            for name, pool in TOPOLOGY.pools.items()
        ),
        table("a million tasks, more", beside(), is_summed=False),
        table("a million updates", million_updates()),
    ]


if __name__ == "__main__":
    print("\n\n".join(tables()))
