"""What infra/terraform says, without a cloud: formatted, valid, as its own tests want it, and clean to checkov."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from serverless.deploying.outputs import NAMES
from tasks.topology import TOPOLOGY
from tests.conftest import ROOT
from tests.infra import terraform
from tests.infra.terraform import HOME, Terraform

pytestmark = pytest.mark.terraform

MODULES = sorted(path for path in (HOME / "modules").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    terraform.require()
    return terraform.copy(tmp_path_factory.mktemp("terraform"))


def said_by_tests(stack: Terraform, name: str, expected: int = 0) -> str:
    """`terraform test` of one file; what it said, in one line."""
    done = stack.run("test", "-no-color", f"-filter=tests/{name}", expected=expected)
    return " ".join((done.stdout + done.stderr).split())


def test_files_are_formatted(stack):
    assert stack.run("fmt", "-check", "-recursive", "-no-color", expected=None).stdout == ""


def test_the_configuration_is_valid(stack):
    assert json.loads(stack.run("validate", "-json").stdout)["diagnostics"] == []


@pytest.mark.parametrize("name", sorted(path.name for path in (HOME / "tests").glob("*.tftest.hcl")))
def test_its_own_tests_pass(stack, name):
    said = said_by_tests(stack, name)
    assert "0 failed" in said
    assert "Warning" not in said
    assert said.count("... pass") == (HOME / "tests" / name).read_text().count("\nrun ") + 1


def test_each_validation_has_a_run_that_fails_it():
    """Counted by the variable's name, which is all that a run says of it."""
    runs = "".join(path.read_text() for path in (HOME / "tests").glob("*.tftest.hcl"))
    refused = Counter(re.findall(r"expect_failures = \[var\.(\w+)\]", runs))
    validations: Counter[str] = Counter()
    for folder in (HOME, *MODULES):
        said = "".join(path.read_text() for path in folder.glob("*variables.tf"))
        for block in re.split(r"^variable ", said, flags=re.MULTILINE)[1:]:
            validations[block.split('"')[1]] += block.count("validation {")
    assert not validations - refused


def test_what_is_kept_for_less_than_its_message_is_refused(stack, tmp_path):
    made = terraform.copy(tmp_path)
    storage = made.home / "storage.tf"
    storage.write_text(storage.read_text().replace("[30, 400]", "[27, 400]"))
    said = said_by_tests(made, "base.tftest.hcl", expected=1)
    assert "A body would be deleted while its message waits" in said


def test_a_queue_that_would_share_a_dead_letter_queue_is_refused(stack, tmp_path):
    made = terraform.copy(tmp_path)
    told = json.loads(made.topology.read_text())
    told["queues"]["schedules"] = told["queues"]["low"]
    made.topology.write_text(json.dumps(told))
    said = said_by_tests(made, "base.tftest.hcl", expected=1)
    assert "would share its dead-letter queue" in said


def test_claim_checks_are_kept_in_the_classes_that_the_broker_writes():
    from serverless.broker.options import ClaimCheckOptions

    declared = re.search(r"claim_check_days\s*= \[([\d, ]+)\]", (HOME / "storage.tf").read_text())[1]
    assert tuple(int(days) for days in declared.split(",")) == ClaimCheckOptions(bucket="any").retention_days
    assert max(queue.retention_days for queue in TOPOLOGY.queues.values()) + 14 <= int(declared.split(",")[0])


@pytest.mark.parametrize("folder", MODULES, ids=lambda folder: folder.name)
def test_a_module_is_four_files(folder):
    assert {path.name for path in folder.iterdir()} == {"main.tf", "variables.tf", "outputs.tf", "versions.tf"}


@pytest.mark.parametrize("path", sorted(HOME.rglob("*.tf")), ids=lambda path: str(path.relative_to(HOME)))
def test_whatever_is_declared_is_described_and_typed(path):
    for kind, rest in re.findall(r'^(variable|output) "\w+" \{\n(.*?)^\}', path.read_text(), re.DOTALL | re.MULTILINE):
        assert re.search(r"^  description += \"", rest, re.MULTILINE), rest
        assert kind == "output" or re.search(r"^  type += ", rest, re.MULTILINE), rest


def test_each_output_that_a_deploy_reads_is_declared():
    declared = set(re.findall(r'^output "(\w+)"', (HOME / "outputs.tf").read_text(), re.MULTILINE))
    read = {"region", "artifacts_bucket", "public_url", "static_bucket", "static_url", *NAMES.values()}
    assert read <= declared


def test_each_alarm_has_its_runbook_and_each_runbook_its_alarm():
    said = (HOME / "alarms.tf").read_text()
    chosen = " ".join(re.findall(r"^\s+runbook\s+= (.+)$", said, re.MULTILINE))
    named = set(re.findall(r'(?<!\[)"([a-z-]+)"', chosen))
    assert len(named) > 15
    pages = {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert pages == named
    assert named == set(re.findall(r"`([a-z-]+)`", runbooks_of_the_page()))


def runbooks_of_the_page() -> str:
    """The first cells of the table of docs/terraform.md."""
    table = (ROOT / "docs" / "terraform.md").read_text().partition("| runbook | of |")[2].partition("\n\n")[0]
    return " ".join(re.findall(r"^\| (.+?) \|", table, re.MULTILINE))


def test_each_stage_of_zappa_has_its_variables_and_its_state():
    stages = set(json.loads((ROOT / "zappa_settings.json").read_text())) - {"base"}
    for suffix in (".tfvars", ".s3.tfbackend"):
        assert {path.name.removesuffix(suffix) for path in (HOME / "envs").glob(f"*{suffix}")} == stages
    for stage in stages:
        assert f'stage      = "{stage}"' in _aligned((HOME / "envs" / f"{stage}.tfvars").read_text())
        assert f"cloudqueue/{stage}/" in (HOME / "envs" / f"{stage}.s3.tfbackend").read_text()


def _aligned(text: str) -> str:
    """Assignments as they stand where no longer name moves them."""
    return re.sub(r"^(\w+) += ", lambda found: f"{found[1]:<10} = ", text, flags=re.MULTILINE)


@pytest.mark.parametrize("stage", ["dev", "production"])
def test_checkov_finds_nothing(stage):
    """In the stage with the least and in the one with the most. Each check that is skipped has its reason beside it."""
    program = shutil.which("checkov", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no checkov: install it, as CI does")
    command = [program, "--directory", str(HOME), "--framework", "terraform", "--skip-download"]
    command += ["--output", "json", "--var-file", str(HOME / "envs" / f"{stage}.tfvars")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    told = json.loads(done.stdout)
    assert told["results"]["failed_checks"] == []
    assert told["summary"]["parsing_errors"] == 0
    assert told["summary"]["passed"] > 100
    for skipped in told["results"]["skipped_checks"]:
        assert len(skipped["check_result"]["suppress_comment"]) > 10, skipped["check_id"]
