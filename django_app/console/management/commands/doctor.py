"""`manage.py doctor`: what is not as it should be in a stage that is running. See docs/doctor.md."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from django_app.doctor import running
from django_app.doctor.findings import Finding, Severity, exit_status, worst
from django_app.doctor.running import Examined


class Command(BaseCommand):
    """Examines, and changes nothing. Exit status: 0 nothing worse than a note, 1 warnings, 2 errors."""

    help = "Find what is not as it should be in a stage that is running. Changes nothing."
    # Their findings are among its own, and must not keep it from the others.
    requires_system_checks: tuple[str, ...] = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--only",
            action="append",
            choices=list(running.SUBJECTS),
            metavar="SUBJECT",
            help=f"examine this alone; may be repeated. One of {', '.join(running.SUBJECTS)}",
        )
        parser.add_argument(
            "--timeout",
            type=float,
            default=running.default_seconds(),
            metavar="SECONDS",
            help="that each examination may take; default: %(default)g",
        )
        parser.add_argument("--json", action="store_true", help="for machines")

    def handle(self, *args: Any, **options: Any) -> None:
        seconds = options["timeout"]
        if not 0 < seconds <= running.LONGEST_SECONDS:
            raise CommandError(f"--timeout {seconds:g} must be above 0, and {running.LONGEST_SECONDS:g} at most.")
        chosen = options["only"]
        subjects = [subject for subject in running.SUBJECTS if not chosen or subject in chosen]
        done = list(running.examine(subjects, seconds, on_begin=self._progress))
        self._progress("")
        if options["json"]:
            self.stdout.write(json.dumps(_document(done), indent=2))
        else:
            self._tell(done)
        status = exit_status(_worst(done))
        if status:
            raise SystemExit(status)

    def _progress(self, subject: str) -> None:
        """One line on a terminal, written over; nothing elsewhere."""
        if not self.stderr.isatty():
            return
        text = f"examining {subject} ..." if subject else ""
        # Without its style, which is for errors.
        self.stderr.write(f"\r\x1b[K{text}", str, "")
        self.stderr.flush()

    def _tell(self, done: Sequence[Examined]) -> None:
        width = max(60, min(shutil.get_terminal_size((120, 24)).columns, 160))
        longest = max(len(each.subject) for each in done)
        for each in done:
            line = f"{each.severity.word:<8} {each.subject:<{longest}} {each.seconds:5.1f} s  {each.told}"
            self.stdout.write(self._styled(line[:width].rstrip(), each.severity))
        for finding in sorted((found for each in done for found in each.findings), key=lambda each: -each.severity):
            self.stdout.write("")
            head = f"{finding.severity.word:<8} {finding.id:<5} {finding.thing}"
            self.stdout.write(self._styled(head, finding.severity))
            for label, text in _lines(finding):
                self.stdout.write(_indented(label, text, width))
        self.stdout.write("")
        self.stdout.write(_sum(done))

    def _styled(self, line: str, severity: Severity) -> str:
        style = {
            Severity.ERROR: self.style.ERROR,
            Severity.WARNING: self.style.WARNING,
            Severity.OK: self.style.SUCCESS,
        }
        return style.get(severity, self.style.NOTICE)(line)


def _lines(finding: Finding) -> list[tuple[str, str]]:
    lines = (("is", finding.value), ("should", finding.rule), ("do", finding.remedy), ("see", finding.where))
    return [(label, text) for label, text in lines if text]


def _indented(label: str, text: str, width: int) -> str:
    # Commands stay whole: a line that is broken cannot be copied.
    if label == "do":
        return f"         {label:<7} {text}"
    return textwrap.fill(
        text, width, initial_indent=f"         {label:<7} ", subsequent_indent=" " * 17, break_on_hyphens=False
    )


def _sum(done: Sequence[Examined]) -> str:
    counts = dict.fromkeys(Severity, 0)
    for each in done:
        for finding in each.findings:
            counts[finding.severity] += 1
    told = [f"{counts[severity]} {severity.word}s" for severity in sorted(Severity, reverse=True) if severity]
    return f"{len(done)} examinations: {', '.join(told)}. Nothing was changed."


def _worst(done: Sequence[Examined]) -> Severity:
    return worst(finding for each in done for finding in each.findings)


def _document(done: Sequence[Examined]) -> dict[str, Any]:
    severity = _worst(done)
    return {
        "at": timezone.now().isoformat(),
        "release": settings.RELEASE,
        "severity": severity.word,
        "exit_status": exit_status(severity),
        "examinations": [
            {
                "subject": each.subject,
                "severity": each.severity.word,
                "seconds": round(each.seconds, 3),
                "told": each.told,
            }
            for each in done
        ],
        "findings": [
            {
                "severity": found.severity.word,
                "id": found.id,
                "subject": each.subject,
                "thing": found.thing,
                "value": found.value,
                "rule": found.rule,
                "remedy": found.remedy,
                "page": found.where,
            }
            for each in done
            for found in each.findings
        ],
    }
