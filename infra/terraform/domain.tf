# The site's own name: public_url's host, where `domain` says that it is made here.

locals {
  public_host = regex("^https://([^:/]+)", var.public_url)[0]
  public_path = trimprefix(regex("^https://[^/]+(.*)$", var.public_url)[0], "/")
  # With a zone of Route 53 its records are made as well; otherwise outputs say what somebody else's DNS must have.
  zone_id     = try(var.domain.zone_id, null)
  is_our_cert = var.domain != null && try(var.domain.certificate_arn, null) == null
}

resource "aws_acm_certificate" "this" {
  count = local.is_our_cert ? 1 : 0

  domain_name       = local.public_host
  validation_method = "DNS"

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_route53_record" "certificate" {
  for_each = local.is_our_cert ? toset([local.public_host]) : toset([])

  zone_id         = local.zone_id
  name            = one(aws_acm_certificate.this[0].domain_validation_options).resource_record_name
  type            = one(aws_acm_certificate.this[0].domain_validation_options).resource_record_type
  records         = [one(aws_acm_certificate.this[0].domain_validation_options).resource_record_value]
  ttl             = 300
  allow_overwrite = true
}

resource "aws_acm_certificate_validation" "this" {
  count = local.is_our_cert ? 1 : 0

  certificate_arn         = aws_acm_certificate.this[0].arn
  validation_record_fqdns = [for record in aws_route53_record.certificate : record.fqdn]
}

resource "aws_api_gateway_domain_name" "this" {
  count = var.domain == null ? 0 : 1

  domain_name              = local.public_host
  regional_certificate_arn = local.is_our_cert ? aws_acm_certificate_validation.this[0].certificate_arn : var.domain.certificate_arn
  security_policy          = "TLS_1_2"

  endpoint_configuration {
    types           = ["REGIONAL"]
    ip_address_type = "dualstack"
  }
}

# Zappa makes the API, so its id is known after the first deploy.
resource "aws_api_gateway_base_path_mapping" "this" {
  count = try(var.domain.web_api_id, null) == null ? 0 : 1

  domain_name = aws_api_gateway_domain_name.this[0].domain_name
  api_id      = var.domain.web_api_id
  stage_name  = var.stage
  base_path   = local.public_path == "" ? null : local.public_path
}

resource "aws_route53_record" "site" {
  for_each = local.zone_id == null ? toset([]) : toset(["A", "AAAA"])

  zone_id = local.zone_id
  name    = local.public_host
  type    = each.key

  alias {
    name                   = aws_api_gateway_domain_name.this[0].regional_domain_name
    zone_id                = aws_api_gateway_domain_name.this[0].regional_zone_id
    evaluate_target_health = false
  }
}

# Three keys, which SES changes by itself.
resource "aws_route53_record" "dkim" {
  for_each = local.zone_id != null && var.mail_identity == "domain" ? { first = 0, second = 1, third = 2 } : {}

  zone_id = local.zone_id
  name    = "${local.dkim_tokens[each.value]}._domainkey.${local.mail_domain}"
  type    = "CNAME"
  records = ["${local.dkim_tokens[each.value]}.dkim.amazonses.com"]
  ttl     = 3600
}
