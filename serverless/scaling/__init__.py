"""How many workers a pool should have: from zero to its maximum and back, without taking work away from anybody.

`policy` decides from a pool's figures, `watch` remembers what it needs of the past, `aws_policies` are the same rules
as CloudWatch alarms and Application Auto Scaling follow them. Standard library only: no AWS, no Django, no clock.
docs/scaling.md describes them and shows what they do under load.
"""
