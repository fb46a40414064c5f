stage      = "staging"
region     = "eu-central-1"
public_url = "https://staging.example.com"
mail_from  = "reports@staging.example.com"
