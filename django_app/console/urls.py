"""Addresses of the console. Ids of runs and names of schedules stand last, for they may hold anything."""

from django.urls import include, path

from django_app.console import schedule_views, views

app_name = "console"
urlpatterns = [
    path("", views.index, name="index"),
    path("runs/", views.runs, name="runs"),
    path("run/<id:pk>", views.run, name="run"),
    path("edit/<id:pk>", views.edit, name="edit"),
    path("schedules/", schedule_views.index, name="schedules"),
    path("schedules/new/", schedule_views.new, name="new_schedule"),
    path("schedule/<id:name>", schedule_views.schedule, name="schedule"),
    path("edit-schedule/<id:name>", schedule_views.edit, name="edit_schedule"),
    path("queues/", views.queues, name="queues"),
    path("workers/", views.workers, name="workers"),
    path("failures/", views.failures, name="failures"),
    path("dead-letters/", views.dead_letters, name="dead_letters"),
    path("dead-letters/<str:queue>/", views.dead_letters_of, name="dead_letters_of"),
    path("audit/", views.audit, name="audit"),
    path("tokens/", views.tokens_page, name="tokens"),
    path("tokens/<int:pk>/revoke/", views.revoke_token, name="revoke_token"),
    path("actions/<str:name>/", views.act, name="act"),
    path("api/v1/", include("django_app.console.api.urls")),
]
