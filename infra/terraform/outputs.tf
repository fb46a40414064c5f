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

output "web_subnet_ids" {
  description = "Where the web function's network interfaces are."
  value       = [for subnet in aws_subnet.private : subnet.id]

  precondition {
    condition     = length(local.without_route) == 0
    error_message = "routes.tf: egress=${var.egress} reaches no ${join(", ", local.without_route)}, whose calls would hang. Take another egress, or give it an endpoint."
  }
}

output "web_security_group_ids" {
  description = "What the web function may call."
  value       = [aws_security_group.app["web"].id]
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

output "image_repository" {
  description = "Where a deploy pushes the worker's image to."
  value       = aws_ecr_repository.worker.repository_url
}

output "tools_task" {
  description = "What a deploy runs migrations with, and an operator a shell: task definition, cluster, subnets, security groups; null until there is an image."
  value = one([
    for task in aws_ecs_task_definition.tools : {
      task_definition    = task.arn
      cluster            = aws_ecs_cluster.this.name
      subnet_ids         = [for subnet in aws_subnet.private : subnet.id]
      security_group_ids = [aws_security_group.app["worker"].id]
    }
  ])
}

output "routes" {
  description = "How each AWS service is reached that a function or a container calls."
  value       = local.routes
}

# For people, and for what stands on this.

output "workers" {
  description = "The cluster, and the service of each pool that has one."
  value       = { cluster = aws_ecs_cluster.this.name, services = { for name, pool in module.pool : name => pool.service } }
}

output "sockets_url" {
  description = "What a browser opens sockets at."
  value       = local.sockets_url
}

output "database" {
  description = "The database's address, and the secret with its user and password."
  value       = { host = local.database_host, secret_arn = local.database_secret_arn }
}

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

output "domain_target" {
  description = "What the DNS of public_url's host must point to, where no zone of Route 53 was given; null without a domain."
  value       = one([for name in aws_api_gateway_domain_name.this : name.regional_domain_name])
}

output "mail_dns" {
  description = "CNAME records by which a domain lets SES sign its mail, name and value; made here with domain.zone_id."
  value = var.mail_identity != "domain" ? [] : [
    for token in local.dkim_tokens : { name = "${token}._domainkey.${local.mail_domain}", value = "${token}.dkim.amazonses.com" }
  ]
}

output "alarms_topic_arn" {
  description = "SNS topic of alarms and of the budget, for further subscribers such as a pager."
  value       = aws_sns_topic.alarms.arn
}

output "runbooks" {
  description = "Pages of docs/runbooks that alarms name."
  value       = sort(distinct(concat([for each in local.alarms : each.runbook], [for each in local.worker_alarms : each.runbook])))
}

output "deploy_role_arn" {
  description = "What the workflow signs in as; null without github_repository."
  value       = one([for role in aws_iam_role.deploy : role.arn])
}
