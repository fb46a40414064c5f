#!/usr/bin/env bash
# Writes the lock files from their .in files: names, versions and hashes, no registry address.
# Use: requirements/lock.sh [--upgrade]
set -euo pipefail
cd "$(dirname "$0")/.."
lock() {
  local name=$1
  shift
  .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
    "requirements/$name.in" --output-file "requirements/$name.txt" "$@"
}
lock dev "$@"
# The smaller sets take the versions of the larger one, so that what is tested is what is deployed.
lock worker --constraint requirements/dev.txt
lock web --constraint requirements/dev.txt
lock otel --constraint requirements/dev.txt
lock bench
