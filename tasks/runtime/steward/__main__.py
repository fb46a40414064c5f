"""`python -m tasks.runtime.steward`: run by a worker, see client.py."""

import signal
import sys

# It ends when its worker does. A Ctrl-C, or a stop of the whole container, is meant for the worker.
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(_number, signal.SIG_IGN)

from tasks.runtime.steward.process import main  # noqa: E402 - the signals come first

sys.exit(main())
