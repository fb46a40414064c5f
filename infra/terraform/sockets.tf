# Sockets: an API Gateway WebSocket API, and the function that it calls, from the web function's own package.

locals {
  zappa = jsondecode(file("${path.module}/../../zappa_settings.json")).base
  # From a stage's name alone, so that web and workers know it before there is a stage.
  sockets_url = "${aws_apigatewayv2_api.sockets.api_endpoint}/${var.stage}"
  socket_arn  = "${aws_apigatewayv2_api.sockets.execution_arn}/${var.stage}"
  has_sockets = var.package == null ? toset([]) : toset(["sockets"])
}

resource "aws_apigatewayv2_api" "sockets" {
  name                       = "${local.name}-sockets"
  protocol_type              = "WEBSOCKET"
  route_selection_expression = "$request.body.action"
  # Functions and workers post to it, and have no IPv4 with egress=ipv6.
  ip_address_type = "dualstack"
}

resource "aws_cloudwatch_log_group" "sockets" {
  #checkov:skip=CKV_AWS_158:Encrypted with CloudWatch's own key; lines hold ids, no arguments and no secrets
  #checkov:skip=CKV_AWS_338:A month answers what operators ask; log_retention_days keeps them for longer
  for_each = {
    function = "/aws/lambda/${local.name}-sockets"
    access   = "/aws/apigateway/${local.name}-sockets"
  }

  name              = each.value
  retention_in_days = var.log_retention_days
}

resource "aws_lambda_function" "sockets" {
  #checkov:skip=CKV_AWS_50:Traces go where OTEL_EXPORTER_OTLP_ENDPOINT says
  #checkov:skip=CKV_AWS_115:Its API is throttled; a limit here would answer handshakes with errors instead
  #checkov:skip=CKV_AWS_116:API Gateway waits for each answer; what is called without, goes to a queue below
  #checkov:skip=CKV_AWS_173:Nothing in it is secret
  #checkov:skip=CKV_AWS_272:The package's name is its hash, and only a deploy may write to its bucket
  for_each = local.has_sockets

  function_name = "${local.name}-sockets"
  description   = "Events of sockets: serverless/websockets"
  role          = aws_iam_role.sockets.arn
  handler       = "serverless.entrypoints.websocket.handler"
  runtime       = local.zappa.runtime
  architectures = [local.zappa.architecture]
  memory_size   = 512
  # API Gateway waits no longer.
  timeout   = 29
  s3_bucket = aws_s3_bucket.this["artifacts"].bucket
  s3_key    = var.package

  environment {
    variables = merge(local.environment, { PUBLIC_URL = var.public_url, RELEASE = var.package })
  }

  vpc_config {
    subnet_ids                  = [for subnet in aws_subnet.private : subnet.id]
    security_group_ids          = [aws_security_group.app["sockets"].id]
    ipv6_allowed_for_dual_stack = true
  }

  # Its log group has the name that Lambda looks for.
  depends_on = [aws_iam_role_policy.sockets, aws_cloudwatch_log_group.sockets]
}

# Nobody calls it without waiting but an operator by hand: that must not vanish either.
resource "aws_lambda_function_event_invoke_config" "sockets" {
  for_each = local.has_sockets

  function_name                = aws_lambda_function.sockets[each.key].function_name
  maximum_retry_attempts       = 0
  maximum_event_age_in_seconds = 60

  destination_config {
    on_failure {
      destination = module.dead_letters["invocations"].arn
    }
  }
}

resource "aws_lambda_permission" "sockets" {
  for_each = local.has_sockets

  statement_id  = "sockets"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.sockets[each.key].function_name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${local.socket_arn}/*"
}

resource "aws_apigatewayv2_integration" "sockets" {
  for_each = local.has_sockets

  api_id                    = aws_apigatewayv2_api.sockets.id
  integration_type          = "AWS_PROXY"
  integration_uri           = aws_lambda_function.sockets[each.key].invoke_arn
  content_handling_strategy = "CONVERT_TO_TEXT"
}

# Who may connect is decided by the token in the address, in $connect; a message is of who has connected.
resource "aws_apigatewayv2_route" "sockets" {
  #checkov:skip=CKV_AWS_309:The function itself looks at the token of $connect and answers 403
  for_each = var.package == null ? toset([]) : toset(["$connect", "$default", "$disconnect"])

  api_id             = aws_apigatewayv2_api.sockets.id
  route_key          = each.key
  authorization_type = "NONE"
  target             = "integrations/${aws_apigatewayv2_integration.sockets["sockets"].id}"
}

# A WebSocket API does not deploy itself.
resource "aws_apigatewayv2_deployment" "sockets" {
  for_each = local.has_sockets

  api_id      = aws_apigatewayv2_api.sockets.id
  description = "Routes of ${local.name}"

  triggers = {
    routes = sha256(jsonencode([
      [for route in aws_apigatewayv2_route.sockets : [route.route_key, route.target, route.authorization_type]],
      aws_apigatewayv2_integration.sockets["sockets"].integration_uri,
    ]))
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_apigatewayv2_stage" "sockets" {
  #checkov:skip=CKV2_AWS_51:Browsers have no certificate; the token in the address says who they are
  for_each = local.has_sockets

  api_id        = aws_apigatewayv2_api.sockets.id
  name          = var.stage
  deployment_id = aws_apigatewayv2_deployment.sockets[each.key].id

  default_route_settings {
    # API Gateway's own lines hold messages and addresses with their tokens.
    logging_level            = "OFF"
    data_trace_enabled       = false
    detailed_metrics_enabled = false
    throttling_rate_limit    = var.sockets_throttle.rate
    throttling_burst_limit   = var.sockets_throttle.burst
  }

  # No query string, which holds the token, and no address of the client.
  access_log_settings {
    destination_arn = aws_cloudwatch_log_group.sockets["access"].arn
    format = jsonencode({
      requestId        = "$context.requestId"
      connectionId     = "$context.connectionId"
      eventType        = "$context.eventType"
      routeKey         = "$context.routeKey"
      status           = "$context.status"
      integrationError = "$context.integrationErrorMessage"
      error            = "$context.error.message"
      latency          = "$context.integrationLatency"
    })
  }

  depends_on = [aws_api_gateway_account.this]
}

# API Gateway writes logs with one role of the whole account and region.
resource "aws_api_gateway_account" "this" {
  count = var.api_gateway_logs_role ? 1 : 0

  cloudwatch_role_arn = aws_iam_role.api_gateway[0].arn

  depends_on = [aws_iam_role_policy.api_gateway]
}

resource "aws_iam_role" "api_gateway" {
  count = var.api_gateway_logs_role ? 1 : 0

  name               = "${local.name}-api-gateway"
  description        = "API Gateway, when it writes logs of any API of this account and region."
  assume_role_policy = data.aws_iam_policy_document.api_gateway_trust[0].json
}

data "aws_iam_policy_document" "api_gateway_trust" {
  count = var.api_gateway_logs_role ? 1 : 0

  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["apigateway.amazonaws.com"]
    }
  }
}

# The account's one role, so it is for groups of other stages as well; API Gateway looks at all actions when it is set.
data "aws_iam_policy_document" "api_gateway" {
  #checkov:skip=CKV_AWS_356:API Gateway refuses a role that may not write to every group: it is the account's only one
  #checkov:skip=CKV_AWS_111:API Gateway refuses a role that may not write to every group: it is the account's only one
  count = var.api_gateway_logs_role ? 1 : 0

  statement {
    sid = "WriteAccessLogs"
    actions = [
      "logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogGroups", "logs:DescribeLogStreams",
      "logs:FilterLogEvents", "logs:GetLogEvents", "logs:PutLogEvents",
    ]
    resources = ["*"]
  }
}

resource "aws_iam_role_policy" "api_gateway" {
  count = var.api_gateway_logs_role ? 1 : 0

  name   = "logs"
  role   = aws_iam_role.api_gateway[0].name
  policy = data.aws_iam_policy_document.api_gateway[0].json
}
