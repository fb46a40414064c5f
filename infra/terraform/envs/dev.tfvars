stage      = "dev"
region     = "eu-central-1"
public_url = "https://dev.example.com"
mail_from  = "reports@dev.example.com"
keep_data  = false

# Nobody waits for a stage that is thrown away.
database = { proxy = false, backup_days = 1 }
