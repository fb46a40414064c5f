"""Celery's API of results over the ledger's rows, without workers."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from celery import chain, chord, group, shared_task, states
from celery.exceptions import TaskRevokedError, TimeoutError
from celery.result import AsyncResult, GroupResult, ResultSet
from celery.utils.serialization import UnpickleableExceptionWrapper
from django.db import transaction
from kombu.exceptions import EncodeError

from django_app.ledger.models import Run, SavedGroup
from django_app.ledger.states import FINAL, Outcome, State
from serverless.objects import Bucket
from tasks.celery import app
from tasks.runtime.results import WaitsForItselfError
from tasks.runtime.testing import captured_runs
from tests.threads import at_once

pytestmark = pytest.mark.django_db(transaction=True)


class OutOfStockError(Exception):
    """There are not as many."""

    class WorldwideError(Exception):
        """Nobody has any."""


class PickyError(Exception):
    """Cannot be made anew from its own arguments."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


ERRORS = {
    "builtin": KeyError("pear"),
    "own": OutOfStockError("apples", 3, ["a", None]),
    "nested": OutOfStockError.WorldwideError({"apples": 0}),
    "picky": PickyError("no", "way"),
    "none": ValueError(),
    "nul": ValueError("a\x00b"),
    "long": ValueError("x" * 2000),
}


@shared_task(name="tests.backend.give")
def give(value: Any = None) -> Any:
    return value


@shared_task(name="tests.backend.add")
def add(x: Any, y: Any) -> Any:
    return x + y


@shared_task(name="tests.backend.fail")
def fail(name: str, *_: Any) -> None:
    raise ERRORS[name]


@shared_task(name="tests.backend.give_quietly", ignore_result=True)
def give_quietly(value: Any) -> Any:
    return value


@shared_task(name="tests.backend.give_unwritable")
def give_unwritable(how: str) -> Any:
    return {"object": object(), "set": {1}, "key": {(1, 2): 3}, "lambda": [lambda: 1]}[how]


@shared_task(name="tests.backend.start_two")
def start_two() -> None:
    give.delay(1)
    give.delay(2)


@shared_task(name="tests.backend.tell", bind=True)
def tell(self: Any, *told: Any) -> list[Any]:
    """Show states, and what a caller saw of each."""
    seen = []
    for meta in told:
        self.update_state(state="PROGRESS", meta=meta)
        again = AsyncResult(self.request.id)
        seen.append([again.state, again.info])
    return seen


def run(signature: Any, *arguments: Any, **options: Any) -> Any:
    """Enqueue and work off here; the result."""
    with captured_runs(execute=True):
        return signature.apply_async(arguments, **options)


def enqueue(**options: Any) -> AsyncResult:
    with captured_runs():
        return give.apply_async((1,), **options)


def put(result: AsyncResult, state: State, **fields: Any) -> AsyncResult:
    Run.objects.filter(pk=result.id).update(state=state, **fields)
    return AsyncResult(result.id)


@pytest.fixture
def soon() -> Any:
    """Does something in another thread when somebody has waited for it once: soon(result, do)."""
    threads = []

    def soon(do: Callable[[], object]) -> Callable[[], None]:
        def on_interval() -> None:
            if not threads:
                threads.append(threading.Thread(target=lambda: at_once(1, lambda _: do())))
                threads[0].start()

        return on_interval

    yield soon
    for thread in threads:
        thread.join(10)


# States -------------------------------------------------------------------------------------------------------------

AS_CELERY = {
    State.PENDING: "PENDING",
    State.QUEUED: "PENDING",
    State.WAITING: "PENDING",
    State.RUNNING: "STARTED",
    State.LOST: "STARTED",
    State.SUCCEEDED: "SUCCESS",
    State.FAILED: "FAILURE",
    State.DEAD: "FAILURE",
    State.REVOKED: "REVOKED",
    State.EXPIRED: "REVOKED",
    State.SKIPPED: "REVOKED",
}


@pytest.mark.parametrize("state", State)
def test_a_runs_state_is_one_of_celerys(state):
    result = put(enqueue(), state, error="LookupError: as asked" if state in FINAL else "")
    assert result.state == result.status == AS_CELERY[state]
    assert result.ready() == (state in FINAL)
    assert result.successful() == (state is State.SUCCEEDED)
    assert result.failed() == (state in (State.FAILED, State.DEAD))


def test_an_id_that_nobody_knows_is_pending():
    result = AsyncResult("never")
    assert (result.state, result.result, result.traceback, result.children) == ("PENDING", None, None, [])
    assert (result.ready(), result.successful(), result.failed(), result.exists()) == (False, False, False, False)
    with pytest.raises(TimeoutError):
        result.get(timeout=0)


def test_a_run_at_work_says_where():
    result = put(enqueue(), State.RUNNING, worker="general@a")
    assert (result.state, result.info["hostname"]) == ("STARTED", "general@a")


def test_a_run_that_has_ended_tells_of_itself():
    result = run(give.s(7), queue="low")
    assert (result.get(timeout=1), result.result, result.info) == (7, 7, 7)
    assert (result.name, result.queue, result.retries, result.worker) == (give.name, "low", 0, "test")
    assert abs(result.date_done - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=1)
    assert result.exists()
    assert result.traceback is None


@pytest.mark.parametrize(
    "value",
    [None, 0, "", "text é 🚲", "a\x00b", "half \ud800 a pair", 1.5, 10**30, [1, [2]], {"a": {"b": None}}, b"\xff\x00"],
)
def test_a_value_comes_back_as_it_was_given(value):
    assert run(give.s(value)).get(timeout=1) == value


def test_what_a_task_starts_are_its_children():
    result = run(start_two.s())
    assert [child.get(timeout=1) for child in result.children] == [1, 2]
    assert [value for _, value in result.collect()] == [None, 1, 2]


def test_a_chains_results_know_their_parents():
    result = run(chain(give.s(1), add.s(2), add.s(3)))
    assert [result.get(timeout=1), result.parent.get(timeout=1), result.parent.parent.get(timeout=1)] == [6, 3, 1]
    assert AsyncResult(result.parent.id).children == [result]


def test_a_task_shows_a_state_of_its_own():
    result = run(tell.s({"done": 1}, "text", None, [1], "a\x00b"))
    assert result.get(timeout=1) == [["PROGRESS", meta] for meta in ({"done": 1}, "text", None, [1], "a\x00b")]
    assert result.state == "SUCCESS"


def test_a_state_of_its_own_shows_until_the_run_ends():
    result = put(enqueue(), State.RUNNING)
    app.backend.store_result(result.id, {"done": 1}, "PROGRESS")
    again = AsyncResult(result.id)
    assert (again.state, again.info, again.ready()) == ("PROGRESS", {"done": 1}, False)
    app.backend.store_result(result.id, 7, states.SUCCESS)
    app.backend.store_result(result.id, {"done": 2}, "PROGRESS")
    again = AsyncResult(result.id)
    assert (again.state, again.get(timeout=1)) == ("SUCCESS", 7)


def test_what_somebody_else_stores_under_an_id_is_its_result():
    """As those do who end a task from outside."""
    app.backend.mark_as_done("outside", 7)
    app.backend.mark_as_failure("failed outside", LookupError("as asked"))
    app.backend.store_result("stored", [1], states.SUCCESS)
    assert AsyncResult("outside").get(timeout=1) == 7
    assert AsyncResult("stored").get(timeout=1) == [1]
    with pytest.raises(LookupError, match="as asked"):
        AsyncResult("failed outside").get(timeout=1)
    app.backend.mark_as_done("outside", 8)
    assert AsyncResult("outside").get(timeout=1) == 7, "the first has ended it"


def test_a_result_that_is_ignored_is_not_kept():
    for result in (run(give_quietly.s(7)), run(give.s(7), ignore_result=True)):
        again = AsyncResult(result.id)
        assert again.result is None
        assert Run.objects.get(pk=result.id).result == ""
        assert Run.objects.get(pk=result.id).state == State.SUCCEEDED
        assert result.get(timeout=1) is None


# Failures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["builtin", "own", "nested", "none", "nul"])
def test_an_exception_comes_back_as_its_class_with_its_arguments(name):
    result = run(fail.s(name))
    error = result.get(timeout=1, propagate=False)
    assert (type(error), error.args) == (type(ERRORS[name]), ERRORS[name].args)
    with pytest.raises(type(ERRORS[name])):
        result.get(timeout=1)
    assert result.state == "FAILURE"
    assert "raise ERRORS[name]" in result.traceback


def test_a_long_exception_comes_back_by_way_of_the_bucket(cloud, settings):
    settings.RESULT_INLINE_BYTES = 500
    result = run(fail.s("long"))
    assert result.get(timeout=1, propagate=False).args == ERRORS["long"].args
    assert Run.objects.get().result.startswith("s3:")
    assert len(Run.objects.get().error) == 500


def test_an_exception_that_cannot_be_made_anew_is_told_in_words():
    error = run(fail.s("picky")).get(timeout=1, propagate=False)
    assert (type(error), str(error)) == (UnpickleableExceptionWrapper, "PickyError('no', 'way')".replace("', '", " "))


@pytest.mark.parametrize("how", ["object", "set", "key", "lambda"])
def test_a_result_that_is_no_json_fails_its_run_with_an_encode_error(how):
    result = run(give_unwritable.s(how))
    assert isinstance(result.get(timeout=1, propagate=False), EncodeError)
    assert Run.objects.get().state == State.FAILED
    assert Run.objects.get().past_attempts.get().outcome == Outcome.FAILED


@pytest.mark.parametrize(
    ("state", "error", "kind", "message"),
    [
        (State.REVOKED, "revoked: by ada", "revoked", "by ada"),
        (State.DEAD, "billiard.exceptions.WorkerLostError: died", "WorkerLostError", "died"),
        (State.FAILED, "", "TaskFailed", ""),
    ],
)
def test_a_failure_without_a_kept_result_is_told_by_its_error(state, error, kind, message):
    found = put(enqueue(), state, error=error).get(timeout=1, propagate=False)
    assert (type(found).__name__, str(found)) == (kind, message)


def test_a_revoked_run_raises_that_it_was_revoked():
    result = enqueue()
    app.backend.mark_as_revoked(result.id, "by ada")
    with pytest.raises(TaskRevokedError, match="by ada"):
        AsyncResult(result.id).get(timeout=1)


def test_a_failed_step_fails_those_that_follow():
    result = run(chain(fail.s("own"), give.s(), give.s()))
    for each in (result, result.parent, result.parent.parent):
        assert each.state == "FAILURE"
        assert isinstance(AsyncResult(each.id).get(timeout=1, propagate=False), OutOfStockError)


# Waiting ------------------------------------------------------------------------------------------------------------


def test_get_waits_for_the_end(soon):
    result = enqueue()
    on_interval = soon(lambda: app.backend.mark_as_done(result.id, 7))
    assert result.get(timeout=10, interval=0.01, on_interval=on_interval) == 7


def test_get_gives_up_when_its_time_is_over():
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        enqueue().get(timeout=0.1, interval=0.01)
    assert 0.1 <= time.monotonic() - began < 5


def test_many_are_given_as_they_are_ready(soon):
    results = [enqueue() for _ in range(3)]
    app.backend.mark_as_done(results[1].id, 1)
    heard = []
    on_interval = soon(lambda: [app.backend.mark_as_done(results[n].id, n) for n in (0, 2)])
    ids = [result.id for result in results]
    found = list(
        app.backend.get_many([*ids, *ids], timeout=10, interval=0.01, on_message=heard.append, on_interval=on_interval)
    )
    assert [task_id for task_id, _ in found] == [ids[1], ids[0], ids[2]]
    assert [meta["result"] for _, meta in found] == [1, 0, 2]
    assert [meta for _, meta in found] == heard


def test_many_that_are_not_ready_in_time_are_counted():
    ready, *waiting = [enqueue() for _ in range(3)]
    app.backend.mark_as_done(ready.id, 1)
    found = app.backend.get_many([result.id for result in (ready, *waiting)], timeout=0.05, interval=0.01)
    assert next(found)[0] == ready.id
    with pytest.raises(TimeoutError, match=r"2 results were not ready after 0\.05 seconds"):
        next(found)


def test_nobody_waits_longer_than_the_deadline_or_than_so_many_rounds():
    result = enqueue()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        list(app.backend.get_many([result.id], timeout=0.05, interval=8))
    assert list(app.backend.get_many([result.id], timeout=5, interval=0.01, max_iterations=3)) == []
    with pytest.raises(TimeoutError):
        list(app.backend.get_many([result.id], timeout=0, interval=None))
    assert time.monotonic() - began < 4


def test_a_thousand_are_read_in_few_queries(django_assert_max_num_queries):
    now = datetime.datetime.now(datetime.UTC)
    Run.objects.bulk_create(
        Run(id=f"r{n}", state=State.SUCCEEDED, result=f"={n}", created_at=now, publish_claimed_until=now)
        for n in range(1000)
    )
    with django_assert_max_num_queries(3):
        found = dict(app.backend.get_many(f"r{number}" for number in range(1000)))
    assert [found[f"r{number}"]["result"] for number in range(1000)] == list(range(1000))


@pytest.mark.parametrize("join", ["get", "join", "join_native"])
def test_a_groups_results_come_in_its_order(join):
    result = run(group(give.s(number) for number in range(5)))
    assert getattr(result, join)(timeout=1) == [0, 1, 2, 3, 4]
    assert (result.completed_count(), result.ready(), result.successful(), result.failed()) == (5, True, True, False)
    assert sorted(meta["result"] for _, meta in result.iter_native(timeout=1)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("join", ["get", "join", "join_native"])
def test_a_groups_failure_is_raised_or_given_in_its_place(join):
    result = run(group(give.s(1), fail.s("own"), give.s(2)))
    one, error, two = getattr(result, join)(timeout=1, propagate=False)
    assert (one, type(error), two) == (1, OutOfStockError, 2)
    with pytest.raises(OutOfStockError):
        getattr(result, join)(timeout=1)
    assert (result.completed_count(), result.failed()) == (2, True)


@pytest.mark.parametrize("join", ["get", "join", "join_native"])
def test_a_group_that_is_not_ready_in_time_says_so(join):
    with captured_runs():
        result = group(give.s(1), give.s(2)).apply_async()
    with pytest.raises(TimeoutError):
        getattr(result, join)(timeout=0.05, interval=0.01)
    assert result.completed_count() == 0
    assert result.waiting()


def test_a_set_of_results_is_joined_as_a_group_is():
    results = ResultSet([run(give.s(1)), run(give.s(2))])
    assert results.get(timeout=1) == [1, 2]


# Forgetting ---------------------------------------------------------------------------------------------------------


def test_a_result_that_is_forgotten_is_pending_again_and_its_run_stays():
    result = run(give.s(1))
    result.forget()
    again = AsyncResult(result.id)
    assert (again.state, again.result, again.exists()) == ("PENDING", None, False)
    stored = Run.objects.get(pk=result.id)
    assert (stored.state, stored.result) == (State.SUCCEEDED, "")
    again.forget()
    AsyncResult("never").forget()


def test_a_run_that_has_not_ended_is_not_forgotten():
    result = put(enqueue(), State.RUNNING)
    app.backend.store_result(result.id, {"done": 1}, "PROGRESS")
    result.forget()
    app.backend.mark_as_done(result.id, 7)
    assert AsyncResult(result.id).get(timeout=1) == 7


def test_what_shows_a_state_of_its_own_may_be_large(settings, cloud):
    settings.RESULT_INLINE_BYTES = 100
    bucket = Bucket(settings.FILES_BUCKET)
    result = put(enqueue(), State.RUNNING)
    app.backend.store_result(result.id, "x" * 1000, "PROGRESS")
    assert AsyncResult(result.id).info == "x" * 1000
    assert len(bucket.keys(f"results/{result.id}/")) == 1


def test_a_group_is_forgotten_with_its_results():
    result = run(group(give.s(1), give.s(2)))
    result.forget()
    assert [AsyncResult(each.id).state for each in result] == ["PENDING", "PENDING"]


# Groups that are saved ----------------------------------------------------------------------------------------------


def test_a_saved_group_is_restored_until_it_is_deleted():
    result = run(group(give.s(1), give.s(2)))
    assert GroupResult.restore(result.id) is None
    result.save()
    result.save()
    again = GroupResult.restore(result.id)
    assert (again, again.results) == (result, result.results)
    assert again.get(timeout=1) == [1, 2]
    again.delete()
    assert GroupResult.restore(result.id) is None
    assert not SavedGroup.objects.exists()
    again.delete()


def test_a_saved_group_keeps_its_shape_and_its_parent():
    result = run(give.s(1) | group(add.s(1), add.s(2) | group(add.s(3), add.s(4))))
    result.save()
    again = GroupResult.restore(result.id)
    assert again.as_tuple() == result.as_tuple()
    assert again.parent == result.parent
    assert again.get(timeout=1) == [2, [6, 7]]


# Waiting for oneself ------------------------------------------------------------------------------------------------

CANVASES = {
    "a task": lambda: give.delay(1),
    "a group": lambda: group(give.s(1), give.s(2)).delay(),
    "a chain": lambda: chain(give.s(1), give.s()).delay(),
    "a chord": lambda: chord([give.s(1)], give.s()).delay(),
    "a chain that ends in a group": (give.s(1) | group(give.s(), give.s())).delay,
    "a set": lambda: ResultSet([give.delay(1), give.delay(2)]),
}


@pytest.fixture
def unsent(monkeypatch):
    """Messages leave for nowhere."""
    monkeypatch.setattr("tasks.runtime.publishing.publish", len)


@pytest.mark.usefixtures("unsent")
@pytest.mark.parametrize("enqueue_canvas", CANVASES.values(), ids=CANVASES)
def test_waiting_inside_the_transaction_that_enqueues_is_refused(enqueue_canvas):
    with transaction.atomic():
        result = enqueue_canvas()
        with pytest.raises(WaitsForItselfError) as raised:
            result.get(timeout=5)
    assert "is enqueued in the transaction that is still open here" in str(raised.value)
    assert "leave the atomic() block before you call get()" in str(raised.value)
    with pytest.raises(TimeoutError):
        result.get(timeout=0)


@pytest.mark.usefixtures("unsent")
@pytest.mark.parametrize("join", ["get", "join", "join_native"])
def test_joining_a_group_inside_its_transaction_is_refused_as_well(join):
    with transaction.atomic():
        result = group(give.s(1), give.s(2)).delay()
        with pytest.raises(WaitsForItselfError):
            getattr(result, join)(timeout=5)


@pytest.mark.usefixtures("unsent")
def test_waiting_after_a_savepoint_within_the_transaction_is_refused():
    with transaction.atomic():
        with transaction.atomic():
            inside = give.delay(1)
        with pytest.raises(WaitsForItselfError):
            inside.get(timeout=5)
        with transaction.atomic(), pytest.raises(WaitsForItselfError):
            inside.get(timeout=5)


@pytest.mark.usefixtures("unsent")
def test_waiting_inside_a_transaction_for_what_was_enqueued_before_is_allowed():
    before = give.delay(1)
    with transaction.atomic():
        give.delay(2)
        with pytest.raises(TimeoutError):
            before.get(timeout=0)
        app.backend.mark_as_done(before.id, 7)
        assert AsyncResult(before.id).get(timeout=1) == 7


@pytest.mark.usefixtures("unsent")
def test_waiting_for_what_was_enqueued_and_has_ended_in_this_transaction_is_allowed():
    """As in a TestCase that has its tasks executed."""
    with transaction.atomic():
        result = give.delay(1)
        app.backend.mark_as_done(result.id, 7)
        assert AsyncResult(result.id).get(timeout=1) == 7


@pytest.mark.usefixtures("unsent")
def test_looking_at_a_result_inside_its_transaction_is_allowed():
    with transaction.atomic():
        result = give.delay(1)
        assert (result.state, result.ready()) == ("PENDING", False)


def test_a_backend_that_is_pickled_is_the_same_again():
    """As a chord's or a result's pickle has it."""
    import pickle

    result = run(give.s(1))
    assert pickle.loads(pickle.dumps(result)).get(timeout=1) == 1  # noqa: S301 - our own
    assert AsyncResult(uuid4().hex).state == "PENDING"
