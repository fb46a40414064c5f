"""The laptop's AWS: moto in one process, behind one port, with the queues and the bucket that the stack needs.

Run by the supervisor and by the tests:
    python -m serverless.local.cloud --port 0 --origin http://127.0.0.1:8000 --folder .local/cloud
It prints `ready http://127.0.0.1:PORT` when everything is provisioned, and saves its objects when it is stopped.
"""

from __future__ import annotations

import argparse
import os
import threading
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.types import StartResponse, WSGIEnvironment

if TYPE_CHECKING:
    from serverless.local.functions import Functions

ACCOUNT_ID = "123456789012"
REGION = "us-east-1"
ACCESS_KEY_ID = "local"
SECRET_ACCESS_KEY = "local"  # noqa: S105 - the local cloud's only key; it opens nothing else
NAMES_ARGUMENTS = {
    "queue_prefix": "cloudqueue-",
    "bucket": "cloudqueue-files",
    "sender": "reports@cloudqueue.local",
    "schedule_group": "cloudqueue",
    "schedule_dead_letter_queue": "cloudqueue-schedules-dead",
    "sockets_table": "cloudqueue-sockets",
}


def environment(endpoint_url: str) -> dict[str, str]:
    """What a process needs in its environment to use the local cloud through the ordinary code."""
    schedules_dead = NAMES_ARGUMENTS["schedule_dead_letter_queue"]
    return {
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        # Nothing of a developer's own AWS set-up may reach the local cloud, or the reverse.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "QUEUE_URL_PREFIX": f"{endpoint_url}/{ACCOUNT_ID}/{NAMES_ARGUMENTS['queue_prefix']}",
        # Nobody pays for requests here, and a worker that stops waits for its last poll.
        "QUEUE_WAIT_SECONDS": "2",
        "FILES_BUCKET": NAMES_ARGUMENTS["bucket"],
        "DEFAULT_FROM_EMAIL": f"Cloudqueue <{NAMES_ARGUMENTS['sender']}>",
        "MAILBOX_URL": f"{endpoint_url}/_mail",
        "SCHEDULE_GROUP": NAMES_ARGUMENTS["schedule_group"],
        # What EventBridge becomes to send; nobody asks for its permissions here.
        "SCHEDULE_ROLE_ARN": f"arn:aws:iam::{ACCOUNT_ID}:role/cloudqueue-local-scheduler",
        "SCHEDULE_DEAD_LETTER_ARN": f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:{schedules_dead}",
        "SOCKETS_TABLE": NAMES_ARGUMENTS["sockets_table"],
    }


def application(running: Functions | None = None) -> Any:
    """The WSGI application: our S3 rules and mailbox pages before moto's dispatcher.

    running: what runs Lambda functions; None: nothing does.
    """
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    from serverless.local import functions, mailbox, moto_patches
    from serverless.local.s3_front import S3Front

    moto_patches.apply()
    if running is not None:
        functions.apply(running)
    backend = functions.with_list_of_urls(DomainDispatcherApplication(create_backend_app), ACCOUNT_ID)
    front = S3Front(backend, SECRET_ACCESS_KEY)

    def dispatch(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith(mailbox.PATH):
            return mailbox.respond(environ, start_response)
        return front(environ, start_response)

    return dispatch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--origin", action="append", default=[], help="a web origin that may upload; may be repeated")
    parser.add_argument("--folder", type=Path, help="where objects and mail are kept between runs; none: nowhere")
    options = parser.parse_args()

    # The rules of each bucket decide about CORS, not a blanket permission.
    os.environ["MOTO_DISABLE_GLOBAL_CORS"] = "true"
    from cheroot.wsgi import Server

    from serverless.local import provision, snapshot
    from serverless.local.functions import Functions
    from serverless.local.processes import stop_signal

    running = Functions(lambda: environment(os.environ["AWS_ENDPOINT_URL"]))
    server = Server(("127.0.0.1", options.port), application(running), numthreads=32, request_queue_size=128)
    server.prepare()
    url = f"http://127.0.0.1:{server.bind_addr[1]}"
    os.environ.update(environment(url))
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    status = 1
    try:
        provision.provision(provision.Names(**NAMES_ARGUMENTS, web_origins=tuple(options.origin)), url)
        if options.folder:
            snapshot.restore(options.folder)

        wait_for_stop = stop_signal()
        print(f"ready {url}", flush=True)
        wait_for_stop()
        if options.folder:
            snapshot.save(options.folder)
        running.close()
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        # Threads that wait in a long poll would hold an ordinary exit back, one that failed to start for ever.
        os._exit(status)


if __name__ == "__main__":
    main()
