"""The ledger with whole workers that die, databases that are away and SQS that does not answer."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime

import pytest

from serverless.fakesqs import Fault
from tests.faults.clerk import Clerk, clerk_of
from tests.faults.flows import (
    HARDENED,
    IMPATIENT,
    MOMENTS,
    RECORDED,
    TASKS,
    Crew,
    all_ended,
    carry_out,
    check_attempts,
    check_flow,
    flow,
    read_books,
    send,
    work_off,
)
from tests.faults.shop import COMMITTED, ENDING, INSIDE, PUBLISHED, Shop, lease_of, open_shop
from tests.waiting import wait_for

pytestmark = pytest.mark.faults

LEASE_SECONDS = 3
SETTINGS = f"{lease_of(LEASE_SECONDS)}{HARDENED}"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, stack_database_url: str) -> Iterator[Shop]:
    with open_shop(tmp_path_factory.mktemp("outages"), stack_database_url, TASKS, SETTINGS) as made:
        yield made


@pytest.fixture(scope="module")
def clerk(shop: Shop) -> Iterator[Clerk]:
    with clerk_of(shop) as made:
        yield made


@pytest.fixture(scope="module")
def crew(shop: Shop) -> Crew:
    return Crew(shop, concurrency=5)


# Workers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", MOMENTS)
def test_workflows_are_done_once_though_their_worker_dies_when_they_are(shop, clerk, crew, moment):
    """A step, the parts of a chord and a callback, all of them at that moment, in one worker that is switched off."""
    flows = [flow(link, f"{link}, {moment}", label=moment) for link in ("middle step", "part", "callback")]
    if moment in (INSIDE, ENDING):
        # Inside of a transaction they could not wait for each other: SQLite has one writer.
        shop.doom(moment, moment, (1, 2, 3), "worker")
    else:
        # Only the last of the parts has something to publish.
        shop.doom(moment, moment, whom="worker", gate=3 if moment in (COMMITTED, PUBLISHED) else 5)
    assert carry_out(crew, clerk, flows, 180)
    books = read_books(shop, clerk)
    assert set(books.deaths.get(moment, ())) == {moment}, "nobody died"
    for each in flows:
        check_flow(books, each)
        doomed = [f"{each.name}/{place}" for place in each.doomed]
        lost = sum(books.lost(name) for name in doomed)
        if moment in RECORDED:
            assert lost == 0
            assert {books.began[name] for name in doomed} == {1}
        elif moment not in (INSIDE, ENDING):
            assert lost == len(each.doomed)


def test_a_run_is_not_done_again_when_its_worker_dies_between_the_outcome_and_the_acknowledgement(shop, clerk, crew):
    crew.keep()
    shop.server.faults = [Fault(f"DeleteMessage{batch}", "black_hole", times=None) for batch in ("", "Batch")]
    clerk.do("step.delay(name='unheard/a')")
    wait_for(
        lambda: clerk.do("Run.objects.filter(arguments__contains='unheard', state='succeeded').exists()"), "its end"
    )
    wait_for(lambda: shop.server.faults[1].hits, "the acknowledgement that nobody hears")
    assert shop.depth() == 1
    crew.dismiss()
    shop.server.faults = []
    assert work_off(crew, clerk, lambda: shop.depth() == 0, 90)
    books = read_books(shop, clerk)
    assert [run["attempts"] for run in books.runs["unheard/a"]] == [1]
    assert (books.effects["unheard/a"], books.began["unheard/a"]) == (1, 1)


@pytest.mark.parametrize("copies", [True, False], ids=["delivered again and again", "delivered once"])
def test_a_run_begins_again_within_a_lease_of_its_workers_death_and_never_before(shop, clerk, crew, copies):
    name = f"held {copies}/a"
    with crew.replaced_by(size=2, concurrency=2) as pair:
        pair.keep()
        clerk.do(f"step.delay(name={name!r}, seconds=6)")
        wait_for(lambda: began(shop, name), "the task", 40)
        [message] = [message for _, message in shop.queue().hidden.values()]
        ends_at = time.monotonic() + 1.5 * LEASE_SECONDS
        while time.monotonic() < ends_at:
            if copies:
                shop.server.sqs.send(shop.queue(), {"MessageBody": message.body}, time.monotonic())
            time.sleep(0.2)
        where, until = clerk.do(
            f"list(Run.objects.filter(arguments__contains={name!r}).values_list('worker', 'lease_until').first())"
        )
        [holder] = [each for each in pair.living() if f"w{shop.workers.index(each)}@" in where]
        assert len(began(shop, name)) == 1
        holder.kill()
        died_at = time.time()
        wait_for(lambda: len(began(shop, name)) == 2, "the second attempt", LEASE_SECONDS * 4)
        # Handed back, a message shows a second after the lease that it waits for; a receive may take another.
        assert datetime.fromisoformat(until).timestamp() <= began(shop, name)[1] <= died_at + LEASE_SECONDS + 4
        assert work_off(pair, clerk, lambda: shop.depth() == 0, 120)
    books = read_books(shop, clerk)
    [run] = books.runs[name]
    assert (run["state"], run["attempts"], books.effects[name], books.began[name]) == ("succeeded", 2, 1, 2)
    check_attempts(books, run)


def began(shop: Shop, name: str) -> list[float]:
    return [trace.at for trace in shop.traces("began") if trace.argument == name]


@pytest.mark.parametrize("seed", range(2))
def test_runs_are_done_once_though_children_die_while_they_are_being_replaced(shop, clerk, crew, seed):
    """Each child is replaced after one task, and more often than that."""
    randomness = random.Random(seed)
    flows = [flow("part", f"recycled {seed} {number}") for number in range(8)]
    shop.server.duplicate_share = 0.1
    killed = 0
    with crew.replaced_by(arguments=("--max-tasks-per-child=1",)) as recycling:

        def kill_and_ask() -> bool:
            nonlocal killed
            shop.server.duplicate_share = 0.1 if killed < 15 else 0
            killed += killed < 15 and recycling.lose_a_child(randomness)
            return all_ended(clerk, runs) and shop.depth() == 0

        recycling.keep()
        runs = send(clerk, flows)
        assert work_off(recycling, clerk, kill_and_ask, 180)
    assert killed
    books = read_books(shop, clerk)
    for each in flows:
        check_flow(books, each)


# Outages -------------------------------------------------------------------------------------------------------------

JUNK = ("hello", "[]", '{"body": 1}', '{"body": "W10=", "headers": {"id": 1}, "properties": {}}')


@pytest.mark.parametrize("seed", range(2))
def test_no_outage_of_database_or_sqs_and_no_message_stops_a_worker_for_longer(shop, clerk, crew, line, seed):
    links = ("middle step", "part", "callback", "retry", "replacement", "failing part")
    flows = [flow(link, f"outage {seed} {number}, {link}") for number in range(3) for link in links]
    with crew.replaced_by(concurrency=4, variables={"DATABASE_URL": line.url, **IMPATIENT}) as cut_off:
        cut_off.keep()
        runs = send(clerk, flows)
        for junk in JUNK:
            shop.server.sqs.send(shop.queue(), {"MessageBody": junk}, time.monotonic())
        before = len(shop.traces("began"))
        enough = before + random.Random(seed).randrange(1, 20)
        wait_for(lambda: len(shop.traces("began")) >= enough, "some work")
        line.cut()
        shop.server.faults = [
            Fault("*", "error", 503, "ServiceUnavailable", times=None, share=0.3),
            Fault("*", "reset", times=None, share=0.3),
        ]
        ends_at = time.monotonic() + 2 * LEASE_SECONDS
        wait_for(lambda: time.monotonic() > ends_at, "two leases")
        assert all(fault.hits for fault in shop.server.faults)
        shop.server.faults = []
        line.mend()
        [worker] = cut_off.living()
        # What found no database goes back for at most 15 seconds, and a lease may have to end.
        assert work_off(cut_off, clerk, lambda: all_ended(clerk, runs) and shop.depth() == 0, 60)
        assert cut_off.living() == [worker]
    books = read_books(shop, clerk)
    for each in flows:
        check_flow(books, each)
    dead = shop.queue("default-dead").ready
    assert Counter(message.body for message in dead) == Counter(JUNK)
    dead.clear()
