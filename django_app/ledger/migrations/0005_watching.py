from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("ledger", "0004_schedules"),
    ]

    operations = [
        migrations.CreateModel(
            name="Feed",
            fields=[
                ("name", models.CharField(max_length=40, primary_key=True, serialize=False)),
                ("watched_until", models.DateTimeField()),
                ("pulsed_at", models.DateTimeField()),
                ("sequence", models.PositiveBigIntegerField(default=0)),
                ("is_owed", models.BooleanField(default=False)),
            ],
        ),
        # The column keeps its name: workers of the release before go on writing it.
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RenameField(model_name="run", old_name="progress_sequence", new_name="sequence"),
                migrations.AlterField(
                    model_name="run",
                    name="sequence",
                    field=models.PositiveIntegerField(db_column="progress_sequence", default=0),
                ),
            ],
        ),
        # Without a default, so that the table is not rewritten.
        migrations.AddField(
            model_name="run",
            name="watched_until",
            field=models.DateTimeField(null=True),
        ),
    ]
