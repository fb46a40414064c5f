"""Messages that no task can be made of, among healthy ones: no worker stops, loops or loses any of them."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import pickle
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from serverless.fakesqs import Fault
from tests.faults.messages import envelope, put
from tests.faults.plant import Plant, Worker
from tests.waiting import wait_for

SEED = 20_261_125
STORY = {"DeadLetterReason", "DeadLetterAt", "DeadLetterQueue", "DeadLetterWorker", "DeadLetterReceives"}
MEBIBYTE = 1 << 20


class Poison(NamedTuple):
    """One message, and what is wrong with it."""

    label: str
    body: str


def spoiled(label: str, spoil: Callable[[dict[str, Any]], object]) -> Poison:
    """A good message with something put wrong."""
    task_id = f"poison-{label.replace(' ', '-')}"
    made = envelope(task_id=task_id, args=["poison"])
    spoil(made)
    return Poison(label, json.dumps(made))


def with_header(name: str, value: object) -> Poison:
    return spoiled(f"header {name}={str(value)[:40]}", lambda made: made["headers"].update({name: value}))


def with_property(name: str, value: object) -> Poison:
    return spoiled(f"property {name}={str(value)[:40]}", lambda made: made["properties"].update({name: value}))


def with_body(label: str, body: object) -> Poison:
    return spoiled(label, lambda made: made.update(body=body))


def of_protocol_1(label: str, **fields: object) -> Poison:
    task_id = f"poison-1-{label.replace(' ', '-')}"
    body = {"task": "tests.faults.app.note", "id": task_id, "args": ["poison"], "kwargs": {}, **fields}
    text = json.dumps({key: value for key, value in body.items() if value is not ...})
    return spoiled(f"protocol 1 {label}", lambda made: made.update(headers={}, body=text))


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


#: The first four stop the worker on kombu's own transport.
KNOWN = [
    spoiled("body is no base64", lambda made: (made.update(body="%%%"), made["properties"].update(body_encoding="base64"))),
    spoiled("no id", lambda made: made["headers"].pop("id")),
    with_body("body is no triple", "[1, 2]"),
    spoiled("properties null", lambda made: made.update(properties=None)),
    spoiled("no properties", lambda made: made.pop("properties")),
    spoiled("headers null", lambda made: made.update(headers=None)),
    spoiled("no body", lambda made: made.pop("body")),
    with_body("body null", None),
    with_body("body is no JSON", "{"),
    with_body("body is a number", "5"),
    with_body("args is an object", '[{}, {}, {}]'),
    with_body("kwargs is a list", '[[], [], {}]'),
    with_body("deep body", f"[{nested(500)}, {{}}, {{}}]"),
    with_body("deeper body", f"[{nested(900)}, {{}}, {{}}]"),
    with_body("deepest body", nested(100_000)),
    with_body("endless integer", f"[[{'9' * 10_000}], {{}}, {{}}]"),
    with_body("large integer", f"[[{'9' * 4_000}], {{}}, {{}}]"),
    with_body("surrogate argument", '[["\\ud800"], {}, {}]'),
    with_body("strange type", '[[{"__type__": "datetime", "__value__": "x"}], {}, {}]'),
    with_body("unknown type", '[[{"__type__": "nothing", "__value__": {}}], {}, {}]'),
    with_body("strange callbacks", '[[], {}, {"callbacks": [5], "errbacks": [{}], "chain": ["x"], "chord": 7}]'),
    with_body("callback of strange options", '[[], {}, {"callbacks": [{"task": "x", "options": 5}]}]'),
    with_body("chain of strange options", '[[], {}, {"chain": [{"task": "x", "options": 5}]}]'),
    with_body("callback of an unknown task", '[[], {}, {"callbacks": [{"task": "x", "args": [], "kwargs": {}}]}]'),
    with_body("chord of strange arguments", '[[], {}, {"chord": {"task": "x", "args": 5}}]'),
    spoiled("unknown task", lambda made: made["headers"].update(task="tests.faults.app.nothing")),
    spoiled("pickle", lambda made: made.update(
        {"content-type": "application/x-python-serialize", "content-encoding": "binary",
         "body": base64.b64encode(pickle.dumps(([], {}, {}))).decode()}, properties={**made["properties"], "body_encoding": "base64"})),
    spoiled("yaml", lambda made: made.update({"content-type": "application/x-yaml"})),
    spoiled("no content type", lambda made: made.update({"content-type": None})),
    spoiled("plain text", lambda made: made.update({"content-type": "text/plain"})),
    spoiled("data", lambda made: made.update({"content-type": "application/data"})),
    spoiled("unknown encoding", lambda made: made.update({"content-encoding": "no-such-code"})),
    spoiled("another encoding", lambda made: made.update({"content-encoding": "utf-16"})),
    with_header("compression", "application/x-nothing"),
    with_header("compression", "application/x-gzip"),
    with_property("body_encoding", "rot13"),
    with_property("delivery_info", "nowhere"),
    with_property("delivery_info", {"exchange": [1], "routing_key": {}}),
    with_property("delivery_tag", ["a list"]),
    with_property("priority", {"a": 1}),
    with_property("correlation_id", ["a list"]),
    with_property("reply_to", {"a": 1}),
    with_header("id", ""),
    with_header("id", "\ud800"),
    with_header("id", "new\nline\tand tab"),
    with_header("task", None),
    with_header("task", ["a list"]),
    with_header("task", ""),
    with_header("retries", "many"),
    with_header("retries", 10**400),
    with_header("timelimit", "soon"),
    with_header("timelimit", [1]),
    with_header("timelimit", ["a", "b"]),
    with_header("timelimit", [10**400, None]),
    with_header("timelimit", [None, 10**400]),
    with_header("timelimit", [float("inf"), float("nan")]),
    with_header("timelimit", [-1, -1]),
    with_header("timelimit", [1e300, 1e300]),
    with_header("eta", "tomorrow"),
    with_header("eta", "0001-01-01T00:00:00"),
    with_header("eta", "0001-01-01T00:00:00+14:00"),
    with_header("eta", "9999-12-31T23:59:59"),
    with_header("eta", "9999-12-31T23:59:59-14:00"),
    with_header("eta", 5),
    with_header("eta", ""),
    with_header("expires", "0001-01-01T00:00:00"),
    with_header("expires", "0001-01-01T00:00:00+14:00"),
    with_header("expires", "9999-12-31T23:59:59-14:00"),
    with_header("expires", "never"),
    with_header("expires", 10**400),
    with_header("expires", ""),
    with_header("stamped_headers", [["a list"]]),
    with_header("stamped_headers", ["a"]),
    with_header("stamps", {"a": nested(10)}),
    with_header("stamps", "none"),
    with_header("group", "a-group"),
    with_header("group_index", "x"),
    with_header("parent_id", 5),
    with_header("shadow", {"a": 1}),
    with_header("lang", ["x"]),
    with_header("meth", ["x"]),
    with_header("origin", {"a": 1}),
    with_header("argsrepr", {"a": 1}),
    with_header("kwargsrepr", None),
    with_header("ignore_result", "perhaps"),
    with_header("replaced_task_nesting", "deep"),
    with_header("hostname", 5),
    with_header("args", 5),
    with_header("kwargs", "x"),
    with_header("properties", "x"),
    of_protocol_1("whole"),
    of_protocol_1("no id", id=...),
    of_protocol_1("no task", task=...),
    of_protocol_1("task is a list", task=[]),
    of_protocol_1("id is a list", id=[]),
    of_protocol_1("id is null", id=None),
    of_protocol_1("args is a number", args=5),
    of_protocol_1("no args", args=...),
    of_protocol_1("kwargs is a list", kwargs=[]),
    of_protocol_1("unknown task", task="tests.faults.app.nothing"),
    of_protocol_1("unknown task, no id", task="tests.faults.app.nothing", id=...),
    of_protocol_1("eta is junk", eta="tomorrow"),
    of_protocol_1("eta is a list", eta=[]),
    of_protocol_1("eta year 1", eta="0001-01-01T00:00:00+14:00"),
    of_protocol_1("eta year 9999", eta="9999-12-31T23:59:59-14:00"),
    of_protocol_1("eta far ahead", eta="9999-12-31T23:59:59"),
    of_protocol_1("expires is junk", expires="never"),
    of_protocol_1("expires is a list", expires=[]),
    of_protocol_1("timelimit is text", timelimit="soon"),
    of_protocol_1("timelimit is short", timelimit=[1]),
    of_protocol_1("timelimit is no number", timelimit=["a", {}]),
    of_protocol_1("timelimit is endless", timelimit=[10**400, 10**400]),
    of_protocol_1("retries is text", retries="many"),
    of_protocol_1("retries is a list", retries=[]),
    of_protocol_1("utc is text", utc="x", eta="2000-01-01T00:00:00"),
    of_protocol_1("callbacks is a number", callbacks=5),
    of_protocol_1("chord is a number", chord=5),
    of_protocol_1("taskset is a list", taskset=[]),
    of_protocol_1("errbacks are numbers", task="tests.faults.app.fail", errbacks=[5]),
    Poison("empty object", "{}"),
    Poison("a number", "5"),
    Poison("null", "null"),
    Poison("a list", "[]"),
    Poison("a word", "hello"),
    Poison("a space", " "),
    Poison("base64 of junk", base64.b64encode(b"\xff\x00junk").decode()),
    Poison("base64 of text", base64.b64encode(b"junk").decode()),
    Poison("base64 of gzip", base64.b64encode(gzip.compress(b"junk")).decode()),
    Poison("half of base64", "eyJib2R5Ijog"),
    Poison("deep", nested(100_000)),
    Poison("deep headers", '{"headers": {"task": ' + nested(990) + ', "id": "x"}, "properties": {}}'),
    Poison("nearly base64", "A" + " " * 500_000 + "!"),
    Poison("not a number", '{"headers": NaN, "properties": Infinity}'),
    Poison("keys twice", '{"headers": {"task": "a", "task": 5}, "headers": 5, "properties": {}}'),
    Poison("claim check", json.dumps({**envelope(), "claim-check": {"bucket": "b"}})),
]  # fmt: skip

_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 10**20, 10**400, 1e308, float("nan"), float("inf"), "", "0", "null", "\ud800", "a\nb\tc"]),
    st.floats(),
    st.text(max_size=30),
    st.sampled_from(["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2000-02-30", "2000-01-01T00:00:00"]),
)
_junk = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_HEADERS = (
    *(
        "task",
        "id",
        "root_id",
        "parent_id",
        "group",
        "eta",
        "expires",
        "retries",
        "timelimit",
        "argsrepr",
        "kwargsrepr",
    ),
    *("origin", "ignore_result", "stamps", "stamped_headers", "compression", "shadow", "lang", "meth", "group_index"),
    *("replaced_task_nesting", "x-unknown"),
)
_PROPERTIES = (
    *("correlation_id", "reply_to", "delivery_mode", "delivery_info", "priority", "body_encoding", "delivery_tag"),
    *("message_attributes", "x-unknown"),
)
_PLACES = [
    *(((), key) for key in ("body", "content-type", "content-encoding", "headers", "properties", "claim-check")),
    *((("headers",), key) for key in _HEADERS),
    *((("properties",), key) for key in _PROPERTIES),
    *((("properties", "delivery_info"), key) for key in ("exchange", "routing_key")),
    *((("payload",), key) for key in (0, 1, 2)),
    *((("payload", 2), key) for key in ("callbacks", "errbacks", "chain", "chord")),
]
_ABSENT = object()


@st.composite
def _mutated(draw: st.DrawFn) -> str:
    """A good message with one to three values replaced or removed, anywhere."""
    made = envelope(task_id=f"random-{draw(st.uuids())}", args=["poison"])
    made["payload"] = json.loads(made["body"])
    for path, key in draw(st.lists(st.sampled_from(_PLACES), min_size=1, max_size=3, unique=True)):
        value = draw(st.just(_ABSENT) | _junk)
        with contextlib.suppress(TypeError, KeyError, IndexError):  # an earlier change took the place away
            at: Any = made
            for step in path:
                at = at[step]
            if value is _ABSENT:
                del at[key]
            else:
                at[key] = value
    payload = made.pop("payload", None)
    if isinstance(made.get("body"), str):
        made["body"] = json.dumps(payload)
    return json.dumps(made)


_bodies = st.one_of(
    st.binary(min_size=1, max_size=80).map(lambda data: data.decode("latin-1")),
    st.binary(min_size=1, max_size=80).map(lambda data: base64.b64encode(data).decode()),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
    _junk.map(json.dumps),
    st.dictionaries(st.sampled_from(["body", "headers", "properties", "content-type"]), _junk).map(json.dumps),
    _mutated(),
    _mutated(),
    _mutated(),
    _mutated().map(lambda text: base64.b64encode(text.encode()).decode()),
    _mutated().map(lambda text: text[: len(text) * 2 // 3]),
)


def random_bodies(count: int) -> list[Poison]:
    """So many generated bodies, the same in each run."""
    found: list[Poison] = []

    @seed(SEED)
    @settings(max_examples=count, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(_bodies)
    def collect(body: str) -> None:
        found.append(Poison(f"random {len(found)}", body))

    collect()
    print(f"{len(found)} random bodies of seed {SEED}")
    return found


def known_id(body: str) -> str | None:
    """The task id that Celery would show in its log for this body."""
    try:
        made = json.loads(body if body.lstrip().startswith("{") else base64.b64decode(body))
        found = made["headers"]["id"] if "task" in (made["headers"] or {}) else json.loads(made["body"])["id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else repr(found)


def ends_in_log(text: str, task_id: str) -> int:
    """How often Celery's log says that the task was worked on or, being out of date, put aside."""
    shown = re.escape("[" + task_id.encode(errors="backslashreplace").decode() + "]")
    return len(
        re.findall(rf"{shown} (?:succeeded in|raised|retry)|(?:exceeded for|Discarding revoked task: )\S*{shown}", text)
    )


def is_quiet(works: Plant) -> bool:
    """Whether nothing is left but what waits for a day long ahead."""
    queue = works.server.sqs.queues["work"]
    soon = [until for until, _ in list(queue.hidden.values()) if until < time.monotonic() + 600]
    return not (queue.ready or queue.delayed or soon)


def check_every_message(works: Plant, worker: Worker, poison: list[Poison], healthy: int) -> None:
    """Sent = run + dead-lettered + waiting for its time, to the message; and no more than a receive or two each."""
    wait_for(lambda: is_quiet(works) or worker.ended(), "the end of all work", 60)
    assert not worker.ended(), worker.text()[-5000:]
    text = worker.text()
    lines = [line.split("\t") for line in works.trace_file.read_text(errors="replace").splitlines()]
    ran = Counter(line[2] for line in lines if len(line) == 5 and line[2].startswith("healthy-"))
    assert ran == Counter(f"healthy-{number}" for number in range(healthy))
    letters = Counter(letter["body"] for letter in works.dead_letters())
    waiting = Counter(message.body for _, message in works.server.sqs.queues["work"].hidden.values())
    worked = 0
    for each in poison:
        if letters[each.body]:
            letters[each.body] -= 1
        elif waiting[each.body]:
            waiting[each.body] -= 1
        else:
            task_id = known_id(each.body)
            assert task_id is not None, f"{each.label} is gone without a trace: {each.body[:1000]}"
            assert ends_in_log(text, task_id), f"{each.label}, task {task_id}, is gone: {each.body[:1000]}"
            worked += 1
    assert not +letters, "dead letters that were worked on as well"
    assert not +waiting
    for letter in works.dead_letters():
        assert set(letter["attributes"]) >= STORY, letter["attributes"]
        assert int(letter["attributes"]["DeadLetterReceives"]["StringValue"]) <= 2, letter
    print(f"{len(poison)} poisonous, {worked} of them worked on, {len(works.dead_letters())} dead-lettered")


@pytest.mark.parametrize(("pool", "count"), [("prefork", 400), ("threads", 60), ("solo", 60)])
def test_poison_is_dead_lettered_with_its_story_and_healthy_tasks_run(works, pool, count):
    worker = works.start_worker(pool)
    poison = KNOWN + random_bodies(count)
    bodies: list[Any] = [each.body for each in poison]
    healthy = len(bodies) // 5
    for number in range(healthy):
        bodies.insert(number * 6, envelope(args=[f"healthy-{number}"]))
    put(works, bodies)
    children = [child.pid for child in worker.pool()]
    check_every_message(works, worker, poison, healthy)
    assert pool != "prefork" or [child.pid for child in worker.pool()] == children


def test_messages_of_a_whole_mebibyte_reach_the_dead_letter_queue(works):
    worker = works.start_worker()
    poison = [Poison(f"large {letter}", letter * MEBIBYTE) for letter in ("!", "x", '"')]
    put(works, [each.body for each in poison])
    wait_for(lambda: is_quiet(works) or worker.ended(), "the end of all work", 30)
    assert sorted(letter["body"][0] for letter in works.dead_letters()) == ["!", '"', "x"]
    assert {len(letter["body"]) for letter in works.dead_letters()} == {MEBIBYTE}
    assert "goes to the dead-letter queue" in worker.text()


def test_a_message_that_leaves_little_room_carries_a_short_reason(works):
    works.start_worker()
    put(works, ["!" * (MEBIBYTE - 150)])
    works.await_empty(seconds=30)
    (letter,) = works.dead_letters()
    assert set(letter["attributes"]) == {"DeadLetterReason"}
    assert letter["attributes"]["DeadLetterReason"]["StringValue"].startswith("the body is not JSON")


def test_poison_without_a_dead_letter_queue_is_logged_whole_and_deleted(works):
    works.add_queue("bare", prefetch=10, with_dead_letters=False)
    worker = works.start_worker()
    body = json.dumps({"headers": None, "properties": 5, "body": "x" * 5000 + "the end"})
    put(works, [body, envelope(args=["healthy-0"])], queue="bare")
    works.await_empty("bare", 20)
    assert [trace.argument for trace in works.traces()] == ["healthy-0"]
    assert worker.text().count(body) == 1
    assert works.server.counts["messages_sent"] == 2


def test_the_dead_letter_queue_is_looked_up_where_it_is_not_declared(works):
    works.add_queue("sought", prefetch=10)
    del works.queues["sought"]["dead_letter_url"], works.queues["sought"]["max_receives"]
    works.server.faults.append(Fault("GetQueueAttributes", "error", 503, "ServiceUnavailable", times=2))
    worker = works.start_worker()
    put(works, ["junk", envelope(args=["healthy-0"]), "more junk"], queue="sought")
    works.await_empty("sought", 20)
    assert sorted(letter["body"] for letter in works.dead_letters("sought")) == ["junk", "more junk"]
    assert all(set(letter["attributes"]) == STORY for letter in works.dead_letters("sought"))
    assert [trace.argument for trace in works.traces()] == ["healthy-0"]
    assert worker.text().count("finding the dead-letter queue failed") == 1


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_task_that_exits_keeps_neither_its_slot_nor_its_message(works, pool):
    (works.folder / "exiting.py").write_text(
        "from tests.faults.app import app\n\n@app.task(name='leave')\ndef leave():\n    raise SystemExit(3)\n"
    )
    works.add_queue("exits", prefetch=10, max_receives=1)
    worker = works.start_worker(pool, concurrency=1, arguments=("--include=exiting",), PYTHONPATH=str(works.folder))
    put(works, [envelope(task="leave") for _ in range(2)] + [envelope(args=["healthy-0"])], queue="exits")
    works.await_empty("exits", 20)
    assert [trace.argument for trace in works.traces()] == ["healthy-0"]
    # Received once more than the redrive policy allows, they were moved by SQS itself.
    assert len(works.dead_letters("exits")) == 2
    assert not worker.ended()


def test_what_a_pool_cannot_take_keeps_neither_its_slot_nor_its_message(works):
    # As if the broker's own check of the depth had missed it: pickling for the pool's pipe gives up.
    (works.folder / "lenient.py").write_text("from serverless.broker import envelope\nenvelope._MOST_LEVELS = 10**9\n")
    worker = works.start_worker(concurrency=1, arguments=("--include=lenient",), PYTHONPATH=str(works.folder))
    deep = [with_body(f"deep {number}", f"[{nested(500)}, {{}}, {{}}]").body for number in range(3)]
    put(works, [*deep, *(envelope(args=[f"healthy-{number}"]) for number in range(3))])
    works.await_empty(seconds=10)
    assert sorted(trace.argument for trace in works.traces()) == ["healthy-0", "healthy-1", "healthy-2"]
    reasons = [letter["attributes"]["DeadLetterReason"]["StringValue"] for letter in works.dead_letters()]
    assert [reason[:43] for reason in reasons] == ["it cannot be given to the pool: RecursionEr"] * 3
    assert worker.stop() == 0
