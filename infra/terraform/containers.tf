# Worker containers. What the image brings is in docs/containers.md; nothing here runs until `image` names one.

locals {
  container_user = "10001:10001"
  image_address = (
    local.has_nat
    ? aws_ecr_repository.worker.repository_url
    # The registry's dual-stack name.
    : "${local.account}.dkr-ecr.${var.region}.on.aws/${aws_ecr_repository.worker.name}"
  )
  image = "${local.image_address}:${coalesce(var.image, "none-yet")}"
  # A release migrates before its workers run, so its one-off container comes first.
  one_off_tag = try(coalesce(var.one_off_image, var.image), null)
  pools       = var.image == null ? {} : local.topology.pools

  queues_of_pool = {
    for pool in keys(local.topology.pools) :
    pool => [for name, queue in local.topology.queues : name if queue.pool == pool]
  }

  # The image brings the rest.
  container_environment = merge(local.environment, { PUBLIC_URL = var.public_url })
}

resource "aws_ecr_repository" "worker" {
  #checkov:skip=CKV_AWS_136:Encrypted with ECR's own key; an image holds code, and no secrets
  name                 = "${local.name}-worker"
  image_tag_mutability = "IMMUTABLE"
  force_delete         = !var.keep_data

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = "AES256"
  }
}

resource "aws_ecr_lifecycle_policy" "worker" {
  repository = aws_ecr_repository.worker.name
  policy = jsonencode({
    rules = [
      {
        rulePriority = 1
        description  = "What has lost its tag is nobody's"
        selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 1 }
        action       = { type = "expire" }
      },
      {
        rulePriority = 2
        description  = "Twenty releases to go back to"
        selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 20 }
        action       = { type = "expire" }
      },
    ]
  })
}

resource "aws_ecs_cluster" "this" {
  name = local.name

  # DesiredTaskCount, which scaling goes by, is one of its metrics.
  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}

resource "aws_ecs_cluster_capacity_providers" "this" {
  cluster_name       = aws_ecs_cluster.this.name
  capacity_providers = ["FARGATE", "FARGATE_SPOT"]
}

# Made here, since the cluster would make its own and keep it for ever.
resource "aws_cloudwatch_log_group" "insights" {
  #checkov:skip=CKV_AWS_158:Encrypted with CloudWatch's own key; it holds figures
  #checkov:skip=CKV_AWS_338:CloudWatch keeps the metrics; what they are made of is of no use after a day
  name              = "/aws/ecs/containerinsights/${local.name}/performance"
  retention_in_days = 1
}

module "pool" {
  source   = "./modules/worker_pool"
  for_each = local.pools

  name                    = local.name
  pool                    = each.key
  region                  = var.region
  cluster                 = { name = aws_ecs_cluster_capacity_providers.this.cluster_name, arn = aws_ecs_cluster.this.arn }
  image                   = local.image
  architecture            = var.worker_architecture
  user                    = local.container_user
  environment             = local.container_environment
  execution_role_arn      = aws_iam_role.execution.arn
  task_role_arn           = aws_iam_role.worker.arn
  subnet_ids              = [for subnet in aws_subnet.private : subnet.id]
  security_group_id       = aws_security_group.app["worker"].id
  log_retention_days      = var.log_retention_days
  queues                  = [for name in local.queues_of_pool[each.key] : "${local.name}-${name}"]
  cpu_units               = each.value.cpu_units
  memory_mib              = each.value.memory_mib
  concurrency             = each.value.concurrency
  prefetch                = max([for name in local.queues_of_pool[each.key] : local.topology.queues[name].prefetch]...)
  minimum                 = each.value.minimum
  maximum                 = each.value.maximum
  acceptable_wait_seconds = each.value.acceptable_wait_seconds
  mean_task_seconds       = each.value.mean_task_seconds
  spot                    = each.value.spot

  # A worker that starts before it may do something fails, and a deployment that fails is undone.
  depends_on = [aws_iam_role_policy.worker, aws_iam_role_policy.execution]
}

# For what an operator or a deploy runs once: `manage.py migrate` and, with remote_shell, a shell.
resource "aws_cloudwatch_log_group" "tools" {
  #checkov:skip=CKV_AWS_158:Encrypted with CloudWatch's own key; lines hold ids, no arguments and no secrets
  #checkov:skip=CKV_AWS_338:A month answers what operators ask; log_retention_days keeps them for longer
  name              = "/${local.name}/tools"
  retention_in_days = var.log_retention_days
}

resource "aws_ecs_task_definition" "tools" {
  #checkov:skip=CKV_AWS_336:A shell's agent writes beside itself, where the image has no volume
  count = local.one_off_tag == null ? 0 : 1

  family                   = "${local.name}-tools"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = 512
  memory                   = 1024
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.tools.arn
  # One that runs while a deploy makes the next keeps its own.
  skip_destroy = true

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.worker_architecture
  }

  volume {
    name = "tmp"
  }

  container_definitions = jsonencode([{
    name      = "tools"
    image     = "${local.image_address}:${local.one_off_tag}"
    essential = true
    # Whoever runs it says what; told nothing, it says whether it could: settings, database, migrations.
    command                = ["python", "manage.py", "showmigrations"]
    user                   = local.container_user
    readonlyRootFilesystem = !var.remote_shell
    stopTimeout            = 120

    environment     = [for name in sort(keys(local.container_environment)) : { name = name, value = local.container_environment[name] }]
    mountPoints     = [{ sourceVolume = "tmp", containerPath = "/tmp", readOnly = false }]
    linuxParameters = { capabilities = { drop = ["ALL"] } }

    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.tools.name
        awslogs-region        = var.region
        awslogs-stream-prefix = "tools"
      }
    }
  }])
}
