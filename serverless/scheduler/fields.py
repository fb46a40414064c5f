"""One field of an EventBridge cron expression: numbers, names, ranges, steps and lists."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from serverless.scheduler.errors import ExpressionError

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


@dataclass(frozen=True)
class Field:
    """What one place of a cron expression may hold.

    least, most: its numbers. names: what may stand for a number. wraps: whether 22-2 is a range. steps: whether / is
    known there; AWS lists none for days of the week. named: whether names are written, as is usual for weekdays.
    """

    name: str
    least: int
    most: int
    names: Mapping[str, int] = field(default_factory=dict)
    wraps: bool = True
    steps: bool = True
    named: bool = False

    def read(self, text: str) -> tuple[int, ...]:
        """The numbers that `text` stands for, ascending. Raises ExpressionError."""
        found: set[int] = set()
        for part in text.split(","):
            found.update(self._part(part, text))
        return tuple(sorted(found))

    def number(self, word: str, text: str) -> int:
        """One number or name of this field; `text` is the whole field, for the error."""
        # Only ASCII: other scripts have letters that become Latin ones in upper case, and digits of their own.
        number = self.names.get(word.upper()) if word.isascii() else None
        if number is None and word.isascii() and word.isdecimal():
            number = int(word)
        if number is None:
            names = f" or {next(iter(self.names))}-{list(self.names)[-1]}" if self.names else ""
            raise self.error(text, f'"{word}" is not a number{names}')
        if not self.least <= number <= self.most:
            raise self.error(text, f"{number} is outside {self.least} to {self.most}")
        return number

    def write(self, numbers: Collection[int]) -> str:
        """The shortest text for these numbers in forms that AWS documents: *, 0/5, 8-17 and lists."""
        ordered = sorted(numbers)
        first, size = ordered[0], len(ordered)
        if size == self.most - self.least + 1:
            return "*"
        step = ordered[1] - first if size > 2 else 0
        if self.steps and step > 1 and ordered == list(range(first, self.most + 1, step)):
            return f"{first}/{step}"
        words = {number: name for name, number in self.names.items()} if self.named else {}
        parts: list[str] = []
        for run in runs(ordered):
            ends = [words.get(number, str(number)) for number in (run[0], run[-1])]
            parts += ["-".join(ends)] if len(run) > 2 else [words.get(number, str(number)) for number in run]
        return ",".join(parts)

    def error(self, text: str, rule: str) -> ExpressionError:
        return ExpressionError(f'{self.name} "{text}": {rule}. Correct it.')

    def _part(self, part: str, text: str) -> range | list[int]:
        body, slash, step_text = part.partition("/")
        step = self._step(step_text, text) if slash else 1
        if body == "*":
            return range(self.least, self.most + 1, step)
        first_text, dash, last_text = body.partition("-")
        first = self.number(first_text, text)
        last = self.number(last_text, text) if dash else self.most if slash else first
        if first <= last:
            return range(first, last + 1, step)
        if not self.wraps:
            raise self.error(text, f"the range {body} runs backwards")
        size = self.most - self.least + 1
        return [self.least + (number - self.least) % size for number in range(first, last + size + 1, step)]

    def _step(self, word: str, text: str) -> int:
        if not self.steps:
            raise self.error(text, "EventBridge knows no steps (/) in this field; list the values")
        size = self.most - self.least + 1
        if not (word.isascii() and word.isdecimal() and 1 <= int(word) <= size):
            raise self.error(text, f'the step "{word}" must be a whole number, 1 to {size}')
        return int(word)


def runs(ordered: Sequence[int]) -> list[list[int]]:
    """Ascending numbers, parted where one is left out."""
    parted: list[list[int]] = []
    for number in ordered:
        if parted and parted[-1][-1] + 1 == number:
            parted[-1].append(number)
        else:
            parted.append([number])
    return parted


MINUTE = Field("minute", 0, 59)
HOUR = Field("hour", 0, 23)
DAY_OF_MONTH = Field("day-of-month", 1, 31)
MONTH = Field("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)})
DAY_OF_WEEK = Field(
    "day-of-week", 1, 7, {name: number for number, name in enumerate(_WEEKDAYS, 1)}, steps=False, named=True
)
YEAR = Field("year", 1970, 2199, wraps=False)
