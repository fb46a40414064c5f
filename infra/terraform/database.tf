# Postgres: an instance, or Aurora Serverless where `database.engine` says so. The password is made, kept and rotated by
# RDS; nobody types it, and neither plan nor state holds it.

locals {
  database_name = "cloudqueue"
  is_aurora     = var.database.engine == "aurora"
  major_version = split(".", var.database.version)[0]

  database_host = (
    var.database.proxy ? aws_db_proxy.this[0].endpoint :
    local.is_aurora ? aws_rds_cluster.this[0].endpoint : aws_db_instance.this[0].address
  )
  database_secret_arn = (
    local.is_aurora
    ? one(aws_rds_cluster.this[0].master_user_secret).secret_arn
    : one(aws_db_instance.this[0].master_user_secret).secret_arn
  )
}

resource "aws_db_subnet_group" "this" {
  name       = local.name
  subnet_ids = [for subnet in aws_subnet.private : subnet.id]
}

locals {
  # statement_timeout is no parameter here: a migration may take longer than any page.
  database_parameters = {
    "rds.force_ssl" = "1"
    # A function that was frozen in a transaction would hold its locks for ever.
    "idle_in_transaction_session_timeout" = "120000"
    # What waits for a lock for longer than a second is told in the log.
    "log_lock_waits"             = "1"
    "log_min_duration_statement" = "1000"
  }
}

resource "aws_db_parameter_group" "this" {
  count = local.is_aurora ? 0 : 1

  name        = "${local.name}-postgres${local.major_version}"
  family      = "postgres${local.major_version}"
  description = "TLS alone; nothing holds a transaction open."

  dynamic "parameter" {
    for_each = local.database_parameters

    content {
      name  = parameter.key
      value = parameter.value
    }
  }

  # A new major version has a group of its own, and the old one is in use until then.
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_rds_cluster_parameter_group" "this" {
  count = local.is_aurora ? 1 : 0

  name        = "${local.name}-aurora${local.major_version}"
  family      = "aurora-postgresql${local.major_version}"
  description = "TLS alone; nothing holds a transaction open."

  dynamic "parameter" {
    for_each = local.database_parameters

    content {
      name  = parameter.key
      value = parameter.value
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

# RDS would make its own, and keep them for ever.
resource "aws_cloudwatch_log_group" "database" {
  #checkov:skip=CKV_AWS_158:Encrypted with CloudWatch's own key; statements that took long are in it, with what they ask for
  #checkov:skip=CKV_AWS_338:A month answers what operators ask; log_retention_days keeps them for longer
  for_each = toset(local.is_aurora ? ["cluster/${local.name}/postgresql"] : ["instance/${local.name}/postgresql", "instance/${local.name}/upgrade"])

  name              = "/aws/rds/${each.key}"
  retention_in_days = var.log_retention_days
}

resource "aws_db_instance" "this" {
  #checkov:skip=CKV_AWS_133:database.backup_days is 1 or more, which its validation sees to
  #checkov:skip=CKV_AWS_118:Performance Insights tell what waits for what; the operating system's figures are CloudWatch's already
  #checkov:skip=CKV_AWS_157:database.zones=2 makes a second one, at twice the price
  #checkov:skip=CKV_AWS_161:The password is rotated by RDS each week; who wants IAM instead sets DATABASE_IAM
  #checkov:skip=CKV_AWS_293:keep_data=false is for a stage that is thrown away
  #checkov:skip=CKV_AWS_354:Encrypted with RDS's own key of the account
  count = local.is_aurora ? 0 : 1

  identifier     = local.name
  engine         = "postgres"
  engine_version = var.database.version
  instance_class = var.database.instance_class
  multi_az       = var.database.zones == 2

  db_name                     = local.database_name
  username                    = local.database_name
  manage_master_user_password = true

  storage_type          = "gp3"
  allocated_storage     = 20
  max_allocated_storage = var.database.storage_gb
  storage_encrypted     = true

  db_subnet_group_name   = aws_db_subnet_group.this.name
  vpc_security_group_ids = [aws_security_group.database["database"].id]
  parameter_group_name   = aws_db_parameter_group.this[0].name
  publicly_accessible    = false

  backup_retention_period   = var.database.backup_days
  copy_tags_to_snapshot     = true
  deletion_protection       = var.keep_data
  skip_final_snapshot       = !var.keep_data
  final_snapshot_identifier = var.keep_data ? "${local.name}-last" : null

  auto_minor_version_upgrade            = true
  performance_insights_enabled          = true
  performance_insights_retention_period = 7
  enabled_cloudwatch_logs_exports       = ["postgresql", "upgrade"]

  depends_on = [aws_cloudwatch_log_group.database]

  lifecycle {
    # Minor versions are RDS's to raise.
    ignore_changes = [engine_version]
  }
}

resource "aws_rds_cluster" "this" {
  #checkov:skip=CKV_AWS_133:database.backup_days is 1 or more, which its validation sees to
  #checkov:skip=CKV_AWS_162:The password is rotated by RDS each week; who wants IAM instead sets DATABASE_IAM
  #checkov:skip=CKV_AWS_139:keep_data=false is for a stage that is thrown away
  #checkov:skip=CKV_AWS_327:Encrypted with RDS's own key of the account
  #checkov:skip=CKV2_AWS_8:Aurora's own backups are kept for database.backup_days
  #checkov:skip=CKV2_AWS_27:Statements hold what people uploaded; those that take longer than a second are logged
  count = local.is_aurora ? 1 : 0

  cluster_identifier = local.name
  engine             = "aurora-postgresql"
  engine_mode        = "provisioned"
  engine_version     = var.database.version

  database_name               = local.database_name
  master_username             = local.database_name
  manage_master_user_password = true

  storage_encrypted               = true
  db_subnet_group_name            = aws_db_subnet_group.this.name
  vpc_security_group_ids          = [aws_security_group.database["database"].id]
  db_cluster_parameter_group_name = aws_rds_cluster_parameter_group.this[0].name

  backup_retention_period         = var.database.backup_days
  copy_tags_to_snapshot           = true
  deletion_protection             = var.keep_data
  skip_final_snapshot             = !var.keep_data
  final_snapshot_identifier       = var.keep_data ? "${local.name}-last" : null
  enabled_cloudwatch_logs_exports = ["postgresql"]

  serverlessv2_scaling_configuration {
    min_capacity = var.database.aurora_units[0]
    max_capacity = var.database.aurora_units[1]
    # Of Aurora at rest: 15 seconds to wake, which a page waits for.
    seconds_until_auto_pause = var.database.aurora_units[0] == 0 ? 3600 : null
  }

  depends_on = [aws_cloudwatch_log_group.database]

  lifecycle {
    ignore_changes = [engine_version]
  }
}

resource "aws_rds_cluster_instance" "this" {
  #checkov:skip=CKV_AWS_118:Performance Insights tell what waits for what; the operating system's figures are CloudWatch's already
  #checkov:skip=CKV_AWS_354:Encrypted with RDS's own key of the account
  count = local.is_aurora ? var.database.zones : 0

  identifier         = "${local.name}-${count.index}"
  cluster_identifier = aws_rds_cluster.this[0].id
  engine             = aws_rds_cluster.this[0].engine
  instance_class     = "db.serverless"

  auto_minor_version_upgrade            = true
  copy_tags_to_snapshot                 = true
  performance_insights_enabled          = true
  performance_insights_retention_period = 7
}

# A function's sandbox keeps a connection, and there may be a thousand of them: the proxy has a few to the database, and
# keeps them over a failover.
resource "aws_db_proxy" "this" {
  count = var.database.proxy ? 1 : 0

  name                   = local.name
  engine_family          = "POSTGRESQL"
  require_tls            = true
  idle_client_timeout    = 1800
  role_arn               = aws_iam_role.proxy[0].arn
  vpc_subnet_ids         = [for subnet in aws_subnet.private : subnet.id]
  vpc_security_group_ids = [aws_security_group.database["proxy"].id]

  auth {
    auth_scheme = "SECRETS"
    iam_auth    = "DISABLED"
    secret_arn  = local.database_secret_arn
  }
}

resource "aws_db_proxy_default_target_group" "this" {
  count = var.database.proxy ? 1 : 0

  db_proxy_name = aws_db_proxy.this[0].name

  connection_pool_config {
    max_connections_percent   = 80
    connection_borrow_timeout = 10
  }
}

resource "aws_db_proxy_target" "this" {
  count = var.database.proxy ? 1 : 0

  db_proxy_name          = aws_db_proxy.this[0].name
  target_group_name      = aws_db_proxy_default_target_group.this[0].name
  db_instance_identifier = local.is_aurora ? null : aws_db_instance.this[0].identifier
  db_cluster_identifier  = local.is_aurora ? aws_rds_cluster.this[0].cluster_identifier : null
}

resource "aws_iam_role" "proxy" {
  count = var.database.proxy ? 1 : 0

  name               = "${local.name}-proxy"
  description        = "RDS Proxy, when it asks for the database's password."
  assume_role_policy = data.aws_iam_policy_document.proxy_trust[0].json
}

data "aws_iam_policy_document" "proxy_trust" {
  count = var.database.proxy ? 1 : 0

  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["rds.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

data "aws_iam_policy_document" "proxy" {
  count = var.database.proxy ? 1 : 0

  statement {
    sid       = "ReadThePassword"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [local.database_secret_arn]
  }
}

resource "aws_iam_role_policy" "proxy" {
  count = var.database.proxy ? 1 : 0

  name   = "password"
  role   = aws_iam_role.proxy[0].name
  policy = data.aws_iam_policy_document.proxy[0].json
}
