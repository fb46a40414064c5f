"""Scripts as a package serves them: under hashed names alone, by which they find each other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.contrib.staticfiles.management.commands.collectstatic import Command
from django.core.management import call_command

from django_app import static_files

_IMPORTS = re.compile(r'^(?:import|export)\b.*?from\s+"([^"]+)";', re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of collected files."""
    folder = tmp_path_factory.mktemp("static")

    class Collect(Command):
        def __init__(self) -> None:
            super().__init__()
            self.storage = static_files.HashedFiles(location=str(folder))

    call_command(Collect(), interactive=False, verbosity=0)
    return folder


def test_every_module_of_ours_imports_what_is_there(collected):
    imports = {
        (path, name)
        for folder in static_files.FOLDERS
        for path in (collected / folder).glob("*.js")
        for name in _IMPORTS.findall(path.read_text())
    }
    assert len({name for _, name in imports}) >= 5
    for path, name in imports:
        assert re.search(r"\.[0-9a-f]{12}\.js$", name), f"{path.name} imports {name}"
        assert (path.parent / name).exists(), f"{path.name} imports {name}"


def test_modules_have_hashed_names_only(collected):
    names = [path.name for folder in static_files.FOLDERS for path in (collected / folder).glob("*.js")]
    assert len(names) == 8
    assert all(re.search(r"\.[0-9a-f]{12}\.js$", name) for name in names)


def test_every_module_that_imports_stands_where_imports_are_rewritten():
    """Elsewhere an import would be missing in a package, and nowhere else."""
    root = Path(static_files.__file__).parent
    found = {
        path.parent.name
        for path in root.glob("**/static/**/*.js")
        if re.search(r'^import .* from "\.', path.read_text(), re.MULTILINE)
    }
    assert found == set(static_files.FOLDERS)
