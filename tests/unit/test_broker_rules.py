"""The broker's rules that need no SQS: options, envelopes, room, groups, liveness."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverless.broker import envelope, liveness
from serverless.broker.errors import EnvelopeError, OptionError, PriorityError, PublishError, Unsent
from serverless.broker.options import Options
from serverless.broker.sending import Outgoing, _batches, group_id
from serverless.broker.spells import pause_seconds
from serverless.broker.sqs import sqs_name

URL = "https://sqs.eu-central-1.amazonaws.com/111122223333/"
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"wait_time_second": 5}, 'transport option "wait_time_second" is unknown. Did you mean "wait_time_seconds"?'),
        ({"wait_time_seconds": 21}, "wait_time_seconds=21 must be a whole number, 0 to 20."),
        ({"lease_seconds": 0}, "lease_seconds=0 must be a whole number, 1 to 43200."),
        ({"ack_linger_seconds": "soon"}, "ack_linger_seconds='soon' must be a number of seconds"),
        ({"predefined_queues": {"q": {}}}, "url='' is not a queue's URL"),
        ({"predefined_queues": {"q": "https://x/q"}}, "is not an object"),
        (
            {"predefined_queues": {"q": {"url": URL + "q", "prefech": 1}}},
            'unknown key "prefech". Did you mean "prefetch"?',
        ),
        (
            {"predefined_queues": {"q": {"url": URL + "q", "prefetch": 0}}},
            "prefetch=0 must be a whole number, 1 to 1000.",
        ),
        ({"predefined_queues": {"q": {"url": URL + "q.fifo"}}}, 'both end in ".fifo"'),
        (
            {"predefined_queues": {"q": {"url": URL + "q", "access_key_id": "x"}}},
            "credentials come from environment or role",
        ),
        ({"claim_check": {"prefix": "x/"}}, "must name a bucket"),
        ({"claim_check": {"bucket": "b", "prefix": "x"}}, "must end in a slash"),
        ({"claim_check": {"bucket": "b", "treshold_bytes": 1}}, 'Did you mean "threshold_bytes"?'),
        ({"delay_hook": "no.such.module:function"}, "cannot be imported"),
        ({"levels": {"q": {"high": [7]}}}, "write [lowest, highest]"),
        ({"levels": {"q": {"high": [9, 1]}}}, "write ranges within 1 to 9 that do not overlap"),
        ({"levels": {"q": {"a": [1, 5], "b": [5, 9]}}}, "write ranges within 1 to 9 that do not overlap"),
        ({"levels": ["a"]}, "levels=['a'] must be an object"),
        ({"predefined_queues": ["q"]}, "queues=['q'] must be an object"),
        ({"create_missing_queues": "no"}, "create_missing_queues='no' must be true or false"),
        ({"client-config": {"foo": 1}}, "client-config: botocore.config.Config says"),
        ({"claim_check": {"buket": "b"}}, 'unknown key "buket". Did you mean "bucket"?'),
        ({"claim_check": {"bucket": "b", "retention_days": 30}}, "must be a list of whole numbers"),
        (
            {"predefined_queues": {"q": {"url": URL + "q", "dead_letter_url": 5}}},
            "dead_letter_url=5 is not a queue's URL",
        ),
        (
            {"predefined_queues": {"q": {"url": URL + "q"}}, "levels": {"q": {"r": [1, 9]}}},
            "is not among predefined_queues",
        ),
    ],
)
def test_a_faulty_option_is_named_with_its_rule_and_remedy(raw, said):
    with pytest.raises(OptionError) as caught:
        Options.read(raw)
    assert said in str(caught.value)


def test_what_celery_adds_and_what_only_kombus_transport_reads_is_passed_over():
    options = Options.read({"visibility_timeout": 9, "polling_interval": 0, "max_retries": 3, "interval_start": 0})
    assert options == Options()


@pytest.mark.parametrize(("priority", "queue"), [(9, "high"), (7, "high"), (6, "q"), (1, "low"), (0, "q"), (None, "q")])
def test_priority_picks_a_level_and_none_leaves_the_queue(priority, queue):
    urls = {name: {"url": URL + name} for name in ("q", "high", "low")}
    options = Options.read({"predefined_queues": urls, "levels": {"q": {"high": [7, 9], "low": [1, 3]}}})
    assert options.queue_at_priority("q", priority) == queue


@pytest.mark.parametrize("priority", [10, -1, "high", 2.5])
def test_a_priority_outside_the_range_is_refused_where_it_chooses_a_queue(priority):
    urls = {name: {"url": URL + name} for name in ("q", "high")}
    options = Options.read({"predefined_queues": urls, "levels": {"q": {"high": [7, 9]}}})
    with pytest.raises(PriorityError, match="outside 0 to 9"):
        options.queue_at_priority("q", priority)
    assert options.queue_at_priority("high", priority) == "high"


def message(**headers: object) -> dict:
    return {
        "body": "[[], {}, {}]",
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "t", "id": "i", **headers},
        "properties": {"body_encoding": "utf-8"},
    }


@pytest.mark.parametrize("as_base64", [True, False])
def test_an_envelope_is_read_with_and_without_the_outer_base64(as_base64):
    assert envelope.decode(envelope.encode(message(), as_base64=as_base64)) == message()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("nonsense", "neither JSON nor base64"),
        (base64.b64encode(b"\xff\xfe").decode(), "neither JSON nor base64"),
        ("[1]", "no object"),
        ("{", "not JSON"),
        (json.dumps({"headers": [], "properties": {}}), "headers=[] is not an object"),
        (json.dumps({"headers": {}}), "properties=None is not an object"),
        (json.dumps(message() | {"content-type": 1}), "content-type=1 is not text"),
        (json.dumps(message() | {"body": 1}), "body=1 is not text"),
        (json.dumps(message(id=None)), "header id=None must be str"),
        (json.dumps(message(id="")), "is empty"),
        (json.dumps(message(task=["t"])), "header task=['t'] must be str"),
        (json.dumps(message(timelimit="ab")), "header timelimit=ab must be list or null"),
        (json.dumps(message(timelimit=[1])), "must be two numbers of seconds or null"),
        (json.dumps(message(timelimit=[True, None])), "must be two numbers of seconds or null"),
        (json.dumps(message(retries=True)), "header retries=True must be int or null"),
        (json.dumps(message(eta="tomorrow")), "header eta=tomorrow is not a time in ISO 8601"),
        (json.dumps({"headers": {"task": "t"}, "properties": {}}), 'names the task "t" but no id'),
    ],
)
def test_what_is_no_envelope_is_said(text, said):
    with pytest.raises(EnvelopeError) as caught:
        envelope.decode(text)
    assert said in str(caught.value)


@given(st.text() | st.binary().map(lambda data: base64.b64encode(data).decode()))
def test_whatever_the_text_the_error_is_ours(text):
    try:
        assert isinstance(envelope.decode(text), dict)
    except EnvelopeError:
        pass


@pytest.mark.parametrize("payload", [None, [], [[], {}], [[], {}, None], [{}, {}, {}], [[], [], {}], "abc", {"a": 1}])
def test_a_body_that_is_not_args_kwargs_and_embed_is_refused(payload):
    with pytest.raises(EnvelopeError):
        envelope.check_payload(payload)


@given(st.floats(min_value=-1e6, max_value=1e6))
def test_the_eta_is_never_before_its_time(seconds):
    eta = (NOW + timedelta(seconds=seconds)).isoformat()
    left = envelope.seconds_until_eta({"eta": eta}, NOW)
    assert left == pytest.approx(max(0.0, seconds), abs=1e-5)


@pytest.mark.parametrize("eta", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", None, 5])
def test_an_eta_at_the_ends_of_time_is_no_error(eta):
    assert envelope.seconds_until_eta({"eta": eta}, NOW) >= 0


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 1 << 20)), max_size=60))
def test_batches_hold_ten_messages_and_a_mebibyte_at_most_and_keep_the_order(sizes):
    options = Options.read({"predefined_queues": {name: {"url": URL + name} for name in "ab"}})
    outgoing = [Outgoing(options.queues[name], str(number), {}, size) for number, (name, size) in enumerate(sizes)]
    batches = list(_batches(outgoing))
    for batch in batches:
        assert len(batch) <= 10
        assert sum(each.size for each in batch) <= 1 << 20
        assert len({each.queue.name for each in batch}) == 1
    for name in "ab":
        sent = [each.task_id for batch in batches for each in batch if each.queue.name == name]
        assert sent == [each.task_id for each in outgoing if each.queue.name == name]


@given(st.text())
def test_any_text_makes_a_group_id_that_sqs_takes(text):
    made = group_id(text)
    assert 0 < len(made) <= 128
    assert made.isascii()
    assert made.isprintable()
    assert " " not in made
    assert group_id(text) == made


@given(st.integers(1, 100_000))
def test_pauses_grow_and_stay_bounded(tries):
    assert 0.25 <= pause_seconds(tries) <= 15
    assert pause_seconds(tries, longest=2) <= 2


@given(st.text(max_size=75))
def test_queue_names_are_those_that_kombu_makes(name):
    from kombu.transport.SQS import Channel

    if name.isascii():
        assert sqs_name(name) == Channel.entity_name(Channel, name)


def test_a_publish_error_names_the_first_task_and_lists_all():
    error = PublishError([Unsent("a", "q", "AccessDenied: no"), Unsent("b", "q", "AccessDenied: no")], 8)
    assert str(error).startswith('2 of 10 messages were not sent: task a to queue "q": AccessDenied: no and 1 more.')
    assert [each.task_id for each in error.unsent] == ["a", "b"]
    assert "Send them again by their task ids" in str(error)


def test_a_publish_error_does_not_advise_to_send_again_what_can_never_be_sent():
    error = PublishError([Unsent("a", "q", "Set the transport option claim_check.", passing=False)], 0)
    assert "claim_check. Sending them again would not help" in str(error)


HEALTHY = {"written_at": 995.0, "hung": False, "dead_pollers": [], "oldest_poll_seconds": 12.0, "stopping": False}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, []),
        ({"oldest_poll_seconds": None}, []),
        (
            {"oldest_poll_seconds": 900.0},
            ["a receive has not come back for 905 s, neither with messages nor with an error."],
        ),
        ({"oldest_poll_seconds": 900.0, "dead_pollers": ["q"], "stopping": True}, []),
        ({"written_at": 900.0}, ["the file is 100 s old: the worker, or the thread that keeps its leases, has ended."]),
        ({"hung": True}, ["the event loop does not turn."]),
        ({"dead_pollers": ["q"]}, ["the threads that receive from q have ended."]),
    ],
)
def test_a_worker_is_deaf_when_its_polls_do_not_come_back(changed, said):
    assert liveness.problems({**HEALTHY, **changed}, now=1000.0) == said
