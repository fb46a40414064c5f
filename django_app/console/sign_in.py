"""The sign-in page: Django's own, throttled. The admin's has the same view, so there is one door."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from django_app.console import throttle


class SignInView(LoginView):
    """Lets in whoever has name and password, and has not failed too often before."""

    template_name = "sign_in.html"
    admitted: throttle.Try | None = None

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            self.admitted = throttle.admit(request.POST.get("username", ""), request.META.get("REMOTE_ADDR", ""))
        except throttle.ThrottledError as error:
            answer = render(request, "console/throttled.html", {"error": error}, status=429)
            answer["Retry-After"] = str(error.seconds)
            return answer
        return super().post(request, *args, **kwargs)

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        if self.admitted is not None:
            self.admitted.succeed()
        return super().form_valid(form)
