stage                  = "production"
region                 = "eu-central-1"
public_url             = "https://www.example.com"
mail_from              = "reports@example.com"
static_from_cloudfront = true
log_retention_days     = 90
