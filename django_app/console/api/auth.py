"""Who calls the API: whoever is signed in, with a CSRF token for what changes something; or a bearer token."""

from __future__ import annotations

from django.contrib.auth.base_user import AbstractBaseUser
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import CsrfViewMiddleware

from django_app.console import tokens
from django_app.console.access import access_of
from django_app.console.services.acting import Actor

_SAFE = ("GET", "HEAD", "OPTIONS")


class UnauthenticatedError(Exception):
    """Nobody known calls."""


class CsrfError(Exception):
    """A page of another site may have sent this."""


class _Csrf(CsrfViewMiddleware):
    """Django's check, for one call; it tells why it refuses."""

    def _reject(self, request: HttpRequest, reason: str) -> HttpResponse:
        raise CsrfError(reason)


def actor_of(request: HttpRequest) -> Actor:
    """Raises UnauthenticatedError, CsrfError."""
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    if scheme:
        # Never the session as well: a program that sends a token means that one.
        token = tokens.authenticate(text.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            raise UnauthenticatedError("The token is unknown or revoked. Make one at /console/tokens/.")
        request.user = token.owner
        return Actor(access_of(token.owner), token.name)
    user: AbstractBaseUser | object = request.user
    if not getattr(user, "is_authenticated", False):
        raise UnauthenticatedError('Send a token: "Authorization: Bearer cq_...". Make one at /console/tokens/.')
    if request.method not in _SAFE:
        check = _Csrf(lambda _: HttpResponse())
        check.process_request(request)
        check.process_view(request, lambda _: HttpResponse(), (), {})
    return Actor(access_of(request.user))
