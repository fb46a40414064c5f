"""All checks, and when each is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from django.core.checks import CheckMessage

from django_app.checks import arguments, production, queues, releases, results, schedules, stages, waiting, workers
from django_app.checks.findings import Finding
from django_app.checks.project import Project

Check = Callable[[Project], Iterator[Finding]]

AT_ANY_TIME: tuple[Check, ...] = (
    workers.late_acknowledgements,
    workers.unsafe_serializers,
    workers.broker_options,
    results.backend_of_recorded_runs,
    results.canvas_without_backend,
    results.ignored_results_in_chords,
    queues.undeclared_queues,
    queues.queues_without_pool,
    queues.time_limits,
    queues.prefetch_of_long_queues,
    arguments.model_parameters,
    arguments.model_instances,
    waiting.unrecorded_in_transactions,
    waiting.waiting_inside_tasks,
    schedules.in_code,
    stages.unsafe,
    stages.secrets,
    stages.events,
    stages.timeouts,
)
IN_THE_DATABASE: tuple[Check, ...] = (releases.tasks_in_flight, schedules.of_people)
IN_PRODUCTION: tuple[Check, ...] = (
    production.debug,
    production.hosts,
    production.https,
    production.cookies,
    production.csrf,
    production.database,
    production.run_keys,
    production.queue_addresses,
)


def run(checks: Iterable[Check]) -> list[CheckMessage]:
    """What the checks find in this process's project, but for what a comment ignores."""
    project = Project.of_this_process()
    return [finding.message() for check in checks for finding in check(project) if not finding.is_ignored]
