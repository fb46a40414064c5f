# Of a stage that has been deployed: containers, sockets, alarms.

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
  image      = "a1b2c3d4"
  package    = "packages/a1b2c3d4.zip"
}

run "each_pool_of_the_topology_has_a_service" {
  command = apply

  assert {
    condition     = keys(module.pool) == keys(jsondecode(file("../../tasks/topology.json")).pools)
    error_message = "pools: ${join(", ", keys(module.pool))}"
  }
  assert {
    condition     = output.workers == { cluster = "cloudqueue-dev", services = { datasets = "datasets", general = "general" } }
    error_message = "workers: ${jsonencode(output.workers)}"
  }
  assert {
    condition     = aws_ecr_repository.worker.image_tag_mutability == "IMMUTABLE" && one(aws_ecr_repository.worker.image_scanning_configuration).scan_on_push
    error_message = "an image may be exchanged under its tag, or nobody looks at what is in it"
  }
  assert {
    condition     = one(aws_ecs_cluster.this.setting).value == "enabled"
    error_message = "scaling goes by metrics that are not there"
  }
  assert {
    condition     = strcontains(local.image, "111122223333.dkr-ecr.eu-central-1.on.aws/cloudqueue-dev-worker:a1b2c3d4")
    error_message = "without IPv4 the image comes from the dual-stack registry: ${local.image}"
  }
}

run "a_shell_may_be_opened_only_where_it_is_asked_for" {
  command = apply

  assert {
    condition     = jsondecode(aws_ecs_task_definition.tools[0].container_definitions)[0].readonlyRootFilesystem
    error_message = "a one-off container may write into itself"
  }
  assert {
    condition     = output.tools_task.cluster == "cloudqueue-dev" && length(output.tools_task.subnet_ids) == 2
    error_message = "tools_task: ${jsonencode(output.tools_task)}"
  }
}

run "sockets_run_the_web_package" {
  command = apply

  assert {
    condition = (
      aws_lambda_function.sockets["sockets"].handler == "serverless.entrypoints.websocket.handler" &&
      aws_lambda_function.sockets["sockets"].s3_key == "packages/a1b2c3d4.zip" &&
      aws_lambda_function.sockets["sockets"].timeout == 29 &&
      one(aws_lambda_function.sockets["sockets"].vpc_config).ipv6_allowed_for_dual_stack
    )
    error_message = "the function is another one, or has no way out"
  }
  assert {
    condition     = keys(aws_apigatewayv2_route.sockets) == ["$connect", "$default", "$disconnect"]
    error_message = "routes: ${join(", ", keys(aws_apigatewayv2_route.sockets))}"
  }
  assert {
    condition     = output.sockets_url == "wss://mock.execute-api.eu-central-1.amazonaws.com/dev" && output.web_environment.SOCKETS_URL == output.sockets_url
    error_message = "sockets_url: ${output.sockets_url}"
  }
  assert {
    condition     = !can(regex("(?i)query|sourceIp|header|body", one(aws_apigatewayv2_stage.sockets["sockets"].access_log_settings).format))
    error_message = "a line of the access log would hold the token, or who it is"
  }
  assert {
    condition = (
      one(aws_apigatewayv2_stage.sockets["sockets"].default_route_settings).throttling_rate_limit == 200 &&
      one(aws_apigatewayv2_stage.sockets["sockets"].default_route_settings).data_trace_enabled == false
    )
    error_message = "nothing throttles the sockets, or their messages are logged"
  }
  assert {
    condition     = aws_lambda_permission.sockets["sockets"].source_arn == "arn:aws:execute-api:eu-central-1:111122223333:mock/dev/*"
    error_message = "another API may call the function: ${aws_lambda_permission.sockets["sockets"].source_arn}"
  }
}

run "each_alarm_names_its_runbook_and_says_what_silence_means" {
  command = apply

  assert {
    condition = alltrue([
      for each in concat(values(aws_cloudwatch_metric_alarm.this), values(aws_cloudwatch_metric_alarm.workers)) :
      can(regex("See docs/runbooks/[a-z-]+[.]md$", each.alarm_description)) && length(each.alarm_actions) == 1 &&
      contains(["breaching", "notBreaching", "ignore"], each.treat_missing_data)
    ])
    error_message = "an alarm says not what to do"
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.this["housekeeping-silent"].treat_missing_data == "breaching" && aws_cloudwatch_metric_alarm.this["housekeeping-silent"].namespace == "cloudqueue-dev"
    error_message = "when the sampler dies nobody hears of it"
  }
  assert {
    condition = alltrue([
      for name in keys(jsondecode(file("../../tasks/topology.json")).queues) :
      contains(keys(aws_cloudwatch_metric_alarm.this), "queue-late-${name}") &&
      aws_cloudwatch_metric_alarm.this["dead-letters-${name}-dead"].dimensions.QueueName == "cloudqueue-dev-${name}-dead"
    ])
    error_message = "nobody watches a queue: ${join(", ", keys(aws_cloudwatch_metric_alarm.this))}"
  }
  assert {
    condition     = alltrue([for each in ["schedules-dead", "invocations-dead"] : contains(keys(aws_cloudwatch_metric_alarm.this), "dead-letters-${each}")])
    error_message = "nobody watches what EventBridge or a function gave up"
  }
  assert {
    condition     = alltrue([for name in ["cloudqueue-dev", "cloudqueue-dev-sockets"] : contains(keys(aws_cloudwatch_metric_alarm.this), "function-failing-${name}")])
    error_message = "nobody watches a function"
  }
  assert {
    condition     = alltrue([for pool in keys(module.pool) : contains(keys(aws_cloudwatch_metric_alarm.workers), "workers-missing-${pool}")])
    error_message = "nobody watches a pool"
  }
}

run "metrics_go_where_whoever_runs_it_says_and_alarms_follow" {
  command = plan
  variables {
    settings = { METRICS_NAMESPACE = "Shop" }
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.this["publish-lag"].namespace == "Shop"
    error_message = "alarms look elsewhere: ${aws_cloudwatch_metric_alarm.this["publish-lag"].namespace}"
  }
}

run "without_image_and_package_there_is_what_they_are_uploaded_to" {
  command = plan
  variables {
    image   = null
    package = null
  }

  assert {
    condition     = length(module.pool) == 0 && length(aws_lambda_function.sockets) == 0 && length(aws_apigatewayv2_stage.sockets) == 0 && length(aws_ecs_task_definition.tools) == 0
    error_message = "something runs what is not there"
  }
  assert {
    condition     = aws_ecr_repository.worker.name == "cloudqueue-dev-worker" && output.tools_task == null
    error_message = "there is no place to push an image to"
  }
}

run "a_release_migrates_before_its_workers_run" {
  command = plan
  variables {
    one_off_image = "e5f6a7b8"
  }

  assert {
    condition     = endswith(jsondecode(aws_ecs_task_definition.tools[0].container_definitions)[0].image, ":e5f6a7b8") && endswith(local.image, ":a1b2c3d4")
    error_message = "the one-off container is of another release, or workers are of one that has not migrated"
  }
}
