"""How large a package is, and how large it may be."""

from __future__ import annotations

import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from serverless.packaging import manifest
from serverless.packaging.errors import SizeError
from serverless.packaging.plan import TABLE, Plan

MEBIBYTE = 1 << 20
#: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
AWS_ZIP_MEBIBYTES = 50
AWS_UNZIPPED_MEBIBYTES = 250


@dataclass(frozen=True)
class Sizes:
    """Bytes, of the zip and unzipped; by owner, its share of each."""

    zip_bytes: int
    unzipped_bytes: int
    zipped_by_owner: Counter[str]
    unzipped_by_owner: Counter[str]


def measure(path: Path) -> Sizes:
    zipped: Counter[str] = Counter()
    unzipped: Counter[str] = Counter()
    with zipfile.ZipFile(path) as archive:
        made = manifest.parse(archive.read(manifest.NAME))
        for entry in archive.infolist():
            owner = made.owner(entry.filename)
            zipped[owner] += entry.compress_size
            unzipped[owner] += entry.file_size
    return Sizes(path.stat().st_size, unzipped.total(), zipped, unzipped)


def check(sizes: Sizes, plan: Plan) -> None:
    """Raises SizeError if the package exceeds what AWS takes or what the plan allows."""
    _check("zip", sizes.zip_bytes, plan.zip_mebibytes, AWS_ZIP_MEBIBYTES, sizes.zipped_by_owner)
    _check("unzipped", sizes.unzipped_bytes, plan.unzipped_mebibytes, AWS_UNZIPPED_MEBIBYTES, sizes.unzipped_by_owner)


def _check(name: str, size_bytes: int, own: float, aws: float, owners: Counter[str]) -> None:
    limit = min(own, aws)
    if size_bytes <= limit * MEBIBYTE:
        return
    whose = f"{name}_mebibytes in {TABLE}" if own < aws else "what AWS Lambda takes"
    largest = ", ".join(f"{owner} {bytes_ / MEBIBYTE:.1f}" for owner, bytes_ in owners.most_common(5))
    raise SizeError(
        f"package: {name} size {size_bytes / MEBIBYTE:.1f} MiB exceeds {limit:g} MiB, {whose}. "
        f"Largest: {largest}. Trim or leave out what the web side does not need."
    )
