"""Is the worker alive, by the file that it rewrites every few seconds (transport option liveness_file)?

    python -m serverless.broker.liveness /tmp/worker-liveness

Exits with 0 if it is, else with 1 and a line for each reason. An outage of SQS is no reason: ending a worker for it
would help nobody. A worker whose polls do not come back at all, or whose event loop stands still, is deaf and should be
replaced.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

#: The file is rewritten every five seconds.
_OLDEST_SECONDS = 30.0
#: A poll waits 20 s, its connection 10 s more, a pause after a failure 15 s.
_LONGEST_POLL_SECONDS = 60.0


def problems(facts: Mapping[str, Any], now: float) -> list[str]:
    """What is wrong; empty if nothing is. facts: the file's object. now: a time.time()."""
    age = now - facts["written_at"]
    if age > _OLDEST_SECONDS:
        return [f"the file is {age:.0f} s old: the worker, or the thread that keeps its leases, has ended."]
    found: list[str] = []
    if facts["hung"]:
        found.append("the event loop does not turn.")
    if facts.get("stopping"):
        # Its threads end, and what runs may take as long as it does.
        return found
    if facts.get("dead_pollers"):
        found.append(f"the threads that receive from {', '.join(facts['dead_pollers'])} have ended.")
    polls = facts.get("oldest_poll_seconds")
    if polls is not None and polls + age > _LONGEST_POLL_SECONDS:
        found.append(f"a receive has not come back for {polls + age:.0f} s, neither with messages nor with an error.")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    path = parser.parse_args().file
    try:
        with open(path, encoding="utf-8") as handle:
            found = problems(json.load(handle), time.time())
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = [
            f"{path} cannot be read ({type(error).__name__}: {error}): the worker has not started, or no longer runs."
        ]
    for line in found:
        print(line, file=sys.stderr)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
