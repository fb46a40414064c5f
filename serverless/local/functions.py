"""Lambda functions of the local cloud: what is deployed to it is run, by AWS's runtime client and without Docker.

Functions run on this machine's interpreter, whatever version their configuration names.
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from wsgiref.types import StartResponse, WSGIEnvironment

from serverless.local.lambda_runtime import Function, LambdaError

_URLS = re.compile(r"/2021-10-31/functions/([^/]+)/urls")
_REGION = re.compile(r"/\d{8}/([\w-]+)/")
_Application = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]


class Functions:
    """The running ones, by name and what they consist of: changed code or settings make new sandboxes.

    environment: what each of them gets beside its own settings.
    """

    def __init__(self, environment: Callable[[], Mapping[str, str]]) -> None:
        self._environment = environment
        self._running: dict[tuple[str, str], Function] = {}
        self._lock = threading.Lock()

    def invoke(self, function: Any, event: Any) -> tuple[str, bool, str]:
        """As moto's LambdaFunction._invoke_lambda: (payload, whether it failed, log)."""
        payload = event.encode() if isinstance(event, str) else json.dumps(event or {}).encode()
        try:
            answer = self._of(function).invoke(payload)
        except LambdaError as error:
            return json.dumps({"errorMessage": str(error), "errorType": type(error).__name__}), True, str(error)
        return answer.payload.decode(), bool(answer.error), answer.log

    def _of(self, function: Any) -> Function:
        name = function.function_name
        settings = {str(key): str(value) for key, value in (function.environment_vars or {}).items()}
        version = json.dumps([function.code_sha_256, function.handler, function.timeout, settings], sort_keys=True)
        with self._lock:
            if (name, version) not in self._running:
                with tempfile.NamedTemporaryFile(suffix=".zip") as archive:
                    archive.write(function.code_bytes)
                    archive.flush()
                    self._running[name, version] = Function(
                        Path(archive.name),
                        function.handler,
                        {**self._environment(), **settings},
                        timeout_seconds=float(function.timeout),
                        arn=function.function_arn,
                    )
            # Afterwards, so that what did not change need not be unzipped again.
            for key in [key for key in self._running if key[0] == name and key[1] != version]:
                self._running.pop(key).close()
            return self._running[name, version]

    def close(self) -> None:
        with self._lock:
            while self._running:
                self._running.popitem()[1].close()


def apply(functions: Functions) -> None:
    """Have moto run functions in this way."""
    from moto.awslambda import models

    def invoke(self: Any, event: Any = None) -> tuple[str, bool, str]:
        answer = functions.invoke(self, event)
        self.logs_backend.ensure_log_group(self.logs_group_name)
        self.save_logs(answer[2])
        return answer

    models.LambdaFunction._invoke_lambda = invoke  # type: ignore[method-assign]
    _know_names_with_a_type()
    _delete_apis_with_their_stack()


def _delete_apis_with_their_stack() -> None:
    """CloudFormation leaves REST APIs behind, and so a second deploy finds two."""
    from moto.apigateway.models import RestAPI, apigateway_backends

    def delete(cls: Any, name: str, made: Mapping[str, Any], account: str, region: str) -> None:
        backend = apigateway_backends[account][region]
        if name in backend.apis:
            backend.delete_rest_api(name)

    RestAPI.delete_from_cloudformation_json = classmethod(delete)  # type: ignore[method-assign,assignment]


def _know_names_with_a_type() -> None:
    """API Gateway's permission calls name a function as "function:NAME", which AWS takes."""
    from moto.awslambda import models

    known = models.LambdaStorage.get_function_by_name_with_qualifier

    def get(self: Any, name: str, *args: Any, **options: Any) -> Any:
        return known(self, name.removeprefix("function:"), *args, **options)

    models.LambdaStorage.get_function_by_name_with_qualifier = get  # type: ignore[method-assign]


def with_list_of_urls(application: _Application, account: str) -> _Application:
    """ListFunctionUrlConfigs, which `zappa update` calls and moto 5.2 does not have."""
    from moto.awslambda.models import lambda_backends

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        asked = _URLS.fullmatch(environ["PATH_INFO"])
        if asked is None or environ["REQUEST_METHOD"] != "GET":
            return application(environ, start_response)
        found = _REGION.search(environ.get("HTTP_AUTHORIZATION", ""))
        backend = lambda_backends[account][found[1] if found else "us-east-1"]
        try:
            config = backend.get_function(unquote(asked[1])).url_config
        except Exception:  # moto's own classes of errors differ by version
            config = None
        body = json.dumps({"FunctionUrlConfigs": [config.to_dict()] if config else []}).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    return answer
