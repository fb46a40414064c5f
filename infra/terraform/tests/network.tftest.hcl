# What is called, and by which way.

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

run "by_default_everything_goes_by_ipv6_and_costs_nothing" {
  command = plan

  assert {
    condition = (
      length(aws_nat_gateway.this) == 0 && length(aws_instance.nat) == 0 && length(aws_eip.nat) == 0 &&
      length(aws_internet_gateway.nat) == 0 && length(aws_subnet.public) == 0 && length(aws_vpc_endpoint.shell) == 0
    )
    error_message = "something is paid for by the hour"
  }
  assert {
    condition     = keys(aws_vpc_endpoint.gateway) == ["dynamodb", "s3"] && alltrue([for each in aws_vpc_endpoint.gateway : each.vpc_endpoint_type == "Gateway"])
    error_message = "endpoints: ${join(", ", keys(aws_vpc_endpoint.gateway))}"
  }
  assert {
    condition     = alltrue([for each in aws_route.ipv6 : each.destination_ipv6_cidr_block == "::/0"]) && keys(aws_route.ipv6) == keys(aws_subnet.private)
    error_message = "a subnet has no way out"
  }
  assert {
    condition     = output.routes.sqs == "ipv6" && output.routes.s3 == "gateway endpoint" && output.routes.execute-api == "ipv6" && output.routes.ssmmessages == "not called"
    error_message = "routes: ${jsonencode(output.routes)}"
  }
  assert {
    condition     = local.https == { ipv6 = { ipv6 = "::/0", ipv4 = null } }
    error_message = "groups let through what has no route: ${jsonencode(local.https)}"
  }
  assert {
    condition     = length(distinct([for each in aws_subnet.private : each.availability_zone])) == 2 && alltrue([for each in aws_subnet.private : each.assign_ipv6_address_on_creation])
    error_message = "subnets share a zone, or have no IPv6"
  }
  assert {
    condition     = aws_apigatewayv2_api.sockets.ip_address_type == "dualstack"
    error_message = "workers could not push to sockets: the API has no IPv6 address"
  }
}

run "a_shell_has_an_endpoint_where_there_is_no_ipv4" {
  command = plan
  variables {
    remote_shell = true
  }

  assert {
    condition     = output.routes.ssmmessages == "interface endpoint" && endswith(aws_vpc_endpoint.shell[0].service_name, ".ssmmessages")
    error_message = "route: ${output.routes.ssmmessages}"
  }
  assert {
    condition     = one(aws_vpc_security_group_ingress_rule.shell).from_port == 443
    error_message = "nobody may call the endpoint"
  }
}

run "one_nat_instance_serves_both_zones" {
  command = plan
  variables {
    egress       = "nat_instance"
    remote_shell = true
  }

  assert {
    condition     = length(aws_instance.nat) == 1 && length(aws_nat_gateway.this) == 0 && keys(aws_route.nat) == ["a", "b"] && keys(aws_subnet.public) == ["a"]
    error_message = "instances: ${length(aws_instance.nat)}, routes: ${join(", ", keys(aws_route.nat))}"
  }
  assert {
    condition     = !aws_instance.nat[0].source_dest_check && one(aws_instance.nat[0].metadata_options).http_tokens == "required"
    error_message = "it would drop what it is to forward, or give its credentials away"
  }
  assert {
    condition     = output.routes.sqs == "nat_instance" && output.routes.dynamodb == "gateway endpoint" && length(aws_vpc_endpoint.shell) == 0
    error_message = "routes: ${jsonencode(output.routes)}"
  }
  assert {
    condition     = contains(keys(aws_cloudwatch_metric_alarm.this), "nat-instance-down")
    error_message = "nobody would hear that it is down"
  }
  assert {
    condition     = contains(keys(local.https), "ipv4")
    error_message = "groups let no IPv4 out"
  }
}

run "a_nat_gateway_in_each_zone_lives_without_the_other" {
  command = plan
  variables {
    egress = "nat_gateway"
  }

  assert {
    condition     = keys(aws_nat_gateway.this) == ["a", "b"] && length(aws_instance.nat) == 0 && keys(aws_route.nat) == ["a", "b"] && keys(aws_eip.nat) == ["a", "b"]
    error_message = "gateways: ${join(", ", keys(aws_nat_gateway.this))}"
  }
  assert {
    condition     = output.routes.ses == "nat_gateway"
    error_message = "routes: ${jsonencode(output.routes)}"
  }
}

run "aurora_takes_the_instances_place" {
  command = plan
  variables {
    database = { engine = "aurora", version = "17.4", proxy = false, zones = 2 }
  }

  assert {
    condition     = length(aws_db_instance.this) == 0 && length(aws_rds_cluster_instance.this) == 2 && length(aws_db_proxy.this) == 0
    error_message = "instances: ${length(aws_db_instance.this)}, ${length(aws_rds_cluster_instance.this)}"
  }
  assert {
    condition     = aws_rds_cluster.this[0].manage_master_user_password && aws_rds_cluster.this[0].storage_encrypted && aws_rds_cluster.this[0].deletion_protection
    error_message = "somebody types its password, it is not encrypted, or it may be deleted"
  }
  assert {
    condition     = one(aws_rds_cluster.this[0].serverlessv2_scaling_configuration).min_capacity == 0.5 && aws_rds_cluster_parameter_group.this[0].family == "aurora-postgresql17"
    error_message = "units or parameters are others"
  }
  assert {
    condition     = !contains(keys(aws_cloudwatch_metric_alarm.this), "database-full")
    error_message = "Aurora's storage is never full"
  }
}

run "a_database_speaks_tls_is_kept_and_backed_up" {
  command = plan

  assert {
    condition     = contains([for each in aws_db_parameter_group.this[0].parameter : "${each.name}=${each.value}"], "rds.force_ssl=1")
    error_message = "the database takes connections in clear"
  }
  assert {
    condition = (
      aws_db_instance.this[0].deletion_protection && !aws_db_instance.this[0].skip_final_snapshot &&
      aws_db_instance.this[0].backup_retention_period == 7 && !aws_db_instance.this[0].publicly_accessible &&
      aws_db_instance.this[0].manage_master_user_password && aws_db_instance.this[0].password == null &&
      aws_db_instance.this[0].performance_insights_enabled
    )
    error_message = "data could be lost, or reached"
  }
  assert {
    condition     = aws_db_proxy.this[0].require_tls && one(aws_db_proxy.this[0].auth).auth_scheme == "SECRETS"
    error_message = "the proxy takes connections in clear"
  }
}

run "a_stage_that_is_thrown_away_leaves_nothing" {
  command = plan
  variables {
    keep_data = false
  }

  assert {
    condition     = !aws_db_instance.this[0].deletion_protection && aws_db_instance.this[0].skip_final_snapshot && aws_ecr_repository.worker.force_delete
    error_message = "destroy would stop half-way"
  }
}
