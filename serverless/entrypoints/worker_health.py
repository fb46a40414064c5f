"""A worker container's health check: is the worker in this container alive?

    python -m serverless.entrypoints.worker_health [FILE]

FILE: what the worker was told as LIVENESS_FILE; default: that variable. Exits with 0 if it lives, else with 1 and a
line for each reason. serverless/broker/liveness.py has the rules.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

_RULES = Path(__file__).resolve().parents[1] / "broker" / "liveness.py"


def _rules() -> ModuleType:
    """The module alone: its package loads kombu and boto3, which takes longer than a check may on a small container."""
    spec = importlib.util.spec_from_file_location("liveness", _RULES)
    if spec is None or spec.loader is None:
        raise ImportError(f"{_RULES} cannot be read")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(arguments: Sequence[str]) -> None:
    file = arguments[0] if arguments else os.environ.get("LIVENESS_FILE", "")
    if not file:
        print("LIVENESS_FILE is not set: the worker writes nothing to judge by. Set it for both.", file=sys.stderr)
        sys.exit(1)
    sys.argv = [sys.argv[0], file]
    _rules().main()


if __name__ == "__main__":
    main(sys.argv[1:])
