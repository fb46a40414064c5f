"""Every value that comes from the environment, read once, with its meaning, unit and default.

Nothing else in the project reads os.environ for configuration, except what boto3 reads itself (AWS_*).
docs/configuration.md lists the same names; a test compares the two.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

from serverless import parameters

_env = environ.Env()

BASE_DIR = Path(__file__).resolve().parent.parent


def _required(name: str, meaning: str) -> str:
    value: str = _env.str(name, default="")
    if not value:
        raise ImproperlyConfigured(
            f"{name} is not set: {meaning}. Set it in the environment; `make up` sets it for a laptop."
        )
    return value


#: Where the rest is kept on AWS, such as /cloudqueue/production: what stands below it in SSM's Parameter Store and in
#: Secrets Manager is read into the environment, but for what is there already. Default: nowhere.
SETTINGS_PREFIX: str = _env.str("SETTINGS_PREFIX", default="").rstrip("/")
parameters.load(SETTINGS_PREFIX)

#: Signs sessions and tokens. No default: whoever knows it can sign in as anybody.
SECRET_KEY: str = _required("SECRET_KEY", "the key that signs sessions")

#: Tracebacks in the browser. Never on the internet. Default: off.
DEBUG: bool = _env.bool("DEBUG", default=False)

#: Where the site is reached, scheme included, no slash at the end. Hosts, origins and links in mails follow from it. A
#: path in it, such as API Gateway's stage, is what all addresses begin with.
PUBLIC_URL: str = _env.str("PUBLIC_URL", default="http://127.0.0.1:8000").rstrip("/")

#: Further host names that the site answers to, comma-separated. Default: none beside PUBLIC_URL's.
EXTRA_HOSTS: list[str] = _env.list("EXTRA_HOSTS", default=[])

#: How many proxies of one's own stand before API Gateway or the load balancer: 1 for CloudFront. Default: 0.
TRUSTED_PROXIES: int = _env.int("TRUSTED_PROXIES", default=0)

#: Where browsers get static files. An address, such as CloudFront's, to which a deploy copies them; default: the site's
#: own /static/.
STATIC_URL: str = _env.str("STATIC_URL", default="")

#: Whether every page but the probes says that the site is being worked on. Default: no.
MAINTENANCE: bool = _env.bool("MAINTENANCE", default=False)

#: The database, as a URL: sqlite:///path or postgres://user:password@host/name. Default: SQLite under .local/.
DATABASE_URL: str = _env.str("DATABASE_URL", default="")
if not DATABASE_URL:
    if "AWS_LAMBDA_FUNCTION_NAME" in _env.ENVIRON:
        raise ImproperlyConfigured(
            "DATABASE_URL is not set, and a function keeps no files. Set it: postgres://host/name"
        )
    DATABASE_URL = f"sqlite:///{BASE_DIR / '.local' / 'db.sqlite3'}"

#: The secret of Secrets Manager that has username and password of the database, as RDS makes it: it is asked again as
#: it is rotated. Default: none, they stand in DATABASE_URL.
DATABASE_SECRET: str = _env.str("DATABASE_SECRET", default="")

#: Whether the user of DATABASE_URL signs in by IAM. Default: no.
DATABASE_IAM: bool = _env.bool("DATABASE_IAM", default=False)

#: Seconds that a web process keeps a database connection. On Lambda each sandbox that sleeps would keep one, so more
#: than 0 is for a pool such as RDS Proxy. Default: 0.
DATABASE_MAX_AGE_SECONDS: int = _env.int("DATABASE_MAX_AGE_SECONDS", default=0)

#: Put before a queue's logical name to make its SQS URL, such as
#: https://sqs.eu-central-1.amazonaws.com/111122223333/cloudqueue-production-
QUEUE_URL_PREFIX: str = _env.str("QUEUE_URL_PREFIX", default="")

#: Management commands that may be run in a function, comma-separated. Default: those that deploys and operators need.
LAMBDA_COMMANDS: list[str] = _env.list(
    "LAMBDA_COMMANDS",
    default=["check", "clearsessions", "doctor", "housekeeping", "migrate", "schedules", "showmigrations"],
)

#: Celery's broker URL. Default: SQS with the process's AWS credentials.
BROKER_URL: str = _env.str("BROKER_URL", default="sqs://")

#: Seconds, the length of a long poll of SQS, 1 to 20. A worker that stops waits as long for its last one. Default: 20.
QUEUE_WAIT_SECONDS: int = _env.int("QUEUE_WAIT_SECONDS", default=20)

#: A file that workers rewrite every few seconds with what a health check needs to know. Default: none.
LIVENESS_FILE: str = _env.str("LIVENESS_FILE", default="")

#: The group that this stage's schedules are kept in at EventBridge Scheduler, alone. Default: none, no periodic work.
SCHEDULE_GROUP: str = _env.str("SCHEDULE_GROUP", default="")

#: ARN of the role that EventBridge takes to send to the queues. Needed with SCHEDULE_GROUP.
SCHEDULE_ROLE_ARN: str = _env.str("SCHEDULE_ROLE_ARN", default="")

#: ARN of the queue for what EventBridge could not deliver in a day. Needed with SCHEDULE_GROUP.
SCHEDULE_DEAD_LETTER_ARN: str = _env.str("SCHEDULE_DEAD_LETTER_ARN", default="")

#: IANA name of the time zone of CELERY_BEAT_SCHEDULE's crontabs. Default: UTC.
CELERY_TIMEZONE: str = _env.str("CELERY_TIMEZONE", default="UTC")

#: Whether what is enqueued is recorded in the database, in the caller's transaction. Default: yes.
RECORD_RUNS: bool = _env.bool("RECORD_RUNS", default=True)

#: Days that a run is kept after it was published. Default: 14.
RUN_RETENTION_DAYS: int = _env.int("RUN_RETENTION_DAYS", default=14)

#: Keys that recorded messages are encrypted with, comma-separated: the first seals, all of them open. Each as
#: cryptography's Fernet.generate_key() makes it. Default: none, messages stand in the database as they are.
RUN_KEYS: list[str] = _env.list("RUN_KEYS", default=[])

#: What is left out of arguments that people see: a regular expression over parameter and key names.
REDACTED_ARGUMENTS: str = _env.str(
    "REDACTED_ARGUMENTS", default="passw|secret|token|api_?key|authorization|cookie|credential|private"
)
try:
    re.compile(REDACTED_ARGUMENTS)
except re.error as error:
    raise ImproperlyConfigured(
        f'REDACTED_ARGUMENTS="{REDACTED_ARGUMENTS}" is no regular expression: {error}. Correct it.'
    ) from error

#: How often a run's process or worker may die at it before it is dead-lettered. Default: 5.
RUN_MOST_CRASHES: int = _env.int("RUN_MOST_CRASHES", default=5)

#: Celery's result backend. Default: the ledger, where results stand beside their runs.
RESULT_BACKEND: str = _env.str("RESULT_BACKEND", default="tasks.runtime.results:LedgerBackend")

#: Bytes up to which a result stands in the database; longer ones go to the files' bucket. Default: 64 KiB.
RESULT_INLINE_BYTES: int = _env.int("RESULT_INLINE_BYTES", default=64 << 10)

#: The S3 bucket of uploads, work files and reports.
FILES_BUCKET: str = _env.str("FILES_BUCKET", default="cloudqueue-files")

#: Bytes, the largest file that may be uploaded. Default: 2 GiB.
UPLOAD_LIMIT_BYTES: int = _env.int("UPLOAD_LIMIT_BYTES", default=2 << 30)

#: Seconds that an upload form stays valid. Default: an hour.
UPLOAD_EXPIRES_SECONDS: int = _env.int("UPLOAD_EXPIRES_SECONDS", default=3600)

#: Bytes of a file that one task works on. More means fewer tasks and more memory in each. Default: 8 MiB.
CHUNK_BYTES: int = _env.int("CHUNK_BYTES", default=8 << 20)

#: Sender of mails; SES must know the address or its domain.
DEFAULT_FROM_EMAIL: str = _env.str("DEFAULT_FROM_EMAIL", default="Cloudqueue <reports@cloudqueue.local>")

#: Where sent mail can be read (a laptop has such a page). Default: nowhere, and no link is shown.
MAILBOX_URL: str = _env.str("MAILBOX_URL", default="")


def _sockets_url() -> str:
    url: str = _env.str("SOCKETS_URL", default="").rstrip("/")
    try:
        parts = urlsplit(url)
        is_bare = bool(parts.hostname and parts.port != 0) and not (parts.query or parts.fragment)
        is_bare = is_bare and (parts.username is None or parts.scheme.startswith("redis"))
    except ValueError:
        # A port that is no number, half an IPv6 address.
        parts, is_bare = None, False
    if url and not (parts and is_bare and parts.scheme in ("wss", "ws", "redis", "rediss")):
        # A Redis may have its password in there.
        shown = re.sub("//.*@", "//...@", url)[:200]
        raise ImproperlyConfigured(
            f'SOCKETS_URL="{shown}" is no address of sockets. Set it to API Gateway\'s stage, such as '
            "wss://ID.execute-api.REGION.amazonaws.com/STAGE, or to a Redis for servers that hold sockets themselves, "
            "such as redis://HOST:6379/0, or to nothing: then pages poll."
        )
    return url


#: Where browsers open sockets: a stage of API Gateway (wss://ID.execute-api.REGION.amazonaws.com/STAGE), or the Redis
#: by which servers that hold sockets themselves hear of changes (redis://HOST:6379/0). Default: nowhere, pages poll.
SOCKETS_URL: str = _sockets_url()

#: The DynamoDB table of connections, where API Gateway has the sockets.
SOCKETS_TABLE: str = _env.str("SOCKETS_TABLE", default="cloudqueue-sockets")

#: Where messages to those sockets are sent (`@connections`). Default: SOCKETS_URL with https for wss; where that is a
#: domain of one's own, the stage's own address is needed here.
SOCKETS_API_URL: str = _env.str("SOCKETS_API_URL", default="").rstrip("/") or re.sub("^ws", "http", SOCKETS_URL)

#: Seconds that the address of a socket may be used in. Default: 60.
SOCKET_TOKEN_SECONDS: int = _env.int("SOCKET_TOKEN_SECONDS", default=60)

#: Seconds between two messages about one thing, at least; the first and the last are always sent. Default: 0.5.
PUSH_EVERY_SECONDS: float = _env.float("PUSH_EVERY_SECONDS", default=0.5)

#: Seconds that messages may keep a request, or the end of a process, waiting. Default: 0.25.
PUSH_WAIT_SECONDS: float = _env.float("PUSH_WAIT_SECONDS", default=0.25)
for _name, _seconds, _least in (
    ("SOCKET_TOKEN_SECONDS", SOCKET_TOKEN_SECONDS, 1),
    ("PUSH_EVERY_SECONDS", PUSH_EVERY_SECONDS, 0),
    ("PUSH_WAIT_SECONDS", PUSH_WAIT_SECONDS, 0),
):
    if not _least <= _seconds <= 3600:
        raise ImproperlyConfigured(f"{_name}={_seconds:g} is not from {_least} to 3600 seconds. Correct it.")

#: Seconds that one round of the minute's housekeeping may take: no further step begins after that. Default: 40.
HOUSEKEEPING_SECONDS: float = _env.float("HOUSEKEEPING_SECONDS", default=40.0)

#: "emf": workers and the housekeeping print metrics as lines of JSON of which CloudWatch makes metrics. Default: off.
METRICS: str = _env.str("METRICS", default="off")
if METRICS not in ("emf", "off"):
    raise ImproperlyConfigured(f'METRICS="{METRICS}" is neither "emf" nor "off". Correct it.')

#: The CloudWatch namespace of these metrics; one for each installation in an account. Default: Cloudqueue.
METRICS_NAMESPACE: str = _env.str("METRICS_NAMESPACE", default="Cloudqueue")

#: What a scraper of /metrics must send as bearer token. Default: none, and there is no /metrics.
METRICS_TOKEN: str = _env.str("METRICS_TOKEN", default="")

#: Where traces are sent, as OTLP over HTTP; needs the packages of requirements/otel.txt. Their other variables
#: (OTEL_*) are read by OpenTelemetry itself. Default: nowhere, and nothing of it is loaded.
OTEL_EXPORTER_OTLP_ENDPOINT: str = _env.str("OTEL_EXPORTER_OTLP_ENDPOINT", default="")

#: What this release is called, such as a commit; shown beside workers and in logs. Default: nothing.
RELEASE: str = _env.str("RELEASE", default="")

#: "json" for machines, "console" for people. Default: json.
LOG_FORMAT: str = _env.str("LOG_FORMAT", default="json")

#: Lowest level that is logged. Default: INFO.
LOG_LEVEL: str = _env.str("LOG_LEVEL", default="INFO")
