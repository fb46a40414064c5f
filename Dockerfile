# The worker's image; migrations and every other one-off task run from it too. docs/containers.md says how.
#
#   docker build --build-arg PYTHON_DIGEST=sha256:... --build-arg RELEASE=... -t cloudqueue-worker .

ARG PYTHON_TAG=3.11-slim-bookworm
# Of that tag, as the registry has it today (`docker buildx imagetools inspect python:3.11-slim-bookworm`). Without it the
# build fails: a tag alone is another image tomorrow.
ARG PYTHON_DIGEST

FROM python:${PYTHON_TAG}@${PYTHON_DIGEST} AS build
RUN python -m venv --without-pip /opt/venv
WORKDIR /srv
COPY requirements/worker.txt requirements/
# Wheels only, and only those whose hashes are locked: nothing of a package is run while it is installed.
RUN python -m pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --disable-pip-version-check \
    --only-binary=:all: --no-deps --require-hashes -r requirements/worker.txt \
    && rm -r requirements
COPY manage.py ./
COPY django_app django_app
COPY tasks tasks
COPY serverless serverless
# Here, since nothing can be written where it runs; and without looking at times, which a copy may change.
RUN /opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib /srv

FROM python:${PYTHON_TAG}@${PYTHON_DIGEST}
ARG RELEASE=""
ARG REVISION=""
ARG CREATED=""
LABEL org.opencontainers.image.title="cloudqueue worker" \
    org.opencontainers.image.description="Runs Celery tasks from SQS on ECS Fargate, and the project's management commands" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version="${RELEASE}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}"
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore pip setuptools wheel \
    && rm -rf /usr/local/lib/python3.*/ensurepip \
    # Celery takes a group without a name for an attack, and says so at each start.
    && groupadd --gid 10001 worker \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin worker
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv /srv
WORKDIR /srv
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    DJANGO_SETTINGS_MODULE=django_app.settings \
    HOME=/tmp \
    LIVENESS_FILE=/tmp/worker-liveness \
    LOG_FORMAT=json \
    # Threads that only wait would each keep an arena of glibc's.
    MALLOC_ARENA_MAX=2 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1 \
    PYTHONUNBUFFERED=1 \
    RELEASE=${RELEASE}
# All that may be written, the root being read-only. Declared, so that ECS gives its volume this folder's permissions.
VOLUME ["/tmp"]
# By number, so that "runs as root" can be ruled out without reading the image.
USER 10001:10001
STOPSIGNAL SIGTERM
# Docker's. ECS goes by the task definition's, which must say the same.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-m", "serverless.entrypoints.worker_health"]
# A one-off task on ECS can replace the command and not the entry point.
ENTRYPOINT ["python", "-m", "serverless.container.init"]
CMD ["python", "-m", "serverless.entrypoints.worker", "--help"]
