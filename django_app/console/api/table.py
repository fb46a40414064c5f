"""What a route of the API is, and what several of them take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest

from django_app.console import queries
from django_app.console.errors import InvalidError

Json = dict[str, Any]
Answer = Callable[..., Json]


@dataclass(frozen=True)
class Parameter:
    """Of a query string."""

    about: str
    schema: Json


@dataclass(frozen=True)
class Route:
    """One address.

    path: of OpenAPI, behind /console/api/v1; pattern: of Django. answer: takes request, actor and what the pattern
    holds. schema: name of the answer's.
    """

    name: str
    path: str
    pattern: str
    about: str
    answer: Answer
    schema: str
    parameters: dict[str, Parameter]
    method: str = "GET"


TEXT = {"type": "string", "maxLength": 255}
#: Of lists that go on.
PAGED = {
    "cursor": Parameter("`next` of the page before", {"type": "string"}),
    "limit": Parameter(
        f"how many, default {queries.PAGE}", {"type": "integer", "minimum": 1, "maximum": queries.MOST_A_PAGE}
    ),
}


def limit_of(request: HttpRequest) -> int:
    """How many are asked for. Raises InvalidError."""
    text = request.GET.get("limit", str(queries.PAGE))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= queries.MOST_A_PAGE):
        raise InvalidError("limit", text, f"it is no number from 1 to {queries.MOST_A_PAGE}", "Correct it.")
    return int(text)
