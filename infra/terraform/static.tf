locals {
  static_origin_id = "bucket"
}

# Managed by AWS: the names are theirs.
data "aws_cloudfront_cache_policy" "static" {
  count = var.static_from_cloudfront ? 1 : 0
  name  = "Managed-CachingOptimized"
}

# With CORS: pages load modules and fonts from another origin than their own.
data "aws_cloudfront_response_headers_policy" "static" {
  count = var.static_from_cloudfront ? 1 : 0
  name  = "Managed-CORS-and-SecurityHeadersPolicy"
}

resource "aws_cloudfront_origin_access_control" "static" {
  count = var.static_from_cloudfront ? 1 : 0

  name                              = "${local.name}-static"
  description                       = "Reads the bucket of static files."
  origin_access_control_origin_type = "s3"
  signing_behavior                  = "always"
  signing_protocol                  = "sigv4"
}

resource "aws_cloudfront_distribution" "static" {
  #checkov:skip=CKV_AWS_68:Public files with hashed names and no code behind them: a firewall has nothing to protect
  #checkov:skip=CKV2_AWS_47:No firewall, and so none against Log4j, which is no part of this
  #checkov:skip=CKV_AWS_86:Who fetched a style sheet is not worth keeping; the site logs requests for pages
  #checkov:skip=CKV_AWS_174:The domain is CloudFront's own, whose certificate takes no other setting
  #checkov:skip=CKV2_AWS_42:The domain is CloudFront's own, and nobody reads or types it
  #checkov:skip=CKV_AWS_305:There is no page at the root, only files
  #checkov:skip=CKV_AWS_310:One bucket; a second origin would hold the same files
  #checkov:skip=CKV_AWS_374:The site is for everybody, and so are its files
  count = var.static_from_cloudfront ? 1 : 0

  comment         = "${local.name}: static files"
  enabled         = true
  is_ipv6_enabled = true
  http_version    = "http2and3"
  # North America and Europe, the cheapest class. Elsewhere the files come from there.
  price_class = "PriceClass_100"

  origin {
    origin_id                = local.static_origin_id
    domain_name              = aws_s3_bucket.this["static"].bucket_regional_domain_name
    origin_access_control_id = aws_cloudfront_origin_access_control.static[0].id
  }

  default_cache_behavior {
    target_origin_id           = local.static_origin_id
    allowed_methods            = ["GET", "HEAD", "OPTIONS"]
    cached_methods             = ["GET", "HEAD", "OPTIONS"]
    viewer_protocol_policy     = "redirect-to-https"
    compress                   = true
    cache_policy_id            = data.aws_cloudfront_cache_policy.static[0].id
    response_headers_policy_id = data.aws_cloudfront_response_headers_policy.static[0].id
  }

  restrictions {
    geo_restriction {
      restriction_type = "none"
    }
  }

  viewer_certificate {
    cloudfront_default_certificate = true
  }
}
