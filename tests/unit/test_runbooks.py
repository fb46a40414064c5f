"""Each alarm leads to a page, each page to an alarm, and what the operators' pages tell people to type exists."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import botocore.session
import pytest
from botocore import xform_name
from botocore.exceptions import UnknownServiceError
from botocore.model import ServiceModel
from celery.worker.control import Panel
from django.conf import settings
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand

from tests.conftest import ROOT

DOCS = ROOT / "docs"
TERRAFORM = ROOT / "infra" / "terraform"
RUNBOOKS = sorted((DOCS / "runbooks").glob("*.md"))
PAGES = [DOCS / "operating.md", DOCS / "disaster.md", DOCS / "security.md", *RUNBOOKS]
SECTIONS = ("## Look first", "## Causes", "## Over when", "## Do not")
#: What cannot be run without an account, wherever in a line it stands.
ACCOUNT = re.compile(r"(?:^|[\s(])(?:aws|terraform|tf|zappa|once|make (?:deploy|undeploy|maintenance)) ", re.MULTILINE)
#: Of AWS's command line itself: options of every command, and commands that are no call.
GLOBAL_OPTIONS = {"query", "output", "region", "cli-binary-format"}
OWN_COMMANDS = {
    ("logs", "tail"): {"since", "filter-pattern", "follow"},
    ("s3", "ls"): {"recursive"},
}

of_each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))


def hcl() -> dict[Path, str]:
    files = [file for file in TERRAFORM.rglob("*.tf") if ".terraform" not in file.parts]
    assert len(files) > 20
    return {file: file.read_text() for file in files}


def named_by_alarms() -> set[str]:
    """Names of runbooks, as they stand beside `runbook =`; a choice between several names each."""
    found = set()
    for text in hcl().values():
        for value in re.findall(r"^\s*runbook\s*=\s*(.+)$", text, re.MULTILINE):
            # What a choice goes by stands in brackets.
            found.update(re.findall(r'"([^"]+)"', re.sub(r'\["[^"]+"\]', "", value)))
    return found


def blocks(page: Path) -> list[str]:
    """What is to be typed into a shell, with long lines in one."""
    found = re.findall(r"^ *```(?:sh|console)?\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [block.replace("\\\n", " ") for block in found]


def typed(page: Path) -> list[str]:
    """Each line of a block, and whatever stands in the text as code."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks(page) for line in block.splitlines()]
    return lines + [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def words_after(beginning: str, line: str) -> Iterator[list[str]]:
    """The words of each command in a line that begins like that."""
    for match in re.finditer(rf"(?<![\w-]){beginning} (?=\S)", line):
        yield shlex.split(simple_command(line[match.end() :]))


def simple_command(text: str) -> str:
    """As far as one command goes. What it has another one say, by $(...), is left out."""
    kept, at = [], 0
    while at < len(text) and text[at] not in ")|;&":
        end, is_said = at + 1, False
        if text[at] in "'\"" and text[at] not in text[at + 1 :]:
            # Of the whole command, that stands in quotes itself.
            break
        if text[at] == "'":
            end = text.index("'", at + 1) + 1
        elif text[at] == '"':
            end, is_said = quoted_until(text, at)
        elif text.startswith("$(", at):
            end, is_said = closed_at(text, at + 2) + 1, True
        kept.append("SAID" if is_said else text[at:end])
        at = end
    return "".join(kept)


def quoted_until(text: str, start: int) -> tuple[int, bool]:
    """Behind the quotation that begins there, and whether another command says something in it."""
    at, is_said = start + 1, False
    while text[at] != '"':
        is_said = is_said or text.startswith("$(", at)
        at = closed_at(text, at + 2) + 1 if text.startswith("$(", at) else at + 1
    return at + 1, is_said


def closed_at(text: str, start: int) -> int:
    """Where the bracket closes that was opened before."""
    depth = 0
    for at in range(start, len(text)):
        if text[at] == ")":
            if depth == 0:
                return at
            depth -= 1
        depth += text[at] == "("
    raise AssertionError(f"nothing closes {text[start:][:60]!r}")


# Alarms --------------------------------------------------------------------------------------------------------------


def test_every_alarm_names_a_runbook_and_every_runbook_is_named():
    assert named_by_alarms() == {page.stem for page in RUNBOOKS}


def test_every_alarm_that_tells_people_says_where_its_runbook_is():
    alarms = 0
    for file, text in hcl().items():
        for body in re.findall(
            r'^resource "aws_cloudwatch_metric_alarm" "\w+" \{(.*?)^\}', text, re.MULTILINE | re.DOTALL
        ):
            alarms += 1
            # Those that scale call a policy, and need nobody.
            is_for_people = "aws_appautoscaling_policy" not in body
            assert is_for_people == ("${var.runbooks}/" in body), file
        assert len(re.findall(r"^\s*what\s*=", text, re.MULTILINE)) == len(
            re.findall(r"^\s*runbook\s*=", text, re.MULTILINE)
        ), file
    assert alarms >= 3


@pytest.mark.parametrize("page", RUNBOOKS, ids=lambda page: page.stem)
def test_a_runbook_says_what_it_means_where_to_look_and_when_it_is_over(page):
    text = page.read_text()
    assert text.startswith(f"# {page.stem}\n\n**")
    at = [text.find(f"\n{section}\n") for section in SECTIONS]
    assert -1 not in at, dict(zip(SECTIONS, at, strict=True))
    assert at == sorted(at)
    for row in ("| alarm", "| urgency |", "| users see |"):
        assert f"\n{row}" in text, row


def test_the_index_lists_every_runbook():
    index = (DOCS / "operating.md").read_text().partition("\n## Alarms\n")[2]
    assert re.findall(r"^\| \[([\w-]+)\]\(runbooks/\1\.md\) \|", index, re.MULTILINE)
    assert set(re.findall(r"^\| \[([\w-]+)\]", index, re.MULTILINE)) == {page.stem for page in RUNBOOKS}


# Commands ------------------------------------------------------------------------------------------------------------


@of_each_page
def test_what_takes_an_account_says_so(page):
    for block in blocks(page):
        is_marked = block.lstrip().startswith("# needs an account\n")
        assert is_marked == bool(ACCOUNT.search(block)), block


@of_each_page
def test_every_block_is_one_that_a_shell_can_read(page):
    for block in blocks(page):
        read = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
        assert not read.returncode, f"{read.stderr}{block}"


@of_each_page
def test_every_management_command_exists_and_takes_what_it_is_given(page):
    for line in typed(page):
        for words in words_after(r"manage\.py", line):
            parse(words)
        for words in words_after("zappa manage", line):
            stage, command = words[:2]
            assert stage in ("$STAGE", "production")
            assert shlex.split(command)[0] in settings.LAMBDA_COMMANDS, command
            parse(shlex.split(command))


def parse(words: list[str]) -> None:
    name, *arguments = words
    assert name in get_commands(), f"there is no {name}"
    app = get_commands()[name]
    command = app if isinstance(app, BaseCommand) else load_command_class(app, name)
    try:
        command.create_parser("manage.py", name).parse_args(arguments)
    except SystemExit as error:
        raise AssertionError(f"manage.py {shlex.join(words)}") from error


@of_each_page
def test_every_word_of_remote_control_is_known(page):
    for line in typed(page):
        for kind in ("inspect", "control"):
            for name, *_ in words_after(f"celery -A tasks {kind}", line):
                assert Panel.meta[name].type == kind, name


@of_each_page
def test_every_goal_exists(page):
    goals = dict(re.findall(r"^([a-z-]+):[^\n]*\n((?:\t[^\n]*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in typed(page):
        for goal, *variables in words_after("make", line):
            assert goal in goals, line
            for variable in variables:
                assert f"$({variable.partition('=')[0]})" in goals[goal], line


@of_each_page
def test_every_module_that_is_run_exists(page):
    for line in typed(page):
        for name, *_ in words_after("python -m", line):
            assert find_spec(name), name


@of_each_page
def test_every_output_of_terraform_that_is_asked_for_exists(page):
    outputs = set(re.findall(r'^output "(\w+)"', (TERRAFORM / "outputs.tf").read_text(), re.MULTILINE))
    for line in typed(page):
        for words in words_after("terraform", line):
            if "output" in words[:2]:
                assert words[-1] in outputs, line


@of_each_page
def test_every_resource_of_terraform_that_is_named_exists(page):
    declared = {
        f"{kind}.{name}"
        for text in hcl().values()
        for kind, name in re.findall(r'^resource "(\w+)" "(\w+)"', text, re.MULTILINE)
    }
    for address in re.findall(r"'(aws_\w+\.\w+)(?:\[\d+\])?'", page.read_text()):
        assert address in declared, address


@of_each_page
def test_every_line_that_is_looked_for_in_logs_is_written(page):
    sources = [
        file.read_text() for folder in ("django_app", "serverless", "tasks") for file in (ROOT / folder).rglob("*.py")
    ]
    for event in re.findall(r'\$\.event = "(\w+)"', page.read_text()):
        assert any(f'"{event}"' in text for text in sources), event


@of_each_page
def test_every_call_of_aws_is_one_and_has_what_it_takes(page):
    for line in typed(page):
        for words in words_after("aws", line):
            if words[:1] and not words[0].startswith("-") and len(words) > 1:
                examine(words)


def examine(words: list[str]) -> None:
    service, name, *rest = words
    options = {word.removeprefix("--").partition("=")[0] for word in rest if word.startswith("--")} - GLOBAL_OPTIONS
    if (service, name) in OWN_COMMANDS:
        assert options <= OWN_COMMANDS[service, name], words
        return
    model = model_of(service)
    if name == "wait":
        waiters = botocore.session.get_session().get_waiter_model(service).waiter_names
        assert rest[0] in {xform_name(waiter, "-") for waiter in waiters}, words
        return
    by_name = {xform_name(operation, "-"): operation for operation in model.operation_names}
    assert name in by_name, words
    shape = model.operation_model(by_name[name]).input_shape
    taken = {xform_name(member, "-") for member in shape.members}
    assert options <= taken | {f"no-{option}" for option in taken}, options - taken
    # A call that is only mentioned has no options.
    missing = {xform_name(member, "-") for member in shape.required_members} - options
    assert not options or not missing, f"{shlex.join(words)} lacks {missing}"


@cache
def model_of(service: str) -> ServiceModel:
    try:
        return botocore.session.get_session().get_service_model(service)
    except UnknownServiceError as error:
        raise AssertionError(f"AWS has no {service}") from error
