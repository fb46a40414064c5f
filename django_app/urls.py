"""All addresses of the site, but for those of probes and metrics, which django_app.health answers before all others."""

from django.contrib import admin
from django.contrib.auth import views as auth
from django.urls import include, path
from django.views.generic import RedirectView

from django_app.console.sign_in import SignInView

handler500 = "django_app.errors.server_error"

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="datasets:list")),
    path("sign-in/", SignInView.as_view(), name="login"),
    path("sign-out/", auth.LogoutView.as_view(), name="logout"),
    path("datasets/", include("django_app.datasets.urls")),
    path("console/", include("django_app.console.urls")),
    path("realtime/", include("django_app.realtime.urls")),
    # The admin's own door would let in whoever knocks for as long as they like.
    path("admin/login/", SignInView.as_view()),
    path("admin/", admin.site.urls),
]
