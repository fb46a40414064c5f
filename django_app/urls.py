"""All addresses of the site."""

from django.contrib import admin
from django.contrib.auth import views as auth
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.views.generic import RedirectView


@login_not_required
def healthz(request: HttpRequest) -> HttpResponse:
    """Says that the process serves requests. Touches no database, so that an outage does not stop the web side."""
    return HttpResponse("ok\n", content_type="text/plain")


urlpatterns = [
    path("", RedirectView.as_view(pattern_name="datasets:list")),
    path("sign-in/", auth.LoginView.as_view(template_name="sign_in.html"), name="login"),
    path("sign-out/", auth.LogoutView.as_view(), name="logout"),
    path("datasets/", include("django_app.datasets.urls")),
    path("admin/", admin.site.urls),
    path("healthz", healthz, name="healthz"),
]
