"""Whether the database has been migrated as far as a check needs it: `migrate` itself runs checks first."""

from __future__ import annotations

from django.db import connection
from django.db.models import Model


def is_there(model: type[Model]) -> bool:
    """Whether the model's table is there, with all its columns."""
    name = model._meta.db_table
    with connection.cursor() as cursor:
        if name not in connection.introspection.table_names(cursor):
            return False
        there = {each.name for each in connection.introspection.get_table_description(cursor, name)}
    return {each.column for each in model._meta.local_concrete_fields} <= there
