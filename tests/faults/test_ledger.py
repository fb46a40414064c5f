"""The ledger with real processes that are killed: at each moment of a run's life, in each place of a workflow."""

from __future__ import annotations

import itertools
import json
import logging
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from tests.faults.clerk import Clerk, clerk_of
from tests.faults.flows import (
    MOMENTS,
    RECORDED,
    TASKS,
    Books,
    Crew,
    all_ended,
    carry_out,
    check_flow,
    flow,
    read_books,
    work_off,
)
from tests.faults.shop import COMMITTED, ENDED, ENDING, INSIDE, PUBLISHED, RAN, WORKING, Shop, lease_of, open_shop

pytestmark = pytest.mark.faults

#: What a child leaves behind when it dies is told at once, so only a slow machine sees the end of a lease.
LEASE_SECONDS = 6
SETTINGS = f"""{lease_of(LEASE_SECONDS)}
from pathlib import Path
OTHER = {{"ENGINE": "django.db.backends.sqlite3", "NAME": Path(__file__).with_name("other.sqlite3")}}
DATABASES = {{**DATABASES, "other": OTHER}}
"""

LINKS = ("single", "first step", "middle step", "part", "callback", "retry", "replacement")
#: A replacement is sent by a task that has no effect of its own; nothing is published when a single run ends, which on
#: Postgres is one statement.
NEVER_REACHED = {("replacement", INSIDE), *(("single", moment) for moment in (ENDING, COMMITTED, PUBLISHED))}
DEATHS = [(link, moment) for link in LINKS for moment in MOMENTS if (link, moment) not in NEVER_REACHED]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, stack_database_url: str) -> Iterator[Shop]:
    with open_shop(tmp_path_factory.mktemp("ledger"), stack_database_url, TASKS, SETTINGS) as made:
        yield made


@pytest.fixture(scope="module")
def clerk(shop: Shop) -> Iterator[Clerk]:
    with clerk_of(shop) as made:
        yield made


@pytest.fixture(scope="module")
def crew(shop: Shop) -> Crew:
    return Crew(shop)


@pytest.fixture(scope="module")
def books(shop: Shop, clerk: Clerk, crew: Crew) -> Books:
    """Of a worker whose children die at each moment of each link, while SQS delivers messages twice."""
    flows = [flow(link, f"{link}, {moment}") for link, moment in DEATHS]
    for each, (link, moment) in zip(flows, DEATHS, strict=True):
        # Of three parts the first dies, and whichever comes third.
        shop.doom(each.name, moment, (1, 3) if link == "part" and moment not in (COMMITTED, PUBLISHED) else (1,))
    shop.server.duplicate_share = 0.1
    carry_out(crew, clerk, flows, 240)
    shop.server.duplicate_share = 0
    return read_books(shop, clerk)


@pytest.mark.parametrize(("link", "moment"), DEATHS)
def test_a_workflow_is_done_once_though_a_child_dies_at(books, link, moment):
    made = flow(link, f"{link}, {moment}")
    assert books.deaths.get(made.name), "nobody died"
    check_flow(books, made)
    lost = sum(books.lost(name) for name in made.names)
    assert lost == (0 if moment in RECORDED else len(books.deaths[made.name]))
    for place, name in zip(made.places, made.names, strict=True):
        tries = 2 if link == "retry" and place == "a" else 1
        if moment in RECORDED or place not in made.doomed:
            assert books.began[name] == tries


# Guarantees ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [COMMITTED, PUBLISHED])
def test_what_is_committed_is_published_at_least_once_and_what_is_rolled_back_never(shop, clerk, crew, moment):
    """The producer dies between its commit and SQS, or between SQS and the mark that SQS has it."""
    crew.dismiss()
    names = [f"producer {moment}/{number}" for number in range(12)]
    shop.doom(f"producer {moment}", moment)
    sent = shop.server.counts["messages_sent"]
    done = shop.run(
        "from tests.faults.shop import acting_for\n"
        f"acting_for('producer {moment}')\n"
        "try:\n"
        "    with transaction.atomic():\n"
        "        step.delay(name='producer/never')\n"
        "        raise LookupError\n"
        "except LookupError:\n"
        "    with transaction.atomic():\n"
        f"        for name in {names}: step.delay(name=name)",
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert shop.server.counts["messages_sent"] - sent == (12 if moment == PUBLISHED else 0)
    assert set(
        clerk.do("list(Run.objects.filter(arguments__contains='producer').values_list('state', flat=True))")
    ) >= {"pending"}
    assert work_off(crew, clerk, lambda: all_ended(clerk, 0) and shop.depth() == 0, 120)
    books = read_books(shop, clerk)
    assert {name: books.effects[name] for name in names} == dict.fromkeys(names, 1)
    assert {name: len(books.runs[name]) for name in names} == dict.fromkeys(names, 1)
    assert "producer/never" not in {*books.runs, *books.began}


ENDS = {
    "step": "succeeded",
    "fails": "failed",
    "gives up": "failed",
    "oversleeps": "failed",
    "returns no JSON": "failed",
    "rejects": "dead",
    "exits": "dead",
    "expires": "expired",
    "is revoked": "revoked",
}


def test_every_message_reaches_an_outcome_and_none_vanishes(shop, clerk, crew):
    crew.dismiss()
    clerk.do(
        "from tasks.runtime import reports\n"
        "step.delay(name='step'); fail.delay(name='fails')\n"
        "for how in ('gives up', 'returns no JSON', 'rejects', 'exits'): misbehave.delay(how, name=how)\n"
        "misbehave.apply_async(('oversleeps',), {'name': 'oversleeps'}, time_limit=2, soft_time_limit=1)\n"
        "step.apply_async(kwargs={'name': 'expires'}, expires=0.01)\n"
        "reports.revoke_runs([step.delay(name='is revoked').id])"
    )
    shop.server.sqs.send(shop.queue(), {"MessageBody": "hello"}, time.monotonic())
    shop.server.duplicate_share = 0.2
    assert work_off(crew, clerk, lambda: all_ended(clerk, 0), 180)
    shop.server.duplicate_share = 0
    assert work_off(crew, clerk, lambda: shop.depth() == 0, 120)
    books = read_books(shop, clerk)
    assert {name: [run["state"] for run in books.runs[name]] for name in ENDS} == {
        name: [end] for name, end in ENDS.items()
    }
    dead = {run["id"] for name, end in ENDS.items() for run in books.runs[name] if end == "dead"}
    letters = [message.body for message in shop.queue("default-dead").ready]
    assert {json.loads(body)["headers"]["id"] for body in letters if body != "hello"} == dead
    assert "hello" in letters
    shop.queue("default-dead").ready.clear()
    assert shop.left() == {}


def test_effects_under_once_happen_once_however_often_the_message_is_delivered(shop, clerk, crew):
    crew.keep()
    names = [f"once/{number}" for number in range(12)]
    for moment, deaths in ((INSIDE, (1, 4, 5)), (WORKING, (1, 3)), (RAN, (1, 2, 3, 4))):
        shop.doom("once", moment, deaths)
    clerk.do(
        f"for name in {names}: step.delay(name=name, label='once')\n"
        "for number in range(6): step.delay(name=f'keyed/{number}', key='order 7')"
    )
    copies = [message.body for message in list(shop.queue().ready)] + [
        message.body for _, message in list(shop.queue().hidden.values())
    ]
    for body in copies * 3:
        shop.server.sqs.send(shop.queue(), {"MessageBody": body}, time.monotonic())
    assert work_off(crew, clerk, lambda: all_ended(clerk, 0) and shop.depth() == 0, 180)
    books = read_books(shop, clerk)
    assert len(copies) > 6
    assert len(books.deaths["once"]) == 9
    assert {name: books.effects[name] for name in names} == dict.fromkeys(names, 1)
    assert sum(books.began[name] for name in names) > len(names)
    assert books.effects["order 7"] == 1
    assert sum(books.began[f"keyed/{number}"] for number in range(6)) >= 6


def test_a_callback_and_a_next_step_are_enqueued_once_under_one_id(shop, clerk, crew, monkeypatch):
    crew.keep()
    flows = [
        flow(link, f"{link} {number}, one id") for link in ("part", "callback", "first step") for number in range(3)
    ]
    plans = itertools.cycle([(ENDING, COMMITTED), (ENDING, PUBLISHED), (RAN, ENDED)])
    planned = {each.name: next(plans) for each in flows}
    for name, moments in planned.items():
        for moment in moments:
            shop.doom(name, moment)
    sent: list[tuple[str, str]] = []
    send = shop.server.sqs.send

    def remember(queue: Any, entry: dict[str, Any], now: float) -> Any:
        message = json.loads(entry["MessageBody"])
        sent.append((json.loads(message["body"])[1]["name"], message["headers"]["id"]))
        return send(queue, entry, now)

    monkeypatch.setattr(shop.server.sqs, "send", remember)
    shop.server.duplicate_share = 0.3
    received = shop.server.counts["messages_received"]
    assert carry_out(crew, clerk, flows, 240)
    shop.server.duplicate_share = 0
    books = read_books(shop, clerk)
    for each in flows:
        check_flow(books, each)
        assert sorted(books.deaths[each.name]) == sorted(planned[each.name])
        assert {name: {run["id"] for run in books.runs[name]} for name in each.names} == {
            name: {task_id for named, task_id in sent if named == name} for name in each.names
        }
    assert shop.server.counts["messages_received"] - received > len(sent), "no message came twice: a blind test"


# What else a task may do ---------------------------------------------------------------------------------------------


def test_an_error_of_a_million_characters_is_recorded_and_logged_in_brief_with_its_place(shop, clerk, crew):
    crew.keep()
    [worker] = crew.living()
    before = len(worker.text())
    clerk.do("misbehave.delay('says much', name='says much')")
    assert work_off(crew, clerk, lambda: all_ended(clerk, 0) and shop.depth() == 0, 90)
    error, traceback = clerk.do(
        "list(Attempt.objects.filter(run__arguments__contains='says much').values_list('error', 'traceback').get())"
    )
    assert error.startswith("LookupError: much much")
    assert len(error) == 500
    assert "in misbehave" in traceback
    assert 10_000 < len(traceback) <= 20_000
    told = worker.text()[before:]
    assert "task_failed" in told
    assert "in misbehave" in told
    assert len(told) < 100_000


def test_tracebacks_are_logged_plainly():
    """Framed by rich, one with a message of a million characters takes minutes, and shows what variables hold."""
    [formatter] = [
        handler.formatter
        for handler in logging.getLogger().handlers
        if isinstance(handler.formatter, structlog.stdlib.ProcessorFormatter)
    ]
    try:
        secret = "hunter2"
        raise LookupError("much " * 1000)
    except LookupError:
        record = logging.LogRecord("shop", logging.ERROR, __file__, 1, "as asked", (), sys.exc_info())
    told = formatter.format(record)
    assert "much much" in told
    assert secret not in told


OTHERS = "with transaction.atomic(using='other'):\n    "


@pytest.mark.parametrize("call", ["step.delay(name='two/x')", "group(step.s(name='two/x'), step.s(name='two/x'))()"])
def test_a_task_in_the_transaction_of_another_database_alone_is_refused(clerk, call):
    expected = (
        'OtherTransactionError: task shop.tasks.step is enqueued in a transaction of the database "other", and runs '
        'are recorded in "default"'
    )
    with pytest.raises(AssertionError, match=expected):
        clerk.do(OTHERS + call)
    assert not clerk.do("Run.objects.filter(arguments__contains='two/x').exists()")


def test_with_two_databases_a_task_leaves_with_the_transaction_of_its_own(shop, clerk, crew):
    clerk.do(
        "try:\n"
        "    with transaction.atomic(), transaction.atomic(using='other'):\n"
        "        step.delay(name='two/never')\n"
        "        raise LookupError\n"
        "except LookupError: pass\n"
        "with transaction.atomic(), transaction.atomic(using='other'): step.delay(name='two/both')"
    )
    clerk.do(OTHERS + "transaction.on_commit(lambda: step.delay(name='two/hooked'), using='other')")
    clerk.do(OTHERS + "step.apply_async(kwargs={'name': 'two/unrecorded'}, recorded=False)")
    assert work_off(crew, clerk, lambda: all_ended(clerk, 0) and shop.depth() == 0, 90)
    books = read_books(shop, clerk)
    assert {name for name in books.runs if name.startswith("two/")} == {"two/both", "two/hooked"}
    assert {name for name in books.began if name.startswith("two/")} == {"two/both", "two/hooked", "two/unrecorded"}
