"""System checks over real tasks and sources: each fault is found where it stands, and what is fine is left alone."""

from __future__ import annotations

import ast
import importlib
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import celery
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from kombu import Queue as KombuQueue

from django_app.checks import (
    arguments,
    queues,
    reading,
    results,
    sources,
    waiting,
    workers,
)
from django_app.checks.findings import Finding
from django_app.checks.project import Project
from tasks import topology
from tasks.celery import App
from tasks.celery import app as shipped

HEAD = """
from __future__ import annotations
from typing import TYPE_CHECKING, Literal
from celery import chain, chord, group
from celery.result import AsyncResult, allow_join_result
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from tasks.runtime.once import once
from shop_app import app
"""


class ShopApp(App):
    """Keeps its tasks to itself; Celery would give them to all apps of the process."""

    def task(self, *args: Any, **options: Any) -> Any:
        return super().task(*args, **{"shared": False, **options})


def an_app() -> App:
    """An app like the shipped one, with tasks of its own."""
    made = ShopApp(
        "shop", amqp="tasks.runtime.routing:AMQP", task_cls="tasks.runtime.task:RunTask", set_as_current=False
    )
    names = ("broker_transport", "broker_transport_options", "result_backend", "accept_content", "task_serializer")
    names += ("result_serializer", "task_queues", "task_routes", "task_default_queue", "task_default_exchange")
    names += (
        "task_create_missing_queues",
        "task_acks_late",
        "task_reject_on_worker_lost",
        "worker_prefetch_multiplier",
    )
    made.conf.update({name: shipped.conf[name] for name in names})
    return made


class Shop:
    """A project of one module, `shop_tasks`, which is written and imported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.app = an_app()

    def write(self, text: str) -> Project:
        sys.modules["shop_app"] = module = ModuleType("shop_app")
        module.__dict__["app"] = self.app
        file = self.folder / "shop_tasks.py"
        file.write_text(HEAD.strip() + "\n" + textwrap.dedent(text).strip() + "\n")
        importlib.invalidate_caches()
        importlib.import_module("shop_tasks")
        self.app.finalize()
        tasks = {name: task for name, task in self.app.tasks.items() if not name.startswith("celery.")}
        return Project(self.app, tasks, folder=self.folder, files={file: "shop_tasks"})


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Shop(tmp_path)
    for name in ("shop_tasks", "shop_app"):
        sys.modules.pop(name, None)


def found(check: Callable[[Project], Iterator[Finding]], project: Project) -> list[str]:
    """The findings of one check as `NUMBER place: text`, with lines counted from the end of HEAD."""
    told = []
    for each in check(project):
        if each.is_ignored:
            continue
        assert check.__doc__ is not None
        assert check.__doc__.startswith(f"{each.number}: ")
        assert each.text.endswith((".", "?")), each.text
        assert each.remedy.endswith((".", "?")), each.remedy
        place = str(each.place)
        if place.startswith("shop_tasks.py:"):
            place = str(int(place.partition(":")[2]) - len(HEAD.strip().splitlines()))
        told.append(f"{each.number} {place}: {each.text}")
    return told


# Workers -------------------------------------------------------------------------------------------------------------


def test_a_task_that_is_acknowledged_though_its_process_died_is_named(shop):
    project = shop.write(
        """
        @app.task(reject_on_worker_lost=False)
        def ship(): ...
        @app.task(acks_late=False, reject_on_worker_lost=False)
        def at_most_once(): ...
        @app.task
        def bill(): ...
        """
    )
    (told,) = found(workers.late_acknowledgements, project)
    assert told.startswith("E001 2: task shop_tasks.ship: acks_late=True with reject_on_worker_lost=False.")


def test_serializers_that_run_code_are_named_wherever_they_are_let_in(shop):
    project = shop.write(
        """
        @app.task(serializer="pickle")
        def ship(): ...
        @app.task
        def bill(): ...
        """
    )
    (told,) = found(workers.unsafe_serializers, project)
    assert told.startswith("E002 2: task shop_tasks.ship: serializer='pickle', and whoever may write to a queue")
    shop.app.conf.update(accept_content=["json", "application/x-python-serialize"], result_serializer="yaml")
    told = found(workers.unsafe_serializers, project)
    assert len(told) == 3
    assert "accept_content=['json', 'application/x-python-serialize'] holds" in told[0]
    assert "result_serializer='yaml'" in told[1]


def test_the_brokers_options_are_read_as_its_connection_reads_them(shop, settings):
    settings.QUEUE_URL_PREFIX = "https://sqs.eu-central-1.amazonaws.com/111122223333/shop-"
    project = shop.write("")
    conf = shop.app.conf
    conf.broker_transport = "serverless.broker:Transport"
    url = settings.QUEUE_URL_PREFIX + "default"
    for options, told in (
        ({"lease_seconds": 60}, None),
        ({"lease_secs": 60}, 'E003 Celery\'s broker_transport_options: transport option "lease_secs" is unknown.'),
        ({"lease_seconds": 600}, "lease_seconds=600 differs from lease_seconds=60 of tasks/topology.json"),
        ({"predefined_queues": {"default": {"url": url}}}, None),
        ({"predefined_queues": {"default": {"url": "default"}}}, "url='default' is not a queue's URL."),
    ):
        conf.broker_transport_options = options
        assert [told in each for each in found(workers.broker_options, project)] == ([True] if told else [])
    settings.QUEUE_URL_PREFIX = ""
    assert found(workers.broker_options, project) == []


# Results -------------------------------------------------------------------------------------------------------------

CHORDS = """
@app.task
def part(): ...
@app.task(ignore_result=True)
def quiet(): ...
@app.task
def whole(values): ...
def begin(numbers):
    chord([part.s(), quiet.s()])(whole.s())
    (group(part.s() for each in numbers) | whole.s()).delay()
    parts = [quiet.si() for each in numbers]
    chord(parts, whole.s()).delay()
    chord(group(part.s(), quiet.s().set(ignore_result=False)))(whole.s())
    chord([part.s().set(ignore_result=True)], whole.s())
    chain(part.s(), whole.s()).delay()
    group(quiet.s(), quiet.s()).delay()
    1 | 2
"""


def test_a_chord_without_a_result_backend_is_found_and_nothing_else(shop):
    shop.app.conf.result_backend = "disabled"
    project = shop.write(CHORDS)
    told = found(results.canvas_without_backend, project)
    assert [each.partition(":")[0] for each in told] == ["E005 8", "E005 9", "E005 11", "E005 12", "E005 13"]
    assert 'RESULT_BACKEND="disabled" keeps none' in told[0]


def test_the_ledger_keeps_what_chords_need(shop):
    project = shop.write(CHORDS)
    for check in (results.canvas_without_backend, results.ignored_results_in_chords, results.backend_of_recorded_runs):
        assert found(check, project) == []


def test_a_part_of_a_chord_whose_result_is_thrown_away_is_found(shop, settings):
    shop.app.conf.result_backend = "cache+memory://"
    project = shop.write(CHORDS)
    settings.RECORD_RUNS = False
    told = found(results.ignored_results_in_chords, project)
    assert [each.partition(":")[0] for each in told] == ["E006 8", "E006 10", "E006 13"]
    assert told[0].startswith("E006 8: task shop_tasks.quiet is part of a chord")
    assert "chord of CacheBackend" in told[0]


@pytest.mark.parametrize(
    ("backend", "told"),
    [
        ("tasks.runtime.results:LedgerBackend", ""),
        ("cache+memory://", '"cache+memory://" cannot hold the outcomes of recorded runs.'),
        ("nonesuch://me:hush@host", '"nonesuch://host" cannot be loaded'),
    ],
)
def test_a_backend_that_cannot_hold_recorded_runs_is_named_without_its_password(shop, backend, told):
    shop.app.conf.result_backend = backend
    said = " ".join(found(results.backend_of_recorded_runs, shop.write("")))
    assert told in said
    assert bool(told) == bool(said)
    assert "hush" not in said


# Queues --------------------------------------------------------------------------------------------------------------


def test_a_task_that_is_routed_to_no_declared_queue_is_found_with_the_nearest(shop):
    shop.app.conf.task_routes = ([("shop_tasks.bill", {"queue": "lwo"})],)
    project = shop.write(
        """
        @app.task(queue="datasetz")
        def ship(): ...
        @app.task
        def bill(): ...
        @app.task(queue="low")
        def fine(): ...
        def call(queue):
            fine.apply_async((1,), queue="hihg")
            fine.apply_async((1,), queue=queue)
            fine.apply_async((1,), queue="high")
        """
    )
    told = sorted(found(queues.undeclared_queues, project))
    assert [each.split(":")[0] for each in told] == ["E007 2", "E007 4", "E007 8"]
    assert 'queue "datasetz" is not declared.' in told[0]
    assert [each.remedy for each in queues.undeclared_queues(project)][2].startswith('Did you mean "high"?')


def test_a_router_that_wants_to_see_arguments_is_left_alone(shop):
    def by_tenant(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> Any:
        return {"queue": kwargs["tenant"]}

    shop.app.conf.task_routes = (by_tenant,)
    project = shop.write("@app.task\ndef ship(): ...")
    assert found(queues.undeclared_queues, project) == []
    assert found(queues.time_limits, project) == []


def test_a_queue_that_no_pool_consumes_is_found(shop):
    shop.app.conf.task_queues = [*shipped.conf.task_queues, KombuQueue("attic", routing_key="attic")]
    (told,) = found(queues.queues_without_pool, shop.write(""))
    assert told.startswith('E008 Celery\'s task_queues: queue "attic" is not in tasks/topology.json')


def test_time_limits_that_are_out_of_order_are_found(shop):
    project = shop.write(
        """
        @app.task(time_limit=20, soft_time_limit=20)
        def ship(): ...
        @app.task(time_limit=301)
        def bill(): ...
        @app.task(queue="datasets", time_limit=900, soft_time_limit=899)
        def fine(): ...
        @app.task(queue="nowhere", time_limit=900)
        def lost(): ...
        """
    )
    told = sorted(found(queues.time_limits, project))
    assert told[0].startswith("E009 2: task shop_tasks.ship: soft_time_limit=20 is not below time_limit=20")
    assert told[1].startswith('E009 4: task shop_tasks.bill: time_limit=301 exceeds time_limit_seconds=300 of queue "')
    assert len(told) == 2


@hypothesis_settings(deadline=None)
@given(prefetch=st.integers(1, 100), limit=st.integers(1, 39_600), multiplier=st.integers(0, 4))
def test_more_than_one_message_is_held_of_short_work_alone(prefetch, limit, multiplier):
    raw = json.loads(topology.PATH.read_text())
    raw["queues"] = {name: {**each, "time_limit_seconds": 60} for name, each in raw["queues"].items()}
    raw["queues"]["datasets"] |= {"prefetch": prefetch, "time_limit_seconds": limit}
    made = celery.Celery("shop", set_as_current=False)
    made.conf.worker_prefetch_multiplier = multiplier
    told = found(queues.prefetch_of_long_queues, Project(made, {}, topology.parse(raw)))
    is_wrong = (prefetch * multiplier > 1 or multiplier == 0) and limit > queues.LONG_SECONDS
    assert [each.split(":")[0] for each in told] == (['W010 queue "datasets"'] if is_wrong else [])


# Arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        "user: User",
        "user: 'User'",
        "*, user: User | None = None",
        "users: list[User]",
        "users: QuerySet",
        "user: auth.User",
    ],
)
def test_a_parameter_that_is_a_model_instance_is_found(shop, parameters):
    project = shop.write(
        f"""
        if TYPE_CHECKING:
            from django.contrib.auth import models as auth
        @app.task(bind=True)
        def ship(self, {parameters}): ...
        """
    )
    (told,) = found(arguments.model_parameters, project)
    assert told.startswith("E011 4: task shop_tasks.ship: parameter user")


@pytest.mark.parametrize("parameters", ["user: int", "kind: Literal['User']", "user: 'no type'", "user", "User: int"])
def test_other_parameters_are_left_alone(shop, parameters):
    project = shop.write(
        f"""
        @app.task
        def ship({parameters}): ...
        def not_a_task(user: User): ...
        """
    )
    assert found(arguments.model_parameters, project) == []


@pytest.mark.parametrize(
    "call",
    [
        "ship.delay(User(pk=1))",
        "ship.delay(user=User.objects.get(pk=1))",
        "ship.delay([1, User.objects.filter(pk=1).select_related('x').first()])",
        "ship.apply_async((1, get_object_or_404(User, pk=1)))",
        "ship.apply_async(kwargs={'user': given})",
        "ship.s(request.user).delay()",
        "ship.delay_on_commit(self.request.user)",
        "ship.delay(User.objects.all())",
        "ship.delay(made)",
        "ship.si(*[made])",
    ],
)
def test_a_call_with_a_model_instance_is_found(shop, call):
    project = shop.write(
        f"""
        @app.task
        def ship(*args, **kwargs): ...
        def view(self, request, given: User):
            made = User.objects.create(username="a")
            {call}
        """
    )
    told = found(arguments.model_instances, project)
    assert [each.partition(" of task")[0].rpartition(":")[0] for each in told] == ["E012 5"], told


@pytest.mark.parametrize(
    "call",
    [
        "ship.delay(User.objects.get(pk=1).pk)",
        "ship.delay(request.user.pk)",
        "ship.delay(list(User.objects.values_list('pk', flat=True)))",
        "ship.delay(User.objects.filter(pk=1).count())",
        "ship.delay(User.objects.values('pk').first())",
        "ship.delay(given)",
        "ship.apply_async((1,), link=User(pk=1))",
        "other.delay(User(pk=1))",
        "made = 1; ship.delay(made)",
        "ship.delay(settings.user, user)",
    ],
)
def test_a_call_with_anything_else_is_left_alone(shop, call):
    project = shop.write(
        f"""
        @app.task
        def ship(*args, **kwargs): ...
        def view(request, other, given: User, user, settings):
            made = User.objects.create(username="a")
            given = given or User(pk=1)
            {call}
        """
    )
    assert found(arguments.model_instances, project) == []


# Transactions and waiting --------------------------------------------------------------------------------------------

ENQUEUEING = """
@app.task(recorded=False)
def loud(): ...
@app.task
def kept(): ...
def view():
    with transaction.atomic():
        loud.delay()
        kept.delay()
        kept.apply_async(recorded=False)
        loud.apply_async(recorded=True)
        loud.delay_on_commit()
        transaction.on_commit(lambda: loud.delay())
        def later():
            loud.delay()
    loud.delay()
@transaction.atomic
def decorated():
    loud.delay()
@transaction.atomic(durable=True)
async def called(self):
    async with lock(): pass
    loud.s().apply_async()
@app.task(bind=True)
def settle(self):
    with once(self) as done:
        loud.delay()
"""


def test_what_leaves_at_once_inside_a_transaction_is_found(shop):
    told = found(waiting.unrecorded_in_transactions, shop.write(ENQUEUEING))
    assert [each.partition(":")[0] for each in told] == ["E013 7", "E013 9", "E013 18", "E013 22", "E013 26"]
    assert "task shop_tasks.kept is enqueued inside a transaction and not recorded (recorded=False)" in told[1]


def test_without_records_every_task_leaves_at_once(shop, settings):
    settings.RECORD_RUNS = False
    told = found(waiting.unrecorded_in_transactions, shop.write(ENQUEUEING))
    assert [each.partition(":")[0] for each in told][:4] == ["E013 7", "E013 8", "E013 9", "E013 10"]
    assert "(RECORD_RUNS=false)" in told[1]


@pytest.mark.parametrize(
    "statement",
    [
        "part.delay(1).get()",
        "part.apply_async((1,)).get(timeout=3)",
        "part.s(1).delay().wait()",
        "group(part.s(1), part.s(2))().join()",
        "chord([part.s(1)])(part.s()).get()",
        "(part.s(1) | part.s()).delay().get()",
        "chain(part.s(1), part.s()).apply_async().get()",
        "AsyncResult('id').get()",
        "self.AsyncResult('id').get()",
        "result = part.delay(1); print(result.get())",
        "running = group(part.s(1)); waiting = running.delay(); waiting.join_native()",
    ],
)
def test_a_task_that_waits_for_another_is_found(shop, statement):
    text = f"""
        @app.task
        def part(number): ...
        @app.task(bind=True)
        def whole(self, given):
            {statement}
        def view(self, given):
            {statement}
        """
    told = found(waiting.waiting_inside_tasks, shop.write(text))
    assert [each.partition(":")[0] for each in told] == ["E014 5"]
    assert told[0].startswith("E014 5: task shop_tasks.whole waits for another task's result by .")


@pytest.mark.parametrize(
    "statement",
    [
        "part.delay(1)",
        "given.get()",
        "result = given; result.get()",
        "result = part.delay(1); result = {}; result.get('a')",
        "User.objects.get(pk=1)",
        "', '.join([])",
        "part.apply((1,)).get()",
        "part.delay(1).get(disable_sync_subtasks=False)",
        "with allow_join_result(): part.delay(1).get()",
        "lambda: part.delay(1).get()",
        "part = given; part.delay(1).get()",
        "for part in given: part.delay(1).get()",
        "[part.delay(1).get() for part in given]",
        "from shop_tasks import part; part = given or part; part.delay(1).get()",
    ],
)
def test_a_task_that_does_not_wait_is_left_alone(shop, statement):
    text = f"""
        @app.task
        def part(number): ...
        @app.task(bind=True)
        def whole(self, given):
            {statement}
        """
    assert found(waiting.waiting_inside_tasks, shop.write(text)) == []


def test_a_task_that_is_a_class_is_read_as_well(shop):
    project = shop.write(
        """
        @app.task
        def part(number): ...
        class Whole(app.Task):
            name = "shop.whole"
            def run(self, user: User):
                return part.delay(1).get()
            def helper(self, user: User): ...
        app.register_task(Whole())
        """
    )
    assert [each[:6] for each in found(waiting.waiting_inside_tasks, project)] == ["E014 6"]
    assert [each[:6] for each in found(arguments.model_parameters, project)] == ["E011 5"]


# Comments ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comment", "is_silent"),
    [
        ("# cloudqueue: ignore[E014] the other pool is never full", True),
        ("# cloudqueue: ignore[E013, E014] twice", True),
        ("# cloudqueue: ignore[E014]", False),
        ("# cloudqueue: ignore[E013] another", False),
        ("# noqa", False),
    ],
)
def test_a_comment_with_a_reason_turns_a_check_off_at_its_line(shop, comment, is_silent):
    project = shop.write(
        f"""
        @app.task
        def part(number): ...
        @app.task
        def whole():
            part.delay(1).get(
                timeout=3,
            )  {comment}
        """
    )
    assert found(waiting.waiting_inside_tasks, project) == ([] if is_silent else [*_all(project)])


def _all(project: Project) -> Iterator[str]:
    for each in waiting.waiting_inside_tasks(project):
        yield f"E014 5: {each.text}"


def test_a_comment_at_the_head_of_a_task_turns_off_what_is_said_of_the_task(shop):
    project = shop.write(
        """
        @app.task(reject_on_worker_lost=False)  # cloudqueue: ignore[E001] what it does must not repeat
        def ship(): ...
        """
    )
    assert found(workers.late_acknowledgements, project) == []


# Sources -------------------------------------------------------------------------------------------------------------


def test_all_of_celery_is_read_without_a_fault_and_without_a_finding():
    folder = Path(celery.__file__).parent
    project = Project(shipped, {}, folder=folder, files=dict(sources.files_below(folder, "celery")))
    assert len(project.doings) > 1000
    for check in (
        arguments.model_instances,
        arguments.model_parameters,
        waiting.unrecorded_in_transactions,
        waiting.waiting_inside_tasks,
        results.ignored_results_in_chords,
    ):
        assert list(check(project)) == []


def test_files_that_are_no_python_and_those_of_tests_are_passed_over(tmp_path):
    for name in ("good.py", "bad.py", "tests.py", "test_it.py", "migrations/m.py", "tests/t.py", "deep/__init__.py"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("ship.delay()" if name != "bad.py" else "ship.delay(")
    read = sources.read(sources.files_below(tmp_path, "shop"), tmp_path)
    assert [(each.name, each.package) for each in read] == [("shop.deep", "shop.deep"), ("shop.good", "shop")]


def test_relative_imports_are_followed(tmp_path):
    text = "from . import tasks\nfrom .other import thing\nfrom .. import up\ntasks.ship.delay(thing, up)\n"
    (tmp_path / "views.py").write_text(text)
    (source,) = sources.read([(tmp_path / "views.py", "shop.orders.views")], tmp_path)
    (call,) = reading.read(source).doings
    assert isinstance(call.node, ast.Call)
    assert [call.scope.dotted(each) for each in (call.node.func, *call.node.args)] == [
        "shop.orders.tasks.ship.delay",
        "shop.orders.other.thing",
        "shop.up",
    ]
