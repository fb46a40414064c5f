"""Traces by OpenTelemetry: a request, what it enqueues, the tasks that run of it and what they enqueue are one trace.

Installed by settings where OTEL_EXPORTER_OTLP_ENDPOINT is set; nothing else imports it, so that nothing of
OpenTelemetry is loaded elsewhere. It needs requirements/otel.txt. Sampling, the service's name and the rest are
OpenTelemetry's own variables (OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, ...).

A message is traced from the call that enqueues it, not from when it is published: the span stands in the message's
headers, which are recorded with it. opentelemetry-instrumentation-celery does the same, but where an argument is not
JSON its span stays open, and becomes the parent of all that follows in that thread.
"""

# mypy: disable-error-code="import-not-found"
# The packages are optional, and not among those for development.
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import structlog
from celery import signals, states
from django.apps import AppConfig
from django.core.signals import request_finished

log = structlog.get_logger(__name__)

#: How long a process that ends, or is frozen, waits for its last spans to be taken.
_FLUSH_MILLISECONDS = 3000
_ON_REQUEST = "_cloudqueue_span"


class TelemetryConfig(AppConfig):
    """Sets tracing up when Django starts."""

    name = "django_app.telemetry"
    label = "telemetry"
    # It has no folder, and so neither templates nor static files.
    path = str(Path(__file__).with_suffix(""))

    def ready(self) -> None:
        try:
            set_up()
        except ImportError as error:
            log.warning("no_traces", error=str(error), remedy="install requirements/otel.txt")


def set_up() -> None:
    """Trace requests and tasks of this process. Raises ImportError where the packages are missing."""
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.django import DjangoInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    os.environ.setdefault("OTEL_SERVICE_NAME", "cloudqueue")
    provider = TracerProvider()
    # Its thread is started anew in each process that a worker forks.
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    # Second: probes, which the first middleware answers, are not worth a trace.
    DjangoInstrumentor().instrument(tracer_provider=provider, middleware_position=1)
    TaskTracing(provider).connect()


class TaskTracing:
    """A span for each message and for each execution of a task."""

    def __init__(self, provider: Any) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer(__name__)
        # Baggage stays out of messages: whoever sends a request could fill it.
        self._propagator = TraceContextTextMapPropagator()

    def connect(self) -> None:
        signals.before_task_publish.connect(self._on_publish, weak=False)
        signals.task_prerun.connect(self._on_begin, weak=False)
        signals.task_postrun.connect(self._on_end, weak=False)
        signals.worker_process_shutdown.connect(self._flush, weak=False)
        if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
            # The process is frozen after each answer.
            request_finished.connect(self._flush, weak=False)

    def _on_publish(
        self, sender: Any = None, headers: dict[str, Any] | None = None, routing_key: str | None = None, **_: Any
    ) -> None:
        from opentelemetry.trace import SpanKind

        if headers is None:
            return
        attributes = _attributes(routing_key, headers.get("task") or sender, headers.get("id"), headers.get("root_id"))
        with self._tracer.start_as_current_span(f"enqueue {sender}", kind=SpanKind.PRODUCER, attributes=attributes):
            self._propagator.inject(headers)

    def _on_begin(self, task_id: str = "", task: Any = None, **_: Any) -> None:
        from opentelemetry import context, trace
        from opentelemetry.trace import SpanKind

        request = task.request
        carrier = {key: value for key in self._propagator.fields if isinstance(value := request.get(key), str)}
        parent = self._propagator.extract(carrier, context=context.Context())
        queue = (request.delivery_info or {}).get("routing_key")
        attributes = _attributes(queue, task.name, task_id, request.root_id)
        span = self._tracer.start_span(
            f"run {task.name}", context=parent, kind=SpanKind.CONSUMER, attributes=attributes
        )
        setattr(request, _ON_REQUEST, (span, context.attach(trace.set_span_in_context(span, parent))))

    def _on_end(self, task: Any = None, retval: Any = None, state: str | None = None, **_: Any) -> None:
        from opentelemetry import context
        from opentelemetry.trace import Status, StatusCode

        span, token = task.request.__dict__.pop(_ON_REQUEST, (None, None))
        if span is None:
            return
        span.set_attribute("celery.state", str(state))
        if state == states.FAILURE and isinstance(retval, BaseException):
            span.record_exception(retval)
            span.set_status(Status(StatusCode.ERROR, type(retval).__name__))
        context.detach(token)
        span.end()

    def _flush(self, **_: Any) -> None:
        self._provider.force_flush(_FLUSH_MILLISECONDS)


def _attributes(queue: str | None, task: Any, task_id: str | None, root_id: str | None) -> dict[str, str]:
    told = {
        "messaging.system": "aws_sqs",
        "messaging.destination.name": queue,
        "messaging.message.id": task_id,
        "celery.task": str(task),
        "celery.root_id": root_id,
    }
    return {name: value for name, value in told.items() if value}
