from django.db import migrations

#: What the model refuses, the database refuses as well, whoever asks it to.
FORWARDS = {
    "postgresql": [
        """
        CREATE FUNCTION console_audit_entries_stay() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          RAISE EXCEPTION 'audit entries are neither changed nor deleted';
        END $$
        """,
        """
        CREATE TRIGGER console_audit_entries_stay BEFORE UPDATE OR DELETE ON console_auditentry
        FOR EACH ROW EXECUTE FUNCTION console_audit_entries_stay()
        """,
    ],
    # SQLite has no other way of emptying a table than deleting its rows, which Django's tests do.
    "sqlite": [
        """
        CREATE TRIGGER console_audit_entries_stay BEFORE UPDATE ON console_auditentry
        BEGIN SELECT RAISE(ABORT, 'audit entries are neither changed nor deleted'); END
        """,
    ],
}
BACKWARDS = {
    "postgresql": [
        "DROP TRIGGER console_audit_entries_stay ON console_auditentry",
        "DROP FUNCTION console_audit_entries_stay()",
    ],
    "sqlite": ["DROP TRIGGER console_audit_entries_stay"],
}


def forwards(apps, schema_editor):
    for statement in FORWARDS.get(schema_editor.connection.vendor, ()):
        schema_editor.execute(statement, params=None)


def backwards(apps, schema_editor):
    for statement in BACKWARDS.get(schema_editor.connection.vendor, ()):
        schema_editor.execute(statement, params=None)


class Migration(migrations.Migration):

    dependencies = [("console", "0002_roles")]

    operations = [migrations.RunPython(forwards, backwards)]
