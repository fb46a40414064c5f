"""The web function: `serverless.entrypoints.web.lambda_handler` in zappa_settings.json.

Everything that a request needs is loaded and built while Lambda starts the sandbox, where time is free or cheap. What
must differ between sandboxes that go on from one snapshot is made anew after it.
"""

from __future__ import annotations

import gc
import os
import random
import time
from importlib import import_module
from typing import Any

# Nothing of what is loaded here becomes garbage: looking for some takes a tenth of the start.
gc.disable()
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_app.settings")

# Django's settings are there from here on.
import structlog
from django.conf import settings
from django.db import connections
from django.utils.module_loading import import_string

from django_app.wsgi import application
from serverless import aws
from serverless.entrypoints.invocation import Invocation
from serverless.invocations import HttpAdapter, Kind, UnroutableError, kind_of, name_of
from serverless.invocations.http import LambdaContext

log = structlog.get_logger(__name__)

#: A connection that was idle for longer, while the sandbox may have been frozen, may be gone without a word.
_IDLE_SECONDS = 30.0

_http = HttpAdapter(application, prefix=settings.PUBLIC_PREFIX, trusted_proxies=settings.TRUSTED_PROXIES)
_answered_at = time.time()


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> Any:
    """Answer one event. Raises for what nobody handles, so that AWS tries again and then keeps it."""
    global _answered_at  # noqa: PLW0603 - one invocation at a time in a sandbox
    if time.time() - _answered_at > _IDLE_SECONDS:
        connections.close_all()
    try:
        return _answer(event, context)
    finally:
        _answered_at = time.time()


def _answer(event: dict[str, Any], context: LambdaContext) -> Any:
    kind = kind_of(event)
    if kind == Kind.HTTP:
        return _http(event, context)
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=context.aws_request_id)
    try:
        if kind == Kind.MANAGE:
            from serverless.entrypoints import commands

            return commands.run(event["manage"], Invocation(context))
        return _named(event, context)
    finally:
        connections.close_all()


def _named(event: dict[str, Any], context: LambdaContext) -> Any:
    name = name_of(event)
    path = settings.EVENT_HANDLERS.get(name)
    if path is None:
        known = ", ".join(sorted(settings.EVENT_HANDLERS))
        raise UnroutableError(event, f'"{name}" is no name of EVENT_HANDLERS ({known})', "Add it, or correct the name.")
    return import_string(path)(event, Invocation(context))


def _load() -> None:
    """What Django and Celery load as it is asked for, and the first request would wait for."""
    import celery.events.dispatcher  # noqa: F401 - Celery loads it with the first message
    from django.template import engines
    from django.urls import get_resolver

    from tasks.celery import app, task_modules

    # Properties build what they name: the addresses with all views, the tags of templates, the way of a message.
    _ = get_resolver().reverse_dict
    engines["django"].get_template("base.html")
    # Celery's own loader would have Django check all models, which takes as long as all the rest of this.
    for module in task_modules():
        import_module(module)
    app.finalize()
    _ = app.backend, app.amqp, app.events


def _build_clients() -> None:
    """A client takes a tenth of a second of CPU to build."""
    from tasks.celery import app

    aws.client("s3")
    with app.producer_or_acquire() as producer:
        sqs = getattr(producer.connection.transport, "sqs", None)
        if sqs is not None:
            _ = sqs.client


def _after_restore() -> None:
    """What sandboxes that go on from one snapshot must not share.

    The clients of SQS and S3 may stay: they have no connection yet, and Lambda's credentials are asked for anew.
    """
    from django_app.postgresql import base

    random.seed()
    connections.close_all()
    base.forget_secrets()


def _register_restore() -> None:
    try:
        # Part of Lambda's runtime; elsewhere it is missing.
        from snapshot_restore_py import register_after_restore
    except ImportError:
        return
    register_after_restore(_after_restore)


_load()
_build_clients()
_register_restore()
gc.freeze()
gc.enable()
