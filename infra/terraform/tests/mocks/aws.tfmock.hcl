# What the provider would find out, where what is made of it must have a shape.

mock_data "aws_iam_policy_document" {
  defaults = { json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
}
mock_data "aws_caller_identity" {
  defaults = { account_id = "111122223333" }
}
mock_data "aws_partition" {
  defaults = { partition = "aws" }
}
mock_data "aws_availability_zones" {
  defaults = { names = ["eu-central-1a", "eu-central-1b", "eu-central-1c"] }
}
# What is made of its addresses must be addresses.
mock_resource "aws_vpc" {
  defaults = { ipv6_cidr_block = "2600:1f18:1::/56" }
}
mock_resource "aws_db_instance" {
  defaults = {
    address            = "db.mock"
    master_user_secret = [{ kms_key_id = "mock", secret_arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:mock", secret_status = "active" }]
  }
}
mock_resource "aws_db_proxy_default_target_group" {
  defaults = { name = "default" }
}
# A policy or an alarm that names it must be given an ARN.
mock_resource "aws_iam_role" {
  defaults = { arn = "arn:aws:iam::111122223333:role/mock" }
}
mock_resource "aws_sns_topic" {
  defaults = { arn = "arn:aws:sns:eu-central-1:111122223333:mock" }
}
mock_resource "aws_sqs_queue" {
  defaults = { arn = "arn:aws:sqs:eu-central-1:111122223333:mock" }
}
mock_resource "aws_lambda_function" {
  defaults = { arn = "arn:aws:lambda:eu-central-1:111122223333:function:mock" }
}
mock_resource "aws_cloudwatch_log_group" {
  defaults = { arn = "arn:aws:logs:eu-central-1:111122223333:log-group:mock" }
}
mock_resource "aws_appautoscaling_policy" {
  defaults = { arn = "arn:aws:autoscaling:eu-central-1:111122223333:scalingPolicy:mock" }
}
mock_resource "aws_apigatewayv2_api" {
  defaults = {
    id            = "mock"
    api_endpoint  = "wss://mock.execute-api.eu-central-1.amazonaws.com"
    execution_arn = "arn:aws:execute-api:eu-central-1:111122223333:mock"
  }
}
