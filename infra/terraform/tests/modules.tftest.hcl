# What the modules refuse by themselves, whoever uses them.

mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
  }
}

variables {
  name           = "cloudqueue-dev-low"
  arn_prefix     = "arn:aws:sqs:eu-central-1:111122223333:"
  lease_seconds  = 60
  max_receives   = 20
  retention_days = 4
}

run "a_queue_has_its_dead_letter_queue" {
  command = plan
  module {
    source = "./modules/queue"
  }
  assert {
    condition     = output.name == "cloudqueue-dev-low" && output.dead_letters.name == "cloudqueue-dev-low-dead"
    error_message = "names: ${output.name}, ${output.dead_letters.name}"
  }
}

run "a_queue_named_as_a_dead_letter_queue_is_refused" {
  command = plan
  module {
    source = "./modules/queue"
  }
  variables {
    name = "cloudqueue-dev-low-dead"
  }
  expect_failures = [var.name]
}

run "an_arn_prefix_of_something_else_is_refused" {
  command = plan
  module {
    source = "./modules/queue"
  }
  variables {
    arn_prefix = "arn:aws:sns:eu-central-1:111122223333:"
  }
  expect_failures = [var.arn_prefix]
}

run "a_lease_that_ends_before_it_is_renewed_is_refused" {
  command = plan
  module {
    source = "./modules/queue"
  }
  variables {
    lease_seconds = 9
  }
  expect_failures = [var.lease_seconds]
}

run "few_receives_are_refused" {
  command = plan
  module {
    source = "./modules/queue"
  }
  variables {
    max_receives = 4
  }
  expect_failures = [var.max_receives]
}

run "a_message_that_sqs_would_not_keep_is_refused" {
  command = plan
  module {
    source = "./modules/queue"
  }
  variables {
    retention_days = 15
  }
  expect_failures = [var.retention_days]
}

run "a_dead_letter_queue_that_names_no_source_takes_from_none" {
  command = plan
  module {
    source = "./modules/dead_letters"
  }
  variables {
    name = "cloudqueue-dev-schedules-dead"
  }
  assert {
    condition     = jsondecode(aws_sqs_queue.this.redrive_allow_policy).redrivePermission == "denyAll"
    error_message = "any queue of the account may dead-letter here"
  }
  assert {
    condition     = aws_sqs_queue.this.message_retention_seconds == 4 * 86400 && aws_sqs_queue.this.sqs_managed_sse_enabled
    error_message = "retention or encryption is not as it was given"
  }
}

run "a_name_that_sqs_does_not_take_is_refused" {
  command = plan
  module {
    source = "./modules/dead_letters"
  }
  variables {
    name = "cloudqueue.dev"
  }
  expect_failures = [var.name]
}

run "a_dead_letter_queue_needs_an_arn_prefix_of_sqs" {
  command = plan
  module {
    source = "./modules/dead_letters"
  }
  variables {
    arn_prefix = "arn:aws:sqs:eu-central-1:111122223333"
  }
  expect_failures = [var.arn_prefix]
}

run "a_dead_letter_that_sqs_would_not_keep_is_refused" {
  command = plan
  module {
    source = "./modules/dead_letters"
  }
  variables {
    retention_days = 15
  }
  expect_failures = [var.retention_days]
}
