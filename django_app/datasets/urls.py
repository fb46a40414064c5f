from django.urls import path

from django_app.datasets import views

app_name = "datasets"
urlpatterns = [
    path("", views.index, name="list"),
    path("new/", views.create, name="create"),
    path("<uuid:pk>/", views.detail, name="detail"),
    path("<uuid:pk>/uploaded/", views.uploaded, name="uploaded"),
    path("<uuid:pk>/progress/", views.progress, name="progress"),
    path("<uuid:pk>/report/", views.report, name="report"),
    path("<uuid:pk>/report.pdf", views.report_pdf, name="report_pdf"),
    path("<uuid:pk>/statistics.csv", views.statistics, name="statistics"),
    path("<uuid:pk>/again/", views.again, name="again"),
    path("<uuid:pk>/mail/", views.mail, name="mail"),
    path("<uuid:pk>/delete/", views.delete, name="delete"),
]
