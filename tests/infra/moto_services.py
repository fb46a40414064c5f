"""What moto 5.2 lacks beside queues for what Terraform makes: networks, containers, scaling, the database, the budget.

Applied by tests.infra.moto_for_terraform. Each patch has a test in test_moto_services.py that fails once moto no longer
needs it.
"""

from __future__ import annotations

import functools
import json
import threading
from typing import Any


def apply() -> None:
    """Patch moto in this process."""
    _compile_addresses_one_at_a_time()
    _find_subnets_by_their_ipv6()
    _tell_what_rules_of_groups_are_for()
    _give_each_database_an_id_of_its_own()
    _tell_that_performance_is_watched()
    _tell_who_set_a_databases_parameters()
    _keep_what_a_service_was_made_with()
    _keep_tags_of_scaling()
    _tell_who_is_told_of_a_budget()


def _compile_addresses_one_at_a_time() -> None:
    """Two threads that compile addresses break each other: SystemError, AST constructor recursion depth mismatch.

    Python 3.11's: https://github.com/python/cpython/issues/106905
    """
    from werkzeug.routing import Rule

    lock, compile_rule = threading.RLock(), Rule.compile

    @functools.wraps(compile_rule)
    def compile(self: Any) -> None:
        with lock:
            compile_rule(self)

    Rule.compile = compile  # type: ignore[method-assign]


def _find_subnets_by_their_ipv6() -> None:
    """The provider waits for a subnet's IPv6 addresses, by a filter that is not implemented and a state that is nested."""
    from moto.ec2.models.subnets import Subnet

    found = Subnet.get_filter_value
    told = Subnet.ipv6_cidr_block_association_set.fget

    @functools.wraps(found)
    def get_filter_value(self: Any, filter_name: str, method_name: str | None = None) -> Any:
        if filter_name == "ipv6-cidr-block-association.association-id":
            return list(self.ipv6_cidr_block_associations)
        return found(self, filter_name, method_name)

    def ipv6_cidr_block_association_set(self: Any) -> list[dict[str, Any]]:
        associations: list[dict[str, Any]] = told(self)
        for each in associations:
            if isinstance(each["ipv6CidrBlockState"]["state"], dict):
                each["ipv6CidrBlockState"] = {"state": each["ipv6CidrBlockState"]["state"]["State"]}
        return associations

    Subnet.get_filter_value = get_filter_value  # type: ignore[method-assign]
    Subnet.ipv6_cidr_block_association_set = property(ipv6_cidr_block_association_set)  # type: ignore[assignment,method-assign]


def _tell_what_rules_of_groups_are_for() -> None:
    """A rule that names another group or a list of addresses loses its description."""
    from moto.ec2.models.security_groups import SecurityGroupRule

    init = SecurityGroupRule.__init__

    @functools.wraps(init)
    def made(self: Any, *given: Any, **more: Any) -> None:
        init(self, *given, **more)
        # A list of addresses is the last of those that are given by their place.
        listed = more.get("prefix_list_id") or next((each for each in given if _is_list_of_addresses(each)), {})
        self.said = listed.get("Description")

    def description(self: Any) -> str | None:
        told: str | None = self.ip_range.get("Description") or self.source_group.get("Description") or self.said
        return told

    SecurityGroupRule.__init__ = made  # type: ignore[method-assign]
    SecurityGroupRule.description = property(description)  # type: ignore[assignment,method-assign]


def _is_list_of_addresses(given: Any) -> bool:
    return isinstance(given, dict) and "PrefixListId" in given


def _give_each_database_an_id_of_its_own() -> None:
    """Every instance has the same id, by which the provider tells them apart."""
    from moto.moto_api._internal import mock_random
    from moto.rds import models

    init = models.DBInstance.__init__

    @functools.wraps(init)
    def made(self: Any, *given: Any, **more: Any) -> None:
        init(self, *given, **more)
        self.dbi_resource_id = f"db-{mock_random.get_random_string(26).upper()}"

    models.DBInstance.__init__ = made  # type: ignore[method-assign]


def _tell_that_performance_is_watched() -> None:
    """Performance Insights are kept, but not told."""
    from moto.rds import models

    init = models.DBInstance.__init__

    @functools.wraps(init)
    def made(self: Any, *given: Any, **more: Any) -> None:
        init(self, *given, **more)
        self.performance_insights_enabled = bool(more.get("enable_performance_insights"))
        self.performance_insights_retention_period = more.get("performance_insights_retention_period")

    models.DBInstance.__init__ = made  # type: ignore[method-assign]


def _tell_who_set_a_databases_parameters() -> None:
    """Parameters that were set come back as if they were RDS's own."""
    from moto.rds.models import DBParameterGroup

    update = DBParameterGroup.update_parameters

    @functools.wraps(update)
    def update_parameters(self: Any, new_parameters: Any) -> None:
        update(self, [{**each, "Source": "user"} for each in new_parameters])

    DBParameterGroup.update_parameters = update_parameters  # type: ignore[method-assign]


def _keep_what_a_service_was_made_with() -> None:
    """CreateService forgets capacity providers, how to deploy, and more."""
    from moto.ecs import responses

    create = responses.EC2ContainerServiceResponse.create_service

    @functools.wraps(create)
    def create_service(self: Any) -> Any:
        answer = create(self)
        service = answer.result["service"] if hasattr(answer, "result") else answer._result["service"]
        service.capacity_provider_strategy = self._get_param("capacityProviderStrategy") or []
        service.deployment_configuration = self._get_param("deploymentConfiguration") or {}
        service.enable_ecs_managed_tags = bool(self._get_param("enableECSManagedTags"))
        service.enableECSManagedTags = service.enable_ecs_managed_tags
        service.platform_version = service.platform_version or "LATEST"
        service.availability_zone_rebalancing = self._get_param("availabilityZoneRebalancing") or "DISABLED"
        return answer

    responses.EC2ContainerServiceResponse.create_service = create_service  # type: ignore[method-assign]


def _keep_tags_of_scaling() -> None:
    """The provider asks for the tags of what scales, for minutes: they are not implemented."""
    from moto.applicationautoscaling.responses import ApplicationAutoScalingResponse as Response

    tags: dict[str, dict[str, str]] = {}
    register = Response.register_scalable_target

    @functools.wraps(register)
    def register_scalable_target(self: Any) -> str:
        answer = register(self)
        tags.setdefault(json.loads(answer)["ScalableTargetARN"], {}).update(self._get_param("Tags") or {})
        return answer

    def list_tags_for_resource(self: Any) -> str:
        return json.dumps({"Tags": tags.get(self._get_param("ResourceARN"), {})})

    def tag_resource(self: Any) -> str:
        tags.setdefault(self._get_param("ResourceARN"), {}).update(self._get_param("Tags"))
        return "{}"

    Response.register_scalable_target = register_scalable_target  # type: ignore[method-assign]
    Response.list_tags_for_resource = list_tags_for_resource  # type: ignore[attr-defined]
    Response.tag_resource = tag_resource  # type: ignore[attr-defined]


def _tell_who_is_told_of_a_budget() -> None:
    """Who is told, and the budget's tags, are not implemented."""
    from moto.budgets.responses import BudgetsResponse as Response

    tags: dict[str, list[Any]] = {}
    create = Response.create_budget

    @functools.wraps(create)
    def create_budget(self: Any) -> str:
        answer: str = create(self)
        name = self._get_param("Budget")["BudgetName"]
        tags[f"arn:aws:budgets::{self.current_account}:budget/{name}"] = self._get_param("ResourceTags") or []
        return answer

    def describe_subscribers_for_notification(self: Any) -> str:
        wanted = self._get_param("Notification")
        budget = self.backend.budgets[self._get_param("AccountId")][self._get_param("BudgetName")]
        for each in budget.notifications:
            if all(each.details.get(key) == value for key, value in wanted.items() if key != "NotificationState"):
                return json.dumps({"Subscribers": getattr(each, "subscribers", None) or each.subscriber})
        return json.dumps({"Subscribers": []})

    def list_tags_for_resource(self: Any) -> str:
        return json.dumps({"ResourceTags": tags.get(self._get_param("ResourceARN"), [])})

    Response.create_budget = create_budget  # type: ignore[method-assign]
    Response.describe_subscribers_for_notification = describe_subscribers_for_notification  # type: ignore[attr-defined]
    Response.list_tags_for_resource = list_tags_for_resource  # type: ignore[attr-defined]
