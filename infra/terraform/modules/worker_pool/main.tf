resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_158:Encrypted with CloudWatch's own key; lines hold ids, no arguments and no secrets
  #checkov:skip=CKV_AWS_338:A month answers what operators ask; log_retention_days keeps them for longer
  name              = "/${var.name}/workers/${var.pool}"
  retention_in_days = var.log_retention_days
}

resource "aws_ecs_task_definition" "this" {
  family                   = "${var.name}-${var.pool}"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu_units
  memory                   = var.memory_mib
  execution_role_arn       = var.execution_role_arn
  task_role_arn            = var.task_role_arn
  # A deployment that fails goes back to the former one, which must still be there.
  skip_destroy = true

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.architecture
  }

  # The only place that can be written to. Fargate has no tmpfs; whose it is, the image says by its VOLUME.
  volume {
    name = "tmp"
  }

  container_definitions = jsonencode([{
    name      = "worker"
    image     = var.image
    essential = true
    # The image's entry point is process 1, and runs it.
    command                = ["python", "-m", "serverless.entrypoints.worker", "--pool", var.pool]
    user                   = var.user
    readonlyRootFilesystem = true
    # Fargate's most. A worker hands back by then what it has not finished.
    stopTimeout = var.stop_timeout_seconds

    environment = [for name in sort(keys(var.environment)) : { name = name, value = var.environment[name] }]
    mountPoints = [{ sourceVolume = "tmp", containerPath = "/tmp", readOnly = false }]

    linuxParameters = { capabilities = { drop = ["ALL"] } }

    # The same as the Dockerfile's, which ECS does not look at.
    healthCheck = {
      command     = ["CMD", "python", "-m", "serverless.entrypoints.worker_health"]
      interval    = 30
      timeout     = 5
      retries     = 3
      startPeriod = 60
    }

    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.this.name
        awslogs-region        = var.region
        awslogs-stream-prefix = var.pool
        # What waits for CloudWatch must not hold a task up.
        mode            = "non-blocking"
        max-buffer-size = "4m"
      }
    }
  }])
}

resource "aws_ecs_service" "this" {
  name            = var.pool
  cluster         = var.cluster.arn
  task_definition = aws_ecs_task_definition.this.arn
  desired_count   = var.minimum
  propagate_tags  = "SERVICE"

  enable_ecs_managed_tags = true

  capacity_provider_strategy {
    capacity_provider = var.spot ? "FARGATE_SPOT" : "FARGATE"
    weight            = 1
  }

  # The old ones go when the new ones are well. A worker that is protected goes when it gives that up.
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.subnet_ids
    security_groups  = [var.security_group_id]
    assign_public_ip = false
  }

  lifecycle {
    # Scaling's.
    ignore_changes = [desired_count]
  }
}

module "scaling" {
  source = "../scaling"

  name                    = "${var.name}-${var.pool}"
  pool                    = var.pool
  cluster                 = var.cluster.name
  service                 = aws_ecs_service.this.name
  queues                  = var.queues
  minimum                 = var.minimum
  maximum                 = var.maximum
  slots                   = var.concurrency
  prefetch                = var.prefetch
  acceptable_wait_seconds = var.acceptable_wait_seconds
  mean_task_seconds       = var.mean_task_seconds
}
