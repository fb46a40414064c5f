"""The site as an ASGI application, for servers that hold sockets: Django, and beside it the sockets' consumers."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_app.settings")
# Sets up Django, which the rest needs.
http = get_asgi_application()

from channels.routing import ProtocolTypeRouter

from django_app.realtime.routing import application as sockets

application = ProtocolTypeRouter({"http": http, "websocket": sockets})
