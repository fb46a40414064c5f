"""Subject "queues": SQS's queues against tasks/topology.json, what lies among dead letters, and how long work waits."""

from __future__ import annotations

import datetime
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from urllib.parse import quote

from django.conf import settings

from django_app.doctor.findings import Finding, Severity, error, warning
from django_app.doctor.subjects import TERRAFORM, Examination, not_told, span
from django_app.ledger import figures
from django_app.ledger.models import Run
from django_app.ledger.states import State
from serverless import inspection
from serverless.inspection import NotToldError, QueueFacts, Why
from tasks.topology import TOPOLOGY, Queue, Topology

#: Of a dead-letter queue, as Terraform and the local cloud make them: as long as SQS keeps anything.
DEAD_LETTER_SECONDS = 14 * 86_400
#: An envelope may have 200 KiB before its body goes to S3, and its attributes come on top.
_LEAST_BYTES = 256 << 10
_LONGEST_POLL_SECONDS = 20
_AT_ONCE = 8

Facts = Mapping[str, QueueFacts | NotToldError]


def examine(this: Examination, topology: Topology = TOPOLOGY) -> Iterator[Finding]:
    """D110 to D113."""
    if not settings.BROKER_URL.startswith("sqs:"):
        this.tell(f"the broker is {settings.BROKER_URL.partition(':')[0]}, so SQS is not asked")
        return
    if not settings.QUEUE_URL_PREFIX:
        yield error(
            "D110",
            "queues",
            "QUEUE_URL_PREFIX is not set",
            "it begins the address of each queue",
            "set QUEUE_URL_PREFIX: terraform -chdir=infra/terraform output",
        )
        return
    facts = _asked(topology)
    for queue in topology.queues.values():
        yield from _queue(facts, queue, topology)
        yield from _dead_letters(facts, queue)
    yield from _schedules_dead(facts)
    yield from _waiting(this, topology)
    told = [each for each in facts.values() if isinstance(each, QueueFacts)]
    this.tell(f"{len(told)} of {len(facts)} queues answered, {sum(each.total for each in told)} messages in them")


def _asked(topology: Topology) -> Facts:
    """By queue name, or ARN. Side by side: one after the other could take too long."""
    urls = {
        name: f"{settings.QUEUE_URL_PREFIX}{name}"
        for queue in topology.queues.values()
        for name in (queue.name, queue.dead_letter_name)
    }
    if settings.SCHEDULE_DEAD_LETTER_ARN:
        urls[settings.SCHEDULE_DEAD_LETTER_ARN] = _url_of(settings.SCHEDULE_DEAD_LETTER_ARN)

    waiting = deque(urls.items())
    facts: dict[str, QueueFacts | NotToldError] = {}

    def ask() -> None:
        while True:
            try:
                name, url = waiting.popleft()
            except IndexError:
                return
            try:
                facts[name] = inspection.queue(url)
            except NotToldError as problem:
                facts[name] = problem

    # Those of a pool would keep the process from ending while AWS does not answer.
    threads = [threading.Thread(target=ask, name="doctor-queues", daemon=True) for _ in range(_AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return facts


def _url_of(arn: str) -> str:
    """Of a queue of the same account beside ours: its name in place of the prefix."""
    return f"{settings.QUEUE_URL_PREFIX.rpartition('/')[0]}/{arn.rpartition(':')[2]}"


# As the topology says ------------------------------------------------------------------------------------------------


def _queue(facts: Facts, queue: Queue, topology: Topology) -> Iterator[Finding]:
    thing = f'queue "{queue.name}"'
    own = facts[queue.name]
    if isinstance(own, NotToldError):
        yield _missing(thing, own)
        return
    wanted = {
        "visibility timeout": (own.visibility_seconds, topology.lease_seconds, "lease_seconds"),
        "retention": (own.retention_seconds, queue.retention_days * 86_400, "retention_days"),
        "wait of a receive": (own.wait_seconds, _LONGEST_POLL_SECONDS, "a long poll"),
    }
    for what, (there, should, key) in wanted.items():
        if there != should:
            yield _differs(Severity.WARNING, thing, f"{what} is {there} s", f"{should} s: {key} of tasks/topology.json")
    if own.largest_bytes < _LEAST_BYTES:
        rule = f"{_LEAST_BYTES} at least: bodies above 200 KiB alone go to S3"
        yield _differs(Severity.ERROR, thing, f"largest message is {own.largest_bytes} bytes", rule)
    yield from _redrive(thing, own, facts[queue.dead_letter_name], topology)


def _redrive(thing: str, own: QueueFacts, dead: QueueFacts | NotToldError, topology: Topology) -> Iterator[Finding]:
    rule = f"to its dead-letter queue after {topology.max_receives} receives: max_receives of tasks/topology.json"
    if own.redrive is None:
        yield _differs(Severity.ERROR, thing, "it has no redrive policy", rule)
        return
    target, most = own.redrive.get("deadLetterTargetArn"), int(own.redrive.get("maxReceiveCount", 0))
    if most != topology.max_receives or (isinstance(dead, QueueFacts) and target != dead.arn):
        yield _differs(Severity.ERROR, thing, f"redrive policy is to {target} after {most} receives", rule)


def _missing(thing: str, problem: NotToldError) -> Finding:
    told = not_told(thing, problem)
    if problem.why != Why.MISSING:
        return told
    return replace(told, id="D110", rule="tasks/topology.json declares it")


def _differs(severity: Severity, thing: str, value: str, rule: str) -> Finding:
    return Finding(severity, "D111", thing, value, rule, TERRAFORM)


# Dead letters --------------------------------------------------------------------------------------------------------


def _dead_letters(facts: Facts, queue: Queue) -> Iterator[Finding]:
    thing = f'dead-letter queue "{queue.dead_letter_name}"'
    dead = facts[queue.dead_letter_name]
    if isinstance(dead, NotToldError):
        yield _missing(thing, dead)
        return
    if dead.retention_seconds != DEAD_LETTER_SECONDS:
        rule = f"{DEAD_LETTER_SECONDS} s, the longest that SQS has"
        yield _differs(Severity.WARNING, thing, f"retention is {dead.retention_seconds} s", rule)
    if dead.total:
        page = f"{settings.PUBLIC_URL}/console/dead-letters/{quote(queue.name)}/"
        yield _holds(thing, dead.total, _oldest(queue), f"look, then redrive or discard: {page}")


def _holds(thing: str, count: int, since: str, remedy: str) -> Finding:
    messages = "1 message" if count == 1 else f"{count} messages"
    rule = "empty: SQS deletes them after 14 days, and their work is not done"
    return warning("D112", thing, f"{messages}{since}", rule, remedy)


def _oldest(queue: Queue) -> str:
    """Since when, by the ledger: to ask the messages themselves would hide them, and count as a receive."""
    kept = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=DEAD_LETTER_SECONDS)
    newest = Run.objects.filter(state=State.DEAD, created_at__gt=kept).order_by("-created_at")
    ended = newest.values_list("queue", "finished_at")[: figures.MOST_COUNTED]
    times = [at for name, at in ended if name == queue.name and at is not None]
    return f", the oldest recorded run since {min(times):%Y-%m-%d %H:%M} UTC" if times else ""


def _schedules_dead(facts: Facts) -> Iterator[Finding]:
    arn = settings.SCHEDULE_DEAD_LETTER_ARN
    if not arn:
        return
    thing = f'queue "{arn.rpartition(":")[2]}" of what EventBridge could not deliver'
    dead = facts[arn]
    if isinstance(dead, NotToldError):
        told = _missing(thing, dead)
        # The web side has nothing to do with it, so its role need not allow that it is asked.
        rule = "for this look alone: EventBridge sends to it, and people read it"
        yield replace(told, severity=Severity.NOTE, rule=rule) if dead.why == Why.REFUSED else told
    elif dead.total:
        read = f"aws sqs receive-message --queue-url {_url_of(arn)} --message-attribute-names All"
        yield _holds(thing, dead.total, "", f"its attributes say why: {read}")


# Waiting -------------------------------------------------------------------------------------------------------------


def _waiting(this: Examination, topology: Topology) -> Iterator[Finding]:
    ages = figures.oldest_ages(topology.queues, this.now)
    for queue in topology.queues.values():
        pool = topology.pools[queue.pool]
        if ages[queue.name] > pool.acceptable_wait_seconds:
            yield warning(
                "D113",
                f'queue "{queue.name}"',
                f"its oldest run waits for {span(ages[queue.name])}",
                f'{pool.acceptable_wait_seconds} s: acceptable_wait_seconds of pool "{pool.name}"',
                f"python manage.py doctor --only workers; raise maximum (now {pool.maximum}) of the pool in "
                "tasks/topology.json if all its workers are busy, then terraform -chdir=infra/terraform apply",
            )
