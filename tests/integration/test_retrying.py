"""Running once more what has ended badly: a new run of the same message, once, with arguments that fit."""

from __future__ import annotations

import datetime
import json

import pytest
from celery import chain, chord, group, shared_task
from cryptography.fernet import Fernet
from django.db import transaction
from django.utils import timezone
from kombu.utils.json import loads

from django_app.ledger import requester
from django_app.ledger.models import Run, UniqueRun
from django_app.ledger.states import State
from tasks.celery import app
from tasks.runtime import publishing, retrying
from tasks.runtime.testing import captured_runs
from tests.threads import at_once

pytestmark = pytest.mark.django_db(transaction=True)

SECRET = "hunter2"
ended_badly = pytest.mark.parametrize("state", [State.FAILED, State.DEAD, State.REVOKED, State.EXPIRED])


@shared_task(name="tests.retrying.work")
def work(number: int, password: str = "", *, accounts: object = None, note: str = "") -> int:
    """Fails at a negative number."""
    if number < 0:
        raise ValueError("negative")
    return number


@shared_task(name="tests.retrying.step")
def step(*arguments: object) -> str:
    return "done"


@shared_task(name="tests.retrying.told")
def told(task_id: str) -> None:
    """An error callback that is enqueued: one of more parameters is called at once."""


@shared_task(name="tests.retrying.limited", concurrency=1, concurrency_key=lambda tenant: f"tenant {int(tenant)}")
def limited(tenant: object) -> None:
    raise RuntimeError("never works")


@shared_task(name="tests.retrying.tokens")
def tokens(*tokens: str) -> None:
    """All of its arguments are secret."""


@pytest.fixture(autouse=True)
def empty_queues():
    with app.connection_for_write() as broker:
        for queue in app.amqp.queues.values():
            queue(broker.default_channel).purge()


def ended(state: State = State.FAILED, task=work, args=(1,), **options) -> Run:
    """A run that has ended so."""
    run = Run.objects.get(pk=task.apply_async(args, **options).id)
    with app.connection_for_write() as broker:
        app.amqp.queues[run.queue](broker.default_channel).purge()
    run.state, run.finished_at = state, timezone.now()
    run.save(update_fields=["state", "finished_at"])
    return run


def published(queue: str = "default") -> list:
    """Messages in a queue, which are taken out: (args, kwargs, embed) with the headers."""
    found = []
    with app.connection_for_read() as broker:
        bound = app.amqp.queues[queue](broker.default_channel)
        while (message := bound.get(no_ack=True)) is not None:
            found.append((message.decode(), message.headers))
    return found


def stored(run: Run) -> tuple[list, dict]:
    """(args, kwargs, embed) and headers as the row has them."""
    body, options = publishing.unpack(run.message)
    return loads(body), options["headers"]


@ended_badly
def test_what_ended_badly_is_sent_again_as_a_new_run(state):
    original = ended(state, args=(7,), kwargs={"note": "again"}, priority=9)
    again = retrying.retry(original, "ada")
    ((args, kwargs, _), headers), *others = published("high")
    assert not others
    assert (args, kwargs) == ([7], {"note": "again"})
    assert headers["id"] == again.pk != original.pk
    again.refresh_from_db()
    assert (again.state, again.retry_of, again.queue, again.priority) == (State.QUEUED, original.pk, "high", 9)
    assert (again.root_id, again.task) == (original.root_id, original.task)
    original.refresh_from_db()
    assert original.state == state


@pytest.mark.parametrize("state", [State.PENDING, State.QUEUED, State.RUNNING, State.WAITING, State.LOST])
def test_what_has_not_ended_is_not_retried(state):
    original = ended(state)
    with pytest.raises(retrying.NotRetryableError, match=f"it is {state}, and has not ended. Wait for its end"):
        retrying.retry(original, "ada")
    assert published() == []


def test_what_succeeded_is_not_retried():
    with pytest.raises(retrying.NotRetryableError, match="it has succeeded"):
        retrying.retry(ended(State.SUCCEEDED), "ada")


def test_what_is_recorded_no_more_is_not_retried():
    original = ended()
    Run.objects.all().delete()
    with pytest.raises(retrying.NotRetryableError, match="not recorded"):
        retrying.retry(original, "ada")


def test_the_states_that_count_are_those_in_the_database_not_those_of_the_object():
    original = ended()
    Run.objects.update(state=State.RUNNING)
    with pytest.raises(retrying.NotRetryableError):
        retrying.retry(original, "ada")


def test_a_second_retry_is_told_who_made_the_first_and_when_and_as_which_run():
    original = ended()
    again = retrying.retry(original, "ada")
    with pytest.raises(retrying.AlreadyRetriedError) as raised:
        retrying.retry(original, "bob")
    assert (raised.value.by, raised.value.retry_id, raised.value.at) == ("ada", again.pk, again.created_at)
    assert str(raised.value).startswith(f"run {original.pk}: it was already retried by ada at ")
    assert Run.objects.count() == 2


def test_two_who_retry_at_the_same_moment_make_one_run_and_one_of_them_is_told():
    original = ended()

    def attempt(number: int) -> object:
        try:
            return retrying.retry(original, f"user {number}").pk
        except retrying.AlreadyRetriedError as error:
            return error

    results = at_once(4, attempt)
    made = [each for each in results if isinstance(each, str)]
    told = [each for each in results if not isinstance(each, str)]
    assert len(made) == 1
    assert {each.retry_id for each in told} == set(made)
    assert {each.by for each in told} == {f"user {results.index(made[0])}"}
    assert len(published()) == 1


def test_a_retry_that_failed_can_be_retried():
    first = retrying.retry(ended(), "ada")
    Run.objects.filter(pk=first.pk).update(state=State.FAILED)
    second = retrying.retry(first, "ada")
    assert second.retry_of == first.pk


def test_a_rollback_takes_the_retry_and_its_message_along_and_it_can_be_made_later():
    original = ended()
    with transaction.atomic():
        retrying.retry(original, "ada")
        transaction.set_rollback(True)
    assert published() == []
    assert Run.objects.count() == 1
    retrying.retry(original, "ada")
    assert len(published()) == 1


def test_eta_expiry_and_the_count_of_retries_are_left_behind():
    original = ended(eta=timezone.now() + datetime.timedelta(minutes=5), expires=3600, retries=4)
    assert original.not_before is not None
    again = retrying.retry(original, "ada")
    ((_, headers),) = published()
    assert (headers["eta"], headers["expires"], headers["retries"]) == (None, None, 0)
    assert (again.not_before, again.expires_at, again.retries) == (None, None, 0)


def test_whoever_asked_first_goes_on_to_own_the_run():
    with requester.asking("owner", "acme"):
        original = ended()
    with requester.asking("operator"):
        again = retrying.retry(original, "operator")
    again.refresh_from_db()
    assert (again.requested_by, again.tenant) == ("owner", "acme")
    assert retrying.retried_by(again) == "operator"


def test_a_message_that_is_sealed_is_read_and_the_new_one_is_sealed_as_well(settings):
    settings.RUN_KEYS = [Fernet.generate_key().decode()]
    original = ended(kwargs={"password": SECRET})
    again = retrying.retry(original, "ada")
    again.refresh_from_db()
    assert again.message.startswith("fernet:")
    assert stored(again)[0][1] == {"password": SECRET}


def test_a_message_whose_key_is_lost_is_refused_with_the_remedy(settings):
    settings.RUN_KEYS = [Fernet.generate_key().decode()]
    original = ended()
    settings.RUN_KEYS = [Fernet.generate_key().decode()]
    with pytest.raises(retrying.MessageMissingError, match="add the older key"):
        retrying.retry(original, "ada")


def test_a_compressed_message_is_retried():
    original = ended(kwargs={"note": "x" * 5000}, compression="gzip")
    assert "compression" in stored_headers(original)
    retrying.retry(original, "ada")
    (((args, kwargs, _), headers),) = published()
    assert (args, kwargs) == ([1], {"note": "x" * 5000})
    assert "compression" not in headers


def stored_headers(run: Run) -> dict:
    return publishing.unpack(run.message)[1]["headers"]


def test_dates_and_what_else_kombu_packs_arrive_as_they_were():
    when = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
    retrying.retry(ended(kwargs={"note": when, "accounts": b"\xff\x00"}), "ada")
    (((_, kwargs, _), _),) = published()
    assert kwargs == {"note": when, "accounts": b"\xff\x00"}


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("", "no message of it is kept"),
        ("not JSON", "cannot be read"),
        ("[]", "cannot be read"),
        (
            '{"body": "[1]", "encoding": "utf-8", "options": {"headers": {}, "content_type": "application/json"}}',
            "protocol 2",
        ),
        (
            '{"body": "{}", "encoding": "utf-8", "options": {"headers": {}, "content_type": "application/x-python"}}',
            "type",
        ),
    ],
)
def test_a_message_that_is_gone_or_spoiled_is_refused(message, why):
    original = ended()
    Run.objects.update(message=message)
    with pytest.raises(retrying.MessageMissingError, match=why):
        retrying.retry(original, "ada")
    assert Run.objects.count() == 1


def test_a_task_that_this_release_does_not_know_is_refused():
    original = ended()
    Run.objects.update(task="tests.retrying.gone")
    with pytest.raises(retrying.UnknownTaskError, match='no task "tests.retrying.gone"'):
        retrying.retry(original, "ada")


def test_a_queue_that_is_no_longer_declared_is_refused():
    original = ended()
    Run.objects.update(queue="gone")
    with pytest.raises(retrying.UnknownTaskError, match='queue "gone" is not declared'):
        retrying.retry(original, "ada")


# Workflows -----------------------------------------------------------------------------------------------------------


def test_a_chain_goes_on_after_the_retry_under_new_ids():
    with captured_runs(execute=True):
        chain(work.s(-1), step.s("second"), step.s("third")).apply_async()
    first = Run.objects.get(task=work.name)
    before = set(Run.objects.values_list("pk", flat=True))
    assert set(Run.objects.values_list("state", flat=True)) == {State.FAILED}
    with captured_runs(execute=True):
        retrying.retry(first, "ada", args=[5])
    new = {run.pk: run for run in Run.objects.exclude(pk__in=before)}
    assert [run.state for run in new.values()] == [State.SUCCEEDED] * 3
    assert sorted(stored(run)[0][0][-1] for run in new.values() if run.task == step.name) == ["second", "third"]
    assert {run.root_id for run in new.values()} == {first.root_id}


def test_a_chord_in_the_chain_counts_its_parts_under_new_ids():
    with captured_runs(execute=True):
        (work.s(-1) | group(step.s(1), chain(step.s(2), step.s(3))) | step.s("body")).apply_async()
    first = Run.objects.get(task=work.name)
    before = set(Run.objects.values_list("pk", flat=True))
    with captured_runs(execute=True):
        retrying.retry(first, "ada", args=[5])
    new = Run.objects.exclude(pk__in=before)
    assert {run.state for run in new} == {State.SUCCEEDED}
    bodies = [run for run in new if run.task == step.name and stored(run)[0][0][-1] == "body"]
    assert [stored(run)[0][0][0] for run in bodies] == [["done", "done"]]


def test_no_id_of_the_old_chain_is_sent_again():
    (work.si(1) | group(step.s(1), step.s(2)) | step.s(3)).apply_async()
    original = Run.objects.get()
    Run.objects.update(state=State.FAILED)
    again = retrying.retry(original, "ada")
    old, new = task_ids(stored(original)[0][2]), task_ids(stored(again)[0][2])
    assert len(old) == len(new) >= 4
    assert not set(old) & set(new)
    # Wherever one id stood twice, one id stands twice.
    assert [old.index(each) for each in old] == [new.index(each) for each in new]


def task_ids(value: object) -> list[str]:
    if isinstance(value, list):
        return [each for entry in value for each in task_ids(entry)]
    if isinstance(value, dict):
        own = [str(value[name]) for name in ("task_id", "group_id") if value.get(name)]
        return own + [each for entry in value.values() for each in task_ids(entry)]
    return []


def test_a_part_of_a_chord_runs_alone():
    with captured_runs(execute=True):
        chord([work.s(1), work.s(-1)])(step.s())
    part = Run.objects.get(task=work.name, state=State.FAILED)
    assert part.is_chord_part
    with captured_runs(execute=True):
        again = retrying.retry(part, "ada", args=[2])
    again.refresh_from_db()
    assert (again.state, again.is_chord_part, again.group_id) == (State.SUCCEEDED, False, part.group_id)
    assert not Run.objects.filter(task=step.name, state=State.SUCCEEDED).exists()


def test_callbacks_follow_the_retry():
    with captured_runs(execute=True):
        work.apply_async((-1,), link=step.s("callback"), link_error=told.s())
    failed = Run.objects.get(task=work.name)
    with captured_runs(execute=True) as runs:
        retrying.retry(failed, "ada", args=[3])
    assert [stored(run)[0][0] for run in runs] == [[3], [3, "callback"]]


def test_an_error_callback_with_an_id_of_its_own_is_called_again():
    with captured_runs(execute=True):
        work.apply_async((-1,), link_error=told.s().set(task_id="errback-1"))
    assert Run.objects.filter(pk="errback-1").exists()
    failed = Run.objects.get(task=work.name)
    with captured_runs(execute=True) as runs:
        retrying.retry(failed, "ada")
    assert [run.task for run in runs] == [work.name, told.name]
    assert runs[1].pk != "errback-1"


# Limits and unique keys ----------------------------------------------------------------------------------------------


def test_a_limit_key_follows_from_the_arguments_or_stays_as_it_was_given():
    derived = retrying.retry(ended(task=limited, args=(1,)), "ada", args=[2])
    assert derived.limit_key == "tests.retrying.limited tenant 2"
    given = retrying.retry(ended(task=limited, args=(1,), concurrency_key="vip"), "ada", args=[2])
    assert given.limit_key == "tests.retrying.limited vip"


def test_arguments_of_which_the_task_makes_no_key_are_refused():
    with pytest.raises(retrying.ArgumentsError, match="cannot be given these arguments"):
        retrying.retry(ended(task=limited, args=(1,)), "ada", args=["no number"])


def test_a_unique_key_is_held_by_the_retry():
    original = ended(unique_key="one")
    again = retrying.retry(original, "ada")
    assert UniqueRun.objects.get().run_id == again.pk
    assert again.unique_key == original.unique_key
    assert work.apply_async((2,), unique_key="one").id == again.pk


def test_a_unique_key_that_another_run_holds_by_now_stands_in_the_way():
    original = ended(unique_key="one")
    UniqueRun.objects.all().delete()
    other = work.apply_async((2,), unique_key="one")
    with pytest.raises(retrying.KeyHeldError, match=f"is held by run {other.id}"):
        retrying.retry(original, "ada")
    assert UniqueRun.objects.get().run_id == other.id


# Edited arguments ----------------------------------------------------------------------------------------------------


def test_edited_arguments_are_sent_and_shown():
    again = retrying.retry(ended(args=(1,), kwargs={"note": "old"}), "ada", args=[2], kwargs={"note": "new"})
    (((args, kwargs, _), headers),) = published()
    assert (args, kwargs) == ([2], {"note": "new"})
    assert json.loads(again.arguments) == {"args": [2], "kwargs": {"note": "new"}}
    assert (headers["argsrepr"], headers["kwargsrepr"]) == ("[2]", "{'note': 'new'}")


@pytest.mark.parametrize(
    ("args", "kwargs", "why"),
    [
        ([], {}, "missing a required argument: 'number'"),
        ([1], {"unknown": 1}, "unexpected keyword argument 'unknown'"),
        ([1, 2, 3], {}, "too many positional"),
        ({"number": 1}, {}, "args must be a list"),
        ([1], ["note"], "args must be a list and kwargs an object"),
        ([float("nan")], {}, "not JSON"),
        ([object()], {}, "not JSON"),
        ([1], {"note": "x" * 200_000}, "characters"),
        ([1], {"note": {"__type__": "unknown", "__value__": 1}}, "Unsupported type"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(args, kwargs, why):
    original = ended()
    with pytest.raises(retrying.ArgumentsError, match=why):
        retrying.retry(original, "ada", args=args, kwargs=kwargs)
    assert Run.objects.count() == 1


def test_arguments_nested_too_deep_are_refused():
    deep: list = []
    for _ in range(150):
        deep = [deep]
    with pytest.raises(retrying.ArgumentsError, match="deeper than 100"):
        retrying.retry(ended(), "ada", args=[1], kwargs={"note": deep})


def test_what_is_offered_for_editing_shows_no_secret():
    accounts = [{"name": "A", "token": SECRET}, {"name": "B", "api_key": {"deep": SECRET}}]
    original = ended(args=(1, SECRET), kwargs={"accounts": accounts, "note": "x" * 500})
    args, kwargs = retrying.editable(original)
    assert SECRET not in json.dumps([args, kwargs])
    assert args == [1, "[redacted]"]
    assert kwargs["accounts"] == [{"name": "A", "token": "[redacted]"}, {"name": "B", "api_key": "[redacted]"}]
    assert kwargs["note"] == "x" * 500


def test_what_is_hidden_for_its_class_is_not_offered_either():
    original = ended(kwargs={"note": b"secret bytes", "accounts": datetime.date(2026, 1, 2)})
    args, kwargs = retrying.editable(original)
    assert kwargs["note"] == "[redacted]"
    assert kwargs["accounts"] == {"__type__": "date", "__value__": "2026-01-02"}
    retrying.retry(original, "ada", args=args, kwargs=kwargs)
    (((_, sent, _), _),) = published()
    assert sent == {"note": b"secret bytes", "accounts": datetime.date(2026, 1, 2)}


def test_what_stays_redacted_keeps_its_value_and_what_is_retyped_gets_the_new_one():
    accounts = [{"name": "A", "token": SECRET}, {"name": "B", "token": "other"}]
    original = ended(args=(1, SECRET), kwargs={"accounts": accounts})
    args, kwargs = retrying.editable(original)
    args[0] = 2
    kwargs["accounts"][1]["token"] = "typed anew"
    retrying.retry(original, "ada", args=args, kwargs=kwargs)
    (((sent, named, _), _),) = published()
    assert sent == [2, SECRET]
    assert named["accounts"] == [{"name": "A", "token": SECRET}, {"name": "B", "token": "typed anew"}]


def redacted_note(kwargs):
    kwargs["note"] = "[redacted]"


def redacted_anew(kwargs):
    kwargs["number_of"] = "[redacted]"


def entry_removed(kwargs):
    del kwargs["accounts"][0]


def entries_swapped(kwargs):
    kwargs["accounts"].reverse()


def entry_renamed(kwargs):
    kwargs["accounts"][0]["name"] = "C"


def secret_moved(kwargs):
    kwargs["accounts"][0]["other_token"] = kwargs["accounts"][0].pop("token")


@pytest.mark.parametrize(
    "edit", [redacted_note, redacted_anew, entry_removed, entries_swapped, entry_renamed, secret_moved]
)
def test_a_secret_is_never_put_where_it_was_not(edit):
    accounts = [{"name": "A", "token": SECRET}, {"name": "B", "token": "other"}]
    original = ended(kwargs={"accounts": accounts, "note": "no secret"})
    args, kwargs = retrying.editable(original)
    edit(kwargs)
    with pytest.raises(retrying.ArgumentsError, match="Type the value anew"):
        retrying.retry(original, "ada", args=args, kwargs=kwargs)


def test_among_secrets_of_one_name_a_place_says_nothing_once_one_is_gone():
    original = ended(task=tokens, args=("first", "second"))
    assert retrying.editable(original)[0] == ["[redacted]", "[redacted]"]
    with pytest.raises(retrying.ArgumentsError, match="Type the value anew"):
        retrying.retry(original, "ada", args=["[redacted]"])
    retrying.retry(original, "ada", args=["[redacted]", "typed"])
    (((sent, _, _), _),) = published()
    assert sent == ["first", "typed"]


def test_a_text_that_really_was_redacted_stays_it():
    original = ended(kwargs={"note": "[redacted]"})
    args, kwargs = retrying.editable(original)
    retrying.retry(original, "ada", args=args, kwargs=kwargs)
    (((_, sent, _), _),) = published()
    assert sent == {"note": "[redacted]"}


def test_arguments_too_long_to_edit_can_be_retried_as_they_are():
    original = ended(kwargs={"note": "x" * 150_000})
    with pytest.raises(retrying.ArgumentsError, match="Retry it as it is"):
        retrying.editable(original)
    retrying.retry(original, "ada")
    assert len(published()) == 1
