locals {
  # A bucket's name is one of the whole world's: the account makes it ours.
  buckets = merge(
    # uploads/ what people upload; work/ parts of it; reports/; results/ of runs; claim-checks/ bodies of messages.
    { files = "${local.name}-${local.account}-files" },
    # Packages by their hash, and Zappa's templates.
    { artifacts = "${local.name}-${local.account}-artifacts" },
    var.static_from_cloudfront ? { static = "${local.name}-${local.account}-static" } : {},
  )

  # As serverless/broker names them in a claim check's key: claim-checks/30d/...
  claim_check_days       = [30, 400]
  dead_letter_days       = 14
  longest_retention_days = max([for queue in local.topology.queues : queue.retention_days]...)
}

resource "aws_s3_bucket" "this" {
  #checkov:skip=CKV_AWS_18:Access logs of buckets that only our roles reach would cost more than the buckets; CloudTrail's data events are there where they are asked for
  #checkov:skip=CKV_AWS_21:Each object is written once, under a name of its own, and what a person deletes must be gone; versions would keep it
  #checkov:skip=CKV_AWS_144:Uploads and reports can be made again; a copy in another region is a decision of whoever runs this
  #checkov:skip=CKV_AWS_145:Encrypted with S3's own key: a key of KMS costs a request for each object, and every role that reads would need it
  #checkov:skip=CKV2_AWS_62:Nothing listens to the bucket: a page or a task says what it has put there
  for_each = local.buckets

  bucket        = each.value
  force_destroy = !var.keep_data
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each = aws_s3_bucket.this

  bucket                  = each.value.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_policy" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id
  policy = data.aws_iam_policy_document.bucket[each.key].json

  # S3 refuses one while the other is being changed.
  depends_on = [aws_s3_bucket_public_access_block.this]
}

data "aws_iam_policy_document" "bucket" {
  for_each = local.buckets

  statement {
    sid       = "RefusePlainHttp"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = ["arn:${local.partition}:s3:::${each.value}", "arn:${local.partition}:s3:::${each.value}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }

  dynamic "statement" {
    for_each = each.key == "static" ? aws_cloudfront_distribution.static : []

    content {
      sid       = "ReadThroughCloudFront"
      actions   = ["s3:GetObject"]
      resources = ["arn:${local.partition}:s3:::${each.value}/*"]

      principals {
        type        = "Service"
        identifiers = ["cloudfront.amazonaws.com"]
      }

      condition {
        test     = "StringEquals"
        variable = "AWS:SourceArn"
        values   = [statement.value.arn]
      }
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id

  rule {
    id     = "incomplete-uploads"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }

  # Everything else is deleted by whoever made it: datasets with what belongs to them, results with their runs. A claim
  # check is nobody's: its message may be delivered again, or lie among the dead letters.
  dynamic "rule" {
    for_each = each.key == "files" ? local.claim_check_days : []

    content {
      id     = "claim-checks-${rule.value}d"
      status = "Enabled"

      filter {
        prefix = "claim-checks/${rule.value}d/"
      }

      expiration {
        days = rule.value
      }
    }
  }

  lifecycle {
    precondition {
      condition     = min(local.claim_check_days...) >= local.longest_retention_days + local.dead_letter_days
      error_message = "A body would be deleted while its message waits: claim_check_days=${jsonencode(local.claim_check_days)} begins below ${local.longest_retention_days} days in a queue and ${local.dead_letter_days} among dead letters. Raise it, and retention_days in serverless/broker/options.py."
    }
  }
}

resource "aws_s3_bucket_cors_configuration" "files" {
  bucket = aws_s3_bucket.this["files"].id

  cors_rule {
    allowed_origins = [local.public_origin]
    allowed_methods = ["POST"]
    allowed_headers = ["*"]
    expose_headers  = ["ETag", "Location"]
    max_age_seconds = 3000
  }
}

# Connections and groups, as serverless/websockets/table.py defines them.
resource "aws_dynamodb_table" "sockets" {
  #checkov:skip=CKV_AWS_28:Nothing to restore: a row lives as long as its socket, two hours at most
  #checkov:skip=CKV_AWS_119:Encrypted with DynamoDB's own key: rows hold ids and what a consumer keeps, for two hours at most
  name         = "${local.name}-sockets"
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "pk"
  range_key    = "sk"

  attribute {
    name = "pk"
    type = "S"
  }

  attribute {
    name = "sk"
    type = "S"
  }

  ttl {
    attribute_name = "expires_at"
    enabled        = true
  }

  point_in_time_recovery {
    enabled = false
  }
}
