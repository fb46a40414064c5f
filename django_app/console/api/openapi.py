"""The API's description, made of the tables that the API itself is made of."""

from __future__ import annotations

from functools import cache
from typing import Any

from django_app.console.actions import ACTIONS
from django_app.console.api import schedule_shapes, schemas, shapes
from django_app.console.api.routes import ROUTES, TOKEN_FORMAT
from django_app.console.api.table import Route
from django_app.console.doing import Field

Json = dict[str, Any]

_ERRORS = {
    "400": "Something in the request makes no sense.",
    "401": "Nobody known calls.",
    "403": "You see it, and may not do this; or the CSRF token is missing.",
    "404": "There is no such thing, or it is not yours to see.",
    "405": "This address takes another method.",
    "409": "Things do not stand as you believe: the answer says what has happened.",
    "413": "The request is too large.",
    "415": "The body is not application/json.",
    "500": "It failed, and has logged why.",
    "502": "SQS or EventBridge did not do it.",
    "503": "The database does not answer.",
}
_OF_READING = ("400", "401", "403", "404", "405", "409", "500", "502", "503")
_KINDS: dict[str, Json] = {
    "text": {"type": "string"},
    "flag": {"type": "boolean"},
    "number": {"type": "integer", "minimum": 0},
    "texts": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 500},
    "list": {"type": "array"},
    "object": {"type": "object"},
}


@cache
def description() -> Json:
    """OpenAPI 3.1."""
    paths: Json = {}
    for route in ROUTES:
        paths[route.path] = {"get": _operation(route)}
    for name, action in ACTIONS.items():
        paths[f"/actions/{name}"] = {
            "post": {
                "operationId": name.replace("-", "_"),
                "summary": action.about,
                "description": f"Takes the role {action.role.name.lower()}.",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": _body(dict(action.fields))}},
                },
                "responses": _responses("Done", tuple(_ERRORS)),
            }
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Cloudqueue console",
            "version": "1",
            "description": "What the console's pages show and do. Lists go on with `next`; no list is ever counted.",
        },
        "servers": [{"url": "/console/api/v1"}],
        "security": [{"bearer": []}, {"session": []}],
        "paths": paths,
        "components": {
            "schemas": {
                **shapes.SCHEMAS,
                **schedule_shapes.SCHEMAS,
                "Description": {"type": "object", "description": "OpenAPI 3.1"},
            },
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": TOKEN_FORMAT,
                    "description": "A token of /console/tokens/. It has the rights of whoever made it.",
                },
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "sessionid",
                    "description": "Whoever is signed in; what changes something needs the header X-CSRFToken.",
                },
            },
        },
    }


def _operation(route: Route) -> Json:
    in_path = [
        {"name": part.strip("{}"), "in": "path", "required": True, "schema": {"type": "string"}}
        for part in route.path.split("/")
        if part.startswith("{")
    ]
    in_query = [
        {"name": name, "in": "query", "schema": each.schema, **({"description": each.about} if each.about else {})}
        for name, each in route.parameters.items()
    ]
    return {
        "operationId": route.name,
        "summary": route.about,
        "parameters": in_path + in_query,
        "responses": _responses(route.schema, _OF_READING),
    }


def _responses(schema: str, errors: tuple[str, ...]) -> Json:
    content = {"application/json": {"schema": schemas.ref(schema)}}
    refused = {"application/json": {"schema": schemas.ref("Error")}}
    return {
        "200": {"description": "Done.", "content": content},
        **{status: {"description": _ERRORS[status], "content": refused} for status in errors},
    }


def _body(fields: dict[str, Field]) -> Json:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [name for name, field in fields.items() if field.required],
        "properties": {name: _property(field) for name, field in fields.items()},
    }


def _property(field: Field) -> Json:
    schema = {**_KINDS[field.kind], "description": field.about}
    if field.kind == "text":
        schema["maxLength"] = field.longest
    if field.choices:
        schema["enum"] = list(field.choices)
    return schema
