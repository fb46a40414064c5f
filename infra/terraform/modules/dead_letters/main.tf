locals {
  arn = "${var.arn_prefix}${var.name}"
}

resource "aws_sqs_queue" "this" {
  name                      = var.name
  message_retention_seconds = var.retention_days * 86400
  sqs_managed_sse_enabled   = true
  policy                    = data.aws_iam_policy_document.this.json

  # With no source named, no queue of the account may move its own failures here.
  redrive_allow_policy = (
    var.source_arn == null
    ? jsonencode({ redrivePermission = "denyAll" })
    : jsonencode({ redrivePermission = "byQueue", sourceQueueArns = [var.source_arn] })
  )
}

data "aws_iam_policy_document" "this" {
  statement {
    sid       = "RefusePlainHttp"
    effect    = "Deny"
    actions   = ["sqs:*"]
    resources = [local.arn]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}
