# One page for whoever is called: what waits, who works, what fails, what it rests on.

locals {
  charts = concat(
    [
      for pool in keys(local.topology.pools) : {
        title = "Pool ${pool}: messages that wait, workers"
        metrics = concat(
          [for name in local.queues_of_pool[pool] : ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", "${local.name}-${name}"]],
          [
            ["ECS/ContainerInsights", "DesiredTaskCount", "ClusterName", local.name, "ServiceName", pool],
            ["ECS/ContainerInsights", "RunningTaskCount", "ClusterName", local.name, "ServiceName", pool],
          ],
        )
        stat = "Maximum"
      }
    ],
    [
      {
        title   = "Seconds that the oldest run has waited"
        metrics = [for name in keys(local.topology.queues) : [local.namespace, "OldestAge", "Queue", name]]
        stat    = "Maximum"
      },
      {
        title   = "Runs that ended well"
        metrics = [for name in keys(local.topology.queues) : [local.namespace, "RunsSucceeded", "Queue", name]]
        stat    = "Sum"
      },
      {
        title = "Runs that did not"
        metrics = flatten([
          for name in keys(local.topology.queues) : [
            for outcome in ["RunsFailed", "RunsDead"] : { metric = [local.namespace, outcome, "Queue", name] }
          ]
        ])[*].metric
        stat = "Sum"
      },
      {
        title   = "Dead letters"
        metrics = [for name in local.dead_letter_queues : ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", name]]
        stat    = "Maximum"
      },
      {
        title = "Housekeeping"
        metrics = [
          [local.namespace, "HousekeepingRounds"], [local.namespace, "HousekeepingFailures"],
          [local.namespace, "PublishLag"], [local.namespace, "AttemptsLost"],
        ]
        stat = "Sum"
      },
      {
        title = "Functions: calls that failed or were refused"
        metrics = flatten([
          for name in local.functions : [for each in ["Errors", "Throttles"] : { metric = ["AWS/Lambda", each, "FunctionName", name] }]
        ])[*].metric
        stat = "Sum"
      },
      {
        title   = "Functions: the slowest of a hundred, ms"
        metrics = [for name in local.functions : ["AWS/Lambda", "Duration", "FunctionName", name]]
        stat    = "p99"
      },
      {
        title = "Database"
        metrics = flatten([
          for name in local.databases : [
            for each in [local.is_aurora ? "ACUUtilization" : "CPUUtilization", "DatabaseConnections"] :
            { metric = ["AWS/RDS", each, "DBInstanceIdentifier", name] }
          ]
        ])[*].metric
        stat = "Average"
      },
      {
        title = "Sockets: events and errors"
        metrics = [
          for each in ["ConnectCount", "MessageCount", "ExecutionError"] :
          ["AWS/ApiGateway", each, "ApiId", aws_apigatewayv2_api.sockets.id, "Stage", var.stage]
        ]
        stat = "Sum"
      },
    ],
  )
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = local.name
  dashboard_body = jsonencode({
    widgets = [
      for index, chart in local.charts : {
        type   = "metric"
        x      = index % 2 * 12
        y      = floor(index / 2) * 6
        width  = 12
        height = 6
        properties = {
          title   = chart.title
          metrics = chart.metrics
          stat    = chart.stat
          period  = 60
          region  = var.region
          view    = "timeSeries"
        }
      }
    ]
  })
}
