"""Static files, collected under hashed names, as the package's settings expect them."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

from serverless.packaging.errors import PackageError

#: STATIC_ROOT of django_app/settings.py: that it exists makes the settings choose hashed names.
FOLDER = "staticfiles"
_DEADLINE_SECONDS = 300


def collect(tree: Path, settings: str) -> None:
    """Collect the static files of the settings' apps into the tree, where our own files already lie.

    The apps' own packages are those of this environment, which has the same locked versions.
    """
    (tree / FOLDER).mkdir()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "django", "collectstatic", "--noinput", "--verbosity=0"],
            cwd=tree,
            env=os.environ | _environment(tree, settings, Path(folder)),
            capture_output=True,
            text=True,
            check=False,
            timeout=_DEADLINE_SECONDS,
        )
    if done.returncode:
        raise PackageError(f"collectstatic failed with status {done.returncode}; mend what it says:\n{done.stderr}")
    _sort(tree / FOLDER / "staticfiles.json")


def _environment(tree: Path, settings: str, folder: Path) -> dict[str, str]:
    """Nothing of it ends up in the package; it only has to let the settings load."""
    return {
        "DJANGO_SETTINGS_MODULE": settings,
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SECRET_KEY": secrets.token_urlsafe(),
        "DATABASE_URL": f"sqlite:///{folder}/db.sqlite3",
        "DEBUG": "false",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "",
    }


def _sort(manifest: Path) -> None:
    """Django writes the names in the order in which the disk lists them."""
    if manifest.exists():
        manifest.write_text(json.dumps(json.loads(manifest.read_text()), sort_keys=True))
