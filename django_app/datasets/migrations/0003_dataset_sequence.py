from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("datasets", "0002_mail_schedule"),
    ]

    operations = [
        migrations.AddField(
            model_name="dataset",
            name="sequence",
            field=models.PositiveIntegerField(db_default=0, default=0),
        ),
    ]
