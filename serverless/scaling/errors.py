"""What can go wrong in scaling."""

from __future__ import annotations


class ScalingError(ValueError):
    """A pool's limit or a figure breaks a rule; the message names it, the value, the rule and the remedy.

    pool: its name. field, value: what broke the rule.
    """

    def __init__(self, pool: str, field: str, value: object, rule: str) -> None:
        self.pool, self.field, self.value = pool, field, value
        super().__init__(f'pool "{pool}": {field}={value!r} {rule}')
