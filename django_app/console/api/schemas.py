"""Pieces of JSON schemas, of which the API's description is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]


def text(about: str = "", **more: Any) -> Json:
    return {"type": "string", **({"description": about} if about else {}), **more}


def number(about: str = "") -> Json:
    return {"type": "number", **({"description": about} if about else {})}


def whole(about: str = "") -> Json:
    return {"type": "integer", **({"description": about} if about else {})}


def flag(about: str = "") -> Json:
    return {"type": "boolean", **({"description": about} if about else {})}


def time(about: str = "") -> Json:
    return text(about, format="date-time")


def or_null(schema: Json) -> Json:
    return {**schema, "type": [schema["type"], "null"]}


def list_of(of: Json | str, about: str = "") -> Json:
    items = {"$ref": f"#/components/schemas/{of}"} if isinstance(of, str) else of
    return {"type": "array", "items": items, **({"description": about} if about else {})}


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def object_of(properties: Mapping[str, Json], about: str = "") -> Json:
    """All of them are always there, and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": dict(properties),
        **({"description": about} if about else {}),
    }
