# What Fargate may do before there is a container, and what a one-off container may.

resource "aws_iam_role" "execution" {
  name               = "${local.name}-execution"
  description        = "Fargate, when it fetches the image and writes logs."
  assume_role_policy = data.aws_iam_policy_document.worker_trust.json
}

data "aws_iam_policy_document" "execution" {
  # AWS lets no repository be named for it; a token opens what the other permissions name.
  statement {
    sid       = "SignInToTheRegistry"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }

  statement {
    sid       = "FetchTheImage"
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = [aws_ecr_repository.worker.arn]
  }

  statement {
    sid     = "WriteLogs"
    actions = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = concat(
      ["${aws_cloudwatch_log_group.tools.arn}:*"],
      [for pool in keys(local.topology.pools) : "arn:${local.partition}:logs:${local.here}:log-group:/${local.name}/workers/${pool}:*"],
    )
  }
}

resource "aws_iam_role_policy" "execution" {
  name   = "execution"
  role   = aws_iam_role.execution.name
  policy = data.aws_iam_policy_document.execution.json
}

resource "aws_iam_role" "tools" {
  name               = "${local.name}-tools"
  description        = "One-off containers: migrations, management commands, an operator's shell."
  assume_role_policy = data.aws_iam_policy_document.worker_trust.json
}

data "aws_iam_policy_document" "tools" {
  source_policy_documents = [data.aws_iam_policy_document.shared.json]

  # AWS lets nothing be named for these; a session is opened by whoever may ecs:ExecuteCommand.
  dynamic "statement" {
    for_each = var.remote_shell ? [1] : []

    content {
      sid = "OpenAShell"
      actions = [
        "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel",
      ]
      resources = ["*"]
    }
  }
}

resource "aws_iam_role_policy" "tools" {
  name   = "tools"
  role   = aws_iam_role.tools.name
  policy = data.aws_iam_policy_document.tools.json
}
