variable "name" {
  description = "What names of policies and alarms begin with, such as cloudqueue-dev-general."
  type        = string
  nullable    = false
}

variable "pool" {
  description = "The pool's name in tasks/topology.json."
  type        = string
  nullable    = false
}

variable "cluster" {
  description = "Name of the ECS cluster."
  type        = string
  nullable    = false
}

variable "service" {
  description = "Name of the ECS service."
  type        = string
  nullable    = false
}

variable "queues" {
  description = "Full names of the queues that the pool consumes."
  type        = list(string)
  nullable    = false

  # An alarm takes ten metrics: two a queue, and the service's.
  validation {
    condition     = length(var.queues) >= 1 && length(var.queues) <= 4
    error_message = "queues: pool \"${var.pool}\" consumes ${length(var.queues)} of them, and an alarm can watch 1 to 4. Split the pool in tasks/topology.json."
  }
}

variable "minimum" {
  description = "Containers at least."
  type        = number
  nullable    = false

  validation {
    condition     = var.minimum >= 0 && var.minimum <= var.maximum
    error_message = "minimum=${var.minimum} must be 0 to maximum=${var.maximum}. Lower one or raise the other in tasks/topology.json."
  }
}

variable "maximum" {
  description = "Containers at most."
  type        = number
  nullable    = false

  validation {
    condition     = var.maximum >= 1
    error_message = "maximum=${var.maximum} must be 1 or more: nobody would ever run. Raise it in tasks/topology.json."
  }
}

variable "slots" {
  description = "Tasks that a container runs at a time."
  type        = number
  nullable    = false

  validation {
    condition     = var.slots >= 1
    error_message = "slots=${var.slots} must be 1 or more. Raise the pool's concurrency in tasks/topology.json."
  }
}

variable "prefetch" {
  description = "Messages that a container holds for each slot, of the pool's queues the most."
  type        = number
  nullable    = false
}

variable "acceptable_wait_seconds" {
  description = "The wait that scaling aims to stay under."
  type        = number
  nullable    = false

  validation {
    condition     = var.acceptable_wait_seconds > 0
    error_message = "acceptable_wait_seconds=${var.acceptable_wait_seconds} must be above 0. Raise it in tasks/topology.json."
  }
}

variable "mean_task_seconds" {
  description = "How long a task takes, on average. A wrong one makes waits wrong by the same factor."
  type        = number
  nullable    = false

  validation {
    condition     = var.mean_task_seconds > 0
    error_message = "mean_task_seconds=${var.mean_task_seconds} must be above 0. Raise it in tasks/topology.json."
  }
}
