from django.urls import path

from django_app.realtime import views

app_name = "realtime"
urlpatterns = [path("address/", views.address, name="address")]
