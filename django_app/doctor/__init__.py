"""What only a live system shows, found by `manage.py doctor`, which changes nothing. See docs/doctor.md."""
