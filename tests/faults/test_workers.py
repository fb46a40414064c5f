"""Workers that die while they work: the job ends all the same."""

from __future__ import annotations

import psutil
import pytest

from serverless.local.stack import Stack
from serverless.local.visitor import Visitor
from tests.waiting import wait_for

DATA = b"a,b,c\n" + b"".join(b"%d,%d,text %d\n" % (n, n % 97, n) for n in range(300_000))


@pytest.fixture
def short_stack(tmp_path):
    """A stack with many small parts, so that a kill lands in the middle."""
    made = Stack(tmp_path, web_port=0, overrides={"CHUNK_BYTES": "100000"})
    made.start()
    yield made
    made.stop()


def test_a_job_ends_though_a_pool_process_was_killed_at_work(short_stack):
    with Visitor(short_stack.url) as visitor:
        visitor.sign_in(*short_stack.demo_login())
        page = visitor.upload("killed.csv", DATA)
        wait_for(lambda: visitor.look(page).parts_done > 2, "the first parts")
        worker = psutil.Process(short_stack.child("datasets").process.pid)
        for child in worker.children():
            # Neither multiprocessing's tracker nor the steward is of the pool.
            if not any(name in " ".join(child.cmdline()) for name in ("resource_tracker", "runtime.steward")):
                child.kill()
                break

        def ended() -> bool:
            short_stack.watch()
            return visitor.look(page).state in ("ready", "failed")

        wait_for(ended, "the end of the job", 120)
        assert visitor.look(page).state == "ready"
