"""What a stage is deployed with, and what is refused before anything is done."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serverless.deploying import outputs, stages, steps
from serverless.deploying.errors import DeployError
from serverless.deploying.outputs import Outputs
from tests.conftest import ROOT

SHIPPED = ROOT / "zappa_settings.json"
MADE = Outputs(
    region="eu-central-1",
    artifacts_bucket="artifacts",
    public_url="https://site.example",
    subnet_ids=("subnet-1", "subnet-2"),
    security_group_ids=("sg-1",),
    dead_letter_arn="arn:aws:sqs:eu-central-1:111122223333:dead",
    environment={"SETTINGS_PREFIX": "/cloudqueue/dev"},
)


def base(**changed: Any) -> dict[str, Any]:
    return {**stages.resolve(stages.read(SHIPPED), "dev"), **changed}


@pytest.mark.parametrize("stage", ["dev", "staging", "production"])
def test_every_shipped_stage_may_be_deployed_and_has_a_role_of_its_own(stage):
    found = stages.resolve(stages.read(SHIPPED), stage)
    assert found["role_name"] == f"cloudqueue-{stage}-web"
    assert found["events"][0]["kwargs"] == {"event": "housekeeping"}
    assert stages.function_name(stage, found) == f"cloudqueue-{stage}"


def test_a_stage_takes_what_it_does_not_say_from_what_it_extends():
    told = {"base": base(memory_size=1), "middle": {"extends": "base", "memory_size": 2}, "dev": {"extends": "middle"}}
    assert stages.resolve(told, "dev")["memory_size"] == 2
    assert "extends" not in stages.resolve(told, "dev")


@pytest.mark.parametrize(
    ("stages_", "name", "told"),
    [
        ({"base": {}, "production": {}}, "produktion", 'did you mean "production"'),
        ({"base": {}, "dev": {}, "staging": {}}, "", "known are dev, staging"),
        ({"base": {}, "dev": {}}, "base", "is not in zappa_settings.json"),
        ({"dev": {"extends": "dev"}}, "dev", '"dev" extends "dev", which leads nowhere'),
        ({"dev": {"extends": "bass"}}, "dev", '"dev" extends "bass", which leads nowhere'),
    ],
)
def test_a_stage_that_is_not_there_is_named_with_the_nearest(stages_, name, told):
    with pytest.raises(DeployError, match=told):
        stages.resolve(stages_, name)


@pytest.mark.parametrize("key", stages.SAFE)
def test_what_zappa_leaves_unsafe_must_be_said(key):
    stage = base()
    stages.check("dev", stage)
    del stage[key]
    with pytest.raises(DeployError, match=f'stage "dev": {key}=null must be'):
        stages.check("dev", stage)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"environment_variables": {"A": "b"}}, "would lie in the package in clear"),
        ({"role_arn": "arn:aws:iam::111122223333:role/x"}, 'holds "111122223333", which looks like an account id'),
        ({"aws_environment_variables": {"STRIPE_API_KEY": "x"}}, "STRIPE_API_KEY looks like a secret"),
        ({"events": [{"name": "nightly", "function": "x.y"}]}, 'event "nightly" has no "kwargs"'),
    ],
)
def test_what_must_not_stand_in_the_file_is_refused(changed, told):
    with pytest.raises(DeployError, match=told):
        stages.check("dev", base(**changed))


def test_names_of_places_where_secrets_are_kept_are_no_secrets():
    stages.check("dev", base(aws_environment_variables={"DATABASE_SECRET": "rds!1", "SETTINGS_PREFIX": "/x"}))


def test_a_file_that_is_not_json_is_said(tmp_path):
    file = tmp_path / "zappa_settings.json"
    for text, told in (
        ("{", "is not JSON"),
        ("[]", "one object for each stage"),
        ('{"dev": 1}', "one object for each"),
    ):
        file.write_text(text)
        with pytest.raises(DeployError, match=told):
            stages.read(file)


def test_what_terraform_made_is_merged():
    found = stages.merged("dev", base(aws_environment_variables={"METRICS": "emf"}), MADE, "abc123")
    assert found["aws_environment_variables"] == {
        "METRICS": "emf",
        "SETTINGS_PREFIX": "/cloudqueue/dev",
        "PUBLIC_URL": "https://site.example",
        "RELEASE": "abc123",
    }
    assert found["vpc_config"] == {
        "SubnetIds": ["subnet-1", "subnet-2"],
        "SecurityGroupIds": ["sg-1"],
        "Ipv6AllowedForDualStack": True,
    }
    assert (found["aws_region"], found["s3_bucket"]) == ("eu-central-1", "artifacts")
    assert found["dead_letter_arn"].endswith(":dead")
    assert found["role_name"] == "cloudqueue-dev-web"


def test_a_stage_without_a_role_is_refused():
    with pytest.raises(DeployError, match='stage "dev" has no role'):
        stages.merged("dev", base(role_name=""), MADE, "")


def told(**values: Any) -> str:
    whole = {"region": "eu-central-1", "artifacts_bucket": "a", "public_url": "https://site.example", **values}
    return json.dumps(
        {name: {"value": value, "sensitive": False} for name, value in whole.items() if value is not None}
    )


def test_terraforms_outputs_are_read_by_their_names():
    found = outputs.parse(told(web_subnet_ids=["a", "b"], web_environment={"X": "y"}, other=1), "outputs")
    assert (found.subnet_ids, found.environment) == (("a", "b"), {"X": "y"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not what `terraform output -json` prints"),
        ('{"region": "x"}', "is not what `terraform output -json` prints"),
        ("{}", "lacks region, artifacts_bucket, public_url"),
        (told(region=None), "lacks region. Apply infra/terraform"),
        (told(static_bucket="x"), "static_bucket and static_url go together"),
        (told(public_url="http://site.example"), "must begin with https://"),
    ],
)
def test_outputs_that_are_wrong_are_said(text, said):
    with pytest.raises(DeployError, match=said):
        outputs.parse(text, "outputs")


def test_missing_outputs_say_how_to_write_them(tmp_path):
    with pytest.raises(DeployError, match="terraform -chdir=infra/terraform output -json >"):
        outputs.read(tmp_path / "outputs.json")


def test_what_is_no_package_says_how_to_build_one(tmp_path):
    (tmp_path / "web.zip").write_text("no zip")
    for name in ("web.zip", "missing.zip"):
        with pytest.raises(DeployError, match="Build it with make package"):
            steps.release_of(tmp_path / name)
