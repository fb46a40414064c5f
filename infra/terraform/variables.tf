variable "project" {
  description = "First part of every name; project_name in zappa_settings.json."
  type        = string
  default     = "cloudqueue"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z](-?[a-z0-9])+$", var.project)) && length(var.project) <= 20
    error_message = "project=\"${var.project}\" must be 2 to 20 lower-case letters, digits and single hyphens, and start with a letter: buckets and roles are named after it. Shorten or rename it, here and in zappa_settings.json."
  }
}

variable "stage" {
  description = "The environment, as zappa_settings.json calls it: dev, staging, production or one of your own."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z](-?[a-z0-9])+$", var.stage)) && length(var.stage) <= 16
    error_message = "stage=\"${var.stage}\" must be 2 to 16 lower-case letters, digits and single hyphens, and start with a letter: buckets and roles are named after it. Rename the stage, here and in zappa_settings.json."
  }
}

variable "region" {
  description = "AWS region of everything, such as eu-central-1."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]{2,4}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region=\"${var.region}\" is no AWS region. Write one such as eu-central-1; a zone such as eu-central-1a is none."
  }
}

variable "public_url" {
  description = "Where the site is reached, with https and without a slash at the end. A path in it, such as API Gateway's stage, is kept."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^https://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*$", var.public_url))
    error_message = "public_url=\"${var.public_url}\" must begin with https://, name a host in lower case, and not end with a slash. Write it as people will see it, such as https://shop.example.com or https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com/dev."
  }
}

variable "mail_from" {
  description = "Sender of all mail. SES must have its address or its domain as a verified identity in this region."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9._+-]+@[a-z0-9-]+([.][a-z0-9-]+)+$", var.mail_from))
    error_message = "mail_from=\"${var.mail_from}\" is no plain address. Write one such as reports@example.com; the name beside it is mail_from_name."
  }
}

variable "mail_from_name" {
  description = "Name beside the sender's address."
  type        = string
  default     = "Cloudqueue"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9 '&_-]{0,60}$", var.mail_from_name))
    error_message = "mail_from_name=\"${var.mail_from_name}\" must be 1 to 61 letters, digits, spaces, or one of '&_-: others would have to be quoted in a mail's header. Simplify it."
  }
}

variable "settings" {
  description = "Further settings that are no secrets, for web and workers alike: names and values of docs/configuration.md."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name in keys(var.settings) : can(regex("^[A-Z][A-Z0-9_]*$", name))])
    error_message = "settings: ${join(", ", [for name in keys(var.settings) : name if !can(regex("^[A-Z][A-Z0-9_]*$", name))])} would fail each start: a name is of capitals, digits and underscores. Rename it."
  }

  validation {
    condition = alltrue([
      for name in keys(var.settings) :
      name == "DATABASE_SECRET" || !can(regex("PASSW|SECRET|TOKEN|API_?KEY|CREDENTIAL|PRIVATE|^RUN_KEYS$|^DATABASE_URL$", name))
    ])
    error_message = "settings: ${join(", ", keys(var.settings))}: one of them is named like a secret, and would stand in the state in clear. Put its value into Secrets Manager or, as a SecureString, into SSM, by hand and below this stage's SETTINGS_PREFIX."
  }

  validation {
    condition     = alltrue([for value in values(var.settings) : length(value) > 0 && length(value) <= 4096])
    error_message = "settings: SSM takes values of 1 to 4096 characters. Leave a setting out to have its default."
  }

  validation {
    condition     = length(setintersection(keys(var.settings), local.names_of_environment)) == 0
    error_message = "settings: ${join(", ", setintersection(keys(var.settings), local.names_of_environment))} follows from what is made here, or has a variable of its own. Remove it."
  }
}

variable "static_from_cloudfront" {
  description = "Whether static files are served by CloudFront from a bucket, to which a deploy copies them; otherwise the function serves them."
  type        = bool
  default     = false
  nullable    = false
}

variable "keep_data" {
  description = "Whether `destroy` refuses to remove a bucket that is not empty."
  type        = bool
  default     = true
  nullable    = false
}

variable "log_retention_days" {
  description = "Days that CloudWatch keeps logs."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096], var.log_retention_days)
    error_message = "log_retention_days=${var.log_retention_days}: CloudWatch knows 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731 and 1096. Take one of them."
  }
}

variable "make_secrets" {
  description = "Whether SECRET_KEY and RUN_KEYS are made here, into SSM; otherwise they are put below SETTINGS_PREFIX by hand, in SSM or in Secrets Manager."
  type        = bool
  default     = true
  nullable    = false
}

variable "secrets_version" {
  description = "The key that signs sessions and tokens is made anew when this number is raised: everybody is then signed out. The keys of recorded runs are not, see README.md."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.secrets_version >= 1 && floor(var.secrets_version) == var.secrets_version
    error_message = "secrets_version=${var.secrets_version} must be a whole number, 1 or more. Raise the last one by 1."
  }
}

variable "image" {
  description = "Tag of the workers' image in this stage's repository; null until one was pushed, and nobody works."
  type        = string
  default     = null

  validation {
    condition     = var.image == null || (can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", var.image)) && var.image != "latest")
    error_message = "image=\"${coalesce(var.image, "null")}\" must be a tag of 1 to 128 letters, digits and ._-, one for each release: latest would be another image tomorrow. Push the image under its hash and name that."
  }
}

variable "one_off_image" {
  description = "Tag of the one-off container's image, where it comes before the workers': a release migrates first; null: the workers'."
  type        = string
  default     = null

  validation {
    condition     = var.one_off_image == null || (can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", var.one_off_image)) && var.one_off_image != "latest")
    error_message = "one_off_image=\"${coalesce(var.one_off_image, "null")}\" must be a tag such as image takes, of one release. Name the one that is about to be deployed."
  }
}

variable "worker_architecture" {
  description = "What the workers' image is built for: X86_64 or ARM64, which is a fifth cheaper."
  type        = string
  default     = "X86_64"
  nullable    = false

  validation {
    condition     = contains(["X86_64", "ARM64"], var.worker_architecture)
    error_message = "worker_architecture=\"${var.worker_architecture}\" is neither X86_64 nor ARM64. Name the one that the image is built for."
  }
}

variable "package" {
  description = "Key of the web package in the artifacts bucket, which the sockets' function runs as well; null until one was uploaded, and pages poll."
  type        = string
  default     = null

  validation {
    condition     = var.package == null || can(regex("^[A-Za-z0-9][A-Za-z0-9/_.-]{0,200}[.]zip$", var.package))
    error_message = "package=\"${coalesce(var.package, "null")}\" must be the key of a .zip in the artifacts bucket, as the deploy uploads it by its hash. Correct it."
  }
}

variable "sockets_throttle" {
  description = "Events of sockets a second (rate), and at once (burst), above which API Gateway refuses them."
  type        = object({ rate = number, burst = number })
  default     = { rate = 200, burst = 400 }
  nullable    = false

  validation {
    condition     = var.sockets_throttle.rate >= 1 && var.sockets_throttle.rate <= 10000 && var.sockets_throttle.burst >= var.sockets_throttle.rate && var.sockets_throttle.burst <= 5000
    error_message = "sockets_throttle=${jsonencode(var.sockets_throttle)}: rate must be 1 to 10000, and burst from rate to 5000, the account's own limits. Correct them."
  }
}

variable "api_gateway_logs_role" {
  description = "Whether the role is set here with which API Gateway writes logs; it is one of the whole account and region, so one stage sets it."
  type        = bool
  default     = true
  nullable    = false
}

variable "mail_identity" {
  description = "What SES is made to know: the domain of mail_from, its address alone, or none, where it is known already in this account and region, from which all stages may send."
  type        = string
  default     = "domain"
  nullable    = false

  validation {
    condition     = contains(["domain", "address", "none"], var.mail_identity)
    error_message = "mail_identity=\"${var.mail_identity}\" is none of domain, address, none. Take one."
  }
}

variable "domain" {
  description = "public_url's host as API Gateway's custom domain; null: it is API Gateway's own name, or somebody else's. zone_id: of Route 53, where records and certificate are made. certificate_arn: one that is there, in this region. web_api_id: Zappa's API, known after the first deploy."
  type = object({
    zone_id         = optional(string)
    certificate_arn = optional(string)
    web_api_id      = optional(string)
  })
  default = null

  validation {
    condition     = var.domain == null || try(var.domain.zone_id, null) != null || try(var.domain.certificate_arn, null) != null
    error_message = "domain: without zone_id nobody can prove whose the name is, so certificate_arn must be given. Give one of them."
  }

  validation {
    condition     = try(var.domain.zone_id, null) == null || can(regex("^Z[A-Z0-9]{1,31}$", var.domain.zone_id))
    error_message = "domain.zone_id must be a hosted zone's id, such as Z0123456789ABCDEFGHIJ, not its name."
  }

  validation {
    condition     = try(var.domain.certificate_arn, null) == null || can(regex("^arn:[a-z-]+:acm:${var.region}:[0-9]{12}:certificate/", var.domain.certificate_arn))
    error_message = "domain.certificate_arn must be of ACM in region=${var.region}: a regional name takes no certificate of another region. Have one made there."
  }

  validation {
    condition     = try(var.domain.web_api_id, null) == null || can(regex("^[a-z0-9]{10}$", var.domain.web_api_id))
    error_message = "domain.web_api_id must be the id of Zappa's REST API, ten letters and digits, as `zappa status` tells it."
  }

  validation {
    condition     = var.domain == null || !endswith(regex("^https://([^:/]+)", var.public_url)[0], ".amazonaws.com")
    error_message = "domain: public_url=\"${var.public_url}\" is AWS's own name, for which nobody else gets a certificate. Give the site's name, or leave domain out."
  }
}

variable "alarm_emails" {
  description = "Who is told of alarms and of the budget. AWS asks each whether they agree."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for each in var.alarm_emails : can(regex("^[^@[:space:]]+@[a-z0-9-]+([.][a-z0-9-]+)+$", each))])
    error_message = "alarm_emails: ${join(", ", [for each in var.alarm_emails : each if !can(regex("^[^@[:space:]]+@[a-z0-9-]+([.][a-z0-9-]+)+$", each))])} is no address. Correct it."
  }
}

variable "runbooks" {
  description = "Where docs/runbooks can be read by whoever is called: put before a page's name in each alarm."
  type        = string
  default     = "docs/runbooks"
  nullable    = false

  validation {
    condition     = length(var.runbooks) > 0 && length(var.runbooks) <= 200 && !endswith(var.runbooks, "/")
    error_message = "runbooks=\"${var.runbooks}\" must be 1 to 200 characters and not end with a slash, such as https://github.com/you/shop/blob/main/docs/runbooks."
  }
}

variable "monthly_budget_usd" {
  description = "Dollars a month, at whose forecast and at four fifths of which somebody is told; null: nobody is."
  type        = number
  default     = null

  validation {
    condition     = var.monthly_budget_usd == null || try(var.monthly_budget_usd >= 1, false)
    error_message = "monthly_budget_usd=${coalesce(var.monthly_budget_usd, 0)} must be 1 or more. Leave it out to be told of none."
  }
}

variable "github_repository" {
  description = "Repository whose workflow deploys this stage, such as you/shop; null: nobody deploys from GitHub."
  type        = string
  default     = null

  validation {
    condition     = var.github_repository == null || can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.github_repository))
    error_message = "github_repository=\"${coalesce(var.github_repository, "null")}\" must be owner/name, without wildcards: whoever it fits may deploy. Name one."
  }
}

variable "make_github_provider" {
  description = "Whether the account's provider for GitHub's tokens is made here; one stage of an account makes it."
  type        = bool
  default     = true
  nullable    = false
}

variable "state_bucket" {
  description = "Bucket of Terraform's states, which the workflow reads and writes this stage's in; needed with github_repository."
  type        = string
  default     = null

  validation {
    condition     = var.github_repository == null || var.state_bucket != null
    error_message = "state_bucket must be named with github_repository=\"${coalesce(var.github_repository, "null")}\": the workflow could not read the state. Name the bucket that `init` is given."
  }
}
