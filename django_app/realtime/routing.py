"""The ASGI application of sockets: who may open one, which feed it shows. Importing it loads Channels."""

from __future__ import annotations

from channels.routing import URLRouter
from django.urls import path

from django_app.realtime.admission import Admission
from django_app.realtime.consumers import FeedConsumer
from django_app.realtime.feeds import PATTERNS

application = Admission(
    URLRouter([path(str(pattern.pattern), FeedConsumer.as_asgi(made=pattern.callback)) for pattern in PATTERNS])
)
