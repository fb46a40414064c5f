"""Having a report mailed again and again: a schedule that belongs to the dataset's owner, and goes with the dataset."""

from __future__ import annotations

import re
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models.signals import pre_delete

from django_app.datasets.models import Dataset
from django_app.ledger import requester
from django_app.ledger.models import Run, Schedule
from django_app.ledger.models.schedules import DAY_SECONDS
from django_app.ledger.schedules import services as scheduling
from serverless.scheduler.crontab_fields import WEEKDAY_NAMES

TASK = "tasks.reports.mail_report"
#: What is chosen from, as a crontab has it.
DAYS = {
    **{WEEKDAY_NAMES[day % 7][:3]: f"every {WEEKDAY_NAMES[day % 7].capitalize()}" for day in range(1, 8)},
    "mon-fri": "every weekday",
    "*": "every day",
}
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_TIMING = re.compile(r"(?P<minute>\d{1,2}) (?P<hour>\d{1,2}) \* \* (?P<day>\S+)")
_UNSEEN = re.compile(r"[\x00-\x20\x7f@]+")
#: Failures in a row after which the mails are paused: an account without an address, say.
_FAILURES = 5
#: Characters of each part of the schedule's name.
_LONGEST_PART = 60


class SubscriptionError(ValueError):
    """A wish for mails that cannot be had."""


def of(dataset: Dataset) -> Schedule | None:
    """The schedule that mails this dataset's report; None where there is none, or no longer."""
    if not dataset.mail_schedule:
        return None
    return Schedule.objects.filter(name=dataset.mail_schedule, task=TASK).first()


def newest_run(schedule: Schedule) -> Run | None:
    # The index leaves out runs of no schedule, see the console's queries.
    runs = Run.objects.filter(schedule=schedule.name).exclude(schedule="")
    return runs.order_by("-created_at").defer("message").first()


@transaction.atomic
def subscribe(dataset: Dataset, day: str, time: str, zone: str) -> Schedule:
    """Mail the report at a time of certain days, in a zone; instead of what was wanted before.

    day: of DAYS. time: "08:00". zone: "Europe/Berlin". Raises SubscriptionError.
    """
    if day not in DAYS:
        raise SubscriptionError(f'day "{day}": none of {", ".join(DAYS)}. Choose one of them.')
    found = _TIME.fullmatch(time)
    if found is None:
        raise SubscriptionError(f'time "{time}": it is none of a day. Write hours and minutes, such as 08:00.')
    locked = Dataset.objects.select_for_update().select_related("owner").get(pk=dataset.pk)
    schedule = of(locked) or _new(locked)
    schedule.timing, schedule.zone = f"{int(found[2])} {int(found[1])} * * {day}", zone
    try:
        with transaction.atomic():
            schedule.save()
    except ValidationError as error:
        raise SubscriptionError(" ".join(error.messages)) from error
    except IntegrityError as error:
        # Of another dataset of that name, at this moment.
        raise SubscriptionError(f'schedule "{schedule.name}": somebody has just made it. Try again.') from error
    Dataset.objects.filter(pk=dataset.pk).update(mail_schedule=schedule.name)
    dataset.mail_schedule = schedule.name
    return schedule


def _new(dataset: Dataset) -> Schedule:
    return Schedule(
        name=_free_name(dataset),
        task=TASK,
        kwargs={"dataset_id": str(dataset.pk)},
        catch_up_seconds=DAY_SECONDS,
        pause_after_failures=_FAILURES,
        requested_by=dataset.owner.get_username(),
        tenant=requester.current().tenant,
    )


def _free_name(dataset: Dataset) -> str:
    about = _part(dataset.name) or str(dataset.pk)
    owner = _part(dataset.owner.get_username()) or f"user {dataset.owner_id}"
    name = f"report {about} for {owner}"
    # Another dataset may have the same name.
    return f"report {about} {dataset.pk} for {owner}" if Schedule.objects.filter(name=name).exists() else name


def _part(text: str) -> str:
    """What a schedule's name may hold, cut to size."""
    return _UNSEEN.sub(" ", text)[:_LONGEST_PART].strip()


def choice(schedule: Schedule | None) -> dict[str, str]:
    """What was chosen, or is proposed; also where an operator has given it another timing than one of ours."""
    chosen = {"day": "mon", "time": "08:00", "zone": "UTC"}
    if schedule is None:
        return chosen
    found = _TIMING.fullmatch(schedule.timing)
    if found is not None:
        chosen |= {"day": found["day"], "time": f"{found['hour']:0>2}:{found['minute']:0>2}"}
    return {**chosen, "zone": schedule.zone}


@transaction.atomic
def unsubscribe(dataset: Dataset) -> bool:
    """Mail it no more; False where it was not mailed."""
    schedule = of(dataset)
    if schedule is None:
        return False
    schedule.delete()
    Dataset.objects.filter(pk=dataset.pk).update(mail_schedule="")
    dataset.mail_schedule = ""
    return True


def pause(dataset: Dataset) -> bool:
    """Mail nothing for now; False where nothing is mailed anyway."""
    schedule = of(dataset)
    return schedule is not None and scheduling.pause(schedule, dataset.owner.get_username(), "on the dataset's page")


def resume(dataset: Dataset) -> bool:
    schedule = of(dataset)
    return schedule is not None and scheduling.resume(schedule, dataset.owner.get_username())


def connect() -> None:
    """Whatever deletes a dataset, its owner's account among it, ends its mails."""
    pre_delete.connect(_forget, sender=Dataset, dispatch_uid="datasets.subscriptions")


def _forget(sender: Any, instance: Dataset, **_: Any) -> None:
    schedule = of(instance)
    if schedule is not None:
        schedule.delete()
