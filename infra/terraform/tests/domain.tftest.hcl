# Names, money and rights, which are somebody's.

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
  make_secrets = false

  stage      = "dev"
  region     = "eu-central-1"
  public_url = "https://dev.example.com"
  mail_from  = "reports@example.com"
}

run "a_domain_with_a_zone_makes_certificate_and_records" {
  command = plan
  variables {
    domain = { zone_id = "Z0123456789ABCDEFGHIJ", web_api_id = "a1b2c3d4e5" }
    # Its keys are SES's to make, and tests/infra looks at their records.
    mail_identity = "none"
  }

  assert {
    condition     = aws_acm_certificate.this[0].domain_name == "dev.example.com" && keys(aws_route53_record.site) == ["A", "AAAA"] && length(aws_route53_record.dkim) == 0
    error_message = "certificate: ${aws_acm_certificate.this[0].domain_name}"
  }
  assert {
    condition     = aws_api_gateway_domain_name.this[0].security_policy == "TLS_1_2" && aws_api_gateway_base_path_mapping.this[0].stage_name == "dev"
    error_message = "old TLS, or another stage"
  }
}

run "a_domain_of_somebody_elses_dns_takes_their_certificate" {
  command = plan
  variables {
    domain = { certificate_arn = "arn:aws:acm:eu-central-1:111122223333:certificate/a1" }
  }

  assert {
    condition     = length(aws_acm_certificate.this) == 0 && length(aws_route53_record.site) == 0 && length(aws_api_gateway_base_path_mapping.this) == 0
    error_message = "records are made in nobody's zone"
  }
  assert {
    condition     = aws_api_gateway_domain_name.this[0].regional_certificate_arn == "arn:aws:acm:eu-central-1:111122223333:certificate/a1"
    error_message = "the certificate is another one"
  }
}

run "a_budget_tells_before_the_money_is_gone" {
  command = plan
  variables {
    monthly_budget_usd = 100
    alarm_emails       = ["ops@example.com"]
  }

  assert {
    condition     = length(aws_budgets_budget.monthly) == 1 && { for each in aws_budgets_budget.monthly[0].notification : each.notification_type => each.threshold } == { ACTUAL = 80, FORECASTED = 100 }
    error_message = "nobody is told in time"
  }
  assert {
    condition     = keys(aws_sns_topic_subscription.alarms) == ["ops@example.com"]
    error_message = "somebody else is told"
  }
}

run "nobody_deploys_from_github_unless_somebody_says_so" {
  command = plan

  assert {
    condition     = length(aws_iam_role.deploy) == 0 && length(aws_iam_policy.deploy) == 0 && length(aws_iam_openid_connect_provider.github) == 0
    error_message = "a repository may deploy that nobody named"
  }
}

run "one_repositorys_environment_of_the_stage_deploys" {
  command = plan
  variables {
    github_repository = "you/shop"
    state_bucket      = "states"
  }

  assert {
    condition     = aws_iam_role.deploy[0].name == "cloudqueue-dev-deploy" && sort(keys(aws_iam_policy.deploy)) == tolist(["compute", "data", "network", "roles", "state"])
    error_message = "policies: ${join(", ", keys(aws_iam_policy.deploy))}"
  }
  assert {
    condition = {
      for each in one(data.aws_iam_policy_document.deploy_trust[0].statement).condition : each.variable => one(each.values)
      } == {
      "token.actions.githubusercontent.com:aud" = "sts.amazonaws.com"
      "token.actions.githubusercontent.com:sub" = "repo:you/shop:environment:dev"
    }
    error_message = "another repository, or a pull request, may deploy"
  }
  assert {
    condition = alltrue([
      for each in merge(local.deploy_rights, local.deploy_states) : alltrue([
        for right in each : alltrue([for action in right.actions : !strcontains(action, "*")])
      ])
    ])
    error_message = "a right is a wildcard"
  }
}
