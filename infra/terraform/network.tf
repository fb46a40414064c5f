# Nothing in it listens to the outside: functions and containers call, and are called by AWS alone.

data "aws_availability_zones" "here" {
  #checkov:skip=CKV_AWS_394:The first two are taken by name, and AWS adds zones behind them
  state = "available"

  # Local and wavelength zones have neither Fargate nor RDS.
  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }
}

locals {
  # RDS wants two.
  zones   = { a = 0, b = 1 }
  has_nat = var.egress != "ipv6"
  # A gateway lives in one zone and would take the others with it; a single instance is what "cheap" means.
  nat_zones = { ipv6 = {}, nat_instance = { a = 0 }, nat_gateway = local.zones }[var.egress]
}

resource "aws_vpc" "this" {
  #checkov:skip=CKV2_AWS_11:Flow logs cost more than the network; who calls what is in CloudTrail, and nothing here can be called
  cidr_block                       = var.network_cidr
  assign_generated_ipv6_cidr_block = true
  enable_dns_hostnames             = true

  tags = { Name = local.name }
}

# Whatever names no group of its own gets this one, which lets nothing through.
resource "aws_default_security_group" "closed" {
  vpc_id = aws_vpc.this.id
}

resource "aws_subnet" "private" {
  for_each = local.zones

  vpc_id                          = aws_vpc.this.id
  availability_zone               = data.aws_availability_zones.here.names[each.value]
  cidr_block                      = cidrsubnet(var.network_cidr, 4, each.value)
  ipv6_cidr_block                 = cidrsubnet(aws_vpc.this.ipv6_cidr_block, 8, each.value)
  assign_ipv6_address_on_creation = true

  tags = { Name = "${local.name}-private-${each.key}" }
}

resource "aws_route_table" "private" {
  for_each = local.zones

  vpc_id = aws_vpc.this.id

  tags = { Name = "${local.name}-private-${each.key}" }
}

resource "aws_route_table_association" "private" {
  for_each = local.zones

  subnet_id      = aws_subnet.private[each.key].id
  route_table_id = aws_route_table.private[each.key].id
}

# Outwards only, and free.
resource "aws_egress_only_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id

  tags = { Name = local.name }
}

resource "aws_route" "ipv6" {
  for_each = local.zones

  route_table_id              = aws_route_table.private[each.key].id
  destination_ipv6_cidr_block = "::/0"
  egress_only_gateway_id      = aws_egress_only_internet_gateway.this.id
}

# Free as well. There is none for execute-api, and there must be none: with private DNS it would answer for every
# API's name, @connections included, and knows private APIs alone.
resource "aws_vpc_endpoint" "gateway" {
  for_each = toset(["s3", "dynamodb"])

  vpc_id            = aws_vpc.this.id
  service_name      = "com.amazonaws.${var.region}.${each.key}"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [for table in aws_route_table.private : table.id]

  tags = { Name = "${local.name}-${each.key}" }
}

# For a shell in a container, where there is no IPv4: it is paid by the hour, so it is there only when it is asked for.
resource "aws_vpc_endpoint" "shell" {
  count = var.remote_shell && !local.has_nat ? 1 : 0

  vpc_id              = aws_vpc.this.id
  service_name        = "com.amazonaws.${var.region}.ssmmessages"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = [aws_subnet.private["a"].id]
  security_group_ids  = [aws_security_group.shell[0].id]

  tags = { Name = "${local.name}-ssmmessages" }
}
