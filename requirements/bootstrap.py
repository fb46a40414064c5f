"""Make .venv from requirements/dev.txt, with nothing but a Python that has venv and pip.

Run by the Makefile before each goal; it does nothing when the lock file and the interpreter are unchanged.
It must parse on any Python 3, so that an old one is told what is wrong instead of failing on syntax.
"""

import hashlib
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST = (3, 11)


def fail(message):
    sys.stderr.write("\n" + message + "\n\n")
    sys.exit(1)


def check_interpreter():
    version = "%d.%d" % sys.version_info[:2]
    if sys.version_info[:2] < OLDEST:
        fail(
            "Python %s at %s is too old: Cloudqueue needs 3.11, 3.12 or 3.13.\n"
            "Install one and name it: make PYTHON=/path/to/python3.12 ..." % (version, sys.executable)
        )
    missing = []
    for module in ("venv", "ensurepip"):
        try:
            __import__(module)
        except ImportError:
            missing.append(module)
    if missing:
        fail(
            "Python %s at %s lacks the standard module(s) %s, so it cannot make a virtual environment.\n"
            "On Debian and Ubuntu: sudo apt-get install python%s-venv. Elsewhere install a complete Python, then:\n"
            "make PYTHON=/path/to/python3.12 ..." % (version, sys.executable, " and ".join(missing), version)
        )


def fingerprint(lock):
    with open(lock, "rb") as handle:
        return hashlib.sha256(handle.read() + sys.version.encode()).hexdigest()


def main():
    check_interpreter()
    lock = os.path.join(ROOT, "requirements", "dev.txt")
    venv = os.path.join(ROOT, ".venv")
    stamp = os.path.join(venv, ".cloudqueue-stamp")
    python = os.path.join(venv, "bin", "python")
    wanted = fingerprint(lock)
    if os.path.exists(stamp) and os.path.exists(python):
        with open(stamp) as handle:
            if handle.read() == wanted:
                return
    print("Setting up .venv (once, and again when requirements/dev.txt changes) ...")
    sys.stdout.flush()
    if os.path.isdir(venv):
        shutil.rmtree(venv)
    # A caller's PYTHONPATH or virtual environment must not leak into ours.
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    for command in (
        [sys.executable, "-m", "venv", venv],
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps"]
        + ["--no-compile", "-r", lock],
    ):
        status = subprocess.call(command, env=environment)
        if status:
            fail("This step failed with status %d; its own message stands above:\n  %s" % (status, " ".join(command)))
    with open(stamp, "w") as handle:
        handle.write(wanted)


if __name__ == "__main__":
    main()
