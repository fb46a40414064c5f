# How each function and container reaches what it calls. A private network reaches nothing by itself, and what it does
# not reach shows as a call that hangs: so every service stands here, and a plan fails where one has no route.
locals {
  services = {
    # callers: web, worker and sockets are our code; platform is Fargate itself, which fetches images and takes logs.
    # has_ipv6: whether AWS has a dual-stack endpoint, for which AWS_USE_DUALSTACK_ENDPOINT asks.
    sqs            = { callers = ["web", "worker"], has_gateway = false, has_ipv6 = true }
    s3             = { callers = ["web", "worker", "platform"], has_gateway = true, has_ipv6 = true }
    dynamodb       = { callers = ["web", "worker", "sockets"], has_gateway = true, has_ipv6 = true }
    ssm            = { callers = ["web", "worker", "sockets"], has_gateway = false, has_ipv6 = true }
    secretsmanager = { callers = ["web", "worker", "sockets"], has_gateway = false, has_ipv6 = true }
    scheduler      = { callers = ["web"], has_gateway = false, has_ipv6 = true }
    ecs            = { callers = ["web"], has_gateway = false, has_ipv6 = true }
    ses            = { callers = ["web", "worker"], has_gateway = false, has_ipv6 = true }
    execute-api    = { callers = ["web", "worker", "sockets"], has_gateway = false, has_ipv6 = true }
    ecr            = { callers = ["platform"], has_gateway = false, has_ipv6 = true }
    logs           = { callers = ["platform"], has_gateway = false, has_ipv6 = true }
    sts            = { callers = ["web", "worker"], has_gateway = false, has_ipv6 = true }
    ssmmessages    = { callers = var.remote_shell ? ["worker"] : [], has_gateway = false, has_ipv6 = false }
  }

  routes = {
    for name, service in local.services : name => (
      length(service.callers) == 0 ? "not called" :
      service.has_gateway ? "gateway endpoint" :
      local.has_nat ? var.egress :
      service.has_ipv6 ? "ipv6" :
      name == "ssmmessages" ? "interface endpoint" : "none"
    )
  }
  without_route = [for name, route in local.routes : name if route == "none"]
}
