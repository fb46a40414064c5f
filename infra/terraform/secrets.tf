locals {
  settings_prefix = "/${var.project}/${var.stage}"

  # What web and workers read alike as they start. What is named in an environment of its own is not repeated here: the
  # environment's value would win, and this one would only seem to count.
  settings = merge(
    # Alarms look at these metrics.
    { METRICS = "emf", METRICS_NAMESPACE = local.name },
    var.settings,
    { DEFAULT_FROM_EMAIL = "${var.mail_from_name} <${var.mail_from}>" },
  )

  secrets = {
    SECRET_KEY = {
      description = "Signs sessions and tokens. Made anew when secrets_version is raised."
      characters  = 64
      is_base64   = false
      version     = var.secrets_version
    }
    # Never made anew: what the old one sealed could not be opened. README.md says how a further one is put before it.
    RUN_KEYS = {
      description = "Seal recorded messages: the first seals, all of them open."
      characters  = 32
      is_base64   = true
      version     = 1
    }
  }
}

resource "aws_ssm_parameter" "setting" {
  #checkov:skip=CKV2_AWS_34:No secrets: they stand in the state and in the plan as well
  for_each = local.settings

  name        = "${local.settings_prefix}/${each.key}"
  description = "docs/configuration.md, ${each.key}"
  type        = "String"
  value       = each.value
}

# Secrets are made here and not asked for: nobody types, mails or keeps them. They pass through Terraform's memory
# alone; plan and state hold none of them.
ephemeral "aws_secretsmanager_random_password" "this" {
  provider = aws.unmocked
  for_each = var.make_secrets ? local.secrets : {}

  password_length     = each.value.characters
  exclude_punctuation = true
}

locals {
  made = { for name, each in ephemeral.aws_secretsmanager_random_password.this : name => each.random_password }
}

# A value that is changed by hand in SSM stays: Terraform does not compare it.
resource "aws_ssm_parameter" "secret" {
  #checkov:skip=CKV_AWS_337:Encrypted with SSM's own key of the account, which needs no permission beside that to read the parameter
  for_each = var.make_secrets ? local.secrets : {}

  name             = "${local.settings_prefix}/${each.key}"
  description      = each.value.description
  type             = "SecureString"
  value_wo_version = each.value.version
  # A Fernet key is 32 bytes in URL-safe base64.
  value_wo = (
    each.value.is_base64
    ? replace(replace(base64encode(local.made[each.key]), "+", "-"), "/", "_")
    : local.made[each.key]
  )
}
