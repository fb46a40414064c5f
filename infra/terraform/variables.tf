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
