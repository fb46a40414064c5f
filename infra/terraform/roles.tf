# Named actions on named resources: what the code calls, and no more. A stage's roles reach its own things only.

locals {
  queue_arns       = [for queue in module.queue : queue.arn]
  dead_letter_arns = [for queue in module.queue : queue.dead_letters.arn]
  files_arn        = aws_s3_bucket.this["files"].arn
  network_actions = [
    "ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses",
  ]
}

# The web side's function, named as zappa_settings.json names it.
resource "aws_iam_role" "web" {
  name               = "${local.name}-web"
  description        = "The function that serves pages, enqueues, and does the minute's housekeeping."
  assume_role_policy = data.aws_iam_policy_document.web_trust.json
}

# Without a condition on the function: Zappa creates it, and Lambda tries the role before there is one.
data "aws_iam_policy_document" "web_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy" "web" {
  name   = "web"
  role   = aws_iam_role.web.name
  policy = data.aws_iam_policy_document.web.json
}

# A worker's containers.
resource "aws_iam_role" "worker" {
  name               = "${local.name}-worker"
  description        = "Worker containers, while they run tasks."
  assume_role_policy = data.aws_iam_policy_document.worker_trust.json
}

data "aws_iam_policy_document" "worker_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }

    condition {
      test     = "ArnLike"
      variable = "aws:SourceArn"
      values   = ["arn:${local.partition}:ecs:${local.here}:*"]
    }
  }
}

resource "aws_iam_role_policy" "worker" {
  name   = "worker"
  role   = aws_iam_role.worker.name
  policy = data.aws_iam_policy_document.worker.json
}

# What web, workers, one-off containers and sockets do alike.
data "aws_iam_policy_document" "everybody" {
  statement {
    sid     = "ReadSettings"
    actions = ["ssm:GetParametersByPath"]
    resources = [
      "arn:${local.partition}:ssm:${local.here}:parameter${local.settings_prefix}",
      "arn:${local.partition}:ssm:${local.here}:parameter${local.settings_prefix}/*",
    ]
  }

  statement {
    sid     = "ReadSecrets"
    actions = ["secretsmanager:GetSecretValue"]
    resources = [
      "arn:${local.partition}:secretsmanager:${local.here}:secret:${local.settings_prefix}/*",
      # Of the database, which RDS keeps under a name of its own.
      local.database_secret_arn,
    ]
  }

  # AWS lets no secret be named for these two; a value comes only with the permission above.
  statement {
    sid       = "FindSecrets"
    actions   = ["secretsmanager:BatchGetSecretValue", "secretsmanager:ListSecrets"]
    resources = ["*"]
  }

  statement {
    sid = "KeepSockets"
    actions = [
      "dynamodb:BatchGetItem", "dynamodb:BatchWriteItem", "dynamodb:PutItem", "dynamodb:Query", "dynamodb:UpdateItem",
    ]
    resources = [aws_dynamodb_table.sockets.arn]
  }

  # POST pushes, DELETE closes.
  statement {
    sid       = "PushToSockets"
    actions   = ["execute-api:ManageConnections"]
    resources = [for method in ["POST", "DELETE"] : "${local.socket_arn}/${method}/@connections/*"]
  }
}

# What a function in a network needs before it runs. AWS lets none of it be named; the refusal keeps our code, which has
# the same role, from doing it: https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html
data "aws_iam_policy_document" "function" {
  #checkov:skip=CKV_AWS_111:AWS lets no network interface be named before it is there, and our own code is refused below
  statement {
    sid       = "JoinTheNetwork"
    actions   = local.network_actions
    resources = ["*"]
  }

  statement {
    sid       = "NotByItsOwnCode"
    effect    = "Deny"
    actions   = local.network_actions
    resources = ["*"]

    condition {
      test     = "ArnLike"
      variable = "lambda:SourceFunctionArn"
      values   = ["arn:${local.partition}:lambda:${local.here}:function:${local.name}*"]
    }
  }

  # Lambda does it with the function's role, when an event has failed for good.
  statement {
    sid       = "KeepFailedEvents"
    actions   = ["sqs:SendMessage"]
    resources = [module.dead_letters["invocations"].arn]
  }
}

# What web, workers and one-off containers do.
data "aws_iam_policy_document" "shared" {
  source_policy_documents = [data.aws_iam_policy_document.everybody.json]

  statement {
    sid       = "Enqueue"
    actions   = ["sqs:SendMessage"]
    resources = local.queue_arns
  }

  statement {
    sid       = "ReadWriteAndDeleteFiles"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    resources = [for folder in ["uploads", "work", "reports", "results"] : "${local.files_arn}/${folder}/*"]
  }

  # Nothing but the bucket's lifecycle deletes them.
  statement {
    sid       = "KeepAndReadClaimChecks"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = ["${local.files_arn}/claim-checks/*"]
  }

  # On the whole bucket: with a condition on the prefix, S3 answers 403 instead of 404 for an object that is not there.
  statement {
    sid       = "ListFiles"
    actions   = ["s3:ListBucket"]
    resources = [local.files_arn]
  }
}

data "aws_iam_policy_document" "web" {
  source_policy_documents = [data.aws_iam_policy_document.shared.json, data.aws_iam_policy_document.function.json]

  statement {
    sid       = "WriteLogs"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.web.arn}:*"]
  }

  statement {
    sid       = "SampleQueues"
    actions   = ["sqs:GetQueueAttributes"]
    resources = concat(local.queue_arns, local.dead_letter_arns)
  }

  # Operators look at dead letters in the console, and send them to their queues again.
  statement {
    sid       = "RedriveDeadLetters"
    actions   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"]
    resources = local.dead_letter_arns
  }

  statement {
    sid = "SynchroniseSchedules"
    actions = [
      "scheduler:CreateSchedule", "scheduler:DeleteSchedule", "scheduler:GetSchedule", "scheduler:UpdateSchedule",
    ]
    resources = ["arn:${local.partition}:scheduler:${local.here}:schedule/${aws_scheduler_schedule_group.this.name}/*"]
  }

  statement {
    sid       = "FindScheduleGroup"
    actions   = ["scheduler:GetScheduleGroup"]
    resources = [aws_scheduler_schedule_group.this.arn]
  }

  # AWS lets neither group nor schedule be named for it.
  statement {
    sid       = "ListSchedules"
    actions   = ["scheduler:ListSchedules"]
    resources = ["*"]
  }

  # The minute's sampler raises a pool's number where work waits and nobody runs.
  statement {
    sid       = "WakeWorkers"
    actions   = ["ecs:DescribeServices", "ecs:UpdateService"]
    resources = [for pool in keys(local.topology.pools) : "arn:${local.partition}:ecs:${local.here}:service/${local.name}/${pool}"]
  }

  statement {
    sid       = "LetEventBridgeSend"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.scheduler.arn]

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["scheduler.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "worker" {
  source_policy_documents = [data.aws_iam_policy_document.shared.json]

  statement {
    sid       = "Consume"
    actions   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes"]
    resources = local.queue_arns
  }

  # With the reason, which SQS's own redrive does not tell.
  statement {
    sid       = "DeadLetter"
    actions   = ["sqs:SendMessage"]
    resources = local.dead_letter_arns
  }

  # A worker asks that scaling and deploys leave it alone while it holds messages.
  statement {
    sid       = "ProtectItself"
    actions   = ["ecs:GetTaskProtection", "ecs:UpdateTaskProtection"]
    resources = ["arn:${local.partition}:ecs:${local.here}:task/${local.name}/*"]
  }

  # Mail with attachments goes as raw, which SES asks both for.
  statement {
    sid     = "SendMail"
    actions = ["ses:SendEmail", "ses:SendRawEmail"]
    resources = [
      "arn:${local.partition}:ses:${local.here}:identity/${var.mail_from}",
      "arn:${local.partition}:ses:${local.here}:identity/${split("@", var.mail_from)[1]}",
      # Through which bounces are told.
      "arn:${local.partition}:ses:${local.here}:configuration-set/${local.name}",
    ]

    condition {
      test     = "StringEquals"
      variable = "ses:FromAddress"
      values   = [var.mail_from]
    }
  }
}
