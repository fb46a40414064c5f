# As variables.tftest.hcl, of what is beside queues and buckets.

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

run "a_network_that_is_no_private_16_is_refused" {
  command = plan
  variables {
    network_cidr = "10.20.0.0/24"
  }
  expect_failures = [var.network_cidr]
}

run "an_egress_that_is_none_is_refused" {
  command = plan
  variables {
    egress = "nat"
  }
  expect_failures = [var.egress]
}

run "an_engine_that_is_none_is_refused" {
  command = plan
  variables {
    database = { engine = "mysql" }
  }
  expect_failures = [var.database]
}

run "a_version_without_its_minor_one_is_refused" {
  command = plan
  variables {
    database = { version = "17" }
  }
  expect_failures = [var.database]
}

run "an_instance_class_of_serverless_is_refused" {
  command = plan
  variables {
    database = { instance_class = "db.serverless" }
  }
  expect_failures = [var.database]
}

run "aurora_units_that_aurora_has_not_are_refused" {
  command = plan
  variables {
    database = { engine = "aurora", aurora_units = [4, 0.3] }
  }
  expect_failures = [var.database]
}

run "three_zones_are_refused" {
  command = plan
  variables {
    database = { zones = 3 }
  }
  expect_failures = [var.database]
}

run "a_proxy_that_keeps_aurora_awake_is_refused" {
  command = plan
  variables {
    database = { engine = "aurora", aurora_units = [0, 4] }
  }
  expect_failures = [var.database]
}

run "storage_that_cannot_grow_is_refused" {
  command = plan
  variables {
    database = { storage_gb = 20 }
  }
  expect_failures = [var.database]
}

run "a_database_without_a_way_back_is_refused" {
  command = plan
  variables {
    database = { backup_days = 0 }
  }
  expect_failures = [var.database]
}

run "an_image_that_is_another_one_tomorrow_is_refused" {
  command = plan
  variables {
    image = "latest"
  }
  expect_failures = [var.image]
}

run "a_one_off_image_that_is_another_one_tomorrow_is_refused" {
  command = plan
  variables {
    one_off_image = "latest"
  }
  expect_failures = [var.one_off_image]
}

run "an_architecture_that_fargate_has_not_is_refused" {
  command = plan
  variables {
    worker_architecture = "arm64"
  }
  expect_failures = [var.worker_architecture]
}

run "a_package_that_is_no_zip_is_refused" {
  command = plan
  variables {
    package = "packages/a1b2c3d4"
  }
  expect_failures = [var.package]
}

run "a_burst_below_the_rate_is_refused" {
  command = plan
  variables {
    sockets_throttle = { rate = 200, burst = 100 }
  }
  expect_failures = [var.sockets_throttle]
}

run "a_mail_identity_that_is_none_is_refused" {
  command = plan
  variables {
    mail_identity = "example.com"
  }
  expect_failures = [var.mail_identity]
}

run "a_domain_that_nobody_can_prove_is_refused" {
  command = plan
  variables {
    domain = {}
  }
  expect_failures = [var.domain]
}

run "a_zones_name_for_its_id_is_refused" {
  command = plan
  variables {
    domain = { zone_id = "example.com" }
  }
  expect_failures = [var.domain]
}

run "a_certificate_of_another_region_is_refused" {
  command = plan
  variables {
    domain = { certificate_arn = "arn:aws:acm:us-east-1:111122223333:certificate/a1" }
  }
  expect_failures = [var.domain]
}

run "an_api_that_is_none_is_refused" {
  command = plan
  variables {
    domain = { zone_id = "Z0123456789ABCDEFGHIJ", web_api_id = "cloudqueue-dev" }
  }
  expect_failures = [var.domain]
}

run "a_domain_of_awss_own_is_refused" {
  command = plan
  variables {
    public_url = "https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com/dev"
    domain     = { zone_id = "Z0123456789ABCDEFGHIJ" }
  }
  expect_failures = [var.domain]
}

run "an_address_that_is_none_is_refused" {
  command = plan
  variables {
    alarm_emails = ["ops at example.com"]
  }
  expect_failures = [var.alarm_emails]
}

run "runbooks_with_a_slash_at_the_end_are_refused" {
  command = plan
  variables {
    runbooks = "https://example.com/runbooks/"
  }
  expect_failures = [var.runbooks]
}

run "a_budget_of_nothing_is_refused" {
  command = plan
  variables {
    monthly_budget_usd = 0
  }
  expect_failures = [var.monthly_budget_usd]
}

run "a_repository_that_is_many_is_refused" {
  command = plan
  variables {
    github_repository = "you/*"
    state_bucket      = "states"
  }
  expect_failures = [var.github_repository]
}

run "a_workflow_without_its_state_is_refused" {
  command = plan
  variables {
    github_repository = "you/shop"
  }
  expect_failures = [var.state_bucket]
}
