"""Brings a group of EventBridge Scheduler to what is wanted: what is missing is created, what is not wanted deleted.

It may be run at any time, twice at once, and be killed: what is there is left alone, so the next run goes on where this
one ended. A changed schedule is created under its new name before the old one is deleted; where both fire in between,
Cloudqueue makes one run of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from botocore.exceptions import ClientError, ParamValidationError

from serverless.scheduler.errors import ScheduleError
from serverless.scheduler.groups import Group, code_of
from serverless.scheduler.pace import OutOfTimeError, Pace
from serverless.scheduler.wanted import Wanted, prefix, prefix_of

#: Called with ("created", "repaired" or "deleted") and the AWS name.
OnChange = Callable[[str, str], None]

#: Requests a second: the least that AWS grants, with room for others.
PER_SECOND = 50.0


@dataclass
class Done:
    """What was done. left: how much was not, for want of time. failed: logical name -> AWS's reason."""

    created: int = 0
    deleted: int = 0
    unchanged: int = 0
    repaired: int = 0
    left: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return not self.left and not self.failed

    def __str__(self) -> str:
        numbers = (
            f"{self.created} created, {self.repaired} repaired, {self.deleted} deleted, {self.unchanged} unchanged"
        )
        if self.failed:
            numbers += f", {len(self.failed)} failed"
        return numbers + (f", {self.left} left for want of time" if self.left else "")


@dataclass
class Plan:
    """What would be done. create, repair: (AWS name, what is wanted of it). delete: AWS names."""

    create: list[tuple[str, Wanted]] = field(default_factory=list)
    repair: list[tuple[str, Wanted]] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)
    unchanged: int = 0

    @property
    def is_empty(self) -> bool:
        return not (self.create or self.repair or self.delete)

    def __str__(self) -> str:
        lines = [
            f'{sign} {name}: "{wanted.logical}" {wanted.expression} {wanted.zone}'
            for sign, steps in (("+", self.create), ("~", self.repair))
            for name, wanted in steps
        ]
        lines += [f"- {name}" for name in self.delete]
        numbers = f"{len(self.create)} to create, {len(self.repair)} to repair, {len(self.delete)} to delete"
        return "\n".join([*lines, f"{numbers}, {self.unchanged} unchanged"])


class _Kind(StrEnum):
    """TOUCHED: somebody changed it by hand, perhaps back."""

    CREATE = "create"
    TOUCHED = "touched"
    UNCHANGED = "unchanged"
    DELETE = "delete"


@dataclass(frozen=True)
class _Step:
    """wanted: none where kind is DELETE."""

    kind: _Kind
    name: str
    wanted: Wanted | None = None


def plan(group: Group, wanted: Callable[[], Iterable[Wanted]], *, spare: Collection[str] = ()) -> Plan:
    """What synchronise would do. Changes nothing, not even where the group is missing."""
    now = datetime.now(UTC)
    made = Plan()
    try:
        listed = _listed(group)
    except ClientError as error:
        if code_of(error) != "ResourceNotFoundException":
            raise
        listed = {}
    for step in _steps(listed, wanted(), now, spare):
        if step.wanted is None:
            made.delete.append(step.name)
        elif step.kind == _Kind.CREATE:
            made.create.append((step.name, step.wanted))
        elif step.kind == _Kind.TOUCHED and not _is_as_wanted(group, step.wanted, now):
            made.repair.append((step.name, step.wanted))
        else:
            made.unchanged += 1
    return made


def synchronise(
    group: Group,
    wanted: Callable[[], Iterable[Wanted]],
    *,
    budget_seconds: float | None = None,
    per_second: float = PER_SECOND,
    on_change: OnChange | None = None,
    spare: Collection[str] = (),
) -> Done:
    """Bring the whole group to what is wanted; nothing else may keep schedules in it.

    wanted: asked after the group was listed, so that what somebody saves meanwhile, and creates by itself, is not
    deleted. It is read once, one by one; of all schedules no more than the names are held in memory.
    budget_seconds: what is not done by then is left to the next call, and counted, which costs no request.
    spare: logical names of which nothing is deleted, since what is wanted of them cannot be told; may grow meanwhile.
    One that is refused, by AWS or before, is told in `failed`; its old version goes on, and so do the others. Raises
    what AWS answers beside that, such as a lack of permission.
    """
    pace = Pace(per_second, budget_seconds)
    paced = group.at(pace.call)
    try:
        paced.ensure()
        listed = _listed(paced)
    except OutOfTimeError:
        # Without the whole list nothing may be done, nor counted.
        return Done(left=1)
    return _carry_out(paced, _steps(listed, wanted(), datetime.now(UTC), spare), on_change)


def synchronise_one(
    group: Group,
    logical: str,
    wanted: Sequence[Wanted],
    *,
    budget_seconds: float | None = None,
    per_second: float = PER_SECOND,
    on_change: OnChange | None = None,
) -> Done:
    """Bring one logical schedule to what is wanted, with no look at the others; nothing wanted deletes it.

    The row that it comes from must be committed before, or a `synchronise` at the same time would delete it.
    """
    for each in wanted:
        if each.logical != logical:
            raise ValueError(f'schedule "{each.logical}" was given for "{logical}". Give one logical schedule alone.')
    pace = Pace(per_second, budget_seconds)
    paced = group.at(pace.call)
    try:
        if wanted:
            paced.ensure()
        listed = _listed(paced, prefix(logical))
    except OutOfTimeError:
        return Done(left=1)
    return _carry_out(paced, _steps(listed, wanted, datetime.now(UTC)), on_change)


def _listed(group: Group, beginning: str = "") -> dict[str, bool]:
    """AWS name -> whether somebody touched it."""
    return {found.name: found.is_touched for found in group.summaries(beginning)}


def _steps(
    listed: dict[str, bool], wanted: Iterable[Wanted], now: datetime, spare: Collection[str] = ()
) -> Iterator[_Step]:
    """From what is there to what is wanted; deletions last, when all that is wanted is known."""
    kept: set[str] = set()
    for each in wanted:
        name = each.name
        if name in kept or _is_over(each, now):
            continue
        kept.add(name)
        if name not in listed:
            yield _Step(_Kind.CREATE, name, each)
        else:
            yield _Step(_Kind.TOUCHED if listed[name] else _Kind.UNCHANGED, name, each)
    spared = {prefix(logical) for logical in spare}
    for name in listed:
        if name not in kept and prefix_of(name) not in spared:
            yield _Step(_Kind.DELETE, name)


def _is_over(wanted: Wanted, now: datetime) -> bool:
    try:
        return wanted.is_over(now)
    except ScheduleError:
        # No rate at all: it is refused when it is to be created.
        return False


def _carry_out(group: Group, steps: Iterator[_Step], on_change: OnChange | None) -> Done:
    done = Done()
    # Where the new version was refused, the old one is better than none.
    spared: set[str] = set()
    is_over = False
    for step in steps:
        if step.kind == _Kind.UNCHANGED:
            done.unchanged += 1
            continue
        if step.wanted is None and prefix_of(step.name) in spared:
            continue
        if is_over:
            done.left += 1
            continue
        try:
            change = _do(group, step)
        except OutOfTimeError:
            is_over = True
            done.left += 1
            continue
        except (ClientError, ParamValidationError, ScheduleError) as error:
            if step.wanted is None or not _is_refusal(error):
                raise
            done.failed[step.wanted.logical] = _reason(error)
            spared.add(prefix(step.wanted.logical))
            continue
        setattr(done, change, getattr(done, change) + 1)
        if on_change is not None and change != "unchanged":
            on_change(change, step.name)
    return done


def _do(group: Group, step: _Step) -> str:
    """Make one step; the name of what it counts as."""
    if step.wanted is None:
        group.delete(step.name)
        return "deleted"
    now = datetime.now(UTC)
    if step.kind == _Kind.CREATE:
        return "created" if group.create(step.wanted.request(now)) else "unchanged"
    found = group.find(step.name)
    if found is None or step.wanted.is_as(found, now):
        # What another one deletes at this moment, it does not want.
        return "unchanged"
    return "repaired" if group.update(step.wanted.request(now)) else "unchanged"


def _is_as_wanted(group: Group, wanted: Wanted, now: datetime) -> bool:
    found = group.find(wanted.name)
    return found is not None and wanted.is_as(found, now)


def _is_refusal(error: Exception) -> bool:
    """Whether AWS refuses this one schedule, and might well take the next."""
    return not isinstance(error, ClientError) or code_of(error) == "ValidationException"


def _reason(error: Exception) -> str:
    if isinstance(error, ClientError):
        return error.response.get("Error", {}).get("Message", "") or code_of(error)
    return str(error)
