"""Makes the laptop's demo login."""

from __future__ import annotations

import argparse
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """Creates the user, or gives an existing one the password."""

    help = "Make (or reset) a demo user who may also use the admin."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("username")
        parser.add_argument("password")

    def handle(self, *args: Any, **options: Any) -> None:
        users = get_user_model()
        user, _ = users.objects.get_or_create(
            username=options["username"], defaults={"email": f"{options['username']}@example.com"}
        )
        if not user.check_password(options["password"]):
            user.set_password(options["password"])
            user.is_staff = user.is_superuser = True
            user.save()
