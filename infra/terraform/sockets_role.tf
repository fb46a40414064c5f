# What the function behind the sockets may do: consumers read and push, and leave work to tasks.

resource "aws_iam_role" "sockets" {
  name               = "${local.name}-sockets"
  description        = "The function that answers events of sockets."
  assume_role_policy = data.aws_iam_policy_document.web_trust.json
}

data "aws_iam_policy_document" "sockets" {
  source_policy_documents = [data.aws_iam_policy_document.everybody.json, data.aws_iam_policy_document.function.json]

  statement {
    sid       = "WriteLogs"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.sockets["function"].arn}:*"]
  }
}

resource "aws_iam_role_policy" "sockets" {
  name   = "sockets"
  role   = aws_iam_role.sockets.name
  policy = data.aws_iam_policy_document.sockets.json
}
