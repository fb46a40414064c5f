"""Settles what nobody reported: see django_app/housekeeping.py."""

from __future__ import annotations

import argparse
import time
from typing import Any

import structlog
from django.core.management.base import BaseCommand
from django.db import Error, close_old_connections
from django.utils import timezone

from django_app import housekeeping
from serverless import aws

log = structlog.get_logger(__name__)


class Command(BaseCommand):
    """Once, or every so many seconds until it is stopped."""

    help = "Settle uploads that nobody reported and start stalled work again."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--every", type=float, default=0, help="seconds between two rounds; 0 runs once")
        parser.add_argument("--resume-all", action="store_true", help="start all unfinished work again first")

    def handle(self, *args: Any, **options: Any) -> None:
        resume_all = options["resume_all"]
        while True:
            try:
                done = housekeeping.run(timezone.now(), resume_all=resume_all)
                resume_all = False
                if any(done.values()) or not options["every"]:
                    log.info("housekeeping", **done)
            except (Error, *aws.ERRORS) as error:
                if not options["every"]:
                    raise
                log.warning("housekeeping_failed", error=str(error))
                close_old_connections()
            if not options["every"]:
                return
            time.sleep(options["every"])
