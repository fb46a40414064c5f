"""What sandboxes that go on from one snapshot of a function must not share: it is made anew after the snapshot."""

from __future__ import annotations

import random


def forget_after_restore() -> None:
    """Have Lambda's runtime make it anew; elsewhere there are no snapshots, and nothing is done.

    The clients of AWS may stay: they have no connection yet, and Lambda's credentials are asked for anew.
    """
    try:
        # Part of Lambda's runtime; elsewhere it is missing.
        from snapshot_restore_py import register_after_restore
    except ImportError:
        return
    register_after_restore(_forget)


def _forget() -> None:
    from django.db import connections

    from django_app.postgresql import base

    random.seed()
    connections.close_all()
    base.forget_secrets()
