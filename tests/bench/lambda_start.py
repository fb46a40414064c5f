"""Compare the cold start of our package with that of Zappa's own package of the same project.

    .venv/bin/python -m tests.bench.lambda_start [--rounds 9] [--zappa ZIP] [--ours ZIP] [--json]

Both run under AWS's runtime client, with byte code as their packages bring it. Rounds are interleaved; figures are
medians, ratios medians of each round's ratio. Zappa is told to load Django while it starts
(INSTANTIATE_LAMBDA_HANDLER_ON_IMPORT), and gets boto3 as a layer, as Lambda has it.

start: from the start of the process until it asks for the first event. first, warm: seconds of the first request for the
page to sign in, and of the hundred after it. cpu: of the process until it has answered the first.
overhead: the same page by way of an event, against Django's WSGI application called with a finished environ.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from serverless.local.front_door import HANDLER
from serverless.local.lambda_runtime import Sandbox, unpack
from serverless.packaging import build
from tests.lambda_events import Context, answered, request

ROOT = Path(__file__).resolve().parents[2]
PAGE = request("api_gateway_v1", path="/sign-in/", headers=[("Host", "site.example")])
#: What Lambda's runtime has, and Zappa leaves out.
SDK = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six.py", "urllib3")
WARM = 100


def environment(folder: Path) -> dict[str, str]:
    return {
        "SECRET_KEY": "x" * 50,
        "DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}",
        "PUBLIC_URL": "https://site.example",
        "QUEUE_URL_PREFIX": "http://127.0.0.1:1/1/",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "LOG_LEVEL": "WARNING",
        "INSTANTIATE_LAMBDA_HANDLER_ON_IMPORT": "1",
    }


def zappas_package(folder: Path) -> Path:
    """What `zappa package` makes of the checkout, in an environment with the web side's distributions and Zappa."""
    venv, project = folder / "venv", folder / "project"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--require-hashes", "--no-deps", "-r", ROOT / "requirements" / "web.txt"], check=True)
    version = subprocess.run(
        [sys.executable, "-c", "import importlib.metadata as m; print(m.version('zappa'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    subprocess.run([*pip, f"zappa=={version}"], check=True)
    project.mkdir()
    for name in ("django_app", "tasks", "serverless"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    settings = {
        "project_name": "cloudqueue",
        "django_settings": "django_app.settings",
        "aws_region": "us-east-1",
        "use_precompiled_packages": False,
        "log_level": "WARNING",
        "debug": False,
    }
    (project / "zappa_settings.json").write_text(json.dumps({"dev": settings}))
    archive = folder / "zappa.zip"
    made = {**os.environ, "VIRTUAL_ENV": str(venv), "PYTHONWARNINGS": "ignore", "AWS_DEFAULT_REGION": "us-east-1"}
    subprocess.run(
        [venv / "bin" / "zappa", "package", "dev", "--output", archive],
        cwd=project,
        env=made,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return archive


def layer_of_the_sdk(folder: Path) -> Path:
    site = Path(next(path for path in sys.path if path.endswith("site-packages")))
    layer = folder / "sdk"
    layer.mkdir()
    for name in SDK:
        (layer / name).symlink_to(site / name)
    return layer


def measure(make: Callable[[], Sandbox]) -> dict[str, float]:
    """One cold start."""
    sandbox = make()
    try:
        payload = json.dumps(PAGE).encode()
        answer = sandbox.invoke(payload)
        assert answered(answer.json())[0] == 200, answer
        cpu = psutil.Process(sandbox.pid).cpu_times()
        warm = [sandbox.invoke(payload).seconds for _ in range(WARM)]
    finally:
        sandbox.close()
    return {
        "start": sandbox.init_seconds,
        "cpu": cpu.user + cpu.system,
        "first": answer.seconds,
        "warm": statistics.median(warm),
    }


def overhead(rounds: int = 9, calls: int = 200) -> float:
    """What an event costs over Django's own WSGI application, as a ratio of CPU; median of interleaved rounds."""
    code = (
        "import json, sys; from tests.bench import lambda_start; "
        f"print(json.dumps(lambda_start.overhead_here({rounds}, {calls})))"
    )
    with tempfile.TemporaryDirectory() as folder:
        told = {**environment(Path(folder)), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=told, check=True, capture_output=True, text=True
        )
    return float(done.stdout.splitlines()[-1])


def overhead_here(rounds: int, calls: int) -> float:
    from serverless.entrypoints import web

    environ: dict[str, Any] = {}
    real = web.application

    def spy(seen: dict[str, Any], start_response: Any) -> Any:
        environ.update(seen)
        return real(seen, start_response)

    from serverless.invocations import HttpAdapter

    HttpAdapter(spy)(PAGE, Context())

    def bare() -> None:
        result = real({**environ, "wsgi.input": io.BytesIO()}, lambda *_: None)
        b"".join(result)
        result.close()

    def by_event() -> None:
        web.lambda_handler(PAGE, Context())

    ratios = []
    for number in range(rounds):
        spent = {}
        for way in (bare, by_event) if number % 2 else (by_event, bare):
            began = time.process_time()
            for _ in range(calls):
                way()
            spent[way] = time.process_time() - began
        ratios.append(spent[by_event] / spent[bare])
    return statistics.median(ratios)


def compare(ours: Path, zappas: Path, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="cloudqueue-start-") as temporary:
        folder = Path(temporary)
        layer = layer_of_the_sdk(folder)
        variables = environment(folder)
        made: Mapping[str, Callable[[], Sandbox]] = {}
        codes = {"ours": folder / "ours", "zappa": folder / "zappas"}
        unpack(ours, codes["ours"])
        unpack(zappas, codes["zappa"])
        made = {
            "ours": lambda: Sandbox(codes["ours"], HANDLER, variables),
            "zappa": lambda: Sandbox(codes["zappa"], "handler.lambda_handler", variables, layers=[layer]),
        }
        found: dict[str, list[dict[str, float]]] = {name: [] for name in made}
        for number in range(rounds):
            for name in sorted(made, reverse=bool(number % 2)):
                found[name].append(measure(made[name]))
        for code in codes.values():
            subprocess.run(["chmod", "-R", "u+w", code], check=True)
    told: dict[str, Any] = {
        name: {key: round(statistics.median(each[key] for each in all_), 4) for key in all_[0]}
        for name, all_ in found.items()
    }
    told["ratios"] = {
        key: round(statistics.median(a[key] / b[key] for a, b in zip(found["ours"], found["zappa"], strict=True)), 3)
        for key in ("start", "cpu", "first", "warm")
    }
    told["bytes"] = {"ours": ours.stat().st_size, "zappa": zappas.stat().st_size}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--zappa", type=Path, help="Zappa's package, if it is there already")
    parser.add_argument("--ours", type=Path, help="our package for this machine, if it is there already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cloudqueue-bench-") as temporary:
        folder = Path(temporary)
        ours = options.ours or build("local", folder / "ours.zip")
        zappas = options.zappa or zappas_package(folder)
        told = compare(ours, zappas, options.rounds)
    told["overhead"] = round(overhead(), 3)
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
