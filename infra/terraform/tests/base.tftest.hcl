# Of the whole, one plan a shape.

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
  public_url = "https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com/dev"
  mail_from  = "reports@example.com"
}

run "everything_follows_from_the_topology" {
  command = plan

  assert {
    condition     = keys(module.queue) == keys(jsondecode(file("../../tasks/topology.json")).queues)
    error_message = "queues: ${join(", ", keys(module.queue))}"
  }
  assert {
    condition = alltrue([
      for name, queue in module.queue :
      queue.name == "cloudqueue-dev-${name}" && queue.dead_letters.name == "cloudqueue-dev-${name}-dead"
    ])
    error_message = "a queue's name is its prefix and the topology's name"
  }
  assert {
    condition     = aws_iam_role.web.name == "cloudqueue-dev-web"
    error_message = "zappa_settings.json names another role than ${aws_iam_role.web.name}"
  }
  assert {
    condition     = aws_cloudwatch_log_group.web.name == "/aws/lambda/cloudqueue-dev" && aws_cloudwatch_log_group.web.retention_in_days == 30
    error_message = "Lambda writes to another group, or its lines are kept for ever"
  }
}

run "buckets_are_closed_encrypted_and_named_after_the_account" {
  command = plan

  assert {
    condition = { for name, bucket in aws_s3_bucket.this : name => bucket.bucket } == {
      files     = "cloudqueue-dev-111122223333-files"
      artifacts = "cloudqueue-dev-111122223333-artifacts"
    }
    error_message = "buckets: ${jsonencode({ for name, bucket in aws_s3_bucket.this : name => bucket.bucket })}"
  }
  assert {
    condition = alltrue(flatten([
      for name in keys(aws_s3_bucket.this) : [
        aws_s3_bucket_public_access_block.this[name].block_public_acls,
        aws_s3_bucket_public_access_block.this[name].block_public_policy,
        aws_s3_bucket_public_access_block.this[name].ignore_public_acls,
        aws_s3_bucket_public_access_block.this[name].restrict_public_buckets,
      ]
    ]))
    error_message = "a bucket may be made public"
  }
  assert {
    condition     = alltrue([for each in aws_s3_bucket_server_side_encryption_configuration.this : one(one(each.rule).apply_server_side_encryption_by_default).sse_algorithm == "AES256"])
    error_message = "a bucket is not encrypted as was decided"
  }
  assert {
    condition = alltrue([
      for name in keys(aws_s3_bucket.this) : anytrue([
        for rule in aws_s3_bucket_lifecycle_configuration.this[name].rule :
        length(rule.abort_incomplete_multipart_upload) == 1
      ])
    ])
    error_message = "incomplete uploads stay for ever, and are paid for"
  }
  assert {
    condition     = one(aws_s3_bucket_cors_configuration.files.cors_rule).allowed_origins == toset(["https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com"])
    error_message = "an origin has no path, and another one is allowed"
  }
  assert {
    condition     = !aws_s3_bucket.this["files"].force_destroy
    error_message = "destroy would remove what people have uploaded, though nobody has said so"
  }
}

run "static_files_have_both_a_bucket_and_an_address_or_neither" {
  command = plan

  assert {
    condition     = output.static_bucket == null && output.static_url == null && length(aws_cloudfront_distribution.static) == 0
    error_message = "a bucket or an address is there, though the function serves the files"
  }
}

run "static_files_from_cloudfront_are_read_by_it_alone" {
  command = apply
  variables {
    static_from_cloudfront = true
  }

  assert {
    condition     = output.static_bucket == "cloudqueue-dev-111122223333-static" && output.static_url == "https://${aws_cloudfront_distribution.static[0].domain_name}/"
    error_message = "static_bucket, static_url: ${output.static_bucket}, ${output.static_url}"
  }
  assert {
    condition     = one(aws_cloudfront_distribution.static[0].default_cache_behavior).viewer_protocol_policy == "redirect-to-https"
    error_message = "files are served over plain http"
  }
  assert {
    condition = anytrue([
      for each in data.aws_iam_policy_document.bucket["static"].statement :
      each.actions == toset(["s3:GetObject"]) &&
      one(each.principals).identifiers == toset(["cloudfront.amazonaws.com"]) &&
      one(each.condition).values == tolist([aws_cloudfront_distribution.static[0].arn])
    ])
    error_message = "another one than our distribution may read the bucket, or nobody"
  }
  assert {
    condition     = aws_s3_bucket_public_access_block.this["static"].restrict_public_buckets
    error_message = "the bucket of static files is public"
  }
}

run "settings_stand_below_their_prefix" {
  command = plan
  variables {
    settings = { LOG_LEVEL = "WARNING" }
  }

  assert {
    condition = { for each in aws_ssm_parameter.setting : each.name => nonsensitive(each.value) } == {
      "/cloudqueue/dev/DEFAULT_FROM_EMAIL" = "Cloudqueue <reports@example.com>"
      "/cloudqueue/dev/LOG_LEVEL"          = "WARNING"
      "/cloudqueue/dev/METRICS"            = "emf"
      "/cloudqueue/dev/METRICS_NAMESPACE"  = "cloudqueue-dev"
    }
    error_message = "settings: ${jsonencode({ for each in aws_ssm_parameter.setting : each.name => nonsensitive(each.value) })}"
  }
  assert {
    condition     = output.web_environment.SETTINGS_PREFIX == "/cloudqueue/dev"
    error_message = "the function reads its settings elsewhere"
  }
}
