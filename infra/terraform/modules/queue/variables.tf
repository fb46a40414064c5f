variable "name" {
  description = "The queue's name; its dead-letter queue's has -dead behind it."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,75}$", var.name)) && !endswith(var.name, "-dead")
    error_message = "name=\"${var.name}\": SQS takes 80 letters, digits, hyphens and underscores, of which -dead takes 5, and names that end in -dead are dead-letter queues. Rename the queue in tasks/topology.json, or shorten project or stage."
  }
}

variable "arn_prefix" {
  description = "What the ARN of a queue has before its name. A queue's own policy names it before it exists."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^arn:[a-z-]+:sqs:[a-z0-9-]+:[0-9]{12}:$", var.arn_prefix))
    error_message = "arn_prefix=\"${var.arn_prefix}\" must be such as arn:aws:sqs:eu-central-1:111122223333: with the colon at the end. Correct it."
  }
}

variable "lease_seconds" {
  description = "Seconds that a message stays hidden after its worker has died; a living worker renews it."
  type        = number
  nullable    = false

  validation {
    condition     = var.lease_seconds >= 10 && var.lease_seconds <= 600
    error_message = "lease_seconds=${var.lease_seconds} must be 10 to 600: below, leases end before they are renewed; above, a dead worker's messages wait for long. Correct it in tasks/topology.json."
  }
}

variable "max_receives" {
  description = "How often SQS hands a message out before it dead-letters it by itself."
  type        = number
  nullable    = false

  validation {
    condition     = var.max_receives >= 5 && var.max_receives <= 1000
    error_message = "max_receives=${var.max_receives} must be 5 to 1000: drains and deploys hand messages back, and must not dead-letter them. Correct it in tasks/topology.json."
  }
}

variable "retention_days" {
  description = "Days that SQS keeps a message that nobody consumed."
  type        = number
  nullable    = false

  validation {
    condition     = var.retention_days >= 1 && var.retention_days <= 14
    error_message = "retention_days=${var.retention_days}: SQS keeps a message for 1 to 14 days. Correct it in tasks/topology.json."
  }
}
