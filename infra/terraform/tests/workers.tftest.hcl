# What the modules of workers refuse by themselves, whoever uses them.

mock_provider "aws" {
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:111122223333:log-group:mock" }
  }
  mock_resource "aws_appautoscaling_policy" {
    defaults = { arn = "arn:aws:autoscaling:eu-central-1:111122223333:scalingPolicy:mock" }
  }
}

variables {
  name                    = "cloudqueue-dev"
  pool                    = "general"
  region                  = "eu-central-1"
  cluster                 = { name = "cloudqueue-dev", arn = "arn:aws:ecs:eu-central-1:111122223333:cluster/cloudqueue-dev" }
  image                   = "111122223333.dkr-ecr.eu-central-1.on.aws/cloudqueue-dev-worker:a1b2c3d4"
  architecture            = "X86_64"
  user                    = "10001:10001"
  environment             = { FILES_BUCKET = "cloudqueue-dev-files" }
  execution_role_arn      = "arn:aws:iam::111122223333:role/cloudqueue-dev-execution"
  task_role_arn           = "arn:aws:iam::111122223333:role/cloudqueue-dev-worker"
  subnet_ids              = ["subnet-a", "subnet-b"]
  security_group_id       = "sg-a"
  log_retention_days      = 30
  queues                  = ["cloudqueue-dev-high", "cloudqueue-dev-low"]
  cpu_units               = 512
  memory_mib              = 1024
  concurrency             = 2
  prefetch                = 10
  minimum                 = 0
  maximum                 = 10
  acceptable_wait_seconds = 60
  mean_task_seconds       = 4
  spot                    = false
}

run "a_container_can_write_to_its_tmp_alone_and_is_nobody" {
  command = plan
  module {
    source = "./modules/worker_pool"
  }

  assert {
    condition = (
      jsondecode(aws_ecs_task_definition.this.container_definitions)[0].readonlyRootFilesystem &&
      jsondecode(aws_ecs_task_definition.this.container_definitions)[0].user == "10001:10001" &&
      jsondecode(aws_ecs_task_definition.this.container_definitions)[0].linuxParameters.capabilities.drop == ["ALL"] &&
      jsondecode(aws_ecs_task_definition.this.container_definitions)[0].mountPoints[0].containerPath == "/tmp"
    )
    error_message = aws_ecs_task_definition.this.container_definitions
  }
  assert {
    condition = (
      jsondecode(aws_ecs_task_definition.this.container_definitions)[0].command == ["python", "-m", "serverless.entrypoints.worker", "--pool", "general"] &&
      jsondecode(aws_ecs_task_definition.this.container_definitions)[0].healthCheck.command == ["CMD", "python", "-m", "serverless.entrypoints.worker_health"] &&
      jsondecode(aws_ecs_task_definition.this.container_definitions)[0].stopTimeout == 120
    )
    error_message = aws_ecs_task_definition.this.container_definitions
  }
  assert {
    condition = (
      one(aws_ecs_service.this.deployment_circuit_breaker).rollback && !one(aws_ecs_service.this.network_configuration).assign_public_ip &&
      aws_ecs_service.this.desired_count == 0 && one(aws_ecs_service.this.capacity_provider_strategy).capacity_provider == "FARGATE"
    )
    error_message = "a deployment that fails stays, workers can be reached, or one waits for nothing"
  }
}

run "a_pool_on_spot_runs_on_spot" {
  command = plan
  module {
    source = "./modules/worker_pool"
  }
  variables {
    spot = true
  }

  assert {
    condition     = one(aws_ecs_service.this.capacity_provider_strategy).capacity_provider == "FARGATE_SPOT"
    error_message = "it is paid in full"
  }
}

run "a_pool_that_never_sleeps_has_neither_wake_nor_sleep" {
  command = plan
  module {
    source = "./modules/scaling"
  }
  variables {
    cluster = "cloudqueue-dev"
    service = "general"
    slots   = 2
    minimum = 1
  }

  assert {
    condition     = keys(aws_cloudwatch_metric_alarm.step) == ["give_back"] && aws_appautoscaling_target.this.min_capacity == 1
    error_message = "alarms: ${join(", ", keys(aws_cloudwatch_metric_alarm.step))}"
  }
}

run "an_image_without_a_release_is_refused" {
  command = plan
  module {
    source = "./modules/worker_pool"
  }
  variables {
    image = "111122223333.dkr-ecr.eu-central-1.on.aws/cloudqueue-dev-worker:latest"
  }
  expect_failures = [var.image]
}

run "an_architecture_that_is_none_is_refused" {
  command = plan
  module {
    source = "./modules/worker_pool"
  }
  variables {
    architecture = "arm64"
  }
  expect_failures = [var.architecture]
}

run "root_is_refused" {
  command = plan
  module {
    source = "./modules/worker_pool"
  }
  variables {
    user = "0:0"
  }
  expect_failures = [var.user]
}

run "a_stop_that_fargate_does_not_wait_for_is_refused" {
  command = plan
  module {
    source = "./modules/worker_pool"
  }
  variables {
    stop_timeout_seconds = 300
  }
  expect_failures = [var.stop_timeout_seconds]
}

run "a_size_that_fargate_has_not_is_refused" {
  command = plan
  module {
    source = "./modules/worker_pool"
  }
  variables {
    cpu_units = 500
  }
  expect_failures = [var.cpu_units]
}

run "memory_that_does_not_go_with_the_size_is_refused" {
  command = plan
  module {
    source = "./modules/worker_pool"
  }
  variables {
    memory_mib = 512
  }
  expect_failures = [var.memory_mib]
}

run "more_queues_than_an_alarm_can_watch_are_refused" {
  command = plan
  module {
    source = "./modules/scaling"
  }
  variables {
    queues  = ["a", "b", "c", "d", "e"]
    cluster = "cloudqueue-dev"
    service = "general"
    slots   = 2
  }
  expect_failures = [var.queues]
}

run "a_minimum_above_the_maximum_is_refused" {
  command = plan
  module {
    source = "./modules/scaling"
  }
  variables {
    minimum = 11
    cluster = "cloudqueue-dev"
    service = "general"
    slots   = 2
  }
  expect_failures = [var.minimum]
}

run "a_pool_of_nobody_is_refused" {
  command = plan
  module {
    source = "./modules/scaling"
  }
  variables {
    maximum = 0
    cluster = "cloudqueue-dev"
    service = "general"
    slots   = 2
  }
  expect_failures = [var.maximum]
}

run "a_worker_without_slots_is_refused" {
  command = plan
  module {
    source = "./modules/scaling"
  }
  variables {
    slots   = 0
    cluster = "cloudqueue-dev"
    service = "general"
  }
  expect_failures = [var.slots]
}

run "no_wait_at_all_is_refused" {
  command = plan
  module {
    source = "./modules/scaling"
  }
  variables {
    acceptable_wait_seconds = 0
    cluster                 = "cloudqueue-dev"
    service                 = "general"
    slots                   = 2
  }
  expect_failures = [var.acceptable_wait_seconds]
}

run "tasks_that_take_no_time_are_refused" {
  command = plan
  module {
    source = "./modules/scaling"
  }
  variables {
    mean_task_seconds = 0
    cluster           = "cloudqueue-dev"
    service           = "general"
    slots             = 2
  }
  expect_failures = [var.mean_task_seconds]
}
