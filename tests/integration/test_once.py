"""Effects that happen once, progress, and running tasks in a TestCase: without workers, on a real database."""

from __future__ import annotations

import threading

import pytest
from celery import chain, chord, shared_task
from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.test import TestCase

from django_app.ledger.models import OnceMark, Run
from django_app.ledger.states import State
from tasks.runtime import attempts, progress
from tasks.runtime.once import DoneBefore, OnceKeyError, once
from tasks.runtime.progress import ProgressError
from tasks.runtime.testing import EndlessRunsError, captured_runs


@shared_task(bind=True, name="tests.once.charge")
def charge(self, order: int, *, fail: bool = False) -> str:
    with once(self) as done:
        group = Group.objects.create(name=f"charge {order} {Group.objects.count()}")
        if fail:
            raise LookupError("as asked")
        return done(group.name)


@shared_task(bind=True, name="tests.once.invoice")
def invoice(self, order: int) -> str:
    with once(self, key=f"order {order}") as done:
        return done(Group.objects.create(name=f"invoice {order} {Group.objects.count()}").name)


@shared_task(bind=True, name="tests.once.again")
def again(self, times: int) -> int:
    with once(self):
        Group.objects.create(name=f"try {self.request.retries}")
        if self.request.retries < times:
            raise self.retry(countdown=3600, max_retries=times)
    return self.request.retries


@shared_task(bind=True, name="tests.once.walk")
def walk(self, steps: list, *, inside: bool = False) -> None:
    for done, total in steps:
        if inside:
            with transaction.atomic():
                self.progress(done, total, f"step {done}")
        else:
            self.progress(done, total, f"step {done}")


@shared_task(name="tests.once.add")
def add(x: int, y: int) -> int:
    return x + y


@shared_task(name="tests.once.total")
def total(values: list) -> int:
    return sum(values)


@shared_task(name="tests.once.endless")
def endless() -> None:
    endless.delay()


def names() -> list[str]:
    # Without the groups that migrations make.
    return sorted(Group.objects.exclude(name__startswith="Cloudqueue ").values_list("name", flat=True))


class Tests(TestCase):
    """What captured_runs gives within a TestCase, where nothing commits."""

    def test_what_is_enqueued_is_listed_and_not_executed_unless_asked(self):
        with captured_runs() as runs:
            charge.delay(1)
            chain(add.s(1, 2), add.s(3)).delay()
        assert [(run.task, run.state) for run in runs] == [
            (charge.name, State.PENDING),
            (add.name, State.PENDING),
        ]
        assert names() == []

    def test_executing_follows_workflows_to_their_end(self):
        with captured_runs(execute=True) as runs:
            result = chain(add.s(1, 2), chord([add.s(1), add.s(2)], total.s()), add.s(4)).delay()
        assert {run.state for run in runs} == {State.SUCCEEDED}
        assert result.get(timeout=1) == 13

    def test_a_failure_fails_its_run_and_not_the_test(self):
        with captured_runs(execute=True) as runs:
            charge.delay(1, fail=True)
        assert (runs[0].state, runs[0].error) == (State.FAILED, "LookupError: as asked")
        assert names() == []

    def test_the_longest_id_of_a_run_is_done_once_as_any_other(self):
        with captured_runs(execute=True) as runs:
            charge.apply_async([1], task_id="x" * 255)
        assert (runs[0].state, runs[0].error) == (State.SUCCEEDED, "")
        assert len(OnceMark.objects.get().pk) <= 255

    def test_a_retry_is_executed_without_its_delay_and_survives_its_own_rollback(self):
        with captured_runs(execute=True) as runs:
            again.delay(2)
        assert {run.pk for run in runs} == {runs[0].pk}
        assert runs[0].state == State.SUCCEEDED
        assert names() == ["try 2"]
        assert [each.outcome for each in runs[0].past_attempts.order_by("number")] == [
            "retried",
            "retried",
            "succeeded",
        ]

    def test_tasks_that_never_come_to_an_end_are_stopped(self):
        def run() -> None:
            with captured_runs(execute=True):
                endless.delay()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tasks.runtime.testing._MOST_RUNS", 20)
            with pytest.raises(EndlessRunsError):
                run()


class Request:
    """What once reads of a task."""

    def __init__(self, run_id: str | None) -> None:
        self.id = run_id


class Bound:
    """A bound task in an execution of some run."""

    name = "tests.once.bound"

    def __init__(self, run_id: str | None) -> None:
        self.request = Request(run_id)


@pytest.mark.django_db(transaction=True)
class TestOnce:
    def test_a_second_execution_ends_at_the_block_with_the_first_result(self):
        first = charge.apply((7,), task_id="run-7")
        with pytest.raises(DoneBefore) as found, once(Bound("run-7")):
            raise AssertionError("must not be reached")
        assert found.value.result == first.result
        assert names() == [first.result]

    def test_a_block_that_fails_leaves_no_mark(self):
        def fail() -> None:
            with once(Bound("a")):
                Group.objects.create(name="effect")
                raise LookupError

        with pytest.raises(LookupError):
            fail()
        assert not OnceMark.objects.exists()
        with once(Bound("a")):
            Group.objects.create(name="effect")
        assert names() == ["effect"]

    def test_a_key_is_shared_by_all_runs_and_by_no_other_task(self):
        with once(Bound("a"), key="order 1") as done:
            done("first")
        with pytest.raises(DoneBefore) as found, once(Bound("b"), key="order 1"):
            pass
        assert found.value.result == "first"
        other = Bound("c")
        other.name = "tests.once.other"
        with once(other, key="order 1"):
            Group.objects.create(name="effect")
        assert names() == ["effect"]

    def test_of_many_executions_at_once_one_has_its_effects_and_all_end_with_its_result(self):
        results: list = []
        barrier = threading.Barrier(6)

        def execute() -> None:
            try:
                barrier.wait(10)
                try:
                    with once(Bound("same")) as done:
                        Group.objects.create(name=f"effect {threading.get_ident()}")
                        results.append(done(threading.get_ident()))
                except DoneBefore as before:
                    results.append(before.result)
            finally:
                connection.close()

        threads = [threading.Thread(target=execute) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(results) == 6
        assert len(set(results)) == 1
        assert names() == [f"effect {results[0]}"]

    @pytest.mark.parametrize("key", ["", "x" * 201, 7])
    def test_a_key_that_is_none_is_refused(self, key):
        with pytest.raises(OnceKeyError, match="must be a text of 1 to 200 characters"), once(Bound("a"), key=key):
            pass

    def test_without_a_run_or_a_key_it_is_refused(self):
        with pytest.raises(OnceKeyError, match="give it a key"), once(Bound(None)):
            pass
        with pytest.raises(OnceKeyError, match="bind=True"), once(charge.run):
            pass


@pytest.mark.django_db(transaction=True)
class TestProgress:
    def execute(self, steps: list, **options: bool) -> Run:
        with captured_runs(execute=True) as runs:
            walk.delay(steps, **options)
        assert runs[0].state == State.SUCCEEDED, runs[0].error
        return runs[0]

    @pytest.mark.parametrize("inside", [False, True])
    def test_the_first_and_the_last_are_saved_and_few_between(self, inside):
        run = self.execute([(number, 1000) for number in range(1, 901)], inside=inside)
        assert (run.progress_done, run.progress_total, run.progress_note) == (900, 1000, "step 900")
        assert 2 <= run.sequence <= 20

    def test_it_never_goes_backwards(self):
        run = self.execute([(5, 10), (10, 10), (3, 10)])
        assert run.progress_done == 10

    @pytest.mark.parametrize(("done", "total"), [(-1, 5), (6, 5), (1.5, None), (True, None), (1, "many")])
    def test_what_is_no_progress_is_refused(self, done, total):
        with pytest.raises(ProgressError, match="progress"):
            progress.report(walk, done, total, "")

    def test_outside_of_a_run_it_does_nothing(self):
        assert walk([(1, 2)]) is None
        assert attempts.current.get() is None

    def test_it_is_announced_after_it_is_saved_and_a_receiver_that_raises_harms_nothing(self):
        told = []

        def hear(run_id: str, done: int, **_: object) -> None:
            told.append((done, Run.objects.get(pk=run_id).progress_done))
            raise RuntimeError("as asked")

        progress.progressed.connect(hear)
        try:
            self.execute([(1, 2), (2, 2)])
        finally:
            progress.progressed.disconnect(hear)
        assert told == [(1, 1), (2, 2)]
