variable "name" {
  description = "The queue's name, such as cloudqueue-dev-low-dead."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,80}$", var.name))
    error_message = "name=\"${var.name}\": SQS takes 1 to 80 letters, digits, hyphens and underscores. Shorten the project, the stage or the queue in tasks/topology.json."
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

variable "source_arn" {
  description = "ARN of the only queue that dead-letters here by itself; null: none does, and whatever comes is sent."
  type        = string
  default     = null
}

variable "retention_days" {
  description = "Days that SQS keeps a dead letter, counted from when it was first sent."
  type        = number
  default     = 14
  nullable    = false

  validation {
    condition     = var.retention_days >= 1 && var.retention_days <= 14
    error_message = "retention_days=${var.retention_days}: SQS keeps a message for 1 to 14 days. Take one of these."
  }
}
