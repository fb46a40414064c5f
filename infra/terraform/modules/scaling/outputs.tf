output "alarms" {
  description = "Names of the alarms that scale, by what they do."
  value       = { for name, alarm in aws_cloudwatch_metric_alarm.step : name => alarm.alarm_name }
}
