from django.urls import path

from django_app.datasets import subscription_views, views

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
    path("<uuid:pk>/mails/", subscription_views.subscribe, name="subscribe"),
    path("<uuid:pk>/mails/pause/", subscription_views.pause, name="pause_mails"),
    path("<uuid:pk>/mails/resume/", subscription_views.resume, name="resume_mails"),
    path("<uuid:pk>/mails/end/", subscription_views.unsubscribe, name="unsubscribe"),
    path("<uuid:pk>/delete/", views.delete, name="delete"),
]
