data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}

locals {
  name     = "${var.project}-${var.stage}"
  topology = jsondecode(file("${path.module}/../../tasks/topology.json"))

  partition = data.aws_partition.current.partition
  account   = data.aws_caller_identity.current.account_id
  # What an ARN of this account and region has after the service: arn:aws:sqs:<here>:name.
  here = "${var.region}:${local.account}"

  # Browsers send it with an upload; a path is no part of an origin.
  public_origin = regex("^https://[^/]+", var.public_url)

  # Not secret, and different in each environment: for web and workers alike.
  environment = merge({
    QUEUE_URL_PREFIX         = trimsuffix(module.queue[local.topology.default_queue].url, local.topology.default_queue)
    FILES_BUCKET             = aws_s3_bucket.this["files"].bucket
    SCHEDULE_GROUP           = aws_scheduler_schedule_group.this.name
    SCHEDULE_ROLE_ARN        = aws_iam_role.scheduler.arn
    SCHEDULE_DEAD_LETTER_ARN = module.dead_letters["schedules"].arn
    SETTINGS_PREFIX          = local.settings_prefix
    DATABASE_URL             = "postgres://${local.database_host}:5432/${local.database_name}?sslmode=require"
    DATABASE_SECRET          = local.database_secret_arn
    SOCKETS_URL              = local.sockets_url
    SOCKETS_TABLE            = aws_dynamodb_table.sockets.name
    },
    # A sandbox that sleeps would keep a connection of the database itself.
    var.database.proxy ? { DATABASE_MAX_AGE_SECONDS = "300" } : {},
    # Read by boto3. The names that it asks for otherwise have no IPv6 address.
    local.has_nat ? {} : { AWS_USE_DUALSTACK_ENDPOINT = "true" },
  )
  # Written out: a variable's validation cannot wait for what is not yet made.
  names_of_environment = [
    "AWS_USE_DUALSTACK_ENDPOINT",
    "DATABASE_MAX_AGE_SECONDS",
    "DATABASE_SECRET",
    "DATABASE_URL",
    "DEFAULT_FROM_EMAIL",
    "FILES_BUCKET",
    "PUBLIC_URL",
    "QUEUE_URL_PREFIX",
    "SCHEDULE_DEAD_LETTER_ARN",
    "SCHEDULE_GROUP",
    "SCHEDULE_ROLE_ARN",
    "SETTINGS_PREFIX",
    "SOCKETS_TABLE",
    "SOCKETS_URL",
    "STATIC_URL",
  ]
}
