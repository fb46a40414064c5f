"""A package for this machine, run with the standard library and itself alone, as Lambda runs its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from serverless.packaging import manifest, report, unpacked
from serverless.packaging.errors import PackageError
from tests.conftest import ROOT
from tests.packaging.conftest import Local

pytestmark = pytest.mark.package

#: Without it the function of the sockets does not start.
SOCKETS_URL = "wss://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com/prod"


def modules(local: Local) -> list[str]:
    """What can be imported of each distribution, by the names at the package's root."""
    made = manifest.parse((local.folder / manifest.NAME).read_text())
    tops = {path.partition("/")[0] for path, owner in made.owners.items() if owner in made.distributions}
    names = {top.partition(".")[0] for top in tops if not top.endswith((".dist-info", ".libs")) and "mypyc" not in top}
    owned = {made.owners[top] for top in tops if top in made.owners}
    assert owned == set(made.distributions)
    return sorted(names)


def test_every_distribution_imports_from_the_package_alone(local_package):
    names = modules(local_package)
    assert {"django", "celery", "kombu", "boto3", "psycopg", "psycopg_binary", "cryptography", "anymail"} <= set(names)
    code = f"""
import importlib, json
import django; django.setup()
for name in {names!r}:
    if name != "psycopg_binary":  # psycopg imports it, and it refuses to be imported by anybody else
        importlib.import_module(name)
import psycopg, cryptography.fernet
assert psycopg.pq.__impl__ == "binary", psycopg.pq.__impl__
print(json.dumps([getattr(module, "__file__", None) for module in sys.modules.values()]))
"""
    files = [Path(file) for file in json.loads(local_package.run(code).splitlines()[-1]) if file]
    own = [file for file in files if file.is_relative_to(local_package.folder)]
    assert len(own) > 500
    assert {
        file for file in files if "site-packages" in file.parts or file.is_relative_to(ROOT / "serverless")
    } == set()


def test_our_entry_modules_import_and_the_settings_are_in_order(local_package):
    names = ("serverless.entrypoints.web", "serverless.entrypoints.clock", "serverless.entrypoints.websocket")
    entry = [path for path in names if module_file(path).exists()]
    code = f"""
import importlib
import django; django.setup()
for name in ["tasks.celery", "django_app.urls", "django_app.wsgi", "django_app.asgi", *{entry!r}]:
    importlib.import_module(name)
from tasks.celery import app
app.loader.import_default_modules()
from django.core.mail import get_connection
get_connection().open()
from django.core.management import call_command
call_command("check")
call_command("makemigrations", check=True, dry_run=True)
print(sorted(app.tasks))
"""
    printed = local_package.run(code, SOCKETS_URL=SOCKETS_URL)
    assert "tasks.reports.build_report" in printed
    assert "No changes detected" in printed


def test_our_modules_miss_nothing_but_what_workers_alone_install(local_package):
    """A page or a command that imports what is left out, or what runs on a laptop only, would fail on Lambda."""
    code = """
import importlib, pkgutil
import django; django.setup()
for top in ("django_app", "tasks", "serverless"):
    for module in pkgutil.walk_packages(importlib.import_module(top).__path__, f"{top}.", onerror=lambda name: None):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                print("missing", error.name.partition(".")[0], module.name)
"""
    missing = re.findall(r"^missing (\w+) (\S+)$", local_package.run(code, SOCKETS_URL=SOCKETS_URL), re.MULTILINE)
    workers = {"polars", "numpy", "datasketches", "matplotlib", "reportlab", "opentelemetry", "psutil", "pycurl"}
    assert "matplotlib" in {name for name, _ in missing}
    assert [(name, module) for name, module in missing if name not in workers] == []


def module_file(name: str) -> Path:
    return ROOT / f"{name.replace('.', '/')}.py"


def test_what_is_left_out_is_not_there_and_celerys_command_line_alone_misses_it(local_package):
    for name in (
        "click_repl",
        "prompt_toolkit",
        "pycparser",
        "serverless.local",
        "serverless.packaging",
        "polars",
        "moto",
    ):
        printed = local_package.run(f"""
try:
    import {name}
except ModuleNotFoundError as error:
    print(error.name)
""")
        assert printed.strip() == name


def test_pages_name_static_files_by_their_hash_and_the_site_serves_them(local_package, tmp_path):
    code = """
import re
import django; django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.test import Client
client = Client(headers={"host": "127.0.0.1"})
page = client.get("/", follow=True)
assert page.status_code == 200, page
links = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.content.decode())
for link in links:
    answer = client.get(link)
    assert answer.status_code == 200, link
    assert "immutable" in answer["cache-control"], (link, answer["cache-control"])
    assert b"".join(answer.streaming_content), link
print(*links)
"""
    links = local_package.run(code, DATABASE_URL=f"sqlite:///{tmp_path}/db.sqlite3").split()
    assert any(re.search(r"/static/css/site\.[0-9a-f]{12}\.css$", link) for link in links)
    assert any(re.search(r"/static/django_htmx/htmx.*\.[0-9a-f]{12}\.js$", link) for link in links)


def test_every_static_file_of_the_manifest_is_collected(local_package):
    folder = local_package.folder / "staticfiles"
    paths = json.loads((folder / "staticfiles.json").read_text())["paths"]
    assert {"css/site.css", "console/console.css", "admin/css/base.css"} <= set(paths)
    assert list(paths) == sorted(paths)
    assert [hashed for hashed in paths.values() if not (folder / hashed).is_file()] == []


def test_starting_compiles_nothing_and_writes_nothing(local_package, tmp_path):
    """Unzipped anew: what one start had compiled, the next would find."""
    folder = unpacked.unpack(local_package.path, tmp_path / "unzipped")

    def listing() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    before = listing()
    done = unpacked.run(folder, report.START, "-v", environment={**unpacked.ENVIRONMENT, "DATABASE_URL": "sqlite://"})
    assert done.returncode == 0, done.stderr[-4000:]
    loaded = re.findall(r"^# code object from '?([^'\n]+)'?$", done.stderr, re.MULTILINE)
    ours = [path for path in loaded if path.startswith(str(folder))]
    assert len(ours) > 300
    assert {path for path in ours if not path.endswith(".pyc")} == set()
    assert listing() == before


def test_byte_code_is_used_without_a_look_at_its_source(local_package):
    source = local_package.folder / "six.py"
    text = source.read_bytes()
    try:
        source.write_text("raise RuntimeError('compiled anew')\n")
        assert local_package.run("import six; print(six.__version__)").strip()
    finally:
        source.write_bytes(text)


def test_the_command_prints_what_it_built_and_what_weighs_most(local_package):
    release = json.loads((local_package.folder / manifest.NAME).read_text())["release"]
    rows = local_package.printed.splitlines()
    assert rows[-1].startswith(f"{local_package.path}: ")
    assert f"release {release}, Python {sys.version_info.major}.{sys.version_info.minor} on " in rows[-1]
    weights = [float(row.split()[0]) for row in rows[1:-2]]
    assert weights == sorted(weights, reverse=True)
    assert float(rows[-2].split()[0]) == pytest.approx(local_package.path.stat().st_size / (1 << 20), abs=0.01)


def test_the_report_times_the_imports_of_the_package_alone(local_package):
    done = subprocess.run(
        [sys.executable, "-m", "serverless.packaging.report", local_package.path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert re.search(r"^ +[0-9.]+  django$", done.stdout.partition("ms imports")[2], re.MULTILINE)
    assert "ms alone" in done.stdout


def test_import_times_of_a_package_for_another_machine_are_refused(local_package, tmp_path):
    other = tmp_path / "other.zip"
    made = json.loads((local_package.folder / manifest.NAME).read_text()) | {"machine": "riscv64"}
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr(manifest.NAME, json.dumps(made))
    with pytest.raises(
        PackageError, match=r"other.zip is for Python .* on riscv64, this is .* Build one with --target local"
    ):
        report.time_imports(other)
