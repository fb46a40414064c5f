"""What the console answers when something cannot be done: the thing, its value, the rule and the remedy."""

from __future__ import annotations

from collections.abc import Mapping

_LONGEST_VALUE = 200


class RefusalError(Exception):
    """Something is not done, and whoever asked is told why.

    status: of HTTP. 400 for what makes no sense, 409 for what somebody or something else has changed meanwhile.
    """

    def __init__(self, thing: str, value: object, rule: str, remedy: str, status: int = 409) -> None:
        super().__init__(thing, value, rule, remedy)
        self.thing, self.rule, self.remedy, self.status = thing, rule, remedy, status
        self.value = str(value)[:_LONGEST_VALUE]

    def __str__(self) -> str:
        return f'{self.thing} "{self.value}": {self.rule}. {self.remedy}'


class InvalidError(RefusalError):
    """Something was asked that makes no sense."""

    def __init__(self, thing: str, value: object, rule: str, remedy: str) -> None:
        super().__init__(thing, value, rule, remedy, 400)


class FieldsError(InvalidError):
    """Fields that cannot be together what they are. faults: by field, what is wrong with it and what to do."""

    def __init__(self, thing: str, value: object, faults: Mapping[str, str]) -> None:
        super().__init__(thing, value, " ".join(faults.values()).rstrip(". "), f"Correct {', '.join(faults)}.")
        self.faults = dict(faults)


class NotVisibleError(Exception):
    """There is no such thing, or it is not theirs to see; which of the two is not said."""


class NotAllowedError(Exception):
    """They see the thing, and may not do this with it. role: that would be needed."""

    def __init__(self, role: str) -> None:
        super().__init__(role)
        self.role = role

    def __str__(self) -> str:
        return f"This takes the role {self.role}. Ask an admin for it."
