"""Remote control with real workers: from the command line, from Python, for each pool; and what is revoked stays so."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import ROOT
from tests.faults.clerk import Clerk, clerk_of, database_like
from tests.faults.shop import Shop, open_shop
from tests.waiting import wait_for

pytestmark = pytest.mark.faults

TASKS = """
import os, time
from celery import current_app, shared_task
from django.contrib.auth.models import Group

if os.environ.get("SHOP_IS_DEAF"):
    current_app.conf.worker_enable_remote_control = False


@shared_task
def sell(number):
    Group.objects.create(name=f"sold {number}")


@shared_task(recorded=False)
def whisper(number):
    Group.objects.create(name=f"whispered {number}")


@shared_task
def nap(seconds, number=0):
    Group.objects.create(name=f"nap {number} begun")
    time.sleep(seconds)
    Group.objects.create(name=f"nap {number} over")
"""


@pytest.fixture(scope="module")
def open_all_day(tmp_path_factory: pytest.TempPathFactory, stack_database_url: str) -> Iterator[tuple[Shop, Clerk]]:
    """A shop with one prefork worker, which tests must leave as they found it, and a database of its own."""
    folder = tmp_path_factory.mktemp("shop")
    with (
        database_like(stack_database_url, folder) as database_url,
        open_shop(folder, database_url, TASKS) as shop,
        clerk_of(shop) as clerk,
    ):
        shop.start_worker(concurrency=2)
        yield shop, clerk


@pytest.fixture
def shop(open_all_day: tuple[Shop, Clerk]) -> Shop:
    return open_all_day[0]


@pytest.fixture
def clerk(open_all_day: tuple[Shop, Clerk]) -> Clerk:
    made = open_all_day[1]
    made.do("[model.objects.all().delete() for model in (Attempt, Run, Revocation, Group)]")
    return made


@pytest.fixture
def own_shop(tmp_path: Path, stack_database_url: str) -> Iterator[Shop]:
    """A shop of the test's own, without a worker."""
    with open_shop(tmp_path, stack_database_url, TASKS) as made:
        yield made


@pytest.fixture
def own_clerk(own_shop: Shop) -> Iterator[Clerk]:
    with clerk_of(own_shop) as made:
        yield made


def celery(shop: Shop, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Celery's command line, with its own defaults."""
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", *arguments],
        cwd=ROOT,
        env=shop.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def groups(clerk: Clerk) -> list[str]:
    return sorted(clerk.do("list(Group.objects.values_list('name', flat=True))"))


def ask(clerk: Clerk, what: str, options: str = "limit=1, timeout=10") -> Any:
    """The only worker's answer to an inspect command."""
    answers = clerk.do(f"app.control.inspect({options}).{what}")
    assert answers is not None, "nobody answered"
    assert len(answers) == 1
    return next(iter(answers.values()))


def await_begun(clerk: Clerk, number: int = 0) -> None:
    wait_for(lambda: f"nap {number} begun" in groups(clerk), "the nap", 20)


def is_on_postgres(shop: Shop) -> bool:
    return shop.environment["DATABASE_URL"].startswith("postgres")


# Celery's own command line -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("ping", "pong"),
        ("active", "- empty -"),
        ("reserved", "- empty -"),
        ("scheduled", "- empty -"),
        ("registered", "shop.tasks.nap"),
        ("stats", '"prefetch_count": 2'),
        ("conf", '"worker_prefetch_multiplier": 1'),
        ("report", "software -> celery:5.7"),
        ("revoked", "- empty -"),
        ("active_queues", "'name': 'default'"),
        ("query_task nobody", "{}"),
        ("clock", '"clock":'),
    ],
)
def test_each_inspect_command_is_answered_within_the_command_lines_own_second(shop, clerk, command, answer):
    done = celery(shop, "inspect", *command.split())
    assert done.returncode == 0, done.stderr + done.stdout
    assert "1 node online." in done.stdout
    assert answer in done.stdout


def test_status_lists_the_workers_that_are_online(shop, clerk):
    done = celery(shop, "status")
    assert done.returncode == 0, done.stderr
    assert "w0@" in done.stdout


def test_answers_can_be_had_as_json(shop, clerk):
    done = celery(shop, "--quiet", "inspect", "ping", "--json")
    assert [*json.loads(done.stdout).values()] == [{"ok": "pong"}]


@pytest.mark.parametrize(
    "arguments", [("inspect", "ping"), ("status",), ("control", "pool_grow"), ("inspect", "active")]
)
def test_a_worker_that_cannot_be_reached_is_told_in_celerys_words(shop, clerk, arguments):
    done = celery(shop, *arguments, "--destination=nobody@nowhere")
    assert done.returncode == 69
    assert "Error: No nodes replied within time constraint" in done.stderr + done.stdout


def test_the_command_line_controls_a_worker(shop, clerk):
    def say(*arguments: str) -> str:
        done = celery(shop, "control", *arguments)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    assert "new rate limit set successfully" in say("rate_limit", "shop.tasks.sell", "7/m")
    assert "shop.tasks.sell [rate_limit=7/m]" in ask(clerk, "registered('rate_limit')")
    say("rate_limit", "shop.tasks.sell", "0")
    assert "time limits set successfully" in say("time_limit", "shop.tasks.nap", "1", "2")
    say("time_limit", "shop.tasks.nap", "60", "120")
    assert "pool will grow" in say("pool_grow", "2")
    wait_for(lambda: len(ask(clerk, "stats()")["pool"]["processes"]) == 4, "two more processes", 20)
    assert "pool will shrink" in say("pool_shrink", "2")
    wait_for(lambda: len(ask(clerk, "stats()")["pool"]["processes"]) == 2, "two processes less", 20)
    assert "add consumer datasets" in say("add_consumer", "datasets")
    assert "datasets" in {queue["name"] for queue in ask(clerk, "active_queues()")}
    assert "no longer consuming from datasets" in say("cancel_consumer", "datasets")
    assert "datasets" not in {queue["name"] for queue in ask(clerk, "active_queues()")}
    assert "tasks {'some-id'} flagged as revoked" in say("revoke", "some-id")
    assert "some-id" in ask(clerk, "revoked()")
    assert "terminate: tasks unknown" in say("terminate", "KILL", "other-id")
    assert "customer" in say("revoke_by_stamped_headers", "customer=a=b")
    assert clerk.do("list(Revocation.objects.order_by('pk').values_list('header', 'value'))") == [
        ["", "some-id"],
        ["", "other-id"],
        ["customer", "a=b"],
    ]


def test_the_command_line_shuts_a_worker_down_when_its_task_is_done(own_shop, own_clerk):
    stays, goes = own_shop.start_worker(), own_shop.start_worker()
    names = own_clerk.do("sorted(app.control.inspect().ping())")
    own_clerk.do(f"app.control.cancel_consumer('default', destination=[{names[0]!r}])")
    wait_for(
        lambda: len(ask(own_clerk, "active_queues()", f"destination=[{names[0]!r}]")) == 2,
        "the end of its consumption",
        10,
    )
    own_clerk.do("nap.delay(4)")
    await_begun(own_clerk)
    celery(own_shop, "control", "shutdown", f"--destination={names[1]}")
    assert goes.process.wait(30) == 0
    assert "nap 0 over" in groups(own_clerk)
    assert own_shop.depth() == 0
    assert not stays.ended()
    assert [*own_clerk.do("app.control.inspect().ping()")] == [names[0]]


# From Python ---------------------------------------------------------------------------------------------------------


def test_answers_come_well_within_a_second(shop, clerk):
    def took() -> float:
        began = time.monotonic()
        assert len(clerk.do("app.control.ping(limit=1)")) == 1
        return time.monotonic() - began

    seconds = sorted(took() for _ in range(20))
    print(f"ping: median {statistics.median(seconds):.3f} s, p95 {seconds[18]:.3f} s, longest {seconds[19]:.3f} s")
    assert seconds[18] < 0.7


def test_a_command_can_be_meant_for_some_workers_only(shop, clerk):
    second = shop.start_worker(concurrency=1)
    try:
        first_name, second_name = names = clerk.do("sorted(app.control.inspect().ping())")
        assert [*clerk.do(f"app.control.inspect(destination=[{second_name!r}]).ping()")] == [second_name]
        assert clerk.do(f"len(app.control.ping(destination={names!r}))") == 2
        assert [*clerk.do("app.control.inspect(pattern='w0*', matcher='glob').ping()")] == [first_name]
        assert [*clerk.do("app.control.inspect(pattern='w[1-9]@.*', matcher='pcre').ping()")] == [second_name]
        clerk.do(f"app.control.rate_limit('shop.tasks.nap', '5/m', destination=[{second_name!r}], reply=True)")
        limits = clerk.do("app.control.inspect().registered('rate_limit')")
        assert "shop.tasks.nap [rate_limit=5/m]" in limits[second_name]
        assert "shop.tasks.nap [rate_limit=5/m]" not in limits[first_name]
        with pytest.raises(AssertionError, match="destination must be a list/tuple"):
            clerk.do("app.control.ping(destination='w0@x')")
    finally:
        assert second.stop() == 0


def test_callbacks_are_called_with_each_answer_and_a_limit_ends_the_wait(shop, clerk):
    began = time.monotonic()
    clerk.do("heard = []; app.control.broadcast('ping', reply=True, callback=heard.append, limit=1, timeout=30)")
    assert time.monotonic() - began < 10
    assert clerk.do("list(heard[0].values())") == [{"ok": "pong"}]


def test_a_command_that_nobody_knows_or_that_fails_is_answered_with_its_error(shop, clerk):
    for command, arguments, error in (
        ("dance", {}, "KeyError('dance')"),
        ("pool_grow", {"n": "many"}, "TypeError"),
        ("add_consumer", {"queue": "nowhere"}, "UndeclaredQueueError"),
        ("rate_limit", {"task_name": "nobody", "rate_limit": "1/s"}, "unknown task"),
        ("time_limit", {"task_name": "nobody", "soft": 1}, "unknown task"),
        ("memsample", {}, ""),
    ):
        answers = clerk.do(f"app.control.broadcast({command!r}, {arguments!r}, reply=True, limit=1, timeout=10)")
        assert answers, f"no answer to {command}"
        (said,) = answers[0].values()
        assert error in str(said), said
    assert ask(clerk, "ping()") == {"ok": "pong"}


def test_control_asks_nothing_of_sqs_and_purging_goes_on_as_ever(own_shop, own_clerk):
    own_clerk.do("app.control.ping(timeout=0.1); app.control.rate_limit('shop.tasks.nap', '5/m')")
    assert own_shop.server.counts["requests"] == 0
    own_clerk.do("[sell.delay(number) for number in range(3)]")
    assert own_clerk.do("app.control.purge()") == 3
    assert own_shop.depth() == 0


def test_a_time_limit_that_was_set_ends_the_next_tasks(shop, clerk):
    clerk.do("app.control.time_limit('shop.tasks.nap', soft=1, hard=30, reply=True)")
    try:
        clerk.do("result = nap.delay(20)")
        wait_for(lambda: clerk.do("result.state") == "FAILURE", "the time limit", 20)
        assert "SoftTimeLimitExceeded" in clerk.do("result.traceback")
    finally:
        clerk.do("app.control.time_limit('shop.tasks.nap', reply=True)")
    clerk.do("result = nap.delay(1.5, 2)")
    wait_for(lambda: clerk.do("result.state") == "SUCCESS", "a nap as long as it likes", 20)


def test_what_is_at_work_and_what_waits_is_listed(shop, clerk):
    clerk.do("results = [nap.delay(4, number) for number in range(4)]")
    wait_for(lambda: len(ask(clerk, "active()")) == 2 and len(ask(clerk, "reserved()")) == 2, "two and two", 20)
    ids = {task["id"] for task in [*ask(clerk, "active()"), *ask(clerk, "reserved()")]}
    assert ids == set(clerk.do("[result.id for result in results]"))
    found = ask(clerk, f"query_task({sorted(ids)[0]!r})")
    assert [*found] == [sorted(ids)[0]]
    wait_for(lambda: len([name for name in groups(clerk) if name.endswith("over")]) == 4, "all naps", 30)


# Transactions --------------------------------------------------------------------------------------------------------


def test_a_command_without_an_answer_belongs_to_the_transaction(shop, clerk):
    clerk.do(
        "try:\n"
        "    with transaction.atomic():\n"
        "        app.control.rate_limit('shop.tasks.nap', '3/m')\n"
        "        app.control.revoke('rolled-back')\n"
        "        raise LookupError\n"
        "except LookupError: pass"
    )
    clerk.do("with transaction.atomic(): app.control.revoke('committed')")
    wait_for(lambda: "committed" in ask(clerk, "revoked()"), "the revocation that was committed", 5)
    assert "rolled-back" not in ask(clerk, "revoked()")
    assert not any("3/m" in each for each in ask(clerk, "registered('rate_limit')"))
    assert clerk.do("list(Revocation.objects.values_list('value', flat=True))") == ["committed"]


def test_a_question_within_a_transaction_is_answered_or_refused_at_once(shop, clerk):
    ask_within = "with transaction.atomic():\n    Group.objects.create(name='x')\n    answers = app.control.ping()"
    if is_on_postgres(shop):
        clerk.do(ask_within)
        assert len(clerk.do("answers")) == 1
    else:
        with pytest.raises(AssertionError, match="RemoteControlError.*Ask outside of atomic"):
            clerk.do(ask_within)


def test_a_command_that_is_committed_late_is_obeyed(shop, clerk):
    if not is_on_postgres(shop):
        pytest.skip("SQLite has one writer at a time: nothing is committed out of order")
    with clerk_of(shop) as other:
        other.do("late = transaction.atomic(); late.__enter__(); app.control.rate_limit('shop.tasks.nap', '9/m')")
        assert ask(clerk, "ping()") == {"ok": "pong"}
        other.do("late.__exit__(None, None, None)")
    wait_for(lambda: "shop.tasks.nap [rate_limit=9/m]" in ask(clerk, "registered('rate_limit')"), "the late one", 5)
    clerk.do("app.control.rate_limit('shop.tasks.nap', '0', reply=True)")


# Whoever dies --------------------------------------------------------------------------------------------------------


def test_a_command_that_comes_while_the_steward_is_dead_is_obeyed_once(own_shop, own_clerk):
    worker = own_shop.start_worker()

    def steward() -> psutil.Process | None:
        with contextlib.suppress(psutil.Error):
            return next((each for each in worker.children() if "tasks.runtime.steward" in each.cmdline()), None)
        return None

    assert ask(own_clerk, "ping()") == {"ok": "pong"}
    killed = steward()
    assert killed is not None
    killed.kill()
    own_clerk.do("app.control.rate_limit('shop.tasks.nap', '9/m')")
    wait_for(lambda: "New rate limit" in worker.text(), "the command", 30)
    again = steward()
    assert again is not None
    again.kill()
    wait_for(lambda: own_clerk.do("app.control.ping(limit=1)"), "an answer of the third", 30)
    assert worker.text().count("New rate limit") == 1


def test_a_worker_that_starts_does_not_obey_what_was_said_before(own_shop, own_clerk):
    own_clerk.do("app.control.rate_limit('shop.tasks.nap', '9/m'); app.control.shutdown()")
    worker = own_shop.start_worker()
    assert ask(own_clerk, "ping()") == {"ok": "pong"}
    assert not any("9/m" in each for each in ask(own_clerk, "registered('rate_limit')"))
    assert not worker.ended()


# Revocations ---------------------------------------------------------------------------------------------------------


def test_what_waits_for_its_time_is_revoked_at_once(own_shop, own_clerk):
    own_clerk.do("far = sell.apply_async((1,), countdown=7200)")
    own_clerk.do("far.revoke()")
    assert own_clerk.do("far.state") == "REVOKED"
    assert own_clerk.do("Run.objects.get().state") == "revoked"
    own_shop.keep_house()
    assert own_shop.depth() == 0


def test_what_is_queued_is_revoked_though_no_worker_runs_and_those_that_start_later_do_not_run_it(own_shop, own_clerk):
    own_clerk.do("results = [task.delay(number) for task in (sell, whisper) for number in range(3)]")
    own_clerk.do("group_result = group(sell.s(number) for number in (7, 8)).apply_async()")
    own_clerk.do("[result.revoke() for result in results if result.id != results[0].id and result.id != results[3].id]")
    own_clerk.do("group_result.revoke()")
    worker = own_shop.start_worker()
    own_shop.await_empty(30)
    assert groups(own_clerk) == ["sold 0", "whispered 0"], worker.text()
    assert own_clerk.do("[result.state for result in results[:3]]") == ["SUCCESS", "REVOKED", "REVOKED"]
    assert "Discarding revoked task" in worker.text(), "of those that are not recorded"


def test_what_is_revoked_stays_so_when_the_worker_starts_again(own_shop, own_clerk):
    worker = own_shop.start_worker()
    # Neither is known yet: their messages come later, as from a producer without Django.
    own_clerk.do("app.control.revoke(['later', 'much-later'])")
    wait_for(lambda: set(ask(own_clerk, "revoked()")) >= {"later", "much-later"}, "the worker's list", 10)
    assert worker.stop() == 0
    own_shop.start_worker()
    assert set(ask(own_clerk, "revoked()")) >= {"later", "much-later"}
    own_clerk.do(
        "sell.apply_async((1,), task_id='later'); whisper.apply_async((2,), task_id='much-later'); sell.delay(3)"
    )
    own_shop.await_empty(30)
    assert groups(own_clerk) == ["sold 3"]


def test_what_is_stamped_can_be_revoked_before_and_while_it_runs(own_shop, own_clerk):
    own_clerk.do(
        "from celery.canvas import StampingVisitor\n"
        "class Customer(StampingVisitor):\n"
        "    def __init__(self, name): self.name = name\n"
        "    def on_signature(self, signature, **headers): return {'customer': self.name}\n"
        "def stamped(signature, name):\n"
        "    signature.stamp(Customer(name)); return signature.apply_async()\n"
    )
    own_clerk.do("first, second = stamped(sell.s(1), 'ann'), stamped(sell.s(2), 'bob')")
    own_clerk.do("app.control.revoke_by_stamped_headers({'customer': ['ann', 'joe']})")
    own_shop.start_worker(concurrency=2)
    own_shop.await_empty(30)
    assert groups(own_clerk) == ["sold 2"]
    assert own_clerk.do("[first.state, second.state]") == ["REVOKED", "SUCCESS"]
    own_clerk.do("third = stamped(nap.s(60), 'eve')")
    await_begun(own_clerk)
    own_clerk.do("app.control.revoke_by_stamped_headers({'customer': 'eve'}, terminate=True)")
    wait_for(lambda: own_clerk.do("third.state") == "REVOKED", "the end of the nap", 20)
    own_shop.await_empty(20)


def test_what_runs_is_ended_if_that_is_asked_for_and_goes_on_otherwise(shop, clerk):
    clerk.do("results = [nap.delay(seconds, number) for number, seconds in ((1, 4), (2, 60))]")
    await_begun(clerk, 1)
    await_begun(clerk, 2)
    clerk.do("results[0].revoke(); results[1].revoke(terminate=True, signal='SIGKILL')")
    wait_for(lambda: clerk.do("results[1].state") == "REVOKED", "the end of the second", 20)
    wait_for(lambda: "nap 1 over" in groups(clerk), "the end of the first", 20)
    assert clerk.do("results[0].get(timeout=10)") is None
    shop.await_empty(20)
    assert "nap 2 over" not in groups(clerk)
    assert ask(clerk, "ping()") == {"ok": "pong"}


def test_a_terminated_run_is_revoked_also_by_the_command_line(shop, clerk):
    clerk.do("result = nap.delay(60)")
    await_begun(clerk)
    done = celery(shop, "control", "terminate", "SIGTERM", clerk.do("result.id"))
    assert f"terminate: {clerk.do('result.id')}" in done.stdout, done.stderr
    wait_for(lambda: clerk.do("result.state") == "REVOKED", "the end of the nap", 20)
    shop.await_empty(20)


# Other pools ---------------------------------------------------------------------------------------------------------


def test_threads_answer_while_they_work_and_say_what_they_cannot_do(own_shop, own_clerk):
    own_shop.start_worker("--pool=threads", concurrency=2)
    own_clerk.do("result = nap.delay(5)")
    await_begun(own_clerk)
    assert ask(own_clerk, "ping()") == {"ok": "pong"}
    assert [task["id"] for task in ask(own_clerk, "active()")] == [own_clerk.do("result.id")]
    for command in ("pool_grow", "pool_shrink"):
        ((answer,),) = [each.values() for each in own_clerk.do(f"app.control.{command}(1, reply=True)")]
        assert "the thread pool cannot" in answer["error"]
    ((answer,),) = [each.values() for each in own_clerk.do("app.control.terminate(result.id, reply=True)")]
    assert "the thread pool cannot end a task that runs" in answer["error"]
    wait_for(lambda: own_clerk.do("result.state") == "SUCCESS", "its own end", 20)
    own_clerk.do("app.control.rate_limit('shop.tasks.nap', '9/m', reply=True)")
    assert "shop.tasks.nap [rate_limit=9/m]" in ask(own_clerk, "registered('rate_limit')")
    own_clerk.do("app.control.shutdown()")
    assert own_shop.workers[0].process.wait(30) == 0


def test_solo_answers_when_its_task_is_over(own_shop, own_clerk):
    own_shop.start_worker("--pool=solo")
    assert ask(own_clerk, "ping()") == {"ok": "pong"}
    own_clerk.do("result = nap.delay(4)")
    await_begun(own_clerk)
    assert own_clerk.do("app.control.ping(timeout=0.7)") == []
    own_clerk.do("app.control.rate_limit('shop.tasks.sell', '9/m')")
    wait_for(lambda: own_clerk.do("result.state") == "SUCCESS", "the nap", 20)
    assert ask(own_clerk, "ping()") == {"ok": "pong"}
    assert "shop.tasks.sell [rate_limit=9/m]" in ask(own_clerk, "registered('rate_limit')")
    own_clerk.do("app.control.shutdown()")
    assert own_shop.workers[0].process.wait(30) == 0


def test_a_worker_that_is_told_not_to_listen_lives_and_hears_nothing(own_shop, own_clerk):
    worker = own_shop.start_worker(SHOP_IS_DEAF="yes")
    assert own_clerk.do("app.control.ping()") == []
    seen = own_clerk.do("Worker.objects.get().seen_at")
    wait_for(lambda: own_clerk.do("Worker.objects.get().seen_at") > seen, "the next sign of life", 20)
    assert worker.stop() == 0
    assert own_clerk.do("Worker.objects.get().state") == "stopped"
