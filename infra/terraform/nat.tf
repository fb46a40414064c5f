# IPv4 to the outside, where `egress` asks for it: for what has no IPv6 address, such as an error tracker.

resource "aws_internet_gateway" "nat" {
  count = local.has_nat ? 1 : 0

  vpc_id = aws_vpc.this.id

  tags = { Name = local.name }
}

resource "aws_subnet" "public" {
  for_each = local.nat_zones

  vpc_id            = aws_vpc.this.id
  availability_zone = data.aws_availability_zones.here.names[each.value]
  cidr_block        = cidrsubnet(var.network_cidr, 8, 240 + each.value)

  tags = { Name = "${local.name}-public-${each.key}" }
}

resource "aws_route_table" "public" {
  count = local.has_nat ? 1 : 0

  vpc_id = aws_vpc.this.id

  tags = { Name = "${local.name}-public" }
}

resource "aws_route" "internet" {
  count = local.has_nat ? 1 : 0

  route_table_id         = aws_route_table.public[0].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.nat[0].id
}

resource "aws_route_table_association" "public" {
  for_each = local.nat_zones

  subnet_id      = aws_subnet.public[each.key].id
  route_table_id = aws_route_table.public[0].id
}

resource "aws_eip" "nat" {
  for_each = local.nat_zones

  domain = "vpc"

  tags = { Name = "${local.name}-nat-${each.key}" }
}

resource "aws_nat_gateway" "this" {
  for_each = var.egress == "nat_gateway" ? local.zones : {}

  allocation_id = aws_eip.nat[each.key].id
  subnet_id     = aws_subnet.public[each.key].id

  tags = { Name = "${local.name}-${each.key}" }
}

# Amazon Linux, the newest when the instance is made: later ones do not replace it.
data "aws_ssm_parameter" "amazon_linux" {
  count = var.egress == "nat_instance" ? 1 : 0
  name  = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"
}

resource "aws_instance" "nat" {
  #checkov:skip=CKV_AWS_126:It forwards packets; five minutes of detail are enough, and alarms look at whether it answers
  #checkov:skip=CKV2_AWS_41:It calls no AWS service, so it needs no role
  #checkov:skip=CKV_AWS_88:Its address is the elastic one
  count = var.egress == "nat_instance" ? 1 : 0

  ami                    = data.aws_ssm_parameter.amazon_linux[0].insecure_value
  instance_type          = "t4g.nano"
  subnet_id              = aws_subnet.public["a"].id
  vpc_security_group_ids = [aws_security_group.nat[0].id]
  source_dest_check      = false
  ebs_optimized          = true

  # Without a key and without ssh: what is wrong with it is mended by making it anew.
  user_data_replace_on_change = true
  user_data                   = <<-SCRIPT
    #!/bin/bash
    set -eu
    # Its public address may come later than it does.
    until dnf install -y nftables; do sleep 5; done
    echo net.ipv4.ip_forward=1 > /etc/sysctl.d/90-nat.conf
    sysctl -p /etc/sysctl.d/90-nat.conf
    cat > /etc/sysconfig/nftables.conf <<RULES
    table ip nat {
      chain postrouting {
        type nat hook postrouting priority 100;
        ip saddr ${var.network_cidr} masquerade
      }
    }
    RULES
    systemctl enable --now nftables
  SCRIPT

  metadata_options {
    http_tokens = "required"
  }

  root_block_device {
    encrypted = true
  }

  tags = { Name = "${local.name}-nat" }

  lifecycle {
    ignore_changes = [ami]
  }
}

resource "aws_eip_association" "nat" {
  count = var.egress == "nat_instance" ? 1 : 0

  instance_id   = aws_instance.nat[0].id
  allocation_id = aws_eip.nat["a"].id
}

resource "aws_route" "nat" {
  for_each = local.has_nat ? local.zones : {}

  route_table_id         = aws_route_table.private[each.key].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = var.egress == "nat_gateway" ? aws_nat_gateway.this[each.key].id : null
  network_interface_id   = var.egress == "nat_instance" ? aws_instance.nat[0].primary_network_interface_id : null
}
