"""Where messages go and how long they may run, over every way of sending, with Celery's in-memory broker."""

from __future__ import annotations

import pytest
from celery import chain, group
from celery.app.task import Context
from celery.signals import before_task_publish

from tasks.celery import TASK_ROUTES, app
from tasks.topology import TOPOLOGY, TopologyError


@pytest.fixture(autouse=True)
def unrecorded(settings):
    """No database is needed to see where a message goes."""
    settings.RECORD_RUNS = False


@pytest.fixture
def sent():
    """Messages published while the test runs: (queue, headers, properties)."""
    messages = []

    def keep(routing_key, headers, properties, **_):
        messages.append((routing_key, headers, properties))

    before_task_publish.connect(keep)
    yield messages
    before_task_publish.disconnect(keep)


@pytest.fixture
def task():
    @app.task(name="tests.routing.work")
    def work(*args):
        return args

    yield work
    app.tasks.pop("tests.routing.work")


def test_a_task_goes_to_the_default_queue(sent, task):
    task.delay()
    assert sent[0][0] == "default"


def test_a_message_without_a_priority_carries_the_middle_one_so_that_its_retry_stays_in_its_queue(task):
    kept = []

    def keep(routing_key, **_):
        kept.append(routing_key)

    with app.connection_for_read() as broker:
        queue = app.amqp.queues["default"](broker.default_channel)
        queue.purge()
        task.delay()
        message = queue.get(no_ack=True)
    assert message.properties["priority"] == 5
    request = Context(message.headers, delivery_info={**message.delivery_info, "priority": 5}, args=(), kwargs={})
    before_task_publish.connect(keep)
    task.signature_from_request(request).apply_async()
    assert kept == ["default"]


def test_priority_moves_a_task_to_its_level(sent, task):
    task.apply_async(priority=9)
    task.apply_async(priority=1)
    assert [queue for queue, *_ in sent] == ["high", "low"]


def test_an_explicit_queue_without_levels_is_kept_whatever_the_priority(sent, task):
    task.apply_async(queue="datasets", priority=9)
    assert sent[0][0] == "datasets"


def test_send_task_by_name_is_routed_alike(sent):
    app.send_task("somebody.elses.task", priority=8)
    assert sent[0][0] == "high"


def test_canvas_is_routed_alike(sent, task):
    group(task.si(), task.si().set(priority=9)).apply_async()
    chain(task.si().set(queue="datasets"), task.si()).apply_async()
    assert [queue for queue, *_ in sent] == ["default", "high", "datasets"]


def test_an_unknown_queue_fails_at_the_call_and_names_the_nearest(sent, task):
    with pytest.raises(TopologyError, match='queue "dataset" is not declared. Did you mean "datasets"?'):
        task.apply_async(queue="dataset")
    assert sent == []


def test_a_priority_outside_the_range_fails_at_the_call(sent, task):
    with pytest.raises(TopologyError, match="priority=11 is outside 0 to 9"):
        task.apply_async(priority=11)
    assert sent == []


def test_arguments_that_are_not_json_fail_at_the_call(sent, task):
    with pytest.raises(Exception, match="is not JSON serializable"):
        task.delay(object())


def test_the_examples_tasks_go_where_the_routes_say(sent):
    from tasks.datasets import delete_objects, merge_profile, profile_chunk
    from tasks.reports import build_report

    delete_objects.delay([])
    merge_profile.delay("id", 1)
    profile_chunk.delay("id", 1, 0)
    build_report.delay("id", 1)
    assert [queue for queue, *_ in sent] == ["low", "datasets", "datasets", "default"]


def test_every_route_leads_to_a_declared_queue():
    assert all(route["queue"] in TOPOLOGY.queues for _, route in TASK_ROUTES)


def test_a_message_carries_its_queues_time_limits(sent, task):
    task.apply_async(priority=9)
    high = TOPOLOGY.queue("high")
    assert sent[0][1]["timelimit"] == [high.time_limit_seconds, high.soft_time_limit_seconds]


def test_a_task_may_ask_for_less_time_than_its_queue_gives(sent, task):
    task.apply_async(time_limit=20)
    task.apply_async(time_limit=1)
    assert [headers["timelimit"] for _, headers, _ in sent] == [[20, 18], [1, None]]


def test_a_task_that_asks_for_more_time_fails_at_the_call(sent, task):
    with pytest.raises(TopologyError, match=r'time_limit=500 exceeds time_limit_seconds=300 of queue "default"'):
        task.apply_async(time_limit=500)
    assert sent == []
