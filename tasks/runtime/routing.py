"""Where a message goes and how long it may run: the topology's rules, applied to every way of sending.

The seam is Celery's documented-by-use `amqp_cls`: `.delay`, `apply_async`, `send_task`, canvas and `shared_task`
all pass its router and its `send_task_message`, so a wrong queue, priority or limit fails at the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.app import amqp as celery_amqp
from celery.app.routes import Router as CeleryRouter

from tasks.topology import DEFAULT_PRIORITY, TOPOLOGY, TopologyError


class Router(CeleryRouter):
    """Celery's own routing, then `priority=` moves the message among the levels of the queue it was routed to."""

    def route(
        self,
        options: dict[str, Any],
        name: str,
        args: Any = (),
        kwargs: Any = None,
        task_type: Any = None,
    ) -> dict[str, Any]:
        asked_for = options.get("queue")
        if isinstance(asked_for, str):
            TOPOLOGY.queue(asked_for)
        route: dict[str, Any] = super().route(options, name, args, kwargs, task_type)
        queue = route.get("queue")
        if queue is not None:
            queue_name = queue if isinstance(queue, str) else queue.name
            if queue_name in TOPOLOGY.queues:
                level = TOPOLOGY.queue_at_priority(queue_name, options.get("priority"))
                route["queue"] = self.queues[level.name]  # type: ignore[attr-defined]
        return route


#: What `apply_async` takes beyond Celery's own options.
OWN_OPTIONS = ("recorded", "unique_key", "concurrency_key")


class AMQP(celery_amqp.AMQP):
    """Celery's message maker with the topology's router and time limits, and the ledger at its end."""

    def Router(self, queues: Any = None, create_missing: Any = None) -> Router:  # noqa: N802 - Celery's name
        create = self.app.either("task_create_missing_queues", create_missing)
        return Router(self.routes, queues or self.queues, create, app=self.app)

    def _create_task_sender(self) -> Callable[..., Any]:
        send = super()._create_task_sender()  # type: ignore[misc]

        def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
            # It needs Django's models, which are not there yet when this module is imported.
            from tasks.runtime import recording

            # kombu writes 0 for "none", and a retry would take that for the lowest and change its queue.
            if options.get("priority") is None:
                options["priority"] = DEFAULT_PRIORITY
            asked = {key: options.pop(key) for key in OWN_OPTIONS if key in options}
            headers = message.headers
            recording.tell_requester(headers)
            is_chord_part = bool(message.body[2].get("chord")) if len(message.body) == 3 else False
            if recording.is_sent_by_itself(headers["id"]):
                asked["recorded"] = recording.is_claimed(headers["id"])
            if recording.is_recorded(self.app.tasks.get(name), asked.get("recorded"), is_chord_part):
                headers.pop("recorded", None)
                producer = recording.Keeper(producer, name, asked)
            else:
                headers["recorded"] = False
                if recording.is_sent_by_itself(headers["id"]):
                    recording.keep_long_delay(headers, options)
            queue = options.get("queue")
            queue_name = queue if isinstance(queue, str) else getattr(queue, "name", None)
            if queue_name is not None and queue_name in TOPOLOGY.queues:
                headers["timelimit"] = limits_for(name, queue_name, headers.get("timelimit"))
            return send(producer, name, message, **options)

        return send_task_message

    def _retry_publish(self, publish: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Celery sends callbacks and a chain's next step through here: they wait for the task's outcome."""
        from tasks.runtime import attempts

        attempt = attempts.current.get()
        if attempt is None or attempt.is_over or attempt.is_ending:
            return super()._retry_publish(publish, *args, **kwargs)  # type: ignore[misc]
        attempt.successors.append(lambda: publish(*args, **kwargs))
        return None


def limits_for(task: str, queue: str, asked: Any) -> list[float | None]:
    """The hard and the soft time limit, in seconds, of a message in that queue.

    asked: [hard, soft] as the message has them, either may be None: then the queue's own.
    Raises TopologyError where more is asked than the queue allows.
    """
    declared = TOPOLOGY.queue(queue)
    hard, soft = asked or (None, None)
    for kind, seconds in (("time_limit", hard), ("soft_time_limit", soft)):
        if seconds is not None and seconds > declared.time_limit_seconds:
            raise TopologyError(
                f"task {task}: {kind}={seconds} exceeds time_limit_seconds={declared.time_limit_seconds} "
                f'of queue "{queue}". '
                "Send it to a queue with a higher limit, or raise the queue's in tasks/topology.json."
            )
    if hard is None:
        hard = declared.time_limit_seconds
    if soft is None:
        # Told to stop a tenth, at most 30 seconds, before it is killed; below two seconds there is no room for both.
        soft = min(declared.soft_time_limit_seconds, hard - max(1, min(30, hard / 10))) if hard >= 2 else None
    return [hard, soft]
