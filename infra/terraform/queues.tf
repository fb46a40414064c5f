locals {
  # What nobody consumes: events that a function or EventBridge gave up.
  kept_for_people = toset(["schedules", "invocations"])
}

module "queue" {
  source   = "./modules/queue"
  for_each = local.topology.queues

  name           = "${local.name}-${each.key}"
  arn_prefix     = "arn:${local.partition}:sqs:${local.here}:"
  lease_seconds  = local.topology.lease_seconds
  max_receives   = local.topology.max_receives
  retention_days = each.value.retention_days
}

# schedules: what EventBridge could not send to its queue in a day. invocations: events that failed for good in a
# function.
module "dead_letters" {
  source   = "./modules/dead_letters"
  for_each = local.kept_for_people

  name       = "${local.name}-${each.key}-dead"
  arn_prefix = "arn:${local.partition}:sqs:${local.here}:"
}
