"""One field of a crontab as Celery writes it: numbers, names, ranges that wrap, */5, 8-18/2 and lists."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from serverless.scheduler.errors import TimingError

MONTH_NAMES = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
WEEKDAY_NAMES = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_SHORTEST_NAME = 3
#: Of one field, in characters; 60 minutes one by one are 169.
_LONGEST_SPELLING = 100


@dataclass(frozen=True)
class CrontabField:
    """name: as people say it. keyword: Celery's own. least, most: its numbers. names: what may stand for a number."""

    name: str
    keyword: str
    least: int
    most: int
    names: Mapping[str, int] = field(default_factory=dict)
    hint: str = ""

    def read(self, text: str) -> frozenset[int]:
        """The numbers that `text` stands for. Raises TimingError."""
        found: set[int] = set()
        for part in text.split(","):
            found.update(self._part(part, text))
        return frozenset(found)

    def spelled(self, original: object, numbers: Collection[int]) -> str:
        """The field of a Celery crontab as text: as its author wrote it, or the numbers where he gave no text.

        Celery reads some texts that are likely slips ("*/90", "1-5!"); those become what it makes of them.
        """
        text = "".join(original.split()) if isinstance(original, str) else ""
        if 0 < len(text) <= _LONGEST_SPELLING:
            try:
                if self.read(text) == set(numbers):
                    return text
            except TimingError:
                pass
        if len(numbers) == self.most - self.least + 1:
            return "*"
        return ",".join(str(number) for number in sorted(numbers))

    def _part(self, part: str, text: str) -> list[int]:
        body, slash, step_text = part.partition("/")
        step = self._step(step_text, text) if slash else 1
        if body == "*":
            return list(range(self.least, self.most + 1, step))
        first_text, dash, last_text = body.partition("-")
        first = self._number(first_text, text)
        if not dash:
            if slash:
                raise self._error(text, f"a step needs * or a range before it. Write {body}-{self.most}/{step_text}")
            return [first]
        last = self._number(last_text, text)
        if first <= last:
            return list(range(first, last + 1, step))
        return [*range(first, self.most + 1), *range(self.least, last + 1)][::step]

    def _number(self, word: str, text: str) -> int:
        if word.isascii() and word.isdecimal():
            number = int(word)
            if not self.least <= number <= self.most:
                rule = f"{number} is outside {self.least} to {self.most}"
                raise self._error(text, f"{rule}{self.hint}. Correct it")
            return number
        lower = word.lower()
        for name, number in self.names.items():
            if len(word) >= _SHORTEST_NAME and name.startswith(lower):
                return number
        what = f'"{word}" is no number' if word else "a number is missing"
        if not self.names:
            raise self._error(text, f"{what}. Write {self.least} to {self.most}, *, */2, a range or a list")
        nearest = difflib.get_close_matches(lower, [*self.names, *(name[:3] for name in self.names)], n=1)
        remedy = f'Did you mean "{nearest[0]}"?' if nearest else f"Write {self.least} to {self.most}, or a name"
        raise self._error(text, f"{what} and no name. {remedy}")

    def _step(self, word: str, text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,4}", word) or not int(word):
            raise self._error(text, f'the step "{word}" is not a whole number, 1 or more. Correct it')
        if int(word) > self.most:
            # Celery takes it, and silently means the first value alone.
            raise self._error(
                text,
                f"the step {word} exceeds {self.most}, so it would mean {self.least} alone. Write {self.least}, or an "
                "interval such as every 90 minutes",
            )
        return int(word)

    def _error(self, text: str, rule: str) -> TimingError:
        return TimingError(f'{self.name} "{text}": {rule}{"" if rule.endswith("?") else "."}')


MINUTE = CrontabField("minute", "minute", 0, 59)
HOUR = CrontabField("hour", "hour", 0, 23)
DAY_OF_MONTH = CrontabField("day of month", "day_of_month", 1, 31)
MONTH = CrontabField("month", "month_of_year", 1, 12, {name: number for number, name in enumerate(MONTH_NAMES, 1)})
DAY_OF_WEEK = CrontabField(
    "day of week",
    "day_of_week",
    0,
    6,
    {name: number for number, name in enumerate(WEEKDAY_NAMES)},
    hint="; Celery's Sunday is 0 or sun",
)
#: In the order of a crontab's text, and of Celery's `crontab.from_string`.
FIELDS = (MINUTE, HOUR, DAY_OF_MONTH, MONTH, DAY_OF_WEEK)
