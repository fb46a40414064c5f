"""Each patch of moto_services and moto_apis is still needed. When one of these fails, moto has mended it: remove both."""

from __future__ import annotations

import json

import pytest

from tests.infra.test_moto_for_terraform import plain_moto

VPC = """
    ec2 = client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]
    block = vpc["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"].replace("/56", "/64")
    subnet = ec2.create_subnet(VpcId=vpc["VpcId"], CidrBlock="10.0.0.0/20", Ipv6CidrBlock=block)["Subnet"]
"""


def indented(code: str, blanks: int) -> str:
    lines = [line for line in code.splitlines() if line.strip()]
    margin = min(len(line) - len(line.lstrip()) for line in lines)
    return "\n".join(" " * blanks + line[margin:] for line in lines)


GAPS = {
    "subnets are not found by their IPv6 addresses": (
        VPC
        + """
    name = "ipv6-cidr-block-association.association-id"
    print(len(ec2.describe_subnets(Filters=[{"Name": name, "Values": ["any"]}])["Subnets"]))
""",
        "FilterNotImplementedError",
    ),
    "the state of a subnet's IPv6 addresses is nested": (
        VPC + """    print(subnet["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlockState"]["State"])""",
        "{'State': 'associated'}",
    ),
    "a rule that names a group loses its description": (
        VPC
        + """
    group = ec2.create_security_group(GroupName="a", Description="a", VpcId=vpc["VpcId"])["GroupId"]
    pair = {"GroupId": group, "Description": "said"}
    permission = {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "UserIdGroupPairs": [pair]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[permission])
    rules = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}])["SecurityGroupRules"]
    print([rule.get("Description") for rule in rules if not rule["IsEgress"]])
""",
        "[None]",
    ),
    "a rule that names a list of addresses loses its description": (
        VPC
        + """
    group = ec2.create_security_group(GroupName="a", Description="a", VpcId=vpc["VpcId"])["GroupId"]
    listed = {"PrefixListId": "pl-1", "Description": "said"}
    permission = {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "PrefixListIds": [listed]}
    ec2.authorize_security_group_egress(GroupId=group, IpPermissions=[permission])
    rules = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}])["SecurityGroupRules"]
    print([rule.get("Description") for rule in rules if rule.get("PrefixListId")])
""",
        "[None]",
    ),
    "databases share an id": (
        """
    rds = client("rds")
    common = {"Engine": "postgres", "DBInstanceClass": "db.t4g.micro", "AllocatedStorage": 20}
    for name in "ab":
        rds.create_db_instance(DBInstanceIdentifier=name, MasterUsername="u", MasterUserPassword="password", **common)
    print(len({each["DbiResourceId"] for each in rds.describe_db_instances()["DBInstances"]}))
""",
        "1",
    ),
    "Performance Insights are not told": (
        """
    made = client("rds").create_db_instance(
        DBInstanceIdentifier="a", Engine="postgres", DBInstanceClass="db.t4g.micro", AllocatedStorage=20,
        MasterUsername="u", MasterUserPassword="password", EnablePerformanceInsights=True,
    )
    print(made["DBInstance"].get("PerformanceInsightsEnabled"))
""",
        "None",
    ),
    "who set a parameter is not told": (
        """
    rds = client("rds")
    rds.create_db_parameter_group(DBParameterGroupName="a", DBParameterGroupFamily="postgres17", Description="a")
    parameter = {"ParameterName": "rds.force_ssl", "ParameterValue": "1", "ApplyMethod": "immediate"}
    rds.modify_db_parameter_group(DBParameterGroupName="a", Parameters=[parameter])
    print(rds.describe_db_parameters(DBParameterGroupName="a")["Parameters"][0].get("Source"))
""",
        "None",
    ),
    "a service forgets its capacity providers": (
        """
    ecs = client("ecs")
    ecs.create_cluster(clusterName="a")
    ecs.register_task_definition(family="a", containerDefinitions=[{"name": "a", "image": "a", "memory": 64}])
    strategy = [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]
    ecs.create_service(
        cluster="a", serviceName="a", taskDefinition="a", desiredCount=0, capacityProviderStrategy=strategy
    )
    print(ecs.describe_services(cluster="a", services=["a"])["services"][0].get("capacityProviderStrategy"))
""",
        "None",
    ),
    "what scales has no tags": (
        """
    scaling = client("application-autoscaling")
    print(scaling.list_tags_for_resource(ResourceARN="arn:aws:application-autoscaling:us-east-1:123456789012:a"))
""",
        "NotImplementedError",
    ),
    "who is told of a budget is not told": (
        """
    budgets = client("budgets")
    limit = {"Amount": "1", "Unit": "USD"}
    budget = {"BudgetName": "a", "BudgetLimit": limit, "TimeUnit": "MONTHLY", "BudgetType": "COST"}
    notification = {"NotificationType": "ACTUAL", "ComparisonOperator": "GREATER_THAN", "Threshold": 80.0}
    told = {"Notification": notification, "Subscribers": [{"SubscriptionType": "EMAIL", "Address": "a@example.com"}]}
    budgets.create_budget(AccountId="123456789012", Budget=budget, NotificationsWithSubscribers=[told])
    print(budgets.describe_subscribers_for_notification(
        AccountId="123456789012", BudgetName="a", Notification=notification
    ))
""",
        "NotImplementedError",
    ),
    "a WebSocket API cannot be deployed": (
        """
    gateway = client("apigatewayv2")
    api = gateway.create_api(Name="a", ProtocolType="WEBSOCKET")["ApiId"]
    print(gateway.create_deployment(ApiId=api))
""",
        "",
    ),
    "a stage forgets its deployment": (
        """
    gateway = client("apigatewayv2")
    api = gateway.create_api(Name="a", ProtocolType="WEBSOCKET")["ApiId"]
    print(gateway.create_stage(ApiId=api, StageName="a", DeploymentId="abc").get("DeploymentId"))
""",
        "None",
    ),
    "a WebSocket API speaks https": (
        """
    made = client("apigatewayv2").create_api(Name="a", ProtocolType="WEBSOCKET", IpAddressType="dualstack")
    print(f"{made['ApiEndpoint'].split(':')[0]} {made.get('IpAddressType')}")
""",
        "https None",
    ),
    "a configuration set tells an object for whether it sends": (
        """
    ses = client("sesv2")
    ses.create_configuration_set(ConfigurationSetName="a")
    told = ses.get_configuration_set(ConfigurationSetName="a")
    print(f"{told['SendingOptions']} {'VdmOptions' in told}")
""",
        "{'SendingEnabled': False} True",
    ),
    "an identity has no keys": (
        """
    told = client("sesv2").create_email_identity(EmailIdentity="example.com")
    print(told["DkimAttributes"].get("Tokens"))
""",
        "None",
    ),
    "an event destination cannot be deleted": (
        """
    ses = client("ses")
    print(ses.delete_configuration_set_event_destination(ConfigurationSetName="a", EventDestinationName="a"))
""",
        "NotImplementedError",
    ),
}


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    """What unpatched moto says to each, or the error that it ends with: one interpreter for all, each with a new cloud."""
    parts = ["answers = {}", 'client = lambda name: boto3.client(name, region_name="us-east-1")']
    for gap, (code, _) in GAPS.items():
        parts += [
            f"with mock_aws():\n    said = []\n    print = said.append\n    try:\n{indented(code, 8)}",
            "    except Exception as error:\n        print(type(error).__name__)",
            f"answers[{gap!r}] = str(said[-1])",
        ]
    parts.append('__builtins__.print("@" + json.dumps(answers))')
    told: dict[str, str] = json.loads(plain_moto("\n".join(parts)).rsplit("@", 1)[1])
    return told


@pytest.mark.parametrize("gap", GAPS)
def test_moto_still_lacks_it(answers, gap):
    said = GAPS[gap][1]
    if said:
        assert answers[gap] == said
    else:
        # Whatever it says, it is no deployment.
        assert "DeploymentId" not in answers[gap]
