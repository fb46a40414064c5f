"""What an examination is given, and shared words of several."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from django.conf import settings

from django_app.doctor.findings import Finding, error
from serverless.inspection import NotToldError, Why

#: Of these many a finding tells the names; the others are counted.
_MOST_NAMES = 5
TERRAFORM = "terraform -chdir=infra/terraform apply (on a laptop: make up)"


@dataclass
class Examination:
    """One subject's examination under way.

    clock: this machine's, in seconds since 1970. told: what is worth a word where all is well.
    """

    clock: Callable[[], float] = time.time
    told: list[str] = field(default_factory=list)

    @property
    def now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.clock(), datetime.UTC)

    def tell(self, text: str) -> None:
        self.told.append(text)


def not_told(thing: str, problem: NotToldError) -> Finding:
    """A call of AWS that gave no answer."""
    if problem.why == Why.MISSING:
        return error("D103", thing, f"AWS has none ({problem.reason})", "it is part of each stage", TERRAFORM)
    if problem.why == Why.REFUSED:
        return error(
            "D102",
            thing,
            f"{problem.action} is refused ({problem.reason})",
            "the web side's role is allowed what the housekeeping and the doctor ask",
            f"grant {problem.action} on it to the role, as infra/terraform/roles.tf does: {TERRAFORM}",
        )
    return error(
        "D101", thing, problem.reason, "AWS answers within seconds", f"run again: {_RUN}; see to network and endpoint"
    )


_RUN = "python manage.py doctor --only aws"


def stack() -> str:
    """The name that begins those of a stage's things, such as "cloudqueue-production"."""
    return settings.QUEUE_URL_PREFIX.rpartition("/")[2].rstrip("-") or "cloudqueue-production"


def stage() -> str:
    """The stage as Zappa has it."""
    return stack().rpartition("-")[2] if "-" in stack() else "production"


def names(all_: Iterable[str]) -> str:
    """Some of them, in order, and how many more."""
    listed = sorted(all_)
    more = len(listed) - _MOST_NAMES
    return ", ".join(listed[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def one_line(text: str) -> str:
    """The beginning of what an error says."""
    return " ".join(text.split())[:300]


def span(seconds: float) -> str:
    """A length of time as people say it: "45 s", "12 min", "3.5 h", "2.1 days"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"
