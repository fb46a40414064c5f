"""What can be wrong with a file, said to its owner."""

from __future__ import annotations


class InputError(ValueError):
    """The file breaks a rule. The message names the place, the value, the rule and the remedy, for its owner's eyes."""
