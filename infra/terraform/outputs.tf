# Read by serverless/deploying/outputs.py, see docs/lambda.md.

output "region" {
  description = "Region of everything."
  value       = var.region
}

output "public_url" {
  description = "Where the site is reached, as it was given."
  value       = var.public_url
}

output "artifacts_bucket" {
  description = "Bucket for packages and Zappa's templates."
  value       = aws_s3_bucket.this["artifacts"].bucket
}

output "web_role_name" {
  description = "The web function's role."
  value       = aws_iam_role.web.name
}

output "web_environment" {
  description = "Variables of the web function, none of them secret."
  value       = local.environment
}

output "async_dead_letter_arn" {
  description = "Where events go that failed for good in a function."
  value       = module.dead_letters["invocations"].arn
}

output "static_bucket" {
  description = "Where a deploy copies static files to; null: the function serves them."
  value       = one(values({ for name, bucket in aws_s3_bucket.this : name => bucket.bucket if name == "static" }))
}

output "static_url" {
  description = "Where browsers get them from; null with static_bucket."
  value       = one([for distribution in aws_cloudfront_distribution.static : "https://${distribution.domain_name}/"])
}

# For what stands on this: workers, sockets, alarms.

output "worker_role_arn" {
  description = "The worker containers' role."
  value       = aws_iam_role.worker.arn
}

output "queues" {
  description = "By the topology's names: name, url and arn of each queue and of its dead-letter queue."
  value       = module.queue

  precondition {
    condition     = length(setintersection(keys(local.topology.queues), local.kept_for_people)) == 0
    error_message = "tasks/topology.json: a queue called ${join(" or ", local.kept_for_people)} would share its dead-letter queue with them. Rename it."
  }
}

output "dead_letter_queues" {
  description = "What nobody consumes, by where it comes from: schedules, invocations."
  value       = module.dead_letters
}

output "sockets_table" {
  description = "Table of connections and groups."
  value       = aws_dynamodb_table.sockets.name
}
