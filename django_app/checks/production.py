"""What a laptop may have, and production must not. Of much of it Django only warns; a deploy should fail."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

from django.conf import settings

from django_app.checks.findings import Finding
from django_app.checks.project import Project

_CSRF = "django.middleware.csrf.CsrfViewMiddleware"


def debug(_: Project) -> Iterator[Finding]:
    """E022: tracebacks, with settings and variables, for whoever causes an error."""
    if settings.DEBUG:
        yield Finding(
            "E022",
            "DEBUG",
            "DEBUG=True shows tracebacks with the values of variables to whoever causes an error.",
            "Leave DEBUG out of the environment.",
        )


def hosts(_: Project) -> Iterator[Finding]:
    """E023: names that anybody can have a request carry."""
    for host in settings.ALLOWED_HOSTS:
        # Of AWS's own domains anybody can have a name.
        if host == "*" or (host.startswith(".") and host.endswith((".amazonaws.com", ".on.aws"))):
            yield Finding(
                "E023",
                "ALLOWED_HOSTS",
                f'"{host}" lets requests name hosts that are not yours, and links in mails follow the name.',
                "Name your own hosts: PUBLIC_URL's, and EXTRA_HOSTS.",
            )


def https(_: Project) -> Iterator[Finding]:
    """E024: a site whose address is not its public one, or is not encrypted. Cookies, CSRF and HSTS follow from it."""
    public = urlsplit(settings.PUBLIC_URL)
    host = public.hostname or ""
    if public.scheme != "https" or host == "localhost" or _is_loopback(host):
        yield Finding(
            "E024",
            "PUBLIC_URL",
            f'"{settings.PUBLIC_URL}" is no https address of a public host: cookies go in clear text, there is no '
            "HSTS, and links in mails lead to it.",
            "Set PUBLIC_URL to the address that visitors use, such as https://site.example.",
        )


def cookies(_: Project) -> Iterator[Finding]:
    """E025: cookies that sign somebody in, and that others can read or use."""
    secure = "Set PUBLIC_URL to an https address, and it follows."
    wanted = [
        ("SESSION_COOKIE_SECURE", (True,), "it goes in clear text where a page is asked for by http", secure),
        ("SESSION_COOKIE_HTTPONLY", (True,), "scripts in a page can read it", "Leave it True, as Django has it."),
        ("SESSION_COOKIE_SAMESITE", ("Lax", "Strict"), "other sites' requests carry it", 'Set it to "Lax".'),
    ]
    if not settings.CSRF_USE_SESSIONS:
        wanted.append(
            ("CSRF_COOKIE_SECURE", (True,), "it goes in clear text where a page is asked for by http", secure)
        )
    for name, allowed, why, remedy in wanted:
        value = getattr(settings, name)
        if value not in allowed:
            yield Finding("E025", name, f"{name}={value!r}: of the cookie that lets somebody in, {why}.", remedy)


def csrf(_: Project) -> Iterator[Finding]:
    """E026: other sites' forms that are taken for the user's."""
    if _CSRF not in settings.MIDDLEWARE:
        yield Finding(
            "E026",
            "MIDDLEWARE",
            f"{_CSRF} is missing: forms of other sites are taken for the user's.",
            "Put it back, after the sessions' middleware.",
        )
    for origin in settings.CSRF_TRUSTED_ORIGINS:
        if not origin.startswith("https://") or "*" in origin:
            yield Finding(
                "E026",
                "CSRF_TRUSTED_ORIGINS",
                f'"{origin}" is trusted with forms, and is not one https origin.',
                "Name the origins that serve your pages, each with https:// and without *.",
            )


def database(_: Project) -> Iterator[Finding]:
    """E027: a database in a file."""
    for alias, each in settings.DATABASES.items():
        if each["ENGINE"].endswith("sqlite3"):
            yield Finding(
                "E027",
                f'DATABASES["{alias}"]',
                "SQLite is a file of one machine: on Lambda it is gone with its sandbox, and workers do not see what "
                "the web side writes.",
                "Set DATABASE_URL to Postgres: postgres://host/name.",
            )


def queue_addresses(_: Project) -> Iterator[Finding]:
    """E029: queues without an address."""
    if settings.BROKER_URL.startswith("sqs:") and not settings.QUEUE_URL_PREFIX:
        yield Finding(
            "E029",
            "QUEUE_URL_PREFIX",
            "QUEUE_URL_PREFIX is empty, so queues have no address, and nothing can be enqueued.",
            "Set it to what stands before the queues' names: https://sqs.REGION.amazonaws.com/ACCOUNT/cloudqueue-STAGE-.",
        )


def run_keys(_: Project) -> Iterator[Finding]:
    """E028: recorded messages in clear text."""
    if settings.RECORD_RUNS and not settings.RUN_KEYS:
        yield Finding(
            "E028",
            "RUN_KEYS",
            "RUN_KEYS is empty, so arguments of tasks stand in the database, and in its backups, as they are.",
            "Put a key of cryptography's Fernet.generate_key() into Secrets Manager below SETTINGS_PREFIX.",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
