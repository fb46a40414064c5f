from django.db import migrations


class Migration(migrations.Migration):
    """People without a role list the runs that they asked for, newest first, among everybody's."""

    dependencies = [
        ("console", "0003_audit_entries_stay"),
        ("ledger", "0002_claims_and_outcomes"),
    ]

    operations = [
        migrations.RunSQL(
            """
            CREATE INDEX IF NOT EXISTS console_run_by_requester ON ledger_run (requested_by, created_at DESC)
            WHERE NOT (requested_by = '')
            """,
            "DROP INDEX IF EXISTS console_run_by_requester",
        ),
    ]
