# This stage's schedules, and no others: whoever synchronises deletes in it what the code no longer has.
resource "aws_scheduler_schedule_group" "this" {
  name = local.name
}

# What EventBridge becomes to send a due message. It cannot receive: its messages are read by nobody but workers.
resource "aws_iam_role" "scheduler" {
  name               = "${local.name}-scheduler"
  description        = "EventBridge Scheduler, when it sends what is due to the queues."
  assume_role_policy = data.aws_iam_policy_document.scheduler_trust.json
}

data "aws_iam_policy_document" "scheduler_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["scheduler.amazonaws.com"]
    }

    # Otherwise another account's schedule could name our role: the confused deputy.
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }

    # AWS names the group here, not the schedule.
    condition {
      test     = "StringEquals"
      variable = "aws:SourceArn"
      values   = [aws_scheduler_schedule_group.this.arn]
    }
  }
}

data "aws_iam_policy_document" "scheduler" {
  statement {
    sid       = "SendWhatIsDue"
    actions   = ["sqs:SendMessage"]
    resources = concat([for queue in module.queue : queue.arn], [module.dead_letters["schedules"].arn])
  }
}

resource "aws_iam_role_policy" "scheduler" {
  name   = "queues"
  role   = aws_iam_role.scheduler.name
  policy = data.aws_iam_policy_document.scheduler.json
}
