"""What scaling does under load, hour by hour in seconds: a discrete-event simulation of queues, workers and CloudWatch.

    .venv/bin/python -m tests.bench.simulation [--shape NAME] [--variant NAME] [--seed N] [--plots FOLDER]

Everything follows from the seed. What it assumes of AWS stands in `shapes` and `world`; docs/scaling.md says what it shows.
"""
