"""A soak of the ledger: workflows of all kinds while everything dies, comes twice and is away; then the balance."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.clerk import Clerk, Line, clerk_of
from tests.faults.flows import (
    HARDENED,
    IMPATIENT,
    KEEP_HOUSE,
    TASKS,
    Crew,
    Flow,
    all_ended,
    check_flow,
    flow,
    read_books,
    send,
    work_off,
)
from tests.faults.shop import Shop, lease_of, open_shop
from tests.waiting import wait_for

LEASE_SECONDS = 3


@pytest.fixture
def shop(tmp_path: Path, stack_database_url: str) -> Iterator[Shop]:
    with open_shop(tmp_path, stack_database_url, TASKS, f"{lease_of(LEASE_SECONDS)}{HARDENED}") as made:
        yield made


@pytest.fixture
def clerk(shop: Shop) -> Iterator[Clerk]:
    with clerk_of(shop) as made:
        yield made


ANY_LINK = (
    *("first step", "middle step", "part", "callback", "retry", "replacement"),
    *("group", "failing step", "failing part"),
)


def soak(shop: Shop, clerk: Clerk, line: Line, seed: int, rounds: int) -> None:
    """So many times, workflows of all kinds; then a child dies, or a worker, or the database is away for a while, and
    messages are delivered twice and in any order. Then the books are balanced.
    """
    randomness = random.Random(seed)
    crew = Crew(shop, size=2, concurrency=2, variables={"DATABASE_URL": line.url, **IMPATIENT})
    flows: list[Flow] = []
    died: Counter[str] = Counter()
    blows = ["child"] * (rounds - 2 * (rounds // 5)) + ["worker"] * (rounds // 5) + ["database"] * (rounds // 5)
    randomness.shuffle(blows)
    shop.server.duplicate_share, shop.server.reorder = 0.1, True
    for blow in blows:
        crew.keep()
        some = [
            flow(link, f"soak {seed} {len(flows) + at}") for at, link in enumerate(randomness.choices(ANY_LINK, k=4))
        ]
        flows += some
        send(clerk, some)
        clerk.do(KEEP_HOUSE)
        pause = time.monotonic() + randomness.uniform(0, 0.6)
        wait_for(lambda until=pause: time.monotonic() > until, "a moment")
        if blow == "worker":
            died[blow] += 1
            randomness.choice(crew.living()).kill()
        elif blow == "child":
            died[blow] += crew.lose_a_child(randomness)
        else:
            died[blow] += 1
            line.cut()
            back_at = time.monotonic() + randomness.uniform(1, 1.5 * LEASE_SECONDS)
            while time.monotonic() < back_at:
                died["child"] += crew.lose_a_child(randomness)
                time.sleep(0.5)
            line.mend()
    shop.server.duplicate_share, shop.server.reorder = 0, False
    runs = sum(len(each.places) for each in flows)
    in_time = work_off(crew, clerk, lambda: all_ended(clerk, runs) and shop.depth() == 0, 180)
    books = read_books(shop, clerk)
    print(f"seed {seed}: {len(flows)} workflows, {runs} runs; {dict(died)}")
    for each in flows:
        check_flow(books, each)
    assert in_time
    assert all(died[blow] for blow in blows)
    assert clerk.do("Run.objects.count()") == runs
    assert shop.left() == {}


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(3))
def test_the_books_balance_after_a_bad_while(shop, clerk, line, seed):
    soak(shop, clerk, line, seed, 15)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(100, 120))
def test_the_books_balance_after_bad_minutes(shop, clerk, line, seed):
    soak(shop, clerk, line, seed, 150)
