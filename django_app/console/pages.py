"""What all pages of the console share: who looks, what they are offered, and the way back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache

from django_app.console import actions
from django_app.console.access import Access, access_of
from django_app.console.errors import NotAllowedError, NotVisibleError
from django_app.console.roles import Role

View = Callable[..., HttpResponse]


def page(view: View) -> View:
    """A page of the console: what is not theirs is not found."""

    @functools.wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        request.access = access_of(request.user)  # type: ignore[attr-defined]
        try:
            return view(request, *args, **kwargs)
        except NotVisibleError:
            raise Http404 from None
        except NotAllowedError as error:
            return render(request, "console/forbidden.html", {"error": error}, status=403)

    return cast(View, never_cache(answer))


def seen_by(request: HttpRequest) -> Access:
    """What whoever looks at a page may see."""
    access: Access = request.access  # type: ignore[attr-defined]
    return access


def show(request: HttpRequest, name: str, context: dict[str, Any], part: str = "") -> HttpResponse:
    """part: the template of what changes by itself, all that is asked for when htmx asks."""
    access = seen_by(request)
    is_part = bool(part) and bool(request.htmx)  # type: ignore[attr-defined]
    offered = {name.replace("-", "_"): actions.may(action, access) for name, action in actions.ACTIONS.items()}
    told = {"access": access, "may": offered, "is_admin": access.may(Role.ADMIN), "now": timezone.now(), **context}
    return render(request, f"console/{part if is_part else name}", told)


def back(request: HttpRequest) -> HttpResponseRedirect:
    """To the page with the button, if it is one of ours."""
    target = request.POST.get("next", "")
    if not url_has_allowed_host_and_scheme(
        target, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    ):
        target = reverse("console:runs")
    return HttpResponseRedirect(target)
