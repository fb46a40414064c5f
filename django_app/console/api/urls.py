"""Addresses of the API, made of its tables."""

from django.urls import path, re_path

from django_app.console.api import views
from django_app.console.api.routes import ACTION_NAMES, ROUTES

urlpatterns = [
    *(path(route.pattern, views.reading(route), name=f"api_{route.name}") for route in ROUTES),
    *(path(f"actions/{name}", views.acting(name), name=f"api_act_{name}") for name in ACTION_NAMES),
    # Whatever else is asked for is answered in JSON as well.
    re_path(r"^[\s\S]*$", views.nothing, name="api_nothing"),
]
