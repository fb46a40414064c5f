terraform {
  # 1.11 is the first with write-only arguments: the secret key never stands in the state.
  required_version = ">= 1.11, < 2.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }

  # One state an environment: its key, region and bucket are given to `init`, see README.md.
  backend "s3" {
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = {
      Project   = var.project
      Stage     = var.stage
      ManagedBy = "terraform"
    }
  }
}

# The same, for ephemeral values: mock providers of `terraform test` refuse a configuration that has any.
provider "aws" {
  alias  = "unmocked"
  region = var.region
}
