"""Keeping messages unreadable to who can read the database but does not hold the key."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

#: Says that what follows is sealed; no JSON text begins so.
_MARK = "fernet:"


class SealError(ValueError):
    """What is kept was sealed with a key that RUN_KEYS does not hold."""


@lru_cache(maxsize=4)
def _keys(keys: tuple[str, ...]) -> MultiFernet:
    from cryptography.fernet import Fernet, MultiFernet

    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError as error:
        raise ImproperlyConfigured(
            f"RUN_KEYS holds {len(keys)} keys, and one of them is no key: {error}. "
            'Make one with: python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'
        ) from error


def seal(text: str) -> str:
    """text, encrypted with the first of RUN_KEYS; as it is where there is none."""
    if not settings.RUN_KEYS or not text or text.startswith(_MARK):
        return text
    return _MARK + _keys(tuple(settings.RUN_KEYS)).encrypt(text.encode()).decode()


def unseal(text: str) -> str:
    """What was sealed. Raises SealError where none of RUN_KEYS fits."""
    if not text.startswith(_MARK):
        return text
    from cryptography.fernet import InvalidToken

    if not settings.RUN_KEYS:
        raise SealError("a message is sealed, and RUN_KEYS is empty: set the key that it was sealed with.")
    try:
        return _keys(tuple(settings.RUN_KEYS)).decrypt(text.removeprefix(_MARK)).decode()
    except InvalidToken as error:
        raise SealError(
            f"a message was sealed with none of the {len(settings.RUN_KEYS)} keys in RUN_KEYS: "
            "add the older key at the end of the list."
        ) from error
