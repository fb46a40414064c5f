# Each refusal is of one variable; what is right beside it must not hide it.

mock_provider "aws" {
  source = "./tests/mocks"
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
