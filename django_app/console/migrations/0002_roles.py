from django.db import migrations

PERMISSIONS = {
    "view": "Can see all runs, queues, workers and dead letters",
    "operate": "Can act on runs, queues, workers and dead letters",
    "administer": "Can discard dead letters and read the audit log",
}
GROUPS = {
    "Cloudqueue viewers": ("view",),
    "Cloudqueue operators": ("view", "operate"),
    "Cloudqueue admins": ("view", "operate", "administer"),
}


def make_groups(apps, schema_editor):
    """Make the groups, and the permissions, which Django itself makes only after all migrations."""
    content_type, _ = apps.get_model("contenttypes", "ContentType").objects.get_or_create(
        app_label="console", model="console"
    )
    permissions = apps.get_model("auth", "Permission").objects
    made = {
        codename: permissions.get_or_create(content_type=content_type, codename=codename, defaults={"name": name})[0]
        for codename, name in PERMISSIONS.items()
    }
    for name, codenames in GROUPS.items():
        group, _ = apps.get_model("auth", "Group").objects.get_or_create(name=name)
        group.permissions.add(*(made[codename] for codename in codenames))


class Migration(migrations.Migration):

    dependencies = [
        ("console", "0001_initial"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [
        # Groups stay when this is taken back: people are in them.
        migrations.RunPython(make_groups, migrations.RunPython.noop),
    ]
