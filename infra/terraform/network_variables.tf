# Of the network and of the database in it. The rest is in variables.tf.

variable "network_cidr" {
  description = "IPv4 addresses of the network; its IPv6 ones are AWS's to give."
  type        = string
  default     = "10.20.0.0/16"
  nullable    = false

  validation {
    condition     = can(cidrhost(var.network_cidr, 0)) && can(regex("^(10|172[.](1[6-9]|2[0-9]|3[01])|192[.]168)[.].*/16$", var.network_cidr))
    error_message = "network_cidr=\"${var.network_cidr}\" must be a private /16, such as 10.20.0.0/16: it is split into subnets. Take one that no network has which this one is to be joined with."
  }
}

variable "egress" {
  description = "How functions and containers reach what has no route of its own: ipv6 (free, dual-stack endpoints alone), nat_instance, or nat_gateway in each zone."
  type        = string
  default     = "ipv6"
  nullable    = false

  validation {
    condition     = contains(["ipv6", "nat_instance", "nat_gateway"], var.egress)
    error_message = "egress=\"${var.egress}\" is none of ipv6, nat_instance, nat_gateway. Take one; docs/terraform.md says what each costs."
  }
}

variable "remote_shell" {
  description = "Whether a one-off container lets operators in by ECS Exec. With egress=ipv6 it needs an endpoint that is paid by the hour."
  type        = bool
  default     = false
  nullable    = false
}

variable "database" {
  description = "Postgres. engine: postgres, an instance of instance_class, or aurora, Serverless v2 of aurora_units (least, most). zones: 2 has a second one ready. proxy: RDS Proxy between functions and it. storage_gb: what it may grow to. backup_days: how far back it can be restored."
  type = object({
    engine         = optional(string, "postgres")
    version        = optional(string, "17.4")
    instance_class = optional(string, "db.t4g.micro")
    aurora_units   = optional(list(number), [0.5, 4])
    zones          = optional(number, 1)
    proxy          = optional(bool, true)
    storage_gb     = optional(number, 100)
    backup_days    = optional(number, 7)
  })
  default  = {}
  nullable = false

  validation {
    condition     = contains(["postgres", "aurora"], var.database.engine)
    error_message = "database.engine=\"${var.database.engine}\" is neither postgres nor aurora. Take one."
  }

  validation {
    condition     = can(regex("^1[5-9][.][0-9]+$", var.database.version))
    error_message = "database.version=\"${var.database.version}\" must be a version of Postgres with its minor one, 15.0 or newer, such as 17.4."
  }

  validation {
    condition     = can(regex("^db[.][a-z0-9]+[.][a-z0-9]+$", var.database.instance_class)) && var.database.instance_class != "db.serverless"
    error_message = "database.instance_class=\"${var.database.instance_class}\" must be such as db.t4g.micro. Serverless is database.engine=aurora."
  }

  validation {
    condition = (
      length(var.database.aurora_units) == 2 &&
      try(var.database.aurora_units[0] >= 0 && var.database.aurora_units[0] <= var.database.aurora_units[1], false) &&
      try(var.database.aurora_units[1] >= 1 && var.database.aurora_units[1] <= 256, false) &&
      alltrue([for units in var.database.aurora_units : units * 2 == floor(units * 2)])
    )
    error_message = "database.aurora_units=${jsonencode(var.database.aurora_units)} must be the least and the most units, in halves, from 0 to 256, the most at least 1. [0, 4] sleeps when nobody asks, [0.5, 4] does not."
  }

  validation {
    condition     = contains([1, 2], var.database.zones)
    error_message = "database.zones=${var.database.zones} must be 1, or 2 to have a second one ready in another zone."
  }

  # The proxy's own connections keep it awake, so that it would be paid for by day and night all the same.
  validation {
    condition     = !(var.database.engine == "aurora" && var.database.proxy && try(var.database.aurora_units[0], 1) == 0)
    error_message = "database: aurora_units from 0 sleeps only without proxy, whose connections would keep it awake. Set proxy=false, or 0.5 units."
  }

  validation {
    condition     = var.database.storage_gb >= 21 && var.database.storage_gb <= 16384 && floor(var.database.storage_gb) == var.database.storage_gb
    error_message = "database.storage_gb=${var.database.storage_gb} must be a whole number, 21 to 16384: it begins with 20 and grows. Raise it."
  }

  validation {
    condition     = var.database.backup_days >= 1 && var.database.backup_days <= 35
    error_message = "database.backup_days=${var.database.backup_days}: RDS keeps backups for 1 to 35 days, and none would mean no way back. Take one of these."
  }
}
