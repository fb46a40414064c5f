"""The one list of queues and worker pools, read from topology.json and validated.

Terraform reads the same file with jsondecode(file(...)). Importing this module loads neither Celery nor Django.
Every error names the entry, the value, the rule and the remedy; see docs/configuration.md for each key.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("topology.json")

#: SQS keeps a message in flight for 12 hours at most; an hour stays for draining and hand-over.
LONGEST_TIME_LIMIT_SECONDS = 11 * 3600
#: SQS keeps a message for 14 days at most.
LONGEST_RETENTION_DAYS = 14
#: Of the two minutes' notice that Spot gives, a worker keeps twenty seconds to hand its messages back.
LONGEST_SPOT_SECONDS = 100
LOWEST_PRIORITY, HIGHEST_PRIORITY = 0, 9
#: What a message gets that names no priority: the middle of the range.
DEFAULT_PRIORITY = 5

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")


class TopologyError(ValueError):
    """topology.json, or a use of it, breaks a rule; the message names the thing, the rule and the remedy."""


@dataclass(frozen=True)
class Queue:
    """One SQS queue with its dead-letter queue.

    pool: name of the worker pool that consumes it.
    prefetch: messages a worker process holds per free slot, at least 1. 1 for long work, 10 for short.
    time_limit_seconds: hard limit of one execution; a task may ask for less, never for more.
    retention_days: days that SQS keeps a message that nobody consumed.
    """

    name: str
    pool: str
    prefetch: int
    time_limit_seconds: int
    retention_days: int

    @property
    def dead_letter_name(self) -> str:
        return f"{self.name}-dead"

    @property
    def soft_time_limit_seconds(self) -> int:
        """When the task is told to stop: a tenth, at most 30 seconds, before it is killed."""
        return self.time_limit_seconds - max(1, min(30, self.time_limit_seconds // 10))


@dataclass(frozen=True)
class Pool:
    """One kind of worker container, scaled between minimum and maximum.

    cpu_units, memory_mib: Fargate size (1024 units are one vCPU).
    concurrency: child processes in one container.
    acceptable_wait_seconds: the wait that scaling aims to stay under.
    mean_task_seconds: how long a task of this pool takes, on average; scaling and the costs' page reckon with it.
    spot: whether containers may be taken away with two minutes' notice.
    interruptible: whether a task may be cut off by that and begun again elsewhere, where its limit is longer.
    """

    name: str
    cpu_units: int
    memory_mib: int
    concurrency: int
    minimum: int
    maximum: int
    acceptable_wait_seconds: int
    mean_task_seconds: float
    spot: bool
    interruptible: bool


@dataclass(frozen=True)
class Level:
    """One queue of a family and the priorities, both ends included, that it takes."""

    queue: str
    lowest: int
    highest: int


@dataclass(frozen=True)
class Topology:
    """All queues, the pools that consume them, and how priorities choose among a queue's levels.

    lease_seconds: how long a message stays hidden when its worker has died; while it lives, it renews that.
    max_receives: how often SQS hands a message out before it dead-letters it by itself. High: what crashes is counted
        elsewhere, and drains and deploys must not use it up.
    """

    default_queue: str
    lease_seconds: int
    max_receives: int
    queues: Mapping[str, Queue]
    pools: Mapping[str, Pool]
    levels: Mapping[str, tuple[Level, ...]]

    def queue(self, name: str) -> Queue:
        """The queue of that name. Raises TopologyError, with the nearest name, if none is declared."""
        try:
            return self.queues[name]
        except KeyError:
            raise TopologyError(
                f'queue "{name}" is not declared. {_did_you_mean(name, self.queues)}'
                "Declare it in tasks/topology.json or name one that is there."
            ) from None

    def queue_at_priority(self, name: str, priority: int | None) -> Queue:
        """The queue that a message routed to `name` with this priority goes to.

        priority: 0 to 9, 9 the most urgent; None counts as 5.
        Where `name` has levels the priority picks one of them; where it has none the message stays in `name`
        and the priority changes nothing. Raises TopologyError for a priority outside the range.
        """
        queue = self.queue(name)
        if priority is None:
            priority = DEFAULT_PRIORITY
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise TopologyError(f"priority={priority!r} is not a whole number. Use 0 (lowest) to 9 (most urgent).")
        if not LOWEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
            raise TopologyError(f"priority={priority} is outside 0 to 9. Use 0 (lowest) to 9 (most urgent).")
        for level in self.levels.get(name, ()):
            if level.lowest <= priority <= level.highest:
                return self.queues[level.queue]
        return queue

    def level(self, queue: Queue) -> int:
        """How urgent a queue is among the levels of its family; 0 is the most urgent. 0 for a queue without levels."""
        for family in self.levels.values():
            order = [level.queue for level in sorted(family, key=lambda level: -level.highest)]
            if queue.name in order:
                return order.index(queue.name)
        return 0

    def queues_of_pool(self, pool: str) -> tuple[Queue, ...]:
        """The queues that a pool consumes, most urgent level first, then in the order of the file."""
        if pool not in self.pools:
            raise TopologyError(
                f'pool "{pool}" is not declared. {_did_you_mean(pool, self.pools)}'
                "Declare it in tasks/topology.json or name one that is there."
            )
        urgency = {level.queue: -level.highest for family in self.levels.values() for level in family}
        mine = [queue for queue in self.queues.values() if queue.pool == pool]
        return tuple(sorted(mine, key=lambda queue: urgency.get(queue.name, 1)))


def load(path: Path = PATH) -> Topology:
    """Read and validate a topology file. Raises TopologyError naming the entry, the rule and the remedy."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise TopologyError(f"{path.name} cannot be read: {error.strerror}. Restore it from version control.") from None
    try:
        raw = json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        raise TopologyError(
            f"{path.name}, line {error.lineno}: not valid JSON ({error.msg}). Mend that line."
        ) from None
    return parse(raw)


def parse(raw: object) -> Topology:
    """Validate what topology.json holds, already read as JSON."""
    top = _object("topology", raw, {"default_queue", "lease_seconds", "max_receives", "levels", "queues", "pools"})
    raw_queues = _named_objects("queues", top["queues"])
    raw_pools = _named_objects("pools", top["pools"])
    pools = {name: _pool(name, value) for name, value in raw_pools.items()}
    queues = {name: _queue(name, value, pools) for name, value in raw_queues.items()}
    for name in queues:
        if name.endswith("-dead"):
            raise TopologyError(f'queue "{name}": names ending in -dead are dead-letter queues. Choose another name.')
    for name, pool in pools.items():
        mine = [queue for queue in queues.values() if queue.pool == name]
        if not mine:
            raise TopologyError(f'pool "{name}" consumes no queue. Give it one in "queues", or remove it.')
        _check_spot(pool, mine)
    default = top["default_queue"]
    if not isinstance(default, str) or default not in queues:
        raise TopologyError(f'default_queue: "{default}" is not among the queues. {_did_you_mean(default, queues)}')
    return Topology(
        default,
        _whole_number("topology", "lease_seconds", top, 10, 600),
        _whole_number("topology", "max_receives", top, 5, 1000),
        queues,
        pools,
        _levels(top["levels"], queues),
    )


def _queue(name: str, raw: object, pools: Mapping[str, Pool]) -> Queue:
    where = f'queue "{name}"'
    entry = _object(where, raw, {"pool", "prefetch", "time_limit_seconds", "retention_days"})
    pool = entry["pool"]
    if pool not in pools:
        raise TopologyError(
            f'{where}: pool="{pool}" is not declared, so nobody would consume it. '
            f'{_did_you_mean(pool, pools)}Declare it under "pools".'
        )
    limit = _whole_number(where, "time_limit_seconds", entry, 1)
    if limit > LONGEST_TIME_LIMIT_SECONDS:
        raise TopologyError(
            f"{where}: time_limit_seconds={limit} exceeds {LONGEST_TIME_LIMIT_SECONDS}, the longest run that SQS's "
            "12 hours in flight leave room for. Lower it in tasks/topology.json."
        )
    return Queue(
        name,
        pool,
        _whole_number(where, "prefetch", entry, 1, 100),
        limit,
        _whole_number(where, "retention_days", entry, 1, LONGEST_RETENTION_DAYS),
    )


def _check_spot(pool: Pool, queues: Iterable[Queue]) -> None:
    for queue in queues:
        if pool.spot and not pool.interruptible and queue.time_limit_seconds > LONGEST_SPOT_SECONDS:
            raise TopologyError(
                f'pool "{pool.name}": spot=true, and a task of queue "{queue.name}" may run for '
                f"{queue.time_limit_seconds} s, where Spot's notice leaves {LONGEST_SPOT_SECONDS}. Lower the queue's "
                "time_limit_seconds, write spot=false, or accept that tasks are cut off and begun again: "
                "interruptible=true."
            )


def _pool(name: str, raw: object) -> Pool:
    where = f'pool "{name}"'
    keys = {"cpu_units", "memory_mib", "concurrency", "minimum", "maximum", "spot", "interruptible"}
    entry = _object(where, raw, keys | {"acceptable_wait_seconds", "mean_task_seconds"})
    minimum = _whole_number(where, "minimum", entry, 0)
    maximum = _whole_number(where, "maximum", entry, 1)
    if minimum > maximum:
        raise TopologyError(f"{where}: minimum={minimum} exceeds maximum={maximum}. Lower one or raise the other.")
    for key in ("spot", "interruptible"):
        if not isinstance(entry[key], bool):
            raise TopologyError(f"{where}: {key}={entry[key]!r} is not true or false. Write one of them.")
    return Pool(
        name,
        _whole_number(where, "cpu_units", entry, 256, 16384),
        _whole_number(where, "memory_mib", entry, 512, 122880),
        _whole_number(where, "concurrency", entry, 1, 256),
        minimum,
        maximum,
        _whole_number(where, "acceptable_wait_seconds", entry, 1),
        _mean_task_seconds(where, entry["mean_task_seconds"]),
        entry["spot"],
        entry["interruptible"],
    )


def _mean_task_seconds(where: str, value: object) -> float:
    if type(value) not in (int, float) or not 0 < value <= LONGEST_TIME_LIMIT_SECONDS:  # type: ignore[operator]
        raise TopologyError(
            f"{where}: mean_task_seconds={value!r} must be a number above 0, at most {LONGEST_TIME_LIMIT_SECONDS}. "
            "Write how long a task of this pool takes on average; each task's log line has its duration_ms."
        )
    return float(value)  # type: ignore[arg-type]


def _levels(raw: object, queues: Mapping[str, Queue]) -> dict[str, tuple[Level, ...]]:
    if not isinstance(raw, dict):
        raise TopologyError(f"levels: {raw!r} is not an object. Write {{}} where no queue has levels.")
    families: dict[str, tuple[Level, ...]] = {}
    for family, entries in raw.items():
        where = f'levels of "{family}"'
        if family not in queues:
            raise TopologyError(f"{where}: no queue has that name. {_did_you_mean(family, queues)}")
        if not isinstance(entries, dict):
            raise TopologyError(f"{where}: {entries!r} is not an object of queue names and [lowest, highest].")
        levels = []
        for queue, ends in entries.items():
            if queue not in queues:
                raise TopologyError(f'{where}: queue "{queue}" is not declared. {_did_you_mean(queue, queues)}')
            if not (isinstance(ends, list) and len(ends) == 2 and all(type(end) is int for end in ends)):
                raise TopologyError(f'{where}: "{queue}" has {ends!r}; write [lowest, highest], such as [7, 9].')
            levels.append(Level(queue, *ends))
        covered = sorted(number for level in levels for number in range(level.lowest, level.highest + 1))
        if covered != list(range(LOWEST_PRIORITY, HIGHEST_PRIORITY + 1)):
            raise TopologyError(f"{where}: priorities {covered} must cover 0 to 9, each once. Mend the ranges.")
        families[family] = tuple(levels)
    return families


def _object(where: str, raw: object, keys: set[str]) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise TopologyError(f"{where}: {raw!r} is not an object. Write one with the keys {', '.join(sorted(keys))}.")
    for key in raw:
        if key not in keys:
            raise TopologyError(f'{where}: unknown key "{key}". {_did_you_mean(key, keys)}Remove or rename it.')
    for key in sorted(keys):
        if key not in raw:
            raise TopologyError(f'{where}: the key "{key}" is missing. Add it; docs/configuration.md describes it.')
    return raw


def _named_objects(where: str, raw: object) -> dict[str, object]:
    if not isinstance(raw, dict) or not raw:
        raise TopologyError(f"{where}: at least one must be declared.")
    for name in raw:
        if not _NAME.fullmatch(name):
            raise TopologyError(
                f'{where}: the name "{name}" must be lower-case letters, digits and hyphens, start with a letter '
                "and have at most 40 characters. Rename it."
            )
    return raw


def _whole_number(where: str, key: str, entry: Mapping[str, Any], least: int, most: int | None = None) -> int:
    value = entry[key]
    if type(value) is not int or value < least or (most is not None and value > most):
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        raise TopologyError(f"{where}: {key}={value!r} must be a whole number, {allowed}. Correct it.")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise TopologyError(f'"{key}" stands twice in the same object. Remove or rename one.')
        seen[key] = value
    return seen


def _did_you_mean(name: object, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(str(name), list(known), n=1)
    return f'Did you mean "{nearest[0]}"? ' if nearest else f"Known: {', '.join(sorted(known))}. "


TOPOLOGY = load()
