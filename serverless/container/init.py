"""Process 1 of the container: starts a command, passes signals on to it, reaps orphans, and ends as it ends.

    python -m serverless.container.init python -m serverless.entrypoints.worker --pool datasets

The kernel gives process 1 two duties. Orphans of the whole container become its children, and stay as zombies unless it
waits for them: a task's subprocess that outlives its task. And a signal that it has not asked for is dropped, so that
`manage.py migrate` as process 1 would not hear that it is to stop. A worker should not have to do either.

Nothing else is loaded: it lives as long as the container.
"""

from __future__ import annotations

import os
import signal
import sys

#: What a terminal or the process's own fault sends; and what cannot be caught.
_NOT_FORWARDED = {
    *(signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTSTP),
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS),
}
_PR_SET_CHILD_SUBREAPER = 36


def main(command: list[str]) -> int:
    """Run the command; its exit code, 128 and the signal's number if one ended it, 126 or 127 if it cannot be run."""
    if not command:
        print("init: name a command, such as: python manage.py migrate", file=sys.stderr)
        return 2
    if os.getpid() != 1:
        _adopt_orphans()
    forwarded = {each for each in signal.valid_signals() if each not in _NOT_FORWARDED}
    # Blocked, they wait to be taken one by one; none is lost before there is a child.
    signal.pthread_sigmask(signal.SIG_BLOCK, forwarded | {signal.SIGCHLD})
    try:
        child = os.posix_spawnp(command[0], command, os.environ, setsigmask=[])
    except OSError as error:
        print(f"init: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126
    while True:
        number = signal.sigwait(forwarded | {signal.SIGCHLD})
        if number == signal.SIGCHLD:
            status = _reap(child)
            if status is not None:
                return status
        else:
            os.kill(child, number)


def _reap(child: int) -> int | None:
    """Wait for all that have ended; the exit code of the child, if it is among them."""
    ended: int | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not pid:
            return ended
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            ended = code if code >= 0 else 128 - code


def _adopt_orphans() -> None:
    """Do the same where something else is process 1, such as Docker's own."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
