"""`manage.py schedules`: periodic work, from CELERY_BEAT_SCHEDULE to EventBridge. See docs/schedules.md."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from django_app.ledger.models import Schedule
from serverless import aws
from serverless.scheduler.errors import ScheduleError
from serverless.scheduler.words import words
from tasks.runtime.schedules import declared, syncing

#: Lines of a plan that are printed of each kind.
_MOST_LINES = 50


class Command(BaseCommand):
    """sync, list, next."""

    help = "Bring schedules to EventBridge, list them, and show when they are due."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        does = parser.add_subparsers(dest="does", required=True, metavar="sync | list | next")
        sync = does.add_parser("sync", help="bring code's schedules to the table, and the table to EventBridge")
        sync.add_argument("--plan", action="store_true", help="only show what would be done")
        sync.add_argument(
            "--seconds", type=float, help="stop after so many; the minute's housekeeping goes on. Default: no limit"
        )
        does.add_parser("list", help="all schedules, with their state and their next due time")
        coming = does.add_parser("next", help="the next due times")
        coming.add_argument("count", type=int, nargs="?", default=5, help="how many of each; default: 5")
        coming.add_argument("--name", help="of one schedule alone")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            getattr(self, f"_{options['does']}")(options)
        except (ScheduleError, ImproperlyConfigured, *aws.ERRORS) as error:
            raise CommandError(str(error)) from error

    def _sync(self, options: dict[str, Any]) -> None:
        is_plan = options["plan"]
        loaded = declared.load(is_rehearsal=True)
        self._tell("create in the table", loaded.created)
        self._tell("change in the table", loaded.changed)
        self._tell("delete from the table", loaded.deleted)
        if not syncing.is_on():
            if not is_plan:
                declared.load()
            self.stdout.write("SCHEDULE_GROUP is not set, so there is no EventBridge to bring them to.")
            return
        if not is_plan:
            # After the commit each changed one is brought to EventBridge by itself; what follows finds what is left.
            declared.load()
        plan = syncing.plan()
        self._tell("create at EventBridge", [f"{name}  {each.expression} {each.zone}" for name, each in plan.create])
        self._tell("repair at EventBridge", [name for name, _ in plan.repair])
        self._tell("delete at EventBridge", plan.delete)
        self.stdout.write(f"{plan.unchanged} at EventBridge unchanged")
        if is_plan:
            return
        done = syncing.synchronise_all(budget_seconds=options["seconds"])
        self.stdout.write(str(done))
        if done.left:
            syncing.go_on_soon()
            self.stdout.write("the minute's housekeeping goes on with what is left")
        if done.failed:
            told = "\n".join(f'  schedule "{name}": {reason}' for name, reason in done.failed.items())
            raise CommandError(f"{len(done.failed)} schedules could not be brought to EventBridge:\n{told}")

    def _tell(self, what: str, lines: Sequence[str]) -> None:
        for line in lines[:_MOST_LINES]:
            self.stdout.write(f"{what}: {line}")
        if len(lines) > _MOST_LINES:
            self.stdout.write(f"{what}: and {len(lines) - _MOST_LINES} more")

    def _list(self, options: dict[str, Any]) -> None:
        now = timezone.now()
        for schedule in Schedule.objects.order_by("name").iterator():
            due = next(iter(schedule.next_due(now, 1)), None)
            if schedule.is_paused:
                state = f"paused{f' by {schedule.paused_by}' if schedule.paused_by else ''}"
            elif due is None:
                state = "ended"
            else:
                state = f"next {due.astimezone(ZoneInfo(schedule.zone)):%Y-%m-%d %H:%M %Z}"
            fault = f"  NOT IN STEP: {schedule.sync_error}" if schedule.synced_at is None else ""
            self.stdout.write(
                f"{schedule.name}  {schedule.task}  {words(schedule.when)} ({schedule.zone})  {state}{fault}"
            )

    def _next(self, options: dict[str, Any]) -> None:
        schedules = Schedule.objects.order_by("name")
        if options["name"]:
            schedules = schedules.filter(name=options["name"])
            if not schedules.exists():
                raise CommandError(f'there is no schedule "{options["name"]}". `schedules list` shows all.')
        if not 1 <= options["count"] <= 1000:
            raise CommandError(f"count {options['count']} must be within 1 and 1000.")
        now = timezone.now()
        for schedule in schedules.iterator():
            zone = ZoneInfo(schedule.zone)
            self.stdout.write(f"{schedule.name}  {words(schedule.when)} ({schedule.zone})")
            for due in schedule.next_due(now, options["count"]):
                self.stdout.write(f"  {due.astimezone(zone):%a %Y-%m-%d %H:%M %Z}  {due:%Y-%m-%d %H:%M} UTC")
