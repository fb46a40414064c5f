"""Django's settings, one file for Lambda, container and laptop. Values of the environment are read in env.py."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import environ
import structlog
from celery.schedules import crontab
from csp.constants import NONE, SELF

from django_app import env
from serverless import aws

BASE_DIR = env.BASE_DIR
SECRET_KEY = env.SECRET_KEY
DEBUG = env.DEBUG
PUBLIC_URL = env.PUBLIC_URL
_public = urlsplit(PUBLIC_URL)
#: PUBLIC_URL without its path, and the path, such as "/dev": "" for none.
PUBLIC_ORIGIN = f"{_public.scheme}://{_public.netloc}"
PUBLIC_PREFIX = _public.path
FORCE_SCRIPT_NAME = PUBLIC_PREFIX or None
TRUSTED_PROXIES = env.TRUSTED_PROXIES
_https = _public.scheme == "https"
EXTRA_HOSTS = env.EXTRA_HOSTS
ALLOWED_HOSTS = [_public.hostname or "", *EXTRA_HOSTS]

INSTALLED_APPS = [
    "django_app.apps.CloudqueueConfig",
    "django_app.ledger",
    "django_app.datasets",
    "django_app.console",
    "django_app.realtime",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.sessions",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "csp",
    "django_htmx",
    "django_structlog",
]
MIDDLEWARE = [
    # First of all: a load balancer names no host that is allowed, and a probe opens no session.
    "django_app.health.ProbeMiddleware",
    "django_app.maintenance.MaintenanceMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django_structlog.middlewares.RequestMiddleware",
    "django_app.requests.RequesterMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]
ROOT_URLCONF = "django_app.urls"
WSGI_APPLICATION = "django_app.wsgi.application"
ASGI_APPLICATION = "django_app.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "django_app" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "django_app.context.site",
            ],
        },
    }
]

# Database ----------------------------------------------------------------------------------------------------------


def _database() -> dict[str, Any]:
    database: dict[str, Any] = environ.Env.db_url_config(env.DATABASE_URL)
    if database["ENGINE"] == "django.db.backends.sqlite3":
        Path(database["NAME"]).parent.mkdir(parents=True, exist_ok=True)
        database["OPTIONS"] = {
            # Writers queue at the start of a transaction instead of failing in its middle.
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        }
        # An in-memory test database cannot be shared with worker processes.
        database["TEST"] = {"NAME": f"{database['NAME']}-test"}
    else:
        database["ENGINE"] = "django_app.postgresql"
        database["OPTIONS"] = {
            "connect_timeout": 10,
            # A connection that was cut while a function slept is noticed in seconds, not in quarters of an hour.
            "tcp_user_timeout": 10_000,
            "keepalives_idle": 30,
            "cloudqueue_secret": env.DATABASE_SECRET,
            "cloudqueue_iam": env.DATABASE_IAM,
            **database.get("OPTIONS", {}),
        }
        database["CONN_HEALTH_CHECKS"] = True
        database["CONN_MAX_AGE"] = env.DATABASE_MAX_AGE_SECONDS
    return database


DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# People ------------------------------------------------------------------------------------------------------------

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "datasets:list"
LOGOUT_REDIRECT_URL = "login"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

# Security ----------------------------------------------------------------------------------------------------------

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _https
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_TRUSTED_ORIGINS = [PUBLIC_ORIGIN]
SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = f"{PUBLIC_PREFIX}/"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_HSTS_SECONDS = 31_536_000 if _https else 0
# Django's advice that does not fit: subdomains and the preload list are not ours to decide on (W005, W021), front doors
# redirect to https (W008), and a report is shown in a frame of its own dataset's page (W019).
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W008", "security.W019", "security.W021"]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _https else None
X_FRAME_OPTIONS = "SAMEORIGIN"
# Where browsers upload to is known at run time only (the bucket's endpoint), so the upload page adds it itself.
_static = urlsplit(env.STATIC_URL)
_OURS = [SELF, f"{_static.scheme}://{_static.netloc}"] if _static.netloc else [SELF]
_sockets = urlsplit(env.SOCKETS_URL)
_SOCKETS_AT_GATEWAY = _sockets.scheme in ("wss", "ws")


def _socket_origins() -> list[str]:
    if _SOCKETS_AT_GATEWAY:
        return [f"{_sockets.scheme}://{_sockets.netloc}"]
    if not env.SOCKETS_URL:
        return []
    port = f":{_public.port}" if _public.port else ""
    hosts = [_public.netloc, *(f"{host}{port}" for host in EXTRA_HOSTS if not host.startswith((".", "*")))]
    return [f"{'wss' if _https else 'ws'}://{host}" for host in hosts]


CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": _OURS,
        "img-src": [*_OURS, "data:"],
        # Sockets of the site itself are its own; not every browser takes SELF for that.
        "connect-src": [*_OURS, *_socket_origins()],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [SELF],
    }
}

# Files -------------------------------------------------------------------------------------------------------------

# With the prefix in it: Django would keep the one of the first request.
STATIC_URL = env.STATIC_URL or f"{PUBLIC_PREFIX}/static/"
WHITENOISE_STATIC_PREFIX = "/static/"
# A package holds each file once, and a start looks at half as many.
WHITENOISE_KEEP_ONLY_HASHED_FILES = True
STATIC_ROOT = BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "django_app" / "static"]
# From a checkout, static files are served as they lie; from a package, collected and with hashed names.
WHITENOISE_USE_FINDERS = not STATIC_ROOT.exists()
if WHITENOISE_USE_FINDERS:
    warnings.filterwarnings("ignore", message="No directory at")
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {
        "BACKEND": "django_app.static_files.HashedFiles"
        if STATIC_ROOT.exists()
        else "django.contrib.staticfiles.storage.StaticFilesStorage"
    },
}

# The worked example ------------------------------------------------------------------------------------------------

FILES_BUCKET = env.FILES_BUCKET
UPLOAD_LIMIT_BYTES = env.UPLOAD_LIMIT_BYTES
UPLOAD_EXPIRES_SECONDS = env.UPLOAD_EXPIRES_SECONDS
CHUNK_BYTES = env.CHUNK_BYTES
#: What services.py starts in the background, by dotted path: tasks stand on a floor above it.
DATASET_TASKS = {
    "profile": "tasks.datasets.profile_dataset",
    "merge": "tasks.datasets.merge_profile",
    "delete_objects": "tasks.datasets.delete_objects",
    "mail": "tasks.emails.send_report",
}

# Mail --------------------------------------------------------------------------------------------------------------

EMAIL_BACKEND = "anymail.backends.amazon_ses.EmailBackend"
DEFAULT_FROM_EMAIL = env.DEFAULT_FROM_EMAIL
MAILBOX_URL = env.MAILBOX_URL
# One try only: a mail whose answer was lost may have gone out, so whether to send again is decided by the task.
ANYMAIL = {
    "AMAZON_SES_CLIENT_PARAMS": {
        "region_name": aws.region(),
        "config": {"connect_timeout": 5, "read_timeout": 20, "retries": {"total_max_attempts": 1}},
    }
}

# Lambda ------------------------------------------------------------------------------------------------------------

MAINTENANCE = env.MAINTENANCE
LAMBDA_COMMANDS = env.LAMBDA_COMMANDS
#: What is done when an event of that name comes, by dotted path: functions of the event and of an Invocation.
EVENT_HANDLERS = {"housekeeping": "serverless.entrypoints.clock.housekeeping_round"}

# Background work ---------------------------------------------------------------------------------------------------

#: The Celery app that `shared_task` and `.delay()` use in this process, by dotted path: Django stands below it.
CELERY_APP = "tasks.celery.app"
BROKER_URL = env.BROKER_URL
QUEUE_URL_PREFIX = env.QUEUE_URL_PREFIX
QUEUE_WAIT_SECONDS = env.QUEUE_WAIT_SECONDS
LIVENESS_FILE = env.LIVENESS_FILE
RESULT_BACKEND = env.RESULT_BACKEND
RECORD_RUNS = env.RECORD_RUNS
RUN_RETENTION_DAYS = env.RUN_RETENTION_DAYS
RUN_KEYS = env.RUN_KEYS
RUN_MOST_CRASHES = env.RUN_MOST_CRASHES
REDACTED_ARGUMENTS = env.REDACTED_ARGUMENTS
RESULT_INLINE_BYTES = env.RESULT_INLINE_BYTES
#: What publishes recorded runs, by dotted path: the ledger stands below it.
RUN_PUBLISHER = "tasks.runtime.publishing.publish"
#: What ends a run whose message SQS no longer has, and what says how many messages queues hold, likewise.
RUN_ENDER = "tasks.runtime.reports.end_orphan"
QUEUE_STATS = "tasks.runtime.queue_stats.stats"
HOUSEKEEPING_SECONDS = env.HOUSEKEEPING_SECONDS

# Schedules ---------------------------------------------------------------------------------------------------------

#: Periodic work, as `celery beat` reads it: {name: {"task": ..., "schedule": crontab(...), "args": [...]}}.
#: `manage.py schedules sync` brings it to EventBridge.
CELERY_BEAT_SCHEDULE: dict[str, Any] = {
    "clear expired sessions": {
        "task": "tasks.sessions.clear_expired_sessions",
        "schedule": crontab(minute="17", hour="3"),
        "options": {"queue": "low"},
    },
}
#: What beat does not know, by the same names: {name: {"timezone": "Europe/Berlin", "overlap": "skip", ...}}, see
#: docs/schedules.md.
SCHEDULE_RULES: dict[str, Any] = {}
#: The time zone of crontabs that are given none.
CELERY_TIMEZONE = env.CELERY_TIMEZONE
SCHEDULE_GROUP = env.SCHEDULE_GROUP
SCHEDULE_ROLE_ARN = env.SCHEDULE_ROLE_ARN
SCHEDULE_DEAD_LETTER_ARN = env.SCHEDULE_DEAD_LETTER_ARN
#: What says why a schedule could never run, what brings one to EventBridge, what makes a run of one: by dotted path.
SCHEDULE_CHECKER = "tasks.runtime.schedules.check"
SCHEDULE_SYNCER = "tasks.runtime.schedules.synchronise"
SCHEDULE_REPAIRER = "tasks.runtime.schedules.repair"
SCHEDULED_RUN = "tasks.runtime.schedules.describe"

# Real time ---------------------------------------------------------------------------------------------------------

SOCKETS_URL = env.SOCKETS_URL
SOCKET_TOKEN_SECONDS = env.SOCKET_TOKEN_SECONDS
PUSH_EVERY_SECONDS = env.PUSH_EVERY_SECONDS
PUSH_WAIT_SECONDS = env.PUSH_WAIT_SECONDS


def _channel_layers() -> dict[str, Any]:
    """By dotted path: what runs no consumer loads neither Channels nor an ASGI application."""
    if not env.SOCKETS_URL:
        return {}
    config: dict[str, Any]
    if _SOCKETS_AT_GATEWAY:
        backend = "serverless.websockets.layer.GatewayChannelLayer"
        config = {
            "table": env.SOCKETS_TABLE,
            "endpoint_url": env.SOCKETS_API_URL,
            # Without Django's part of asgi.py: it would set up Django, logging included, once more in each worker.
            "application": "django_app.realtime.routing.application",
        }
    else:
        # Its other layer, which keeps messages in lists, at times does not end with its socket: redis-py 8 swallows
        # that it is cancelled. Here nothing need be kept, since each message tells the whole state.
        backend = "channels_redis.pubsub.RedisPubSubChannelLayer"
        config = {"hosts": [{"address": env.SOCKETS_URL, "socket_timeout": 30}]}
    return {"default": {"BACKEND": backend, "CONFIG": config}}


CHANNEL_LAYERS = _channel_layers()

# Metrics and traces ------------------------------------------------------------------------------------------------

METRICS = env.METRICS
METRICS_NAMESPACE = env.METRICS_NAMESPACE
METRICS_TOKEN = env.METRICS_TOKEN
if env.OTEL_EXPORTER_OTLP_ENDPOINT:
    INSTALLED_APPS.append("django_app.telemetry.TelemetryConfig")

# Language and logs -------------------------------------------------------------------------------------------------

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

RELEASE = env.RELEASE
LOG_FORMAT = env.LOG_FORMAT
_SHARED_PROCESSORS: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.stdlib.PositionalArgumentsFormatter(),
]


def _one_line_an_outcome(logger: Any, method: str, event: Any) -> Any:
    """Drop what only says that something began: its end says the same, with the duration."""
    if event.get("event") in ("request_started", "task_started"):
        raise structlog.DropEvent
    return event


structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        _one_line_an_outcome,
        *_SHARED_PROCESSORS,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    cache_logger_on_first_use=True,
)
_RENDERERS: dict[str, list[Any]] = {
    "json": [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
    # Plain: where rich is installed it would show what variables hold, and take minutes for a long message.
    "console": [
        structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback)
    ],
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": structlog.stdlib.ProcessorFormatter,
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_RENDERERS["console" if LOG_FORMAT == "console" else "json"],
            ],
            "foreign_pre_chain": _SHARED_PROCESSORS,
        }
    },
    # The query string of a socket's address holds a token.
    "filters": {"without_query": {"()": "django_app.realtime.logs.WithoutQuery"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": env.LOG_LEVEL},
    "loggers": {
        "botocore": {"level": "WARNING"},
        "boto3": {"level": "WARNING"},
        "urllib3": {"level": "WARNING"},
        "matplotlib": {"level": "WARNING"},
        # There, and not in its access log, uvicorn tells of each socket.
        "uvicorn.error": {"filters": ["without_query"]},
        # django-structlog logs the same outcomes with the ids of request and task.
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
    },
}
DJANGO_STRUCTLOG_CELERY_ENABLED = True
DJANGO_STRUCTLOG_IP_LOGGING_ENABLED = False
