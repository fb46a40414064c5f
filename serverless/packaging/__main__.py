"""`make package`: build the zip that Lambda runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from serverless.packaging.building import OUTPUT, build_package
from serverless.packaging.errors import PackageError
from serverless.packaging.limits import MEBIBYTE
from serverless.packaging.report import sizes_text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="lambda", help="lambda (zappa_settings.json says which) or local")
    parser.add_argument("--output", type=Path, help=f"where to; {OUTPUT} if not given")
    parser.add_argument("--without-byte-code", action="store_true", help="needs no Python of the target's version")
    parser.add_argument("--report", action="store_true", help="print sizes by distribution")
    options = parser.parse_args()
    try:
        package = build_package(options.target, options.output, byte_code=not options.without_byte_code)
    except PackageError as error:
        print(error, file=sys.stderr)
        return 1
    for path in package.behind:
        print(f"left behind: {path} (its name or kind is not listed in pyproject.toml)", file=sys.stderr)
    if options.without_byte_code:
        print("warning: without byte code each cold start compiles everything anew", file=sys.stderr)
    if options.report:
        print(sizes_text(package.sizes))
    made = package.manifest
    print(
        f"{package.path}: {package.sizes.zip_bytes / MEBIBYTE:.1f} MiB, "
        f"{package.sizes.unzipped_bytes / MEBIBYTE:.1f} unzipped, release {made.release}, "
        f"Python {made.python} on {made.machine}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
