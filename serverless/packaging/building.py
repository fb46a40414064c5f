"""The steps from a checkout to a zip, in order."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from serverless.packaging import (
    archive,
    binaries,
    bytecode,
    contents,
    limits,
    locked,
    manifest,
    plan,
    statics,
    target,
    trimming,
    wheels,
)
from serverless.packaging.manifest import Manifest

ROOT = Path(__file__).resolve().parent.parent.parent
#: Where `make package` puts it, from the root.
OUTPUT = Path("build", "cloudqueue-web.zip")


@dataclass(frozen=True)
class Package:
    """One that was built. behind: files of listed folders that were not taken."""

    path: Path
    manifest: Manifest
    sizes: limits.Sizes
    behind: list[str]


def build_package(
    name: str = "lambda", output: Path | None = None, *, root: Path = ROOT, byte_code: bool = True
) -> Package:
    """Build the package for a target, lambda or local, from a checkout.

    Raises PackageError if it would be wrong; then nothing is written.
    """
    output = output or root / OUTPUT
    wanted = target.read(name, root)
    rules = plan.read(root)
    # Asked first: it is the most likely to be missing, and what follows takes a while.
    interpreter = bytecode.interpreter(wanted.python) if byte_code else None
    with tempfile.TemporaryDirectory(prefix="cloudqueue-package-") as temporary:
        tree, site = Path(temporary, "tree"), Path(temporary, "site")
        pins = list(locked.parse((root / rules.requirements).read_text(), rules.requirements))
        pins = locked.wanted(trimming.without(pins, rules.leave_out), wanted.markers())
        wheels.check_environment(pins)
        behind = contents.copy(rules, root, tree)
        statics.collect(tree, target.base_settings(root)["django_settings"])
        installed = wheels.install(pins, wanted, site)
        trimming.trim(installed, rules.trim)
        contents.move(sorted({path for distribution in installed for path in distribution.files}), site, tree)
        binaries.check(tree, wanted)
        made = Manifest(
            release=manifest.release(tree, archive.files(tree)),
            python=wanted.python,
            machine=wanted.machine,
            byte_code=byte_code,
            distributions={distribution.name: distribution.version for distribution in installed},
            owners={statics.FOLDER: "static files", **manifest.owners(installed)},
        )
        if interpreter:
            bytecode.compile_all(tree, interpreter)
        (tree / manifest.NAME).write_text(made.text())
        finished = Path(temporary, output.name)
        archive.write(tree, archive.files(tree), finished)
        sizes = limits.measure(finished)
        limits.check(sizes, rules)
        archive.put(finished, output)
    return Package(output, made, sizes, behind)


def build(target: str = "lambda", output: Path | None = None) -> Path:
    """Build the package for a target, lambda or local, and give its path."""
    return build_package(target, output).path
