"""How the API answers: JSON, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import RequestDataTooBig
from django.core.signals import got_request_exception
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.request import UnreadablePostError
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt

from django_app.console import actions, doing, filters
from django_app.console.api import shapes
from django_app.console.api.auth import CsrfError, UnauthenticatedError, actor_of
from django_app.console.api.table import Route
from django_app.console.errors import InvalidError, NotAllowedError, NotVisibleError, RefusalError
from django_app.console.services.acting import Actor
from django_app.ledger import requester

log = structlog.get_logger(__name__)

#: Characters of a request's body.
_LONGEST_BODY = 250_000
Work = Callable[..., dict[str, Any]]


def _answering(methods: tuple[str, ...], work: Work) -> Callable[..., HttpResponse]:
    """A view of Django's. work: takes request, actor, and what the address holds."""

    def view(request: HttpRequest, **parts: Any) -> HttpResponse:
        try:
            actor = actor_of(request)
            if request.method not in methods:
                answer = _refused(
                    RefusalError("method", request.method, "this address does not take it", f"Use {methods[0]}.", 405)
                )
                answer["Allow"] = ", ".join(methods)
                return answer
            with requester.asking(actor.name):
                return JsonResponse(work(request, actor, **parts))
        except UnauthenticatedError as error:
            answer = _refused(RefusalError("caller", "", "nobody known calls", str(error), 401))
            answer["WWW-Authenticate"] = 'Bearer realm="Cloudqueue console"'
            return answer
        except CsrfError as error:
            remedy = "Send the header X-CSRFToken with the value of the cookie csrftoken, or use a bearer token."
            return _refused(RefusalError("CSRF token", "", str(error).rstrip("."), remedy, 403))
        except NotAllowedError as error:
            return _refused(RefusalError("role", error.role, "this takes it", "Ask an admin for it.", 403))
        except NotVisibleError:
            return _not_found(request)
        except RefusalError as refusal:
            return _refused(refusal)
        except (OperationalError, InterfaceError) as error:
            log.warning("console_api_without_database", path=request.path, error=type(error).__name__)
            return _refused(RefusalError("database", "", "it does not answer", "Try again in ten seconds.", 503))
        except Exception:
            log.exception("console_api_failed", path=request.path)
            # Whoever collects errors hears of it as of any other.
            got_request_exception.send(sender=None, request=request)
            return _refused(RefusalError("server", "", "it failed, and has logged why", "Try again in a moment.", 500))

    # The check is made above, and by the caller's kind: tokens need none.
    return login_not_required(csrf_exempt(never_cache(view)))


def _refused(refusal: RefusalError) -> JsonResponse:
    return JsonResponse(shapes.error(refusal), status=refusal.status)


def _not_found(request: HttpRequest) -> JsonResponse:
    rule, remedy = "there is nothing there, or it is not yours to see", "Look at /console/api/v1/openapi.json."
    return _refused(RefusalError("address", request.path, rule, remedy, 404))


def reading(route: Route) -> Callable[..., HttpResponse]:
    def work(request: HttpRequest, actor: Actor, **parts: Any) -> dict[str, Any]:
        parameters = request.GET.dict()
        filters.only_known({name: str(value) for name, value in parameters.items()}, tuple(route.parameters))
        return route.answer(request, actor, **parts)

    return _answering(("GET", "HEAD"), work)


def acting(name: str) -> Callable[..., HttpResponse]:
    action = actions.ACTIONS[name]

    def work(request: HttpRequest, actor: Actor) -> dict[str, Any]:
        done = actions.perform(action, actor, _body(request))
        return {"message": done.message, "data": done.data}

    return _answering(("POST",), work)


def _body(request: HttpRequest) -> dict[str, Any]:
    if request.content_type != "application/json":
        raise RefusalError("content type", request.content_type, "a body must be application/json", "Send that.", 415)
    try:
        data = request.body
    except RequestDataTooBig:
        raise RefusalError("body", "", "it is too large", f"Send at most {_LONGEST_BODY} bytes.", 413) from None
    except UnreadablePostError:
        raise InvalidError("body", "", "it broke off", "Send it again.") from None
    if len(data) > _LONGEST_BODY:
        raise RefusalError("body", len(data), f"it has more than {_LONGEST_BODY} bytes", "Send fewer.", 413)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise InvalidError("body", "", "it is not UTF-8", "Send that.") from None
    value = doing.read_json("body", text, _LONGEST_BODY)
    if not isinstance(value, dict):
        raise InvalidError("body", text[:40], "it is no JSON object", "Send one with the action's fields.")
    return value


def _nothing(request: HttpRequest, actor: Actor, **parts: Any) -> dict[str, Any]:
    raise NotVisibleError


nothing = _answering(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"), _nothing)
