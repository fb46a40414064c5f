"""What importing the adapters costs, and who does not pay for it."""

from __future__ import annotations

import pytest

from tests.test_architecture import loaded_by


@pytest.mark.parametrize("module", ["", ".names", ".state", ".events", ".errors"])
def test_the_rules_load_neither_boto3_nor_channels_nor_django(module: str):
    loaded = loaded_by(f"import serverless.websockets{module}")
    assert loaded.isdisjoint({"boto3", "botocore", "channels", "django"})


def test_the_layer_loads_no_settings_no_models_and_no_server():
    loaded = loaded_by("import serverless.websockets.layer, serverless.websockets.gateway")
    assert {"boto3", "channels"} <= loaded
    assert loaded.isdisjoint({"django_app", "tasks", "celery", "moto", "daphne", "redis"})


def test_the_web_side_loads_none_of_it():
    loaded = loaded_by("import django_app.wsgi, django_app.datasets.views")
    assert "django" in loaded
    assert loaded.isdisjoint({"channels", "channels_redis"})
