# Who may send mail, and what becomes of mail that does not arrive.

locals {
  mail_domain = split("@", var.mail_from)[1]
  mail_sender = { domain = local.mail_domain, address = var.mail_from, none = null }[var.mail_identity]
  has_mail    = var.mail_identity != "none"
  dkim_tokens = try(aws_sesv2_email_identity.this[0].dkim_signing_attributes[0].tokens, [])
}

# For each mail of this stage, since the identity below names it.
resource "aws_sesv2_configuration_set" "this" {
  configuration_set_name = local.name

  delivery_options {
    tls_policy = "REQUIRE"
  }

  reputation_options {
    reputation_metrics_enabled = true
  }

  # An address that bounced or complained gets no more, however often a task sends to it.
  suppression_options {
    suppressed_reasons = ["BOUNCE", "COMPLAINT"]
  }
}

# SES signs with keys of its own (Easy DKIM), which the domain's DNS must name: domain.tf, or the output mail_dns.
resource "aws_sesv2_email_identity" "this" {
  count = local.has_mail ? 1 : 0

  email_identity         = local.mail_sender
  configuration_set_name = aws_sesv2_configuration_set.this.configuration_set_name
}

resource "aws_sns_topic" "mail" {
  #checkov:skip=CKV_AWS_26:SES may not use SNS's own key; what goes through is addresses, on their way into an encrypted queue
  name = "${local.name}-mail"
}

data "aws_iam_policy_document" "mail_topic" {
  statement {
    sid       = "TellOfBounces"
    actions   = ["sns:Publish"]
    resources = ["arn:${local.partition}:sns:${local.here}:${local.name}-mail"]

    principals {
      type        = "Service"
      identifiers = ["ses.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_sns_topic_policy" "mail" {
  arn    = aws_sns_topic.mail.arn
  policy = data.aws_iam_policy_document.mail_topic.json
}

resource "aws_ses_event_destination" "mail" {
  name                   = "failures"
  configuration_set_name = aws_sesv2_configuration_set.this.configuration_set_name
  enabled                = true
  matching_types         = ["bounce", "complaint", "reject"]

  sns_destination {
    topic_arn = aws_sns_topic.mail.arn
  }

  # SES tries whether it may.
  depends_on = [aws_sns_topic_policy.mail]
}

# Kept for people: nobody consumes it, and an alarm says that it holds something.
resource "aws_sqs_queue" "mail" {
  name                      = "${local.name}-mail-failed"
  message_retention_seconds = 14 * 86400
  sqs_managed_sse_enabled   = true
  policy                    = data.aws_iam_policy_document.mail_queue.json
}

data "aws_iam_policy_document" "mail_queue" {
  statement {
    sid       = "KeepWhatFailed"
    actions   = ["sqs:SendMessage"]
    resources = ["arn:${local.partition}:sqs:${local.here}:${local.name}-mail-failed"]

    principals {
      type        = "Service"
      identifiers = ["sns.amazonaws.com"]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_sns_topic.mail.arn]
    }
  }

  statement {
    sid       = "RefusePlainHttp"
    effect    = "Deny"
    actions   = ["sqs:*"]
    resources = ["arn:${local.partition}:sqs:${local.here}:${local.name}-mail-failed"]

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

resource "aws_sns_topic_subscription" "mail" {
  topic_arn            = aws_sns_topic.mail.arn
  protocol             = "sqs"
  endpoint             = aws_sqs_queue.mail.arn
  raw_message_delivery = true
}
