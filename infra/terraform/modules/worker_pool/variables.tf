variable "name" {
  description = "What all names of the stage begin with, such as cloudqueue-dev."
  type        = string
  nullable    = false
}

variable "pool" {
  description = "The pool's name in tasks/topology.json."
  type        = string
  nullable    = false
}

variable "region" {
  description = "AWS region, for logs."
  type        = string
  nullable    = false
}

variable "cluster" {
  description = "The ECS cluster: its name and ARN."
  type        = object({ name = string, arn = string })
  nullable    = false
}

variable "image" {
  description = "The container's image with its tag."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[^:/]+(/[^:/]+)+:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", var.image)) && !endswith(var.image, ":latest")
    error_message = "image=\"${var.image}\" must be an address with a tag of its own release; latest would be another one tomorrow. Name the release's tag."
  }
}

variable "architecture" {
  description = "Of the image: X86_64 or ARM64."
  type        = string
  nullable    = false

  validation {
    condition     = contains(["X86_64", "ARM64"], var.architecture)
    error_message = "architecture=\"${var.architecture}\" is neither X86_64 nor ARM64. Name the one that the image is built for."
  }
}

variable "user" {
  description = "Numeric user and group of the container's process."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[1-9][0-9]*:[1-9][0-9]*$", var.user))
    error_message = "user=\"${var.user}\" must be a numeric user and group other than root, such as 10001:10001. Name the image's."
  }
}

variable "environment" {
  description = "Variables of the container; none of them is secret, for they can be read in the console."
  type        = map(string)
  nullable    = false
}

variable "execution_role_arn" {
  description = "What fetches the image and writes logs."
  type        = string
  nullable    = false
}

variable "task_role_arn" {
  description = "What the worker may do."
  type        = string
  nullable    = false
}

variable "subnet_ids" {
  description = "Where containers run."
  type        = list(string)
  nullable    = false
}

variable "security_group_id" {
  description = "What containers may call."
  type        = string
  nullable    = false
}

variable "log_retention_days" {
  description = "Days that CloudWatch keeps logs."
  type        = number
  nullable    = false
}

variable "stop_timeout_seconds" {
  description = "Seconds between SIGTERM and SIGKILL."
  type        = number
  default     = 120
  nullable    = false

  validation {
    condition     = var.stop_timeout_seconds >= 30 && var.stop_timeout_seconds <= 120
    error_message = "stop_timeout_seconds=${var.stop_timeout_seconds} must be 30 to 120: Fargate gives no more, and a worker needs some to hand its messages back. Correct it."
  }
}

variable "queues" {
  description = "Full names of the queues that the pool consumes."
  type        = list(string)
  nullable    = false
}

variable "cpu_units" {
  description = "Size of a container; 1024 are one vCPU."
  type        = number
  nullable    = false

  validation {
    condition     = contains([256, 512, 1024, 2048, 4096, 8192, 16384], var.cpu_units)
    error_message = "cpu_units=${var.cpu_units}: Fargate has 256, 512, 1024, 2048, 4096, 8192 and 16384. Take one of them in tasks/topology.json."
  }
}

variable "memory_mib" {
  description = "Size of a container."
  type        = number
  nullable    = false

  # https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html#fargate-tasks-size
  validation {
    condition = contains(lookup({
      256   = [512, 1024, 2048]
      512   = range(1024, 4097, 1024)
      1024  = range(2048, 8193, 1024)
      2048  = range(4096, 16385, 1024)
      4096  = range(8192, 30721, 1024)
      8192  = range(16384, 61441, 4096)
      16384 = range(32768, 122881, 8192)
    }, tostring(var.cpu_units), [var.memory_mib]), var.memory_mib)
    error_message = "memory_mib=${var.memory_mib}: Fargate has no such size with cpu_units=${var.cpu_units}. From twice to eight times as many MiB as units, in steps of 1024, is right for most; correct it in tasks/topology.json."
  }
}

variable "concurrency" {
  description = "Tasks that a container runs at a time."
  type        = number
  nullable    = false
}

variable "prefetch" {
  description = "Messages that a container holds for each of them, of the pool's queues the most."
  type        = number
  nullable    = false
}

variable "minimum" {
  description = "Containers at least."
  type        = number
  nullable    = false
}

variable "maximum" {
  description = "Containers at most."
  type        = number
  nullable    = false
}

variable "acceptable_wait_seconds" {
  description = "The wait that scaling aims to stay under."
  type        = number
  nullable    = false
}

variable "mean_task_seconds" {
  description = "How long a task takes, on average."
  type        = number
  nullable    = false
}

variable "spot" {
  description = "Whether containers may be taken away with two minutes' notice, for a third of the price."
  type        = bool
  nullable    = false
}
