"""What moto 5.2 lacks for a laptop, each with a test in tests/contract that fails once moto no longer needs it."""

from __future__ import annotations

import functools
import sys
import time
from typing import Any

from serverless.local import scheduler_patches


def apply() -> None:
    """Patch moto in this process. Safe to call twice."""
    scheduler_patches.apply()
    _remember_the_list_of_services()
    _judge_retention_without_recounting_the_queue()
    _remember_parameter_names()


def _remember_the_list_of_services() -> None:
    """moto lists its own package directory (180 stat calls) on each request."""
    from moto import backends

    if isinstance(backends.list_of_moto_modules, functools.partial):
        return
    names = tuple(backends.list_of_moto_modules())
    remembered = functools.partial(iter, names)
    original = backends.list_of_moto_modules
    import moto.moto_server.werkzeug_app  # noqa: F401 - so that its copy of the name is replaced as well

    for module in list(sys.modules.values()):
        if getattr(module, "list_of_moto_modules", None) is original:
            module.list_of_moto_modules = remembered  # type: ignore[attr-defined]


def _judge_retention_without_recounting_the_queue() -> None:
    """ReceiveMessage computes every attribute of the queue for each message: quadratic in its depth."""
    from moto.sqs import models

    def is_message_valid(self: Any, queue_name: str, message: Any) -> bool:
        retention = int(self.get_queue(queue_name).message_retention_period)
        return int(message.sent_timestamp) / 1000 + retention > time.time()

    models.SQSBackend.is_message_valid_based_on_retention_period = is_message_valid  # type: ignore[method-assign]


def _remember_parameter_names() -> None:
    """moto converts the same few hundred names to snake case at each request."""
    from moto.core import utils

    original = utils.camelcase_to_underscores
    if hasattr(original, "cache_info"):
        return
    remembered = functools.lru_cache(4096)(original)
    for name, module in list(sys.modules.items()):
        if name.startswith("moto.") and getattr(module, "camelcase_to_underscores", None) is original:
            module.camelcase_to_underscores = remembered  # type: ignore[attr-defined]
