"""What goes into the package, as [tool.cloudqueue.package] of pyproject.toml says it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from packaging.utils import canonicalize_name

from serverless.packaging.errors import PackageError, UnknownNameError

_Rule = TypeVar("_Rule", "LeftOut", "Trim")

TABLE = "[tool.cloudqueue.package]"


@dataclass(frozen=True)
class LeftOut:
    """A locked distribution that is not packaged, and why."""

    distribution: str
    reason: str


@dataclass(frozen=True)
class Trim:
    """Files of one distribution that are not packaged, and why.

    drop, keep: patterns over paths as they lie in the package, where * also crosses folders; what both match is kept.
    """

    distribution: str
    reason: str
    drop: tuple[str, ...]
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The whole table."""

    #: Our own folders and files, from the root of the checkout.
    files: tuple[str, ...]
    #: What of them stays behind.
    except_files: tuple[str, ...]
    #: Suffixes of files that are taken; others stay behind and are named.
    kinds: tuple[str, ...]
    #: The lock file.
    requirements: str
    #: Largest sizes, in MiB of 1,048,576 bytes.
    zip_mebibytes: float
    unzipped_mebibytes: float
    leave_out: tuple[LeftOut, ...] = ()
    trim: tuple[Trim, ...] = ()


def parse(table: Mapping[str, Any]) -> Plan:
    """The plan that a table describes. Raises PackageError where a key is missing or unknown."""
    values = _known(Plan, table, TABLE)
    values["leave_out"] = tuple(_rule(LeftOut, entry, "leave_out") for entry in table.get("leave_out", ()))
    values["trim"] = tuple(_rule(Trim, entry, "trim") for entry in table.get("trim", ()))
    return Plan(**values)


def read(root: Path) -> Plan:
    """The plan of a checkout."""
    with (root / "pyproject.toml").open("rb") as handle:
        table = tomllib.load(handle).get("tool", {}).get("cloudqueue", {}).get("package")
    if table is None:
        raise PackageError(f"pyproject.toml has no {TABLE}. Add it: it lists what is packaged.")
    return parse(table)


def _rule(kind: type[_Rule], entry: Mapping[str, Any], name: str) -> _Rule:
    where = f"{TABLE} {name}: {entry.get('distribution', '?')}"
    values = _known(kind, entry, where)
    if not str(values["reason"]).strip():
        raise PackageError(f"{where}: the reason is empty. Say why it is not needed.")
    values["distribution"] = canonicalize_name(values["distribution"])
    return kind(**values)


def _known(kind: type, table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A table's values, lists as tuples, once its keys are known to be a dataclass's."""
    names = {field.name: field.default is not MISSING for field in fields(kind)}
    for key in table:
        if key not in names:
            raise UnknownNameError(where, key, names)
    missing = [name for name, optional in names.items() if not optional and name not in table]
    if missing:
        raise PackageError(f"{where}: {', '.join(missing)} is missing. Add it.")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
