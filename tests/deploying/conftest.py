"""A package of this checkout for this machine, built once, and functions that run it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from serverless.local.cloud import environment
from serverless.local.front_door import HANDLER
from serverless.local.lambda_runtime import Function
from serverless.packaging import build
from tests.conftest import run_cloud

SECRET_KEY = "x" * 50
PUBLIC_URL = "https://site.example"


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Also CLOUDQUEUE_TEST_PACKAGE names one that was built for this machine, which saves half a minute."""
    given = os.environ.get("CLOUDQUEUE_TEST_PACKAGE")
    return Path(given) if given else build("local", tmp_path_factory.mktemp("package") / "web.zip")


@pytest.fixture(scope="session")
def cloud_of_functions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_cloud(tmp_path_factory.mktemp("cloud"), "http://testserver") as url:
        yield url


@pytest.fixture(scope="session")
def site_environment(cloud_of_functions: str, stack_database_url: str) -> dict[str, str]:
    """What a function of the site needs: the local cloud, and a database of its own."""
    return {
        **environment(cloud_of_functions),
        "SECRET_KEY": SECRET_KEY,
        "PUBLIC_URL": PUBLIC_URL,
        "DATABASE_URL": stack_database_url,
    }


@pytest.fixture
def function(package: Path, site_environment: Mapping[str, str]) -> Iterator[Callable[..., Function]]:
    """Make a function of the package; variables differ from the site's."""
    made: list[Function] = []

    def make(
        handler: str = HANDLER, *, without: tuple[str, ...] = (), options: Any = None, **variables: str
    ) -> Function:
        kept = {name: value for name, value in site_environment.items() if name not in without}
        made.append(Function(package, handler, {**kept, **variables}, **(options or {})))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def site(package: Path, site_environment: Mapping[str, str]) -> Iterator[Function]:
    """The site's function, its database migrated."""
    made = Function(package, HANDLER, site_environment)
    answer = made.invoke({"manage": "migrate --verbosity 0"})
    assert not answer.error, answer
    yield made
    made.close()
