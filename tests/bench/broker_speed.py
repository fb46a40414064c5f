"""Compare workers and producers on the fake SQS: ours, Celery on kombu's own transport, raw boto3, dramatiq, taskiq.

    .venv/bin/python -m tests.bench.broker_speed [--measure consume,produce] [--rounds 5] [--tasks 2000]
        [--latency-ms 5] [--concurrency 4] [--pool prefork] [--contenders stock,ours,raw] [--python-extra PATH] [--json]

Round k runs every contender once, each time in another order, each in processes of its own against a fake SQS of its own.
Figures are medians over rounds; ratios are taken within a round against `stock`, and then their median. dramatiq and
taskiq are compared if --python-extra names an interpreter that has requirements/bench.in.

consume: tasks a second from a backlog of no-op tasks, and CPU and requests a task; starting the worker does not count.
produce: tasks a second, sent one by one, and in the library's way for many.
group1000: requests and seconds of 1000 tasks sent at once, at 10 ms.
latency: from before sending to the start of the task, at 20 tasks a second.
calls: calls of functions a produced task, in Python and in C.
grid: consume at several round-trip times and concurrencies with threads; tests.bench.plot_broker draws it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.bench.contenders import CONTENDERS, PREFETCH, Contender, Setup
from tests.bench.contenders.processes import (
    POLL_SECONDS,
    Fake,
    await_,
    backlog,
    cpu_seconds,
    fake_sqs,
    producing,
    working,
)

DEFAULT = ("stock", "ours", "raw")
#: Seconds from loading the backlog to its becoming visible: at least what loading takes.
LOAD_DELAY_SECONDS = 1
GROUP_TASKS, GROUP_LATENCY_MS = 1000, 10.0
CALL_TASKS = 200
PACED_TASKS = 200  # ten seconds at 20 a second
GRID_LATENCIES_MS, GRID_CONCURRENCIES = (1.0, 5.0, 20.0, 50.0), (1, 4, 16)

Figures = dict[str, float]


def interleaved(
    names: Sequence[str], rounds: int, measure: Callable[[Contender], Figures], **settings: object
) -> dict[str, Any]:
    """Run a measure on every contender once a round, each round in another order.

    The result holds, beside the settings, for each contender its median figures and, under `ratios`, those in relation
    to stock's of the same round, if stock takes part.
    """
    found: dict[str, list[Figures]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in [*names[shift:], *names[:shift]]:
            found[name].append(measure(CONTENDERS[name]))
    return {**settings, "rounds": rounds, "contenders": {name: summary(found, name) for name in names}}


def summary(found: dict[str, list[Figures]], name: str) -> dict[str, Any]:
    """Medians of one contender's figures and of their ratios to stock's."""
    figures = found[name][0]
    medians: dict[str, Any] = {key: statistics.median(each[key] for each in found[name]) for key in figures}
    if "stock" in found:
        pairs = list(zip(found[name], found["stock"], strict=True))
        medians["ratios"] = {
            key: statistics.median(each[key] / stock[key] for each, stock in pairs)
            for key in figures
            if all(key in stock and stock[key] for _, stock in pairs)
        }
    return medians


def consume_once(
    contender: Contender,
    entries: list[dict[str, Any]],
    setup: Setup,
    *,
    latency_ms: float,
    most_seconds: float,
    extra: str | None,
) -> Figures:
    """One worker that empties a queue, from the first message deleted to the last, or for at most so many seconds."""
    with fake_sqs() as fake:
        setup = Setup(fake.url, setup.pool, setup.concurrency, setup.prefetch)
        with working(contender, setup, fake, extra) as processes:
            fake.load(entries, LOAD_DELAY_SECONDS)
            fake.counts(latency_seconds=latency_ms / 1000, reset=True)
            await_(lambda: deleted(fake) > 0, 30, f"{contender.name} deletes its first message")
            before, began, used = fake.counts(), time.monotonic(), cpu_seconds(processes)
            while True:
                after, now = fake.counts(), time.monotonic()
                if after["messages_deleted"] >= len(entries) or now - began > most_seconds:
                    break
                time.sleep(POLL_SECONDS)
            used = cpu_seconds(processes) - used
    tasks = after["messages_deleted"] - before["messages_deleted"]
    return {
        "tasks_a_second": tasks / (now - began),
        "cpu_ms_a_task": used * 1000 / tasks,
        "requests_a_task": (after["requests"] - before["requests"]) / tasks,
        "tasks": tasks,
    }


def deleted(fake: Fake) -> int:
    return fake.counts().get("messages_deleted", 0)


def consume(
    *,
    rounds: int = 5,
    tasks: int = 2000,
    latency_ms: float = 5.0,
    pool: str = "prefork",
    concurrency: int = 4,
    prefetch: int = PREFETCH,
    contenders: Sequence[str] = DEFAULT,
    python_extra: str | None = None,
    most_seconds: float = 8.0,
) -> dict[str, Any]:
    """Tasks a second from a backlog; CPU of the worker and all its processes, and requests to SQS, a task.

    most_seconds: after which a slow contender is stopped; its speed is that of the tasks done until then.
    """
    setup = Setup("", pool, concurrency, prefetch)
    # Raw messages are like Celery's: what it does not read costs it nothing but their length.
    backlogs = {
        name: backlog(CONTENDERS["stock" if name == "raw" else name], tasks, python_extra) for name in contenders
    }
    found = interleaved(
        contenders,
        rounds,
        lambda each: consume_once(
            each,
            backlogs[each.name],
            setup,
            latency_ms=latency_ms,
            most_seconds=most_seconds,
            extra=python_extra,
        ),
        latency_ms=latency_ms,
        pool=pool,
        concurrency=concurrency,
    )
    for name, figures in found["contenders"].items():
        figures["prefetch"] = CONTENDERS[name].held(setup)
        figures["body_bytes"] = len(backlogs[name][0]["MessageBody"])
    return found


def send_once(
    contender: Contender, word: str, number: int, latency_ms: float, extra: str | None, **variables: str
) -> Figures:
    """Seconds until so many tasks are in the queue and the call has returned; requests; calls of functions a task.

    word: single or bulk.
    """
    with fake_sqs() as fake, producing(contender, Setup(fake.url), fake, extra, **variables) as producer:
        before = producer.send("single", 0)
        fake.counts(latency_seconds=latency_ms / 1000, reset=True)
        began = time.monotonic()
        producer.send(word, number)
        await_(lambda: fake.counts().get("messages_sent", 0) >= number, 60, f"{contender.name} sends {number} tasks")
        seconds = time.monotonic() - began
        requests = fake.counts()["requests"]
        called = producer.send("single", 0) - before
    return {"seconds": seconds, "tasks_a_second": number / seconds, "requests": requests, "calls": called / number}


def produce(
    *,
    rounds: int = 5,
    tasks: int = 300,
    latency_ms: float = 5.0,
    contenders: Sequence[str] = DEFAULT,
    python_extra: str | None = None,
) -> dict[str, Any]:
    """Tasks a second that one thread of a program sends: one by one, and in the library's way for many."""

    def measure(contender: Contender) -> Figures:
        single = send_once(contender, "single", tasks, latency_ms, python_extra)
        bulk = send_once(contender, "bulk", tasks, latency_ms, python_extra)
        return {
            "single_tasks_a_second": single["tasks_a_second"],
            "bulk_tasks_a_second": bulk["tasks_a_second"],
            "single_requests_a_task": single["requests"] / tasks,
            "bulk_requests_a_task": bulk["requests"] / tasks,
        }

    return interleaved(contenders, rounds, measure, latency_ms=latency_ms, tasks=tasks)


def group1000(
    *, rounds: int = 3, contenders: Sequence[str] = DEFAULT, python_extra: str | None = None
) -> dict[str, Any]:
    """Requests and seconds of a thousand tasks sent at once, at 10 ms."""

    def measure(contender: Contender) -> Figures:
        sent = send_once(contender, "bulk", GROUP_TASKS, GROUP_LATENCY_MS, python_extra)
        return {"requests": sent["requests"], "seconds": sent["seconds"]}

    return interleaved(contenders, rounds, measure, latency_ms=GROUP_LATENCY_MS, tasks=GROUP_TASKS)


def calls(*, contenders: Sequence[str] = DEFAULT, python_extra: str | None = None) -> dict[str, Any]:
    """Calls of functions a produced task, in Python and in C, over all threads. They come out alike on any machine."""

    def measure(contender: Contender) -> Figures:
        return {
            f"{word}_calls_a_task": send_once(contender, word, CALL_TASKS, 0, python_extra, BENCH_COUNT_CALLS="1")[
                "calls"
            ]
            for word in ("single", "bulk")
        }

    return interleaved(contenders, 1, measure, tasks=CALL_TASKS)


def latency_once(contender: Contender, number: int, latency_ms: float, setup: Setup) -> Figures:
    """Milliseconds from before a task is sent until it starts, half and 95 % of them at most."""
    with fake_sqs() as fake, tempfile.TemporaryDirectory() as folder:
        setup = Setup(fake.url, setup.pool, setup.concurrency, setup.prefetch)
        path = Path(folder, "latencies")
        path.touch()
        with (
            working(contender, setup, fake, None, BENCH_LATENCIES=str(path)),
            producing(contender, setup, fake, None) as producer,
        ):
            await_(lambda: deleted(fake) >= 11, 30, f"{contender.name} works off what connected the producer")
            fake.counts(latency_seconds=latency_ms / 1000, reset=True)
            producer.send("paced", number)
            await_(lambda: deleted(fake) >= number, 30, f"{contender.name} does {number} tasks")
            requests = fake.counts()["requests"]
        seconds = [float(line) for line in path.read_text().split()]
    if len(seconds) != number:
        raise RuntimeError(f"{contender.name} did {len(seconds)} tasks of {number}")
    return {
        "p50_ms": statistics.median(seconds) * 1000,
        "p95_ms": statistics.quantiles(seconds, n=20)[-1] * 1000,
        "requests_a_task": requests / number,
    }


def latency(
    *,
    rounds: int = 3,
    tasks: int = PACED_TASKS,
    latency_ms: float = 5.0,
    pool: str = "prefork",
    concurrency: int = 4,
    prefetch: int = PREFETCH,
    contenders: Sequence[str] = ("stock", "ours"),
) -> dict[str, Any]:
    """End-to-end latency at 20 tasks a second; requests a task hold both ends, and the receives. Celery only."""
    setup = Setup("", pool, concurrency, prefetch)
    found = interleaved(
        contenders,
        rounds,
        lambda each: latency_once(each, tasks, latency_ms, setup),
        latency_ms=latency_ms,
        pool=pool,
        concurrency=concurrency,
        tasks=tasks,
    )
    for name, figures in found["contenders"].items():
        figures["prefetch"] = CONTENDERS[name].held(setup)
    return found


def grid(
    *,
    rounds: int = 1,
    tasks: int = 3000,
    latencies_ms: Sequence[float] = GRID_LATENCIES_MS,
    concurrencies: Sequence[int] = GRID_CONCURRENCIES,
    contenders: Sequence[str] = ("stock", "ours"),
    most_seconds: float = 2.5,
) -> list[dict[str, Any]]:
    """What consume() finds for each round-trip time and concurrency, with the threads pool."""
    return [
        consume(
            rounds=rounds,
            tasks=tasks,
            latency_ms=each,
            pool="threads",
            concurrency=concurrency,
            contenders=contenders,
            most_seconds=most_seconds,
        )
        for each in latencies_ms
        for concurrency in concurrencies
    ]


def importable(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def present(names: Sequence[str], python_extra: str | None) -> tuple[str, ...]:
    """Those that can run here; says loudly which cannot."""
    able = []
    for name in names:
        contender = CONTENDERS[name]
        if contender.extra and python_extra is None:
            reason = "no --python-extra names an interpreter with requirements/bench.in"
        elif not contender.extra and not importable(contender.needs):
            reason = f"{contender.needs} cannot be imported"
        else:
            able.append(name)
            continue
        print(f"NOT COMPARED: {name}, since {reason}.", file=sys.stderr)
    return tuple(able)


def show(measure: str, found: dict[str, Any]) -> None:
    """Print figures, and in brackets how many times stock's they are."""
    settings = ", ".join(f"{key} {value}" for key, value in found.items() if key != "contenders")
    print(f"\n{measure}: {settings}")
    for name, figures in found["contenders"].items():
        ratios = figures.get("ratios", {})
        print(f"  {name}")
        for key, value in figures.items():
            if key == "ratios":
                continue
            ratio = f"  (x{ratios[key]:.2f})" if key in ratios and name != "stock" else ""
            print(f"    {key:24} {value if isinstance(value, str) else f'{value:.4g}'}{ratio}")


def run(measure: str, options: argparse.Namespace, names: tuple[str, ...]) -> Any:
    """One measure as the command line asks for it."""
    celery = tuple(name for name in names if CONTENDERS[name].producer == CONTENDERS["stock"].producer)
    among: dict[str, Any] = {"contenders": names, "python_extra": options.python_extra}
    worker = {name: getattr(options, name) for name in ("latency_ms", "pool", "concurrency", "prefetch")}
    if measure == "consume":
        most = options.most_seconds
        return consume(rounds=options.rounds, tasks=options.tasks, most_seconds=most, **worker, **among)
    if measure == "produce":
        return produce(rounds=options.rounds, tasks=options.sends, latency_ms=options.latency_ms, **among)
    if measure == "group1000":
        return group1000(rounds=options.rounds, **among)
    if measure == "latency":
        return latency(rounds=options.rounds, **worker, contenders=celery)
    if measure == "calls":
        return calls(**among)
    if measure == "grid":
        return grid(latencies_ms=options.rtts, concurrencies=options.concurrencies, contenders=celery)
    raise SystemExit(f"unknown measure {measure!r}: see --help")


def numbers(text: str) -> tuple[float, ...]:
    return tuple(float(each) for each in text.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", default="consume,produce,group1000,latency,calls")
    parser.add_argument("--contenders", default="stock,ours,raw,dramatiq,taskiq", help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=2000, help="to consume")
    parser.add_argument("--sends", type=int, default=300, help="tasks to produce")
    parser.add_argument("--latency-ms", type=float, default=5.0, help="that the fake SQS adds to a request")
    parser.add_argument("--pool", choices=["prefork", "threads"], default="prefork")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--prefetch", type=int, default=PREFETCH, help="messages held a slot")
    parser.add_argument("--most-seconds", type=float, default=8.0, help="of consuming, a contender and round")
    parser.add_argument("--rtts", type=numbers, default=GRID_LATENCIES_MS, help="milliseconds, of the grid")
    parser.add_argument(
        "--concurrencies",
        type=lambda text: tuple(map(int, numbers(text))),
        default=GRID_CONCURRENCIES,
        help="of the grid",
    )
    parser.add_argument("--python-extra", help="an interpreter with requirements/bench.in")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    # Ended from outside, it still ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    names = present(options.contenders.split(","), options.python_extra)
    found = {}
    for measure in options.measure.split(","):
        found[measure] = run(measure, options, names)
        if not options.json:
            for each in found[measure] if measure == "grid" else [found[measure]]:
                show(measure, each)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
