"""Why a deploy does not begin, or ends early."""

from __future__ import annotations


class DeployError(RuntimeError):
    """What is wrong with what, and what to do."""
