# Each refusal is of one variable; what is right beside it must not hide it.

mock_provider "aws" {
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
}

provider "aws" {
  alias                       = "unmocked"
  region                      = "eu-central-1"
  access_key                  = "none"
  secret_key                  = "none"
  skip_credentials_validation = true
  skip_requesting_account_id  = true
  skip_metadata_api_check     = true
}

variables {
  # Nothing is asked of AWS here; tests/infra applies them.
  make_secrets = false

  stage      = "dev"
  region     = "eu-central-1"
  public_url = "https://dev.example.com"
  mail_from  = "reports@example.com"
}

run "a_project_in_capitals_is_refused" {
  command = plan
  variables {
    project = "CloudQueue"
  }
  expect_failures = [var.project]
}

run "a_stage_that_makes_names_too_long_is_refused" {
  command = plan
  variables {
    stage = "a-b-c-d-e-f-g-h-i"
  }
  expect_failures = [var.stage]
}

run "a_zone_is_no_region" {
  command = plan
  variables {
    region = "eu-central-1a"
  }
  expect_failures = [var.region]
}

run "an_address_without_https_is_refused" {
  command = plan
  variables {
    public_url = "http://dev.example.com"
  }
  expect_failures = [var.public_url]
}

run "an_address_that_ends_with_a_slash_is_refused" {
  command = plan
  variables {
    public_url = "https://dev.example.com/"
  }
  expect_failures = [var.public_url]
}

run "a_sender_with_a_name_in_it_is_refused" {
  command = plan
  variables {
    mail_from = "Reports <reports@example.com>"
  }
  expect_failures = [var.mail_from]
}

run "a_senders_name_that_a_header_would_quote_is_refused" {
  command = plan
  variables {
    mail_from_name = "Reports, daily"
  }
  expect_failures = [var.mail_from_name]
}

run "a_setting_whose_name_is_no_variables_is_refused" {
  command = plan
  variables {
    settings = { log-level = "INFO" }
  }
  expect_failures = [var.settings]
}

run "a_secret_among_settings_is_refused" {
  command = plan
  variables {
    settings = { METRICS_TOKEN = "hunter2" }
  }
  expect_failures = [var.settings]
}

run "an_empty_setting_is_refused" {
  command = plan
  variables {
    settings = { LOG_LEVEL = "" }
  }
  expect_failures = [var.settings]
}

run "a_setting_that_is_made_here_is_refused" {
  command = plan
  variables {
    settings = { FILES_BUCKET = "another" }
  }
  expect_failures = [var.settings]
}

run "days_that_cloudwatch_does_not_know_are_refused" {
  command = plan
  variables {
    log_retention_days = 31
  }
  expect_failures = [var.log_retention_days]
}

run "a_version_of_secrets_is_a_whole_number" {
  command = plan
  variables {
    secrets_version = 1.5
  }
  expect_failures = [var.secrets_version]
}
