"""Celery's canvas as Celery defines it, on our stack: real workers, a fake SQS, results where they are kept.

Each test is run twice in a process of its own that stays: enqueueing outside and inside a transaction. What is expected
is what stock Celery does with its Redis backend. CANVAS_RESULT_BACKEND names another result backend than ours.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from celery import chord, group
from celery.exceptions import ChordError, TaskRevokedError, TimeoutError
from celery.result import AsyncResult, GroupResult
from celery.utils.serialization import UnpickleableExceptionWrapper
from kombu.exceptions import EncodeError

from tests.contract.canvas_shop import (
    ERRORS,
    PATIENCE_SECONDS,
    Desk,
    OutOfStockError,
    Shop,
    Stamps,
    add,
    describe,
    extend_chord,
    fail,
    give,
    give_unwritable,
    insist,
    note,
    note_quietly,
    note_stamps,
    open_canvas_shop,
    replace,
    replace_in_a_transaction,
    replace_in_turn,
    report_error,
    report_id,
    start_chord,
    start_tree,
    total,
    wait_for_leave,
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, stack_database_url: str) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("canvas")
    # A file of its own where it can be: the processes of a stack that is still up see to all that is in theirs.
    is_file = stack_database_url.startswith("sqlite")
    with open_canvas_shop(folder, f"sqlite:///{folder / 'db.sqlite3'}" if is_file else stack_database_url) as made:
        yield made


def in_the_shop(body: Callable[[Desk], None]) -> Callable[[Shop, bool], None]:
    """Run a test's body where tasks are enqueued, outside a transaction and inside one."""

    @pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
    def run(shop: Shop, inside: bool) -> None:
        shop.perform(body.__name__, inside)

    run.__name__ = body.__name__
    run.body = body
    return run


def beyond_stock(test: Callable[[Shop, bool], None]) -> Callable[[Shop, bool], None]:
    """Of what stock Celery leaves pending for ever."""
    return pytest.mark.skipif("CANVAS_RESULT_BACKEND" in os.environ, reason="stock Celery waits for ever")(test)


# Chains and groups -------------------------------------------------------------------------------------------------


@in_the_shop
def test_a_chain_hands_each_result_to_the_next_task(desk):
    last = desk.start(add.s(1, 2) | add.s(3) | add.s(4))
    assert desk.get(last) == 10
    assert [desk.get(each) for each in (last.parent, last.parent.parent)] == [6, 3]
    assert last.parent.parent.parent is None
    assert last.parent.children == [last]
    assert last.children == []


@in_the_shop
def test_an_immutable_signature_takes_no_result(desk):
    assert desk.get(give.s(1) | give.si(2) | chord([add.si(3, 4), add.s(5)], give.s())) == [7, 7]


@in_the_shop
def test_a_group_gives_results_in_its_order(desk):
    result = desk.start(group(add.s(number, number) for number in range(5)))
    assert desk.get(result) == [0, 2, 4, 6, 8]
    assert desk.get(group()) == []
    assert result.completed_count() == 5
    assert (result.ready(), result.successful(), result.failed()) == (True, True, False)


@in_the_shop
def test_a_group_in_the_middle_of_a_chain_becomes_a_chord(desk):
    assert desk.get(give.s(1) | group(add.s(1), add.s(2)) | total.s() | add.s(10)) == 15
    assert desk.get(group([give.s(3)]) | give.s()) == [3]


@in_the_shop
def test_a_group_after_a_group_takes_all_results_of_the_first(desk):
    assert desk.get(group(give.s(1), give.s(2)) | group(total.s(), give.s())) == [3, [1, 2]]


@in_the_shop
def test_a_group_in_a_group_is_flattened(desk):
    assert desk.get(group(give.s(1), group(give.s(2), group(give.s(3), give.s(4))))) == [1, 2, 3, 4]


@in_the_shop
def test_a_group_at_the_end_of_a_chain_in_a_group_keeps_its_place(desk):
    assert desk.get(group(give.s(1), give.s(2) | group(add.s(1), add.s(2)), give.s(5))) == [1, [3, 4], 5]


@in_the_shop
def test_chunks_map_and_starmap_call_a_task_for_each_item(desk):
    pairs = [(number, number) for number in range(5)]
    assert desk.get(add.chunks(pairs, 2)) == [[0, 2], [4, 6], [8]]
    assert desk.get(total.map([[1, 2], [3]])) == [3, 3]
    assert desk.get(add.starmap(pairs)) == [0, 2, 4, 6, 8]


# Chords ------------------------------------------------------------------------------------------------------------


@in_the_shop
def test_a_chord_hands_all_results_to_its_body_once(desk):
    result = desk.start(chord([note.s(number, desk.key) for number in range(3)], note.s(desk.key, "body")))
    assert desk.get(result) == [0, 1, 2]
    assert desk.get(result.parent) == [0, 1, 2]
    assert sorted(desk.done()) == [0, 1, 2]
    assert desk.done(what="body") == [[0, 1, 2]]


@in_the_shop
def test_the_parts_of_a_large_chord_are_handed_over_in_order(desk):
    assert desk.get(chord((give.s(number) for number in range(200)), note.s(desk.key))) == list(range(200))
    assert len(desk.done()) == 1


@in_the_shop
def test_a_chord_without_parts_runs_its_body_with_nothing(desk):
    assert desk.get(chord([], note.s(desk.key))) == []
    assert desk.done() == [[]]
    assert desk.get(chord([], total.s() | add.s(1))) == 1


@in_the_shop
def test_a_chain_in_a_header_counts_as_one_part(desk):
    assert desk.get(chord([give.s(1) | add.s(1) | add.s(1), give.s(2)], give.s())) == [3, 2]


@in_the_shop
def test_a_group_in_a_header_is_flattened_and_one_at_the_end_of_a_chain_is_kept(desk):
    assert desk.get(chord([give.s(1), group(give.s(2), give.s(3))], total.s())) == 6
    assert desk.get(chord([give.s(1), give.s(2) | group(add.s(1), add.s(2)), give.s(5)], give.s())) == [1, [3, 4], 5]


@in_the_shop
def test_chords_in_a_header_and_their_bodies_are_parts(desk):
    inner = [chord([give.s(number), give.s(1)], total.s()) for number in range(3)]
    assert desk.get(chord([*inner, give.s(9)], give.s())) == [1, 2, 3, 9]
    assert desk.get(group(inner)) == [1, 2, 3]
    with_groups = chord([give.s(1), give.s(2)], group(total.s(), give.s()))
    assert desk.get(chord([with_groups, give.s(7)], give.s())) == [[3, [1, 2]], 7]
    outer = chord([chord(inner, total.s()), give.s(1)], note.s(desk.key))
    assert desk.get(outer) == [6, 1]
    assert desk.done() == [[6, 1]]


@in_the_shop
def test_a_body_may_be_a_group(desk):
    result = desk.start(chord([give.s(1), give.s(2)], group(total.s(), note.s(desk.key))))
    assert desk.get(result) == [3, [1, 2]]
    assert desk.done() == [[1, 2]]


@in_the_shop
def test_a_body_may_be_a_chain_or_a_chord(desk):
    assert desk.get(chord([give.s(1), give.s(2)], total.s() | add.s(1) | add.s(2))) == 6
    assert desk.get(chord([give.s(1), give.s(2)], chord([total.s(), give.s()], give.s()))) == [3, [1, 2]]


@in_the_shop
def test_a_chain_goes_on_after_chords_in_its_middle(desk):
    first, second = (group(add.s(1), add.s(2)) for _ in range(2))
    assert desk.get(give.s(1) | first | total.s() | second | total.s() | add.s(100)) == 113


@in_the_shop
def test_a_part_adds_parts_to_its_chord(desk):
    assert sorted(desk.get(chord([extend_chord.s(1), extend_chord.s(2), give.s(3)], give.s()))) == [1, 2, 3, 10, 20]


@in_the_shop
def test_a_chord_may_be_started_by_a_task_in_a_transaction_or_not(desk):
    for in_transaction in (False, True):
        result = desk.start(start_chord.s([1, 2, 3], in_transaction))
        body_id, header_id = desk.get(result)
        assert desk.get(AsyncResult(body_id)) == 6
        assert result.children == [header_id]


# Failures ----------------------------------------------------------------------------------------------------------


@in_the_shop
def test_an_exception_comes_back_as_its_class_with_its_arguments(desk):
    for name in ("own", "nested", "builtin"):
        result = desk.start(fail.s(error=name))
        error = desk.error(result)
        assert (type(error), error.args) == (type(ERRORS[name]), ERRORS[name].args)
        assert result.state == "FAILURE"
        assert "raise ERRORS[error]" in result.traceback
        with pytest.raises(type(ERRORS[name])):
            desk.get(result)


@in_the_shop
def test_an_exception_that_cannot_be_made_anew_is_told_in_words(desk):
    error = desk.error(fail.s(error="picky"))
    assert (type(error), str(error)) == (UnpickleableExceptionWrapper, "PickyError('no way')")
    error = desk.error(fail.s(error="unwritable"))
    assert (type(error), error.args) == (OutOfStockError, ("<unwritable>",))


@in_the_shop
def test_a_result_that_is_no_json_is_a_recorded_failure(desk):
    for canvas in (give_unwritable.s(), give_unwritable.s() | note.s(desk.key)):
        assert isinstance(desk.error(canvas), EncodeError)
    assert "EncodeError" in str(desk.error(chord([give_unwritable.s(), give.s(1)], note.s(desk.key))))
    assert desk.done() == []


@in_the_shop
def test_a_failed_step_fails_the_later_ones_and_calls_the_errback_once(desk):
    canvas = fail.s() | note.s(desk.key) | note.s(desk.key)
    last = desk.start(canvas.on_error(report_error.s(desk.key)))
    first = last.parent.parent
    assert [type(desk.error(each)) for each in (last, last.parent, first)] == [OutOfStockError] * 3
    assert [each.state for each in (last, last.parent, first)] == ["FAILURE"] * 3
    assert desk.done(what="new errback") == [[first.id, repr(ERRORS["own"])]]
    assert desk.done() == []


@in_the_shop
def test_a_failed_step_fails_the_chord_that_follows(desk):
    canvas = fail.s() | group(note.s(desk.key), note.s(desk.key)) | total.s() | add.s(1)
    last = desk.start(canvas.on_error(report_error.s(desk.key)))
    assert isinstance(desk.error(last), OutOfStockError)
    assert len(desk.done(what="new errback")) == 1
    assert desk.done() == []


@in_the_shop
def test_a_failed_part_fails_the_body_and_calls_its_errback_once(desk):
    canvas = chord([give.s(1), fail.s(), give.s(2)], note.s(desk.key).on_error(report_error.s(desk.key)))
    result = desk.start(canvas)
    error = desk.error(result)
    failed = result.parent[1]
    assert (type(error), str(error)) == (ChordError, f"Dependency {failed.id} raised {ERRORS['own']!r}")
    assert (result.state, failed.state) == ("FAILURE", "FAILURE")
    assert desk.done(what="new errback") == [[result.id, repr(error)]]
    assert desk.done() == []


@in_the_shop
def test_many_failed_parts_fail_the_body_once(desk):
    canvas = chord([fail.s(), fail.s(), fail.s()], note.s(desk.key))
    assert isinstance(desk.error(canvas.on_error(report_error.s(desk.key))), ChordError)
    assert len(desk.done(what="new errback")) == 1


@in_the_shop
def test_a_failed_step_of_a_chain_in_a_header_fails_the_body(desk):
    result = desk.start(chord([fail.s() | add.s(1) | add.s(2), give.s(1)], note.s(desk.key)))
    assert isinstance(desk.error(result), ChordError)
    assert desk.done() == []


@in_the_shop
def test_a_failed_part_fails_the_steps_after_the_body(desk):
    canvas = give.s(1) | group(fail.s(), add.s(1)) | note.s(desk.key) | note.s(desk.key) | give.s()
    last = desk.start(canvas.on_error(report_error.s(desk.key)))
    steps = [last, last.parent, last.parent.parent]
    assert [type(desk.error(step)) for step in steps] == [ChordError] * 3
    assert desk.done(what="new errback") == [[steps[2].id, repr(steps[2].result)]]
    assert desk.done() == []


@in_the_shop
def test_a_failed_part_of_an_inner_chord_fails_its_body_and_calls_the_errback(desk):
    inner = chord([fail.s(), give.s(1)], note.s(desk.key))
    result = desk.start(chord([inner, give.s(2)], note.s(desk.key)).on_error(report_error.s(desk.key)))
    error = desk.error(result.parent[0])
    assert isinstance(error, ChordError)
    assert desk.done(what="new errback").count([result.parent[0].id, repr(error)]) == 1
    assert desk.done() == []


@in_the_shop
def test_a_failed_part_fails_each_task_of_a_group_that_is_the_body(desk):
    result = desk.start(chord([fail.s(), give.s(1)], group(note.s(desk.key), note.s(desk.key))))
    assert [type(desk.error(each)) for each in result] == [OutOfStockError] * 2
    assert desk.done() == []


@in_the_shop
def test_a_failed_body_fails_alone(desk):
    result = desk.start(chord([give.s(1), give.s(2)], fail.s().on_error(report_error.s(desk.key)) | add.s(1)))
    assert isinstance(desk.error(result), OutOfStockError)
    assert desk.get(result.parent) == [1, 2]
    assert len(desk.done(what="new errback")) == 1


@in_the_shop
def test_a_group_gives_failures_in_their_place_or_raises_the_first(desk):
    result = desk.start(group(give.s(1), fail.s(), give.s(2)))
    one, error, two = desk.get(result, propagate=False)
    assert (one, two, type(error)) == (1, 2, OutOfStockError)
    assert (result.completed_count(), result.failed(), result.successful()) == (2, True, False)
    with pytest.raises(OutOfStockError):
        desk.get(result)


@in_the_shop
def test_what_has_expired_is_revoked_and_fails_its_chord(desk):
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=1)
    result = desk.start(note.s(1, desk.key), expires=past)
    assert isinstance(desk.error(result), TaskRevokedError)
    assert (result.state, str(result.info)) == ("REVOKED", "expired")
    parts = chord([note.s(1, desk.key).set(expires=past), give.s(2)], note.s(desk.key))
    assert "TaskRevokedError('expired')" in str(desk.error(parts))
    assert desk.done() == []


# Callbacks ---------------------------------------------------------------------------------------------------------


@in_the_shop
def test_callbacks_take_the_result_once_each(desk):
    signature = add.s(1, 2)
    for callback in (note.s(desk.key), note.s(desk.key, "second"), note.si(9, desk.key, "immutable")):
        signature.link(callback)
    result = desk.start(signature)
    assert desk.get(result) == 3
    assert [desk.done(what=what) for what in ("ran", "second", "immutable")] == [[3], [3], [9]]
    assert [desk.get(child) for child in result.children] == [[3, 3, 9]]


@in_the_shop
def test_a_callback_of_a_chain_or_a_chord_takes_its_last_result(desk):
    assert desk.get(desk.start(give.s(1) | add.s(1), link=note.s(desk.key))) == 2
    assert desk.get(desk.start(chord([give.s(1), give.s(2)], total.s()), link=note.s(desk.key))) == 3
    assert sorted(desk.done()) == [2, 3]


@in_the_shop
def test_errbacks_of_the_old_style_take_the_id_and_of_the_new_style_the_error(desk):
    result = desk.start(fail.s(), link=note.s(desk.key), link_error=[report_id.s(), report_error.s(desk.key)])
    assert isinstance(desk.error(result), OutOfStockError)
    assert desk.done(result.id, what="old errback") == [None]
    assert desk.done(what="new errback") == [[result.id, repr(ERRORS["own"])]]
    assert desk.done() == []


@in_the_shop
def test_an_errback_of_a_group_is_called_for_each_failure(desk):
    canvas = group(fail.s(), give.s(1), fail.s())
    canvas.link_error(report_error.s(desk.key))
    result = desk.start(canvas)
    desk.get(result, propagate=False)
    assert sorted(id_ for id_, _ in desk.done(what="new errback")) == sorted([result[0].id, result[2].id])


@in_the_shop
def test_stamps_reach_tasks_callbacks_and_errbacks(desk):
    canvas = chord([describe.s(), give.s(1) | describe.s()], give.s())
    canvas.link(note_stamps.s(desk.key))
    canvas.stamp(Stamps("green"))
    header = desk.get(canvas)
    assert [part["stamps"] for part in header] == [{"word": "green", "of": "describe"}] * 2
    failing = fail.s().on_error(note_stamps.s(desk.key))
    failing.stamp(Stamps("red"))
    assert desk.done(what="stamps") == [{"word": "green", "of": "note_stamps", "as": "callback"}]
    desk.error(failing)
    assert desk.done(what="stamps")[1:] == [{"word": "red", "of": "note_stamps", "as": "errback"}]


# Tasks that go on as others ----------------------------------------------------------------------------------------

#: What `replace` gives for 5, by what it is replaced by.
REPLACED = {"task": 6, "chain": 8, "group": [5, 6], "chain that ends in a group": [6, 7], "chord": 11}


@in_the_shop
def test_a_task_is_replaced_under_its_id(desk):
    for by, expected in REPLACED.items():
        result = desk.start(replace.s(5, by), link=note.s(desk.key))
        assert (by, desk.get(result)) == (by, expected)
        assert desk.done()[-1] == expected
    assert len(desk.done()) == len(REPLACED)


@in_the_shop
def test_a_replaced_step_hands_its_result_to_the_next(desk):
    for by, expected in REPLACED.items():
        last = desk.start(give.s(5) | replace.s(by) | note.s(desk.key))
        assert (by, desk.get(last), desk.get(last.parent)) == (by, expected, expected)
    assert desk.done() == list(REPLACED.values())


@in_the_shop
def test_a_replaced_part_counts_once_and_keeps_its_place(desk):
    for by, expected in REPLACED.items():
        parts = [give.s(0), replace.s(5, by), replace.s(5, by) | give.s(), give.s(9)]
        assert (by, desk.get(chord(parts, note.s(desk.key)))) == (by, [0, expected, expected, 9])
    assert len(desk.done()) == len(REPLACED)


@in_the_shop
def test_a_replacement_that_fails_fails_what_it_stands_for(desk):
    result = desk.start(replace.s(5, "failure").on_error(report_error.s(desk.key)) | note.s(desk.key))
    assert isinstance(desk.error(result), OutOfStockError)
    assert len(desk.done(what="new errback")) == 1
    assert isinstance(desk.error(chord([replace.s(5, "failure"), give.s(1)], note.s(desk.key))), ChordError)
    assert desk.done() == []


@in_the_shop
def test_a_replacement_may_be_replaced(desk):
    assert desk.get(chord([replace_in_turn.s(3), give.s(1)], note.s(desk.key))) == ["at last", 1]
    assert len(desk.done()) == 1


@in_the_shop
def test_a_replacement_survives_the_rollback_that_it_causes(desk):
    for by, expected in REPLACED.items():
        assert (by, desk.get(replace_in_a_transaction.s(5, by))) == (by, expected)


@in_the_shop
def test_a_retried_task_goes_on_where_it_stands(desk):
    assert desk.get(insist.s(1, 2) | note.s(desk.key)) == 1
    assert desk.get(give.s(2) | insist.s(1) | note.s(desk.key)) == 2
    assert desk.get(chord([insist.s(3, 2), give.s(4), insist.s(5, 1)], note.s(desk.key))) == [3, 4, 5]
    assert desk.get(chord([give.s(6)], insist.s(1) | note.s(desk.key))) == [6]
    assert desk.done() == [1, 2, [3, 4, 5], [6]]


@in_the_shop
def test_a_task_that_has_no_tries_left_fails_with_its_error(desk):
    result = desk.start(insist.s(1, 9), link_error=report_error.s(desk.key))
    error = desk.error(result)
    assert (type(error), error.args) == (OutOfStockError, ("not yet", 5))
    assert len(desk.done(what="new errback")) == 1


# Results -----------------------------------------------------------------------------------------------------------


@in_the_shop
def test_a_result_is_pending_until_its_task_shows_a_state(desk):
    result = desk.start(wait_for_leave.s(desk.key, "PROGRESS", done=3, total=7))
    unknown = AsyncResult("nobody-" + desk.key)
    assert (unknown.state, unknown.info, unknown.ready(), unknown.exists()) == ("PENDING", None, False, False)
    desk.state(result, "PROGRESS")
    assert (result.info, result.ready(), result.exists()) == ({"done": 3, "total": 7}, False, True)
    with pytest.raises(TimeoutError):
        result.get(timeout=0.1, interval=0.02)
    desk.allow_to_leave()
    assert desk.get(result) == "left"
    assert (result.state, result.info, result.successful()) == ("SUCCESS", "left", True)
    assert datetime.datetime.now(datetime.UTC) - result.date_done < datetime.timedelta(minutes=1)


@in_the_shop
def test_a_started_task_says_where(desk):
    result = desk.state(desk.start(wait_for_leave.s(desk.key)), "STARTED")
    assert set(result.info) == {"pid", "hostname"}
    assert result.info["hostname"].startswith("w0@")
    desk.allow_to_leave()
    assert desk.get(result) == "left"


@in_the_shop
def test_a_task_that_will_be_tried_again_shows_why(desk):
    result = desk.state(desk.start(insist.s(1, 1, countdown=1)), "RETRY")
    assert (type(result.info), result.info.args) == (OutOfStockError, ("not yet", 0))
    assert "self.retry" in result.traceback
    assert desk.get(result) == 1


@in_the_shop
def test_the_caller_may_choose_the_id(desk):
    ids = [uuid4().hex for _ in range(4)]
    first = desk.start(give.s(1), task_id=ids[0])
    last = desk.start(give.s(1) | add.s(1), task_id=ids[1])
    body = desk.start(chord([give.s(1)], total.s()), task_id=ids[2])
    grouped = desk.start(group(give.s(1), give.s(2)), task_id=ids[3])
    assert [each.id for each in (first, last, body, grouped)] == ids
    assert [desk.get(AsyncResult(each)) for each in ids[:3]] == [1, 2, 1]
    assert desk.get(grouped) == [1, 2]


@in_the_shop
def test_tasks_know_their_parent_their_root_and_their_group(desk):
    result = desk.start(describe.s() | group(describe.s(), describe.s()) | give.s())
    parts, first = desk.get(result), desk.get(result.parent.parent)
    assert (first["root_id"], first["parent_id"], first["group"]) == (first["id"], None, None)
    assert [part["id"] for part in parts] == [each.id for each in result.parent]
    for index, part in enumerate(parts):
        assert (part["root_id"], part["parent_id"]) == (first["id"], first["id"])
        assert (part["group"], part["group_index"]) == (result.parent.id, index)


@in_the_shop
def test_what_a_task_starts_are_its_children_and_can_be_collected(desk):
    result = desk.start(start_tree.s(2))
    desk.get(result)
    desk.done()
    values = [value for _, value in result.collect(timeout=PATIENCE_SECONDS) if value == "leaf"]
    assert values == ["leaf"] * 4
    assert isinstance(result.children[0], GroupResult)
    assert all(isinstance(each.children[0], GroupResult) for each in result.children[0])
    assert result.get_leaf() == "leaf"


@in_the_shop
def test_a_result_that_is_forgotten_is_pending_again_with_its_parents(desk):
    last = desk.start(give.s(1) | add.s(1))
    assert (desk.get(last), desk.get(last.parent)) == (2, 1)
    last.forget()
    for each in (last, last.parent):
        again = AsyncResult(each.id)
        assert (again.state, again.result, again.exists()) == ("PENDING", None, False)


@in_the_shop
def test_a_saved_group_is_restored_until_it_is_deleted(desk):
    result = desk.start(group(give.s(1), give.s(2) | group(add.s(1), add.s(2))))
    result.save()
    again = GroupResult.restore(result.id)
    assert (again, again.results) == (result, result.results)
    assert desk.get(again) == [1, [3, 4]]
    assert (again.completed_count(), again.ready()) == (2, True)
    assert again.join(timeout=PATIENCE_SECONDS, interval=0.02) == [1, [3, 4]]
    again.delete()
    assert GroupResult.restore(result.id) is None


@in_the_shop
def test_a_result_that_is_ignored_is_not_kept_but_handed_on(desk):
    alone = desk.start(note_quietly.s(1, desk.key))
    assert desk.get(alone) is None
    last = desk.start(note.s(2, desk.key).set(ignore_result=True) | note_quietly.s(desk.key) | add.s(1))
    assert desk.get(last) == 3
    assert desk.get(chord([note_quietly.s(4, desk.key), give.s(5).set(ignore_result=True)], give.s())) == [4, 5]
    assert sorted(desk.done()) == [1, 2, 2, 4]
    assert [AsyncResult(each.id).result for each in (alone, last.parent, last.parent.parent)] == [None] * 3


# Beyond stock Celery -----------------------------------------------------------------------------------------------


@beyond_stock
@in_the_shop
def test_a_failed_part_of_an_inner_chord_fails_all_around_it(desk):
    inner = chord([fail.s(), give.s(1)], note.s(desk.key))
    for part in (inner, give.s() | group(fail.s(), give.s()) | note.s(desk.key)):
        result = desk.start(chord([part, give.s(2)], note.s(desk.key) | note.s(desk.key)))
        assert "ChordError" in str(desk.error(result))
    assert desk.done() == []


@beyond_stock
@in_the_shop
def test_a_group_behind_a_chord_that_failed_fails_as_well(desk):
    group_behind = group(note.s(desk.key), note.s(desk.key))
    result = desk.start(give.s(1) | group(fail.s(), give.s()) | note.s(desk.key) | group_behind)
    assert [type(desk.error(each)) for each in result] == [ChordError] * 2
    assert desk.done() == []


@beyond_stock
@in_the_shop
def test_what_has_expired_fails_the_steps_after_it(desk):
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=1)
    last = desk.start(note.s(1, desk.key).set(expires=past) | note.s(desk.key) | note.s(desk.key))
    assert [type(desk.error(step)) for step in (last, last.parent)] == [TaskRevokedError] * 2
    assert desk.done() == []


@beyond_stock
@in_the_shop
def test_a_body_that_is_ignored_can_be_waited_for(desk):
    assert desk.get(chord([give.s(1)], note_quietly.s(desk.key))) is None
    assert desk.done() == [[1]]


def test_nothing_of_all_this_became_a_dead_letter(shop):
    assert [name for name, queue in shop.server.sqs.queues.items() if name.endswith("-dead") and queue.ready] == []
