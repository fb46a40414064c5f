# Who deploys from GitHub: signs in with a token of the workflow (OIDC), keeps no key, and may do what `terraform apply`
# and Zappa do to this stage. Tests compare with what they really call.

locals {
  deploys_from_github = var.github_repository == null ? 0 : 1
  github              = "token.actions.githubusercontent.com"
  # Of the account, so one stage makes it.
  github_provider_arn = "arn:${local.partition}:iam::${local.account}:oidc-provider/${local.github}"
}

resource "aws_iam_openid_connect_provider" "github" {
  count = var.github_repository != null && var.make_github_provider ? 1 : 0

  url            = "https://${local.github}"
  client_id_list = ["sts.amazonaws.com"]
}

resource "aws_iam_role" "deploy" {
  count = local.deploys_from_github

  name                 = "${local.name}-deploy"
  description          = "The workflow that deploys this stage from ${var.github_repository}."
  assume_role_policy   = data.aws_iam_policy_document.deploy_trust[0].json
  max_session_duration = 7200
}

data "aws_iam_policy_document" "deploy_trust" {
  #checkov:skip=CKV_AWS_358:It is one repository's environment, whose name is a variable that takes no wildcard
  count = local.deploys_from_github

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [local.github_provider_arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.github}:aud"
      values   = ["sts.amazonaws.com"]
    }

    # Of the environment named like the stage alone, whose reviewers GitHub asks; a pull request has none.
    condition {
      test     = "StringEquals"
      variable = "${local.github}:sub"
      values   = ["repo:${var.github_repository}:environment:${var.stage}"]
    }
  }
}

data "aws_iam_policy_document" "deploy" {
  #checkov:skip=CKV_AWS_356:Of what has a star AWS lets nothing be named, or not before it is there: networks, and questions
  #checkov:skip=CKV_AWS_111:Of what has a star AWS lets nothing be named, or not before it is there: networks, and questions
  #checkov:skip=CKV_AWS_109:Whoever makes roles gives rights; to roles of this stage alone, and not to itself
  #checkov:skip=CKV_AWS_107:A deploy makes the first secrets, which Secrets Manager's generator gives it
  #checkov:skip=CKV_AWS_110:Whoever makes roles gives rights; to roles of this stage alone, and not to itself
  #checkov:skip=CKV2_AWS_40:Whoever makes roles gives rights; to roles of this stage alone, and not to itself
  for_each = var.github_repository == null ? {} : merge(local.deploy_rights, local.deploy_states)

  dynamic "statement" {
    for_each = each.value

    content {
      sid       = statement.key
      actions   = statement.value.actions
      resources = statement.value.resources
    }
  }

  # Its own rights are somebody else's to change.
  dynamic "statement" {
    for_each = each.key == "roles" ? [1] : []

    content {
      sid     = "NotItself"
      effect  = "Deny"
      actions = ["iam:AttachRolePolicy", "iam:CreateRole", "iam:DeleteRole", "iam:DeleteRolePolicy", "iam:PutRolePolicy", "iam:UpdateAssumeRolePolicy", "iam:UpdateRole"]
      resources = [
        "arn:${local.partition}:iam::${local.account}:role/${local.name}-deploy",
      ]
    }
  }
}

resource "aws_iam_policy" "deploy" {
  for_each = var.github_repository == null ? {} : merge(local.deploy_rights, local.deploy_states)

  name        = "${local.name}-deploy-${each.key}"
  description = "Deploying ${local.name}: ${each.key}."
  policy      = data.aws_iam_policy_document.deploy[each.key].json
}

resource "aws_iam_role_policy_attachment" "deploy" {
  for_each = aws_iam_policy.deploy

  role       = aws_iam_role.deploy[0].name
  policy_arn = each.value.arn
}
