# One for each kind of thing, and each says whom it calls and who may call it.

resource "aws_security_group" "app" {
  #checkov:skip=CKV2_AWS_5:Zappa gives the web function its own; containers and sockets have theirs where image and package are named
  for_each = toset(["web", "worker", "sockets"])

  name        = "${local.name}-${each.key}"
  description = "Calls AWS by https and the database. Nobody calls it."
  vpc_id      = aws_vpc.this.id

  tags = { Name = "${local.name}-${each.key}" }

  # Lambda gives network interfaces back minutes after the function is gone.
  timeouts {
    delete = "45m"
  }
}

locals {
  app_groups = { for name, group in aws_security_group.app : name => group.id }
  # Of the whole world: AWS's endpoints have no addresses of their own that a rule could name, but for S3 and DynamoDB.
  https = merge(
    { ipv6 = { ipv6 = "::/0", ipv4 = null } },
    local.has_nat ? { ipv4 = { ipv6 = null, ipv4 = "0.0.0.0/0" } } : {},
  )
}

resource "aws_vpc_security_group_egress_rule" "https" {
  for_each = { for pair in setproduct(keys(local.app_groups), keys(local.https)) : "${pair[0]}-${pair[1]}" => pair }

  security_group_id = local.app_groups[each.value[0]]
  description       = "AWS, by https"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv6         = local.https[each.value[1]].ipv6
  cidr_ipv4         = local.https[each.value[1]].ipv4
}

resource "aws_vpc_security_group_egress_rule" "gateway" {
  for_each = { for pair in setproduct(keys(local.app_groups), ["s3", "dynamodb"]) : "${pair[0]}-${pair[1]}" => pair }

  security_group_id = local.app_groups[each.value[0]]
  description       = "The gateway endpoint"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  prefix_list_id    = aws_vpc_endpoint.gateway[each.value[1]].prefix_list_id
}

resource "aws_security_group" "shell" {
  count = var.remote_shell && !local.has_nat ? 1 : 0

  name        = "${local.name}-shell"
  description = "The endpoint that a shell in a container goes through."
  vpc_id      = aws_vpc.this.id

  tags = { Name = "${local.name}-shell" }
}

resource "aws_vpc_security_group_ingress_rule" "shell" {
  count = var.remote_shell && !local.has_nat ? 1 : 0

  security_group_id            = aws_security_group.shell[0].id
  description                  = "Containers with a shell"
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
  referenced_security_group_id = local.app_groups["worker"]
}

resource "aws_vpc_security_group_egress_rule" "shell" {
  count = var.remote_shell && !local.has_nat ? 1 : 0

  security_group_id            = local.app_groups["worker"]
  description                  = "The endpoint of a shell"
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
  referenced_security_group_id = aws_security_group.shell[0].id
}

resource "aws_security_group" "nat" {
  count = var.egress == "nat_instance" ? 1 : 0

  name        = "${local.name}-nat"
  description = "Forwards https of the private subnets."
  vpc_id      = aws_vpc.this.id

  tags = { Name = "${local.name}-nat" }
}

resource "aws_vpc_security_group_ingress_rule" "nat" {
  count = var.egress == "nat_instance" ? 1 : 0

  security_group_id = aws_security_group.nat[0].id
  description       = "https of the private subnets"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = var.network_cidr
}

resource "aws_vpc_security_group_egress_rule" "nat" {
  count = var.egress == "nat_instance" ? 1 : 0

  security_group_id = aws_security_group.nat[0].id
  description       = "https to anywhere, and its own packages"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = "0.0.0.0/0"
}

resource "aws_security_group" "database" {
  #checkov:skip=CKV2_AWS_5:The instance, the cluster and the proxy have them, each where it is asked for
  for_each = toset(var.database.proxy ? ["proxy", "database"] : ["database"])

  name        = "${local.name}-${each.key}"
  description = "Postgres, from what may call it."
  vpc_id      = aws_vpc.this.id

  tags = { Name = "${local.name}-${each.key}" }
}

locals {
  database_door = aws_security_group.database[var.database.proxy ? "proxy" : "database"].id
}

resource "aws_vpc_security_group_egress_rule" "postgres" {
  for_each = local.app_groups

  security_group_id            = each.value
  description                  = "The database"
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
  referenced_security_group_id = local.database_door
}

resource "aws_vpc_security_group_ingress_rule" "postgres" {
  for_each = local.app_groups

  security_group_id            = local.database_door
  description                  = "From ${each.key}"
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
  referenced_security_group_id = each.value
}

resource "aws_vpc_security_group_egress_rule" "proxy" {
  count = var.database.proxy ? 1 : 0

  security_group_id            = aws_security_group.database["proxy"].id
  description                  = "The database"
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
  referenced_security_group_id = aws_security_group.database["database"].id
}

resource "aws_vpc_security_group_ingress_rule" "proxy" {
  count = var.database.proxy ? 1 : 0

  security_group_id            = aws_security_group.database["database"].id
  description                  = "The proxy"
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
  referenced_security_group_id = aws_security_group.database["proxy"].id
}
