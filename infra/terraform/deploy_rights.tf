# What a deploy does, a policy each (AWS takes 6144 characters): kept apart from deploy.tf, since it is long.

locals {
  arn    = "arn:${local.partition}"
  ec2    = "${local.arn}:ec2:${local.here}"
  rds    = "${local.arn}:rds:${local.here}"
  states = var.state_bucket == null ? [] : ["${local.arn}:s3:::${var.state_bucket}/${var.project}/${var.stage}/*"]

  deploy_rights = {
    data = {
      Buckets = {
        actions = [
          "s3:CreateBucket", "s3:DeleteBucket", "s3:DeleteBucketPolicy", "s3:GetAccelerateConfiguration", "s3:GetBucketAcl",
          "s3:GetBucketCORS", "s3:GetBucketLocation", "s3:GetBucketLogging", "s3:GetBucketObjectLockConfiguration",
          "s3:GetBucketOwnershipControls", "s3:GetBucketPolicy", "s3:GetBucketPublicAccessBlock",
          "s3:GetBucketRequestPayment", "s3:GetBucketTagging", "s3:GetBucketVersioning", "s3:GetBucketWebsite",
          "s3:GetEncryptionConfiguration", "s3:GetLifecycleConfiguration", "s3:GetReplicationConfiguration",
          "s3:ListBucket", "s3:ListBucketVersions", "s3:PutBucketCORS", "s3:PutBucketOwnershipControls", "s3:PutBucketPolicy",
          "s3:PutBucketPublicAccessBlock", "s3:PutBucketTagging", "s3:PutEncryptionConfiguration",
          "s3:PutLifecycleConfiguration",
        ]
        resources = [for bucket in values(local.buckets) : "${local.arn}:s3:::${bucket}"]
      }
      # Packages and static files; what people have uploaded is none of its business.
      Objects = {
        actions   = ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
        resources = [for name, bucket in local.buckets : "${local.arn}:s3:::${bucket}/*" if name != "files"]
      }
      Queues = {
        actions = [
          "sqs:CreateQueue", "sqs:DeleteQueue", "sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:ListQueueTags",
          "sqs:SetQueueAttributes", "sqs:TagQueue", "sqs:UntagQueue",
        ]
        resources = ["${local.arn}:sqs:${local.here}:${local.name}-*"]
      }
      Table = {
        actions = [
          "dynamodb:CreateTable", "dynamodb:DeleteTable", "dynamodb:DescribeContinuousBackups", "dynamodb:DescribeTable",
          "dynamodb:DescribeTimeToLive", "dynamodb:ListTagsOfResource", "dynamodb:TagResource", "dynamodb:UntagResource",
          "dynamodb:UpdateTable", "dynamodb:UpdateTimeToLive",
        ]
        resources = ["${local.arn}:dynamodb:${local.here}:table/${local.name}-sockets"]
      }
      Settings = {
        actions = [
          "ssm:AddTagsToResource", "ssm:DeleteParameter", "ssm:GetParameter", "ssm:GetParameters", "ssm:ListTagsForResource",
          "ssm:PutParameter", "ssm:RemoveTagsFromResource",
        ]
        resources = ["${local.arn}:ssm:${local.here}:parameter${local.settings_prefix}/*"]
      }
      Schedules = {
        actions = [
          "scheduler:CreateScheduleGroup", "scheduler:DeleteScheduleGroup", "scheduler:GetScheduleGroup",
          "scheduler:ListTagsForResource", "scheduler:TagResource", "scheduler:UntagResource",
        ]
        resources = ["${local.arn}:scheduler:${local.here}:schedule-group/${local.name}"]
      }
      # RDS makes the secret with the rights of whoever makes the database.
      Password = {
        actions   = ["secretsmanager:CreateSecret", "secretsmanager:DescribeSecret", "secretsmanager:TagResource"]
        resources = ["${local.arn}:secretsmanager:${local.here}:secret:rds!*"]
      }
      Database = {
        actions = [
          "rds:AddTagsToResource", "rds:CreateDBCluster", "rds:CreateDBClusterParameterGroup", "rds:CreateDBInstance",
          "rds:CreateDBParameterGroup", "rds:CreateDBProxy", "rds:CreateDBSnapshot", "rds:CreateDBSubnetGroup",
          "rds:DeleteDBCluster", "rds:DeleteDBClusterParameterGroup", "rds:DeleteDBInstance", "rds:DeleteDBParameterGroup",
          "rds:DeleteDBProxy", "rds:DeleteDBSubnetGroup", "rds:DeregisterDBProxyTargets", "rds:DescribeDBClusterParameterGroups",
          "rds:DescribeDBClusterParameters", "rds:DescribeDBClusters", "rds:DescribeDBInstances", "rds:DescribeDBParameterGroups",
          "rds:DescribeDBParameters", "rds:DescribeDBProxies", "rds:DescribeDBProxyTargetGroups", "rds:DescribeDBProxyTargets",
          "rds:DescribeDBSubnetGroups", "rds:ListTagsForResource", "rds:ModifyDBCluster", "rds:ModifyDBClusterParameterGroup",
          "rds:ModifyDBInstance", "rds:ModifyDBParameterGroup", "rds:ModifyDBProxy", "rds:ModifyDBProxyTargetGroup",
          "rds:ModifyDBSubnetGroup", "rds:RegisterDBProxyTargets", "rds:RemoveTagsFromResource",
        ]
        # A proxy has a number for its name.
        resources = concat(
          [for kind in ["cluster", "cluster-pg", "db", "pg", "snapshot", "subgrp"] : "${local.rds}:${kind}:${local.name}*"],
          ["${local.rds}:db-proxy:*", "${local.rds}:target-group:*"],
        )
      }
    }

    network = {
      Ask = {
        actions = [
          "ec2:DescribeAddresses", "ec2:DescribeAvailabilityZones", "ec2:DescribeEgressOnlyInternetGateways",
          "ec2:DescribeInstanceAttribute", "ec2:DescribeInstances", "ec2:DescribeInternetGateways", "ec2:DescribeNatGateways",
          "ec2:DescribeNetworkAcls", "ec2:DescribeNetworkInterfaces", "ec2:DescribePrefixLists", "ec2:DescribeRouteTables",
          "ec2:DescribeSecurityGroupRules", "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets", "ec2:DescribeVpcAttribute",
          "ec2:DescribeVpcEndpoints", "ec2:DescribeVpcs", "ec2:DescribeImages", "ec2:DescribeInstanceTypes", "ec2:DescribeTags",
          "ec2:DescribeVolumes",
        ]
        resources = ["*"]
      }
      Make = {
        actions = [
          "ec2:AllocateAddress", "ec2:AssociateAddress", "ec2:AssociateRouteTable", "ec2:AttachInternetGateway",
          "ec2:AuthorizeSecurityGroupEgress", "ec2:AuthorizeSecurityGroupIngress", "ec2:CreateEgressOnlyInternetGateway",
          "ec2:CreateInternetGateway", "ec2:CreateNatGateway", "ec2:CreateRoute", "ec2:CreateRouteTable",
          "ec2:CreateSecurityGroup", "ec2:CreateSubnet", "ec2:CreateTags", "ec2:CreateVpc", "ec2:CreateVpcEndpoint",
          "ec2:DeleteEgressOnlyInternetGateway", "ec2:DeleteInternetGateway", "ec2:DeleteNatGateway", "ec2:DeleteRoute",
          "ec2:DeleteRouteTable", "ec2:DeleteSecurityGroup", "ec2:DeleteSubnet", "ec2:DeleteTags", "ec2:DeleteVpc",
          "ec2:DeleteVpcEndpoints", "ec2:DetachInternetGateway", "ec2:DisassociateAddress", "ec2:DisassociateRouteTable",
          "ec2:ModifyInstanceAttribute", "ec2:ModifySecurityGroupRules", "ec2:ModifySubnetAttribute", "ec2:ModifyVpcAttribute",
          "ec2:ModifyVpcEndpoint", "ec2:ReleaseAddress", "ec2:RevokeSecurityGroupEgress", "ec2:RevokeSecurityGroupIngress",
          "ec2:RunInstances", "ec2:TerminateInstances",
        ]
        resources = [
          for kind in [
            "egress-only-internet-gateway", "elastic-ip", "instance", "internet-gateway", "natgateway", "network-interface",
            "route-table", "security-group", "security-group-rule", "subnet", "volume", "vpc", "vpc-endpoint",
          ] : "${local.ec2}:${kind}/*"
        ]
      }
      TakeAmazonLinux = {
        actions   = ["ec2:RunInstances", "ssm:GetParameter"]
        resources = ["${local.arn}:ec2:${var.region}::image/*", "${local.arn}:ssm:${var.region}::parameter/aws/service/*"]
      }
      Names = {
        actions = [
          "acm:AddTagsToCertificate", "acm:DeleteCertificate", "acm:DescribeCertificate", "acm:ListTagsForCertificate",
          "route53:ChangeResourceRecordSets", "route53:GetHostedZone", "route53:ListResourceRecordSets",
        ]
        resources = [
          "${local.arn}:acm:${local.here}:certificate/*",
          "${local.arn}:route53:::hostedzone/${coalesce(local.zone_id, "none")}",
        ]
      }
      AskForNames = {
        actions   = ["acm:RequestCertificate", "route53:GetChange"]
        resources = ["*"]
      }
      # A permission is a method on a path; ids are AWS's to choose.
      ApiGateway = {
        actions = ["apigateway:DELETE", "apigateway:GET", "apigateway:PATCH", "apigateway:POST", "apigateway:PUT"]
        resources = [
          for path in ["account", "apis", "apis/*", "domainnames", "domainnames/*", "restapis", "restapis/*", "tags/*", "v2/apis", "v2/apis/*"] :
          "${local.arn}:apigateway:${var.region}::/${path}"
        ]
      }
      StaticFiles = {
        actions = [
          "cloudfront:CreateDistribution", "cloudfront:CreateOriginAccessControl", "cloudfront:DeleteDistribution",
          "cloudfront:DeleteOriginAccessControl", "cloudfront:GetCachePolicy", "cloudfront:GetDistribution",
          "cloudfront:GetOriginAccessControl", "cloudfront:GetResponseHeadersPolicy", "cloudfront:ListCachePolicies",
          "cloudfront:ListResponseHeadersPolicies", "cloudfront:ListTagsForResource", "cloudfront:TagResource",
          "cloudfront:UntagResource", "cloudfront:UpdateDistribution", "cloudfront:UpdateOriginAccessControl",
        ]
        resources = ["*"]
      }
    }

    compute = {
      Containers = {
        actions = [
          "ecs:CreateCluster", "ecs:CreateService", "ecs:DeleteCluster", "ecs:DeleteService", "ecs:DescribeClusters",
          "ecs:DescribeServices", "ecs:DescribeTasks", "ecs:ListTagsForResource", "ecs:PutClusterCapacityProviders",
          "ecs:RunTask", "ecs:StopTask", "ecs:TagResource", "ecs:UntagResource", "ecs:UpdateCluster", "ecs:UpdateService",
        ]
        resources = [
          "${local.arn}:ecs:${local.here}:cluster/${local.name}",
          "${local.arn}:ecs:${local.here}:service/${local.name}/*",
          "${local.arn}:ecs:${local.here}:task/${local.name}/*",
          "${local.arn}:ecs:${local.here}:task-definition/${local.name}-*",
        ]
      }
      # AWS lets nothing be named for these.
      TaskDefinitions = {
        actions = [
          "ecs:DeregisterTaskDefinition", "ecs:DescribeTaskDefinition", "ecs:RegisterTaskDefinition",
          "ecr:GetAuthorizationToken", "logs:DescribeLogGroups", "secretsmanager:GetRandomPassword", "ssm:DescribeParameters",
          "application-autoscaling:DescribeScalableTargets", "application-autoscaling:DescribeScalingPolicies",
        ]
        resources = ["*"]
      }
      Images = {
        actions = [
          "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload", "ecr:CreateRepository",
          "ecr:DeleteLifecyclePolicy", "ecr:DeleteRepository", "ecr:DescribeImages", "ecr:DescribeRepositories",
          "ecr:GetDownloadUrlForLayer", "ecr:GetLifecyclePolicy", "ecr:InitiateLayerUpload", "ecr:ListTagsForResource",
          "ecr:PutImage", "ecr:PutImageScanningConfiguration", "ecr:PutImageTagMutability", "ecr:PutLifecyclePolicy",
          "ecr:TagResource", "ecr:UntagResource", "ecr:UploadLayerPart",
        ]
        resources = [aws_ecr_repository.worker.arn]
      }
      Scaling = {
        actions = [
          "application-autoscaling:DeleteScalingPolicy", "application-autoscaling:DeregisterScalableTarget",
          "application-autoscaling:ListTagsForResource", "application-autoscaling:PutScalingPolicy",
          "application-autoscaling:RegisterScalableTarget", "application-autoscaling:TagResource",
          "application-autoscaling:UntagResource",
        ]
        resources = ["${local.arn}:application-autoscaling:${local.here}:scalable-target/*"]
      }
      # Ours, and the web function, which is Zappa's.
      Functions = {
        actions = [
          "lambda:AddPermission", "lambda:CreateAlias", "lambda:CreateFunction", "lambda:DeleteAlias", "lambda:DeleteFunction",
          "lambda:DeleteFunctionConcurrency", "lambda:DeleteFunctionEventInvokeConfig", "lambda:GetAlias", "lambda:GetFunction",
          "lambda:GetFunctionCodeSigningConfig", "lambda:GetFunctionConfiguration", "lambda:GetFunctionEventInvokeConfig",
          "lambda:GetPolicy", "lambda:InvokeFunction", "lambda:ListTags", "lambda:ListVersionsByFunction",
          "lambda:PublishVersion", "lambda:PutFunctionConcurrency", "lambda:PutFunctionEventInvokeConfig",
          "lambda:RemovePermission", "lambda:TagResource", "lambda:UntagResource", "lambda:UpdateAlias",
          "lambda:UpdateFunctionCode", "lambda:UpdateFunctionConfiguration",
        ]
        resources = ["${local.arn}:lambda:${local.here}:function:${local.name}", "${local.arn}:lambda:${local.here}:function:${local.name}-*", "${local.arn}:lambda:${local.here}:function:${local.name}:*"]
      }
      # Zappa makes its API by a stack, and its minute by a rule.
      Zappa = {
        actions = [
          "cloudformation:CreateStack", "cloudformation:DeleteStack", "cloudformation:DescribeStackResource",
          "cloudformation:DescribeStacks", "cloudformation:ListStackResources", "cloudformation:UpdateStack",
          "events:DeleteRule", "events:DescribeRule", "events:ListTargetsByRule", "events:PutRule", "events:PutTargets",
          "events:RemoveTargets",
        ]
        resources = [
          "${local.arn}:cloudformation:${local.here}:stack/${local.name}/*",
          "${local.arn}:events:${local.here}:rule/${local.name}-*",
        ]
      }
      AskForZappa = {
        actions   = ["cloudformation:ListStacks", "events:ListRuleNamesByTarget", "events:ListRules", "lambda:ListFunctions"]
        resources = ["*"]
      }
    }

    roles = {
      Roles = {
        actions = [
          "iam:CreateRole", "iam:DeleteRole", "iam:DeleteRolePolicy", "iam:GetRole", "iam:GetRolePolicy",
          "iam:ListAttachedRolePolicies", "iam:ListInstanceProfilesForRole", "iam:ListRolePolicies", "iam:PutRolePolicy",
          "iam:TagRole", "iam:UntagRole", "iam:UpdateAssumeRolePolicy", "iam:UpdateRole", "iam:PassRole",
        ]
        resources = ["${local.arn}:iam::${local.account}:role/${local.name}-*"]
      }
      # To see that they are as they were.
      ItsOwnRights = {
        actions = [
          "iam:GetOpenIDConnectProvider", "iam:GetPolicy", "iam:GetPolicyVersion", "iam:ListPolicyVersions",
        ]
        resources = ["${local.arn}:iam::${local.account}:policy/${local.name}-deploy-*", local.github_provider_arn]
      }
      # Once in an account: ECS, RDS, scaling and Lambda have roles of their own.
      ServiceRoles = {
        actions   = ["iam:CreateServiceLinkedRole"]
        resources = ["${local.arn}:iam::${local.account}:role/aws-service-role/*"]
      }
      Logs = {
        actions = [
          "logs:CreateLogGroup", "logs:DeleteLogGroup", "logs:ListTagsForResource", "logs:PutRetentionPolicy",
          "logs:TagResource", "logs:UntagResource",
        ]
        resources = [
          for group in [
            "/aws/lambda/${local.name}", "/aws/lambda/${local.name}-*", "/aws/apigateway/${local.name}-*",
            "/aws/ecs/containerinsights/${local.name}/*", "/aws/rds/*/${local.name}/*", "/${local.name}/*",
          ] : "${local.arn}:logs:${local.here}:log-group:${group}"
        ]
      }
      # API Gateway is let write to a group by whoever names it.
      LogDelivery = {
        actions = [
          "logs:CreateLogDelivery", "logs:DeleteLogDelivery", "logs:DescribeResourcePolicies", "logs:GetLogDelivery",
          "logs:ListLogDeliveries", "logs:PutResourcePolicy", "logs:UpdateLogDelivery",
        ]
        resources = ["*"]
      }
      Alarms = {
        actions = [
          "cloudwatch:DeleteAlarms", "cloudwatch:DeleteDashboards", "cloudwatch:DescribeAlarms", "cloudwatch:GetDashboard",
          "cloudwatch:ListTagsForResource", "cloudwatch:PutDashboard", "cloudwatch:PutMetricAlarm", "cloudwatch:TagResource",
          "cloudwatch:UntagResource",
        ]
        resources = [
          "${local.arn}:cloudwatch:${local.here}:alarm:*",
          "${local.arn}:cloudwatch::${local.account}:dashboard/${local.name}",
        ]
      }
      Topics = {
        actions = [
          "sns:CreateTopic", "sns:DeleteTopic", "sns:GetSubscriptionAttributes", "sns:GetTopicAttributes",
          "sns:ListSubscriptionsByTopic", "sns:ListTagsForResource", "sns:SetSubscriptionAttributes", "sns:SetTopicAttributes", "sns:Subscribe",
          "sns:TagResource", "sns:Unsubscribe", "sns:UntagResource",
        ]
        resources = ["${local.arn}:sns:${local.here}:${local.name}-*"]
      }
      Budget = {
        actions   = ["budgets:ListTagsForResource", "budgets:ModifyBudget", "budgets:TagResource", "budgets:UntagResource", "budgets:ViewBudget"]
        resources = ["${local.arn}:budgets::${local.account}:budget/${local.name}-monthly"]
      }
      Mail = {
        actions = [
          "ses:CreateConfigurationSet", "ses:CreateConfigurationSetEventDestination", "ses:CreateEmailIdentity",
          "ses:DeleteConfigurationSet", "ses:DeleteConfigurationSetEventDestination", "ses:DeleteEmailIdentity",
          "ses:GetConfigurationSet", "ses:GetEmailIdentity", "ses:ListTagsForResource",
          "ses:PutConfigurationSetDeliveryOptions", "ses:PutConfigurationSetReputationOptions",
          "ses:PutConfigurationSetSuppressionOptions", "ses:PutEmailIdentityConfigurationSetAttributes", "ses:TagResource",
          "ses:UntagResource",
        ]
        resources = [
          "${local.arn}:ses:${local.here}:configuration-set/${local.name}",
          "${local.arn}:ses:${local.here}:identity/${coalesce(local.mail_sender, "none")}",
        ]
      }
      # SES's older calls name nothing.
      OlderMail = {
        actions   = ["ses:DescribeConfigurationSet"]
        resources = ["*"]
      }
    }
  }

  # An unmade list of states names nothing.
  deploy_states = length(local.states) == 0 ? {} : {
    state = {
      State  = { actions = ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"], resources = local.states }
      States = { actions = ["s3:ListBucket"], resources = ["${local.arn}:s3:::${coalesce(var.state_bucket, "none")}"] }
    }
  }
}
