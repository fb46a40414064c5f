"""`python -m serverless.packaging.report ZIP`: what a package weighs and, if it can run here, what it loads."""

from __future__ import annotations

import argparse
import platform
import re
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serverless.packaging import limits, manifest, unpacked
from serverless.packaging.errors import PackageError
from serverless.packaging.limits import MEBIBYTE, Sizes
from serverless.packaging.manifest import Manifest

#: What a cold start does before the first request.
START = "import django; django.setup(); import tasks.celery, django_app.urls, django_app.wsgi"
_LINE = re.compile(r"^import time: +(\d+) \| +\d+ \| +(\S+)$")


@dataclass(frozen=True)
class Import:
    """One module's import. own_us: microseconds without what it imports in turn."""

    module: str
    own_us: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zip", type=Path)
    parser.add_argument("--start", default=START, help="the statement whose imports are timed")
    options = parser.parse_args()
    print(sizes_text(limits.measure(options.zip)))
    try:
        imports, owners = time_imports(options.zip, options.start)
        print(f"\n{imports_text(imports, owners)}")
    except PackageError as error:
        print(f"\n{error}")
    return 0


def sizes_text(sizes: Sizes) -> str:
    """A table by owner, largest first."""
    rows = [f"{'MiB zipped':>10} {'unzipped':>10}"]
    for owner, zipped in sizes.zipped_by_owner.most_common():
        rows.append(f"{zipped / MEBIBYTE:10.2f} {sizes.unzipped_by_owner[owner] / MEBIBYTE:10.2f}  {owner}")
    rows.append(f"{sizes.zip_bytes / MEBIBYTE:10.2f} {sizes.unzipped_bytes / MEBIBYTE:10.2f}  in all")
    return "\n".join(rows)


def time_imports(package: Path, start: str = START) -> tuple[list[Import], Manifest]:
    """What a package imports when it starts by itself, and whose it is.

    Raises PackageError if it is for another machine or another Python, or does not start.
    """
    with zipfile.ZipFile(package) as archive:
        made = manifest.parse(archive.read(manifest.NAME))
    here = (f"{sys.version_info.major}.{sys.version_info.minor}", platform.machine())
    if here != (made.python, made.machine):
        raise PackageError(
            f"Import times: {package.name} is for Python {made.python} on {made.machine}, this is {' on '.join(here)}. "
            "Build one with --target local."
        )
    with tempfile.TemporaryDirectory() as folder:
        unpacked.unpack(package, Path(folder))
        environment = unpacked.ENVIRONMENT | {"DATABASE_URL": f"sqlite:///{folder}/db.sqlite3"}
        done = unpacked.run(Path(folder), start, "-X", "importtime", environment=environment)
    if done.returncode:
        raise PackageError(f"Import times: {start!r} failed:\n{done.stderr[-2000:]}")
    return list(parse(done.stderr)), made


def parse(text: str) -> Iterator[Import]:
    """The lines that -X importtime prints, among whatever else was printed."""
    for line in text.splitlines():
        found = _LINE.match(line)
        if found:
            yield Import(found[2], int(found[1]))


def imports_text(imports: list[Import], made: Manifest, most: int = 15) -> str:
    """Two tables: milliseconds by owner, and the modules that take most by themselves."""
    tops = {path.partition("/")[0].partition(".")[0]: owner for path, owner in made.owners.items()}
    spent: Counter[str] = Counter()
    for entry in imports:
        top = entry.module.partition(".")[0]
        spent[tops.get(top, "standard library" if top in sys.stdlib_module_names else manifest.OWN)] += entry.own_us
    slowest = sorted(imports, key=lambda entry: -entry.own_us)[:most]
    return "\n".join(
        [
            f"{'ms imports':>10}",
            *(f"{microseconds / 1000:10.1f}  {owner}" for owner, microseconds in spent.most_common()),
            f"{spent.total() / 1000:10.1f}  in all",
            "",
            f"{'ms alone':>10}",
            *(f"{entry.own_us / 1000:10.1f}  {entry.module}" for entry in slowest),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
