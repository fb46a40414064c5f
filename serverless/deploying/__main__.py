"""Deploy, remove or close a stage.

    python -m serverless.deploying deploy STAGE [--zip FILE] [--outputs FILE] [--yes]
    python -m serverless.deploying undeploy STAGE [--outputs FILE] [--yes]
    python -m serverless.deploying maintenance STAGE on|off [--outputs FILE]

Says first what it will do, and asks. Outputs are those of `terraform output -json`; default: infra/terraform is asked.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from serverless.deploying import outputs, stages, steps
from serverless.deploying.errors import DeployError
from serverless.deploying.steps import Deployment

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "build" / "cloudqueue-web.zip"
TERRAFORM = ROOT / "infra" / "terraform"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("deploy", "undeploy", "maintenance"))
    parser.add_argument("stage")
    parser.add_argument("state", nargs="?", choices=("on", "off"), help="of maintenance")
    parser.add_argument("--zip", type=Path, default=PACKAGE, help="the package; default: what make package built")
    parser.add_argument("--outputs", type=Path, help="a file of `terraform output -json`")
    parser.add_argument("--settings", type=Path, default=ROOT / "zappa_settings.json")
    parser.add_argument("--folder", type=Path, help="where the merged settings are written; default: .local/deploy")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    options = parser.parse_args()
    try:
        return run(options)
    except DeployError as error:
        print(error, file=sys.stderr)
        return 1


def run(options: argparse.Namespace) -> int:
    stage = stages.resolve(stages.read(options.settings), options.stage)
    made = outputs.read(options.outputs) if options.outputs else _ask_terraform()
    is_deploy = options.action == "deploy"
    release = steps.release_of(options.zip) if is_deploy else ""
    deployment = Deployment(
        stage=options.stage,
        settings=stages.merged(options.stage, stage, made, release),
        outputs=made,
        folder=(options.folder or ROOT / ".local" / "deploy") / options.stage,
        archive=options.zip.resolve() if is_deploy else None,
    )
    if options.action == "maintenance":
        if options.state is None:
            raise DeployError("maintenance is turned on or off: say which, as STATE=on or STATE=off.")
        steps.set_maintenance(deployment, is_on=options.state == "on")
        _say(f"{deployment.function}: maintenance is {options.state}")
        return 0
    lines = steps.plan(deployment) if is_deploy else [f"remove {deployment.function}, its front door and its rules"]
    print(f"{options.action} {options.stage}:\n{steps.numbered(lines)}", flush=True)
    if not options.yes and input("Go on? [y/N] ").strip().lower() != "y":
        return 1
    (steps.deploy if is_deploy else steps.undeploy)(deployment, _say)
    _say("done")
    return 0


def _ask_terraform() -> outputs.Outputs:
    command = ["terraform", f"-chdir={TERRAFORM}", "output", "-json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise DeployError("terraform is not on PATH. Install it, or give its outputs with --outputs FILE.") from error
    if done.returncode:
        raise DeployError(f"terraform output failed: {done.stderr.strip()}")
    return outputs.parse(done.stdout, "terraform output")


def _say(text: str) -> None:
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
