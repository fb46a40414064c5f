"""The environment of the tests, set before Django reads its settings: pytest loads this with -p.

Nothing is shared between two runs: the database lies in a temporary folder of this process.
CLOUDQUEUE_TEST_DATABASE_URL names another database than SQLite; CI sets it to run the suite on Postgres.
"""

import os
import secrets
import tempfile

DATABASE_URL = os.environ.get("CLOUDQUEUE_TEST_DATABASE_URL", "")
if not DATABASE_URL:
    DATABASE_URL = f"sqlite:///{tempfile.mkdtemp(prefix='cloudqueue-tests-')}/db.sqlite3"

os.environ.update(
    {
        "SECRET_KEY": secrets.token_urlsafe(),
        "DATABASE_URL": DATABASE_URL,
        "BROKER_URL": "memory://",
        "LOG_FORMAT": "console",
        "PUBLIC_URL": "http://testserver",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
)
