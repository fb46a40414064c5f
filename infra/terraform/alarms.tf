# What somebody must be told of. Each says what is wrong, and which page of docs/runbooks says what to do.

locals {
  namespace = local.settings["METRICS_NAMESPACE"]
  functions = concat([local.name], var.package == null ? [] : ["${local.name}-sockets"])
  databases = local.is_aurora ? ["${local.name}-0"] : [local.name]
  # Whose messages wait for people, by the queue's name.
  dead_letter_queues = concat(
    [for queue in module.queue : queue.dead_letters.name],
    [for queue in module.dead_letters : queue.name],
  )

  # metric: namespace, name, statistic. is: above or below the threshold, in so many periods of so many minutes.
  # missing: what minutes without a figure count as; where silence is the fault, they breach.
  alarms = merge(
    {
      "housekeeping-silent" = {
        what       = "The minute's housekeeping has not run for five minutes: nothing pending is published and nobody is woken."
        runbook    = "housekeeping-silent"
        metric     = [local.namespace, "HousekeepingRounds", "Sum"]
        dimensions = {}
        is         = "below", threshold = 1, minutes = 5, periods = 1, missing = "breaching"
      }
      "housekeeping-failing" = {
        what       = "A step of the minute's housekeeping has failed for ten minutes."
        runbook    = "housekeeping-failing"
        metric     = [local.namespace, "HousekeepingFailures", "Minimum"]
        dimensions = {}
        is         = "above", threshold = 0, minutes = 1, periods = 10, missing = "notBreaching"
      }
      "publish-lag" = {
        what       = "Runs that are due have waited for two minutes to be published to SQS."
        runbook    = "publish-lag"
        metric     = [local.namespace, "PublishLag", "Maximum"]
        dimensions = {}
        is         = "above", threshold = 120, minutes = 1, periods = 5, missing = "notBreaching"
      }
      "attempts-lost" = {
        what       = "Workers vanish while they run tasks: three or more within a quarter of an hour."
        runbook    = "attempts-lost"
        metric     = [local.namespace, "AttemptsLost", "Sum"]
        dimensions = {}
        is         = "above", threshold = 2, minutes = 15, periods = 1, missing = "notBreaching"
      }
      "runs-orphaned" = {
        what       = "SQS no longer has messages of runs that have not ended: they ended as dead."
        runbook    = "runs-orphaned"
        metric     = [local.namespace, "RunsOrphaned", "Sum"]
        dimensions = {}
        is         = "above", threshold = 0, minutes = 5, periods = 1, missing = "notBreaching"
      }
      "site-failing" = {
        what       = "The site answers with errors of its own: five or more in five minutes."
        runbook    = "site-failing"
        metric     = ["AWS/ApiGateway", "5XXError", "Sum"]
        dimensions = { ApiName = local.name, Stage = var.stage }
        is         = "above", threshold = 4, minutes = 5, periods = 1, missing = "notBreaching"
      }
      "sockets-failing" = {
        what       = "Events of sockets end in errors: five or more in five minutes."
        runbook    = "sockets-failing"
        metric     = ["AWS/ApiGateway", "ExecutionError", "Sum"]
        dimensions = { ApiId = aws_apigatewayv2_api.sockets.id, Stage = var.stage }
        is         = "above", threshold = 4, minutes = 5, periods = 1, missing = "notBreaching"
      }
      "mail-failed" = {
        what       = "Mail bounced, was complained about or was refused."
        runbook    = "mail-failed"
        metric     = ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "Maximum"]
        dimensions = { QueueName = aws_sqs_queue.mail.name }
        is         = "above", threshold = 0, minutes = 5, periods = 1, missing = "notBreaching"
      }
    },
    {
      for name, queue in local.topology.queues : "queue-late-${name}" => {
        what       = "The oldest run of queue ${name} has waited for longer than its pool's ${local.topology.pools[queue.pool].acceptable_wait_seconds} s, for ten minutes."
        runbook    = "queue-late"
        metric     = [local.namespace, "OldestAge", "Minimum"]
        dimensions = { Queue = name }
        is         = "above", threshold = local.topology.pools[queue.pool].acceptable_wait_seconds
        minutes    = 1, periods = 10, missing = "notBreaching"
      }
    },
    {
      for name in local.dead_letter_queues : "dead-letters-${trimprefix(name, "${local.name}-")}" => {
        what       = "${name} holds what nobody will do unless somebody looks."
        runbook    = name == module.dead_letters["schedules"].name ? "schedules-undelivered" : name == module.dead_letters["invocations"].name ? "invocations-failed" : "dead-letters"
        metric     = ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "Maximum"]
        dimensions = { QueueName = name }
        is         = "above", threshold = 0, minutes = 5, periods = 1, missing = "notBreaching"
      }
    },
    {
      for name in local.functions : "function-failing-${name}" => {
        what       = "Function ${name} fails: five times or more in five minutes."
        runbook    = "function-failing"
        metric     = ["AWS/Lambda", "Errors", "Sum"]
        dimensions = { FunctionName = name }
        is         = "above", threshold = 4, minutes = 5, periods = 1, missing = "notBreaching"
      }
    },
    {
      for name in local.functions : "function-throttled-${name}" => {
        what       = "Lambda refuses calls of function ${name}: the account's concurrency is used up."
        runbook    = "function-throttled"
        metric     = ["AWS/Lambda", "Throttles", "Sum"]
        dimensions = { FunctionName = name }
        is         = "above", threshold = 0, minutes = 5, periods = 2, missing = "notBreaching"
      }
    },
    {
      for name in local.databases : "database-busy-${name}" => {
        what       = "The database's processor has been busy for a quarter of an hour."
        runbook    = "database-busy"
        metric     = ["AWS/RDS", local.is_aurora ? "ACUUtilization" : "CPUUtilization", "Average"]
        dimensions = { DBInstanceIdentifier = name }
        # Of Aurora at rest there are no figures.
        is = "above", threshold = 80, minutes = 5, periods = 3, missing = local.is_aurora ? "notBreaching" : "breaching"
      }
    },
    local.is_aurora ? {} : {
      "database-full" = {
        what       = "The database has less than 2 GB left, and has not grown."
        runbook    = "database-full"
        metric     = ["AWS/RDS", "FreeStorageSpace", "Minimum"]
        dimensions = { DBInstanceIdentifier = local.name }
        is         = "below", threshold = 2000000000, minutes = 5, periods = 3, missing = "ignore"
      }
      "database-memory" = {
        what       = "The database has less than 100 MB of memory left."
        runbook    = "database-busy"
        metric     = ["AWS/RDS", "FreeableMemory", "Minimum"]
        dimensions = { DBInstanceIdentifier = local.name }
        is         = "below", threshold = 100000000, minutes = 5, periods = 3, missing = "ignore"
      }
    },
    !var.database.proxy ? {} : {
      "proxy-waiting" = {
        what       = "Who asks the proxy for a connection waits for a tenth of a second and more."
        runbook    = "proxy-waiting"
        metric     = ["AWS/RDS", "DatabaseConnectionsBorrowLatency", "Average"]
        dimensions = { ProxyName = local.name }
        # In microseconds.
        is = "above", threshold = 100000, minutes = 5, periods = 3, missing = "notBreaching"
      }
    },
    var.egress != "nat_instance" ? {} : {
      "nat-instance-down" = {
        what       = "The NAT instance does not answer: nothing reaches IPv4."
        runbook    = "nat-instance-down"
        metric     = ["AWS/EC2", "StatusCheckFailed", "Maximum"]
        dimensions = { InstanceId = aws_instance.nat[0].id }
        is         = "above", threshold = 0, minutes = 1, periods = 3, missing = "breaching"
      }
    },
  )
}

resource "aws_sns_topic" "alarms" {
  #checkov:skip=CKV_AWS_26:CloudWatch may not use SNS's own key, and alarms would be lost in silence; they hold names and numbers
  name = "${local.name}-alarms"
}

data "aws_iam_policy_document" "alarms_topic" {
  statement {
    sid       = "TellOfAlarmsAndBudgets"
    actions   = ["sns:Publish"]
    resources = ["arn:${local.partition}:sns:${local.here}:${local.name}-alarms"]

    principals {
      type        = "Service"
      identifiers = ["budgets.amazonaws.com", "cloudwatch.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_sns_topic_policy" "alarms" {
  arn    = aws_sns_topic.alarms.arn
  policy = data.aws_iam_policy_document.alarms_topic.json
}

# AWS asks whoever it is, and tells nothing before they have agreed.
resource "aws_sns_topic_subscription" "alarms" {
  for_each = toset(var.alarm_emails)

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = each.key
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "${local.name}-${trimprefix(each.key, "${local.name}-")}"
  alarm_description   = "${each.value.what} See ${var.runbooks}/${each.value.runbook}.md"
  namespace           = each.value.metric[0]
  metric_name         = each.value.metric[1]
  statistic           = each.value.metric[2]
  dimensions          = each.value.dimensions
  comparison_operator = each.value.is == "above" ? "GreaterThanThreshold" : "LessThanThreshold"
  threshold           = each.value.threshold
  period              = each.value.minutes * 60
  evaluation_periods  = each.value.periods
  datapoints_to_alarm = each.value.periods
  treat_missing_data  = each.value.missing
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
}

# Of two figures each.
locals {
  worker_alarms = merge(
    {
      for pool in keys(local.pools) : "workers-missing-${pool}" => {
        pool       = pool
        what       = "Pool ${pool} has had fewer workers than it wants for a quarter of an hour: they do not start, or die."
        runbook    = "workers-missing"
        expression = "desired - running"
        threshold  = 0
        minutes    = 15
      }
    },
    {
      for pool in keys(local.pools) : "workers-exhausted-${pool}" => {
        pool       = pool
        what       = "Pool ${pool} has had all workers that it may have for half an hour."
        runbook    = "workers-exhausted"
        expression = "IF(running >= ${local.pools[pool].maximum}, desired, 0)"
        threshold  = 0
        minutes    = 30
      }
    },
  )
}

resource "aws_cloudwatch_metric_alarm" "workers" {
  for_each = local.worker_alarms

  alarm_name          = "${local.name}-${each.key}"
  alarm_description   = "${each.value.what} See ${var.runbooks}/${each.value.runbook}.md"
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.threshold
  evaluation_periods  = each.value.minutes
  datapoints_to_alarm = each.value.minutes
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]

  metric_query {
    id          = "workers"
    label       = replace(each.key, "-", " ")
    expression  = each.value.expression
    return_data = true
  }

  dynamic "metric_query" {
    for_each = { desired = "DesiredTaskCount", running = "RunningTaskCount" }

    content {
      id = metric_query.key

      metric {
        namespace   = "ECS/ContainerInsights"
        metric_name = metric_query.value
        dimensions  = { ClusterName = aws_ecs_cluster.this.name, ServiceName = module.pool[each.value.pool].service }
        period      = 60
        stat        = "Average"
      }
    }
  }
}
