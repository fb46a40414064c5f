"""What people see on sockets, and what it costs: one suite over API Gateway's layer, Redis and memory."""

from __future__ import annotations

import pytest
from django.utils import timezone

from django_app.datasets.models import Dataset
from django_app.ledger.models import Feed, Run
from django_app.ledger.states import State
from django_app.realtime import announce
from tests.integration.test_console_access import run
from tests.realtime_sockets import (
    SYNC,
    House,
    awaited,
    dataset,
    db,
    queries,
    signed_in,
)

# Channels closes the connection of a transaction that a test would have begun.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("old_connections_may_be_closed")]

# What is shown --------------------------------------------------------------------------------------------------------


@awaited
async def test_a_run_is_shown_whole_at_sync_and_whenever_it_changes(house: House):
    _, client = await db(signed_in, "nobody", "alice")
    shown = await db(run, requested_by="alice", state=State.RUNNING, progress_done=3, progress_total=10, attempts=1)
    visit = await house.visit(client, f"/ws/runs/{shown.pk}/")
    state = {
        "type": "state",
        "kind": "run",
        "id": shown.pk,
        "seq": 0,
        "is_final": False,
        "state": "running",
        "done": 3,
        "total": 10,
        "note": "",
        "attempts": 1,
        "error": "",
    }
    assert await visit.ask(SYNC) == state
    changes = {"progress_done": 10, "progress_note": "last page", "sequence": 7, "state": State.SUCCEEDED}
    await db(Run.objects.filter(pk=shown.pk).update, **changes)
    await db(announce.run_changed, shown.pk)
    changed = {"done": 10, "note": "last page", "seq": 7, "state": "succeeded", "is_final": True}
    assert await visit.hear() == {**state, **changed}
    await visit.hears_nothing()
    await visit.leave()


@awaited
async def test_a_run_that_is_watched_is_marked_before_its_state_is_asked_for(house: House):
    _, client = await db(signed_in, "nobody", "alice")
    shown = await db(run, requested_by="alice", state=State.RUNNING)
    visit = await house.visit(client, f"/ws/runs/{shown.pk}/")
    await db(shown.refresh_from_db)
    assert shown.watched_until is not None
    await db(Run.objects.filter(pk=shown.pk).update, watched_until=None)
    await visit.ask(SYNC)
    await db(shown.refresh_from_db)
    assert shown.watched_until is not None
    await visit.leave()


@pytest.mark.parametrize(
    "pk",
    ["a/b", "/", "a//", "50%", "%2F", "daily@2026-01-01T08:00:00+00:00", "ä ö\n?&#=+", "🚲", "../runs/x", "x" * 255],
)
@awaited
async def test_an_id_may_be_anything(house: House, pk: str):
    _, client = await db(signed_in, "nobody", "alice")
    await db(run, id=pk, requested_by="alice")
    visit = await house.visit(client, f"/ws/runs/{pk}/")
    assert (await visit.ask(SYNC))["id"] == pk
    await db(announce.run_changed, pk)
    assert (await visit.hear())["id"] == pk
    await visit.leave()


@awaited
async def test_whoever_watches_one_run_hears_of_no_other(house: House):
    _, client = await db(signed_in, "nobody", "alice")
    watched, other = await db(run, requested_by="alice"), await db(run, requested_by="alice")
    visit = await house.visit(client, f"/ws/runs/{watched.pk}/")
    await db(announce.run_changed, other.pk)
    await visit.hears_nothing()
    await db(announce.run_changed, watched.pk)
    assert (await visit.hear())["id"] == watched.pk
    await visit.leave()


@awaited
async def test_what_a_task_says_of_itself_is_shown_as_text_and_cut(house: House):
    _, client = await db(signed_in, "nobody", "alice")
    note = "</script>\u202egnp.exe\x00\n"
    shown = await db(run, requested_by="alice", progress_note=note.replace("\x00", ""), error="e" * 500)
    visit = await house.visit(client, f"/ws/runs/{shown.pk}/")
    told = await visit.ask(SYNC)
    assert told["note"] == "</script>\\u202egnp.exe\\u000a"
    assert told["error"] == "e" * 500
    await visit.leave()


@awaited
async def test_a_dataset_is_shown_with_its_parts(house: House):
    user, client = await db(signed_in, "nobody", "alice")
    shown = await db(dataset, user, "ddrwww", state=Dataset.State.PROFILING, sequence=5)
    visit = await house.visit(client, f"/ws/datasets/{shown.pk}/")
    state = {
        "type": "state",
        "kind": "dataset",
        "id": str(shown.pk),
        "seq": 5,
        "is_final": False,
        "state": "profiling",
        "label": "Computing statistics",
        "done": 2,
        "total": 6,
        "chunks": "ddrwww",
        "problem": "",
    }
    assert await visit.ask(SYNC) == state
    changes = {"state": Dataset.State.FAILED, "problem": "It is no CSV.\n<b>", "sequence": 6}
    await db(Dataset.objects.filter(pk=shown.pk).update, **changes)
    await db(announce.dataset_changed, shown.pk)
    changed = {"state": "failed", "label": "Failed", "is_final": True, "seq": 6, "problem": "It is no CSV.\n<b>"}
    assert await visit.hear() == {**state, **changed}
    await visit.leave()


@awaited
async def test_of_many_parts_the_first_are_shown_and_all_are_counted(house: House):
    user, client = await db(signed_in, "nobody", "alice")
    shown = await db(dataset, user, "d" * 390 + "w" * 20 + "d" * 5, state=Dataset.State.PROFILING)
    visit = await house.visit(client, f"/ws/datasets/{shown.pk}/")
    told = await visit.ask(SYNC)
    assert (told["done"], told["total"], told["chunks"]) == (395, 415, "d" * 390 + "w" * 10)
    await visit.leave()


@awaited
async def test_the_console_is_told_that_something_has_changed_and_nothing_of_what(house: House):
    _, client = await db(signed_in, "viewer")
    visit = await house.visit(client, "/ws/console/")
    feed = await db(Feed.objects.get, name="console")
    assert feed.watched_until > timezone.now()
    hint = {"type": "changed", "kind": "console", "topics": ["runs"]}
    assert await visit.ask(SYNC) == {**hint, "seq": 0}
    await db(announce.console_changed, ("runs",), 8)
    assert await visit.hear() == {**hint, "seq": 8}
    # Whoever comes back learns whether they have missed something.
    await db(Feed.objects.filter(name="console").update, sequence=9)
    assert await visit.ask(SYNC) == {**hint, "seq": 9}
    await visit.leave()


@awaited
async def test_several_sockets_of_one_run_are_all_told(house: House):
    clients = [(await db(signed_in, "viewer", f"viewer-{number}"))[1] for number in range(4)]
    shown = await db(run)
    visits = [await house.visit(client, f"/ws/runs/{shown.pk}/") for client in clients]
    await visits.pop().leave()
    await db(announce.run_changed, shown.pk)
    for visit in visits:
        assert (await visit.hear())["id"] == shown.pk
        await visit.hears_nothing()
        await visit.leave()


# What it costs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "count"), [("superuser", 2), ("nobody", 4), ("viewer", 5), ("tenant viewer", 5)])
@awaited
async def test_a_push_asks_the_database_as_few_questions_as_rights_take(house: House, kind: str, count: int):
    user, client = await db(signed_in, kind)
    shown = await db(run, tenant="acme", requested_by=user.get_username())
    visit = await house.visit(client, f"/ws/runs/{shown.pk}/")
    async with queries() as made:
        await db(announce.run_changed, shown.pk)
        assert (await visit.hear())["id"] == shown.pk
    assert len(made) == count, made
    await visit.leave()


@awaited
async def test_a_datasets_push_asks_three_questions(house: House):
    user, client = await db(signed_in, "nobody", "alice")
    shown = await db(dataset, user, "dw")
    visit = await house.visit(client, f"/ws/datasets/{shown.pk}/")
    async with queries() as made:
        await db(announce.dataset_changed, shown.pk)
        await visit.hear()
    assert len(made) == 3, made
    await visit.leave()
