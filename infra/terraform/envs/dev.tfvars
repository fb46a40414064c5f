stage      = "dev"
region     = "eu-central-1"
public_url = "https://dev.example.com"
mail_from  = "reports@example.com"
keep_data  = false
