"""The laptop's EventBridge: fires what the schedules and rules in the local cloud say, each minute.

Run by the supervisor, and by hand or by tests to jump in time:
    python -m serverless.local.clock --state .local/clock.json --events dev
    python -m serverless.local.clock --now 2026-11-30T07:00:00Z
"""
