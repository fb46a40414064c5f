# The rules of serverless/scaling/aws_policies.py, which docs/scaling.md explains; a test compares the two.

locals {
  settle_seconds       = 300
  wake_datapoints      = 2
  quiet_datapoints     = 10
  spare_datapoints     = 10
  backlog_share        = 0.5
  fullest              = 0.75
  not_to_be_given_back = 1000000

  backlog_a_worker = format("%.6g", local.backlog_share * var.acceptable_wait_seconds * var.slots / var.mean_task_seconds)
  crowding         = var.prefetch > 1 ? 1 - pow(local.fullest, var.slots) : 1
  work_a_worker    = tonumber(format("%.6f", var.slots * local.fullest / local.crowding))

  numbers   = range(1, length(var.queues) + 1)
  visible   = join(" + ", [for number in local.numbers : "v${number}"])
  in_flight = join(" + ", [for number in local.numbers : "FILL(f${number}, 0)"])
  work      = "(${local.visible} + ${local.in_flight})"
  in_time   = "(${local.visible}) / ${local.backlog_a_worker}"
  useful    = "${local.work} / ${var.slots}"
  known     = join(" + ", [for number in local.numbers : "FILL(v${number}, 0) + FILL(f${number}, 0)"])

  fewest = max(1, var.minimum)
  others = "IF(desired > ${local.fewest}, desired - 1, 1)"

  # v1, f1, v2, f2 ... and desired: what the expressions call them.
  series = merge(
    {
      for pair in flatten([
        for index, queue in var.queues : [
          for letter, metric in { v = "ApproximateNumberOfMessagesVisible", f = "ApproximateNumberOfMessagesNotVisible" } : {
            id                      = "${letter}${index + 1}"
            metric                  = { namespace = "AWS/SQS", name = metric, dimensions = { QueueName = queue } }
          }
        ]
      ]) : pair.id => pair.metric
    },
    {
      desired = {
        namespace  = "ECS/ContainerInsights"
        name       = "DesiredTaskCount"
        dimensions = { ClusterName = var.cluster, ServiceName = var.service }
      }
    },
  )

  out = "IF(desired > 0, IF(${local.in_time} < ${local.useful}, ${local.in_time}, ${local.useful}) / IF(desired > 0, desired, 1), 0)"

  steps = merge(
    var.minimum > 0 ? {} : {
      wake = {
        description = "Work waits, nobody is wanted, and the sampler has not woken them."
        expression  = "IF(FILL(desired, 0) > 0, 0, ${local.known})"
        comparison  = "GreaterThanOrEqualToThreshold"
        threshold   = 1
        datapoints  = local.wake_datapoints
        adjustment  = "ChangeInCapacity"
        change      = 1
        cooldown    = local.settle_seconds
      }
      sleep = {
        description = "Nothing waits and nothing is in flight."
        expression  = "IF(desired > 0, ${local.work}, 1)"
        comparison  = "LessThanOrEqualToThreshold"
        threshold   = 0
        datapoints  = local.quiet_datapoints
        adjustment  = "ExactCapacity"
        change      = 0
        cooldown    = 60
      }
    },
    var.maximum <= local.fewest ? {} : {
      give_back = {
        description = "One fewer would have room to spare."
        expression  = "IF(desired > ${local.fewest}, ${local.work} / ${local.others}, ${local.not_to_be_given_back})"
        comparison  = "LessThanOrEqualToThreshold"
        threshold   = local.work_a_worker
        datapoints  = local.spare_datapoints
        adjustment  = "ChangeInCapacity"
        change      = -1
        cooldown    = local.settle_seconds
      }
    },
  )
}

resource "aws_appautoscaling_target" "this" {
  service_namespace  = "ecs"
  resource_id        = "service/${var.cluster}/${var.service}"
  scalable_dimension = "ecs:service:DesiredCount"
  min_capacity       = var.minimum
  max_capacity       = var.maximum
}

resource "aws_appautoscaling_policy" "out" {
  name               = "${var.name}-out"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.this.service_namespace
  resource_id        = aws_appautoscaling_target.this.resource_id
  scalable_dimension = aws_appautoscaling_target.this.scalable_dimension

  target_tracking_scaling_policy_configuration {
    target_value       = 1
    disable_scale_in   = true
    scale_out_cooldown = local.settle_seconds

    customized_metric_specification {
      dynamic "metrics" {
        for_each = local.series

        content {
          id          = metrics.key
          return_data = false

          metric_stat {
            stat = "Average"

            metric {
              namespace   = metrics.value.namespace
              metric_name = metrics.value.name

              dynamic "dimensions" {
                for_each = metrics.value.dimensions

                content {
                  name  = dimensions.key
                  value = dimensions.value
                }
              }
            }
          }
        }
      }

      metrics {
        id          = "needed"
        label       = "workers needed over workers wanted"
        expression  = local.out
        return_data = true
      }
    }
  }
}

resource "aws_appautoscaling_policy" "step" {
  for_each = local.steps

  name               = "${var.name}-${replace(each.key, "_", "-")}"
  policy_type        = "StepScaling"
  service_namespace  = aws_appautoscaling_target.this.service_namespace
  resource_id        = aws_appautoscaling_target.this.resource_id
  scalable_dimension = aws_appautoscaling_target.this.scalable_dimension

  step_scaling_policy_configuration {
    adjustment_type         = each.value.adjustment
    cooldown                = each.value.cooldown
    metric_aggregation_type = "Average"

    # Counted from the threshold: whatever breaches it.
    step_adjustment {
      metric_interval_lower_bound = startswith(each.value.comparison, "Greater") ? 0 : null
      metric_interval_upper_bound = startswith(each.value.comparison, "Less") ? 0 : null
      scaling_adjustment          = each.value.change
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "step" {
  for_each = local.steps

  alarm_name          = "${var.name}-${replace(each.key, "_", "-")}"
  alarm_description   = "Pool ${var.pool}: ${each.value.description} It scales, and needs nobody."
  comparison_operator = each.value.comparison
  threshold           = each.value.threshold
  evaluation_periods  = each.value.datapoints
  datapoints_to_alarm = each.value.datapoints
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_appautoscaling_policy.step[each.key].arn]

  metric_query {
    id          = "work"
    label       = replace(each.key, "_", " ")
    expression  = each.value.expression
    return_data = true
  }

  dynamic "metric_query" {
    for_each = local.series

    content {
      id = metric_query.key

      metric {
        namespace   = metric_query.value.namespace
        metric_name = metric_query.value.name
        dimensions  = metric_query.value.dimensions
        period      = 60
        stat        = "Average"
      }
    }
  }
}
