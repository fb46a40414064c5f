# Made here, since a function that makes its own group keeps its lines for ever. Lambda looks for it under this name.
resource "aws_cloudwatch_log_group" "web" {
  #checkov:skip=CKV_AWS_158:Encrypted with CloudWatch's own key; lines hold ids, no arguments and no secrets
  #checkov:skip=CKV_AWS_338:A month answers what operators ask; log_retention_days keeps them for longer
  name              = "/aws/lambda/${local.name}"
  retention_in_days = var.log_retention_days
}
