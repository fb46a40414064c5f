"""Addresses of the site for whoever is not visiting it, such as the readers of a mail."""

from __future__ import annotations

from django.conf import settings


def public(path: str) -> str:
    """path: as reverse() gives it; in a thread of a worker without the prefix, elsewhere with it."""
    prefix = settings.PUBLIC_PREFIX
    own = path[len(prefix) :] if prefix and path.startswith(f"{prefix}/") else path
    return f"{settings.PUBLIC_URL}{own}"
