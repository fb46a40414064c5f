"""EventBridge Scheduler: its expressions, and what Cloudqueue's timings become there.

`expressions` reads EventBridge's own language, `timing` translates Celery's into it. Neither needs AWS, Django or a
clock. docs/schedules.md describes both.
"""
