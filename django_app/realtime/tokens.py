"""The signed word by which a browser opens one socket, once, within a minute.

A socket's handshake goes to another host than the site's, where there is no cookie. What the token says of session and
password are hashes: neither can be had from it.
"""

from __future__ import annotations

import datetime
import hashlib
import secrets
import time
from dataclasses import asdict, dataclass
from typing import Any

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.core import signing

from django_app.realtime import marks

_SALT = "cloudqueue.realtime.socket"
#: Characters; ours have some 300.
_LONGEST = 2000


class TokenError(Exception):
    """A token lets nobody in. Its text says why, for the log: whoever brought it is told nothing."""


@dataclass(frozen=True)
class Claims:
    """Whom a socket serves, as it was signed; what they may see is asked anew each time.

    user: their key. session, password: hashes. until: seconds since 1970, when the socket ends in any case.
    """

    user: str
    session: str
    password: str
    until: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Claims:
        return cls(**kept)

    def is_over(self) -> bool:
        return time.time() >= self.until

    def knows_password_of(self, user: AbstractBaseUser) -> bool:
        """Whether it has not been changed since, nor all sessions ended by a change of SECRET_KEY."""
        return self.password in {
            _short(text) for text in (user.get_session_auth_hash(), *user.get_session_auth_fallback_hash())
        }


def session_hash(key: str) -> str:
    """What stands for a session, whose key is a secret."""
    return _short(f"session {key}")


def issue(user: AbstractBaseUser, session_key: str, until: datetime.datetime, path: str) -> str:
    """A token with which `user` opens a socket at `path`. until: when the session ends by itself, and the socket."""
    told = {
        "user": str(user.pk),
        "session": session_hash(session_key),
        "password": _short(user.get_session_auth_hash()),
        "until": int(until.timestamp()),
        "path": _short(path),
        "once": secrets.token_urlsafe(12),
    }
    return signing.dumps(told, salt=_SALT)


def redeem(token: str, path: str) -> Claims:
    """What a token says; afterwards it is used up. Raises TokenError."""
    if not token or len(token) > _LONGEST:
        raise TokenError("there is none" if not token else "it is too long")
    try:
        told = signing.loads(token, salt=_SALT, max_age=settings.SOCKET_TOKEN_SECONDS)
    except signing.SignatureExpired:
        raise TokenError("it has expired") from None
    except signing.BadSignature:
        raise TokenError("it is not ours") from None
    if told["path"] != _short(path):
        raise TokenError("it is for another path")
    now = time.time()
    if told["until"] <= now:
        raise TokenError("its session has expired")
    valid_until = datetime.datetime.fromtimestamp(now + settings.SOCKET_TOKEN_SECONDS, datetime.UTC)
    if not marks.spend(told["once"], valid_until):
        raise TokenError("it has been used")
    until = min(now + marks.SOCKET_SECONDS, told["until"])
    return Claims(user=told["user"], session=told["session"], password=told["password"], until=until)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]
