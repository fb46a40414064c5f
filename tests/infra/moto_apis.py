"""What moto 5.2 lacks of API Gateway's WebSocket APIs and of SES for what Terraform makes.

Applied by tests.infra.moto_for_terraform. Each patch has a test in test_moto_services.py that fails once moto no longer
needs it.
"""

from __future__ import annotations

import functools
import json
import secrets
from typing import Any
from urllib.parse import unquote


def apply() -> None:
    """Patch moto in this process, before its backends are asked for their addresses."""
    _deploy_websocket_apis()
    _tell_which_deployment_a_stage_has()
    _speak_of_websockets()
    _tell_of_sending_as_ses_does()
    _give_identities_keys_and_tags()
    _forget_event_destinations()


def _deploy_websocket_apis() -> None:
    """There are no deployments, without which a WebSocket API has no stage."""
    from moto.apigatewayv2 import urls
    from moto.apigatewayv2.responses import ApiGatewayV2Response as Response

    made: dict[str, dict[str, Any]] = {}
    for path in ("deployments$", "deployments/(?P<deployment_id>[^/]+)$"):
        urls.url_paths[f"{{0}}/v2/apis/(?P<api_id>[^/]+)/{path}"] = Response.dispatch

    def create_deployment(self: Any) -> tuple[int, dict[str, str], str]:
        deployment = {
            "deploymentId": secrets.token_hex(5),
            "deploymentStatus": "DEPLOYED",
            "autoDeployed": False,
            "description": json.loads(self.body or "{}").get("description", ""),
        }
        made[deployment["deploymentId"]] = deployment
        return 201, {}, json.dumps(deployment)

    def get_deployment(self: Any) -> tuple[int, dict[str, str], str]:
        deployment = made.get(self.path.split("/")[-1])
        if deployment is None:
            return 404, {"x-amzn-errortype": "NotFoundException"}, json.dumps({"message": "Unable to find Deployment"})
        return 200, {}, json.dumps(deployment)

    def delete_deployment(self: Any) -> tuple[int, dict[str, str], str]:
        made.pop(self.path.split("/")[-1], None)
        return 204, {}, ""

    Response.create_deployment = create_deployment  # type: ignore[attr-defined]
    Response.get_deployment = get_deployment  # type: ignore[attr-defined]
    Response.delete_deployment = delete_deployment  # type: ignore[attr-defined]


def _tell_which_deployment_a_stage_has() -> None:
    """A stage forgets its deployment, and cannot be updated."""
    from moto.apigatewayv2.models import Stage
    from moto.apigatewayv2.responses import ApiGatewayV2Response as Response

    told = Stage.to_json

    @functools.wraps(told)
    def to_json(self: Any) -> dict[str, Any]:
        found: dict[str, Any] = told(self)
        if self.config.get("deploymentId"):
            found["deploymentId"] = self.config["deploymentId"]
        return found

    def update_stage(self: Any) -> tuple[int, dict[str, str], str]:
        *_, api_id, _, name = self.path.split("/")
        stage, given = self.apigatewayv2_backend.get_stage(api_id, unquote(name)), json.loads(self.body)
        stage.config.update(given)
        for key, attribute in (
            ("accessLogSettings", "access_log_settings"),
            ("defaultRouteSettings", "default_route_settings"),
        ):
            if key in given:
                setattr(stage, attribute, given[key])
        return 200, {}, json.dumps(stage.to_json())

    Stage.to_json = to_json  # type: ignore[method-assign]
    Response.update_stage = update_stage  # type: ignore[attr-defined]


def _speak_of_websockets() -> None:
    """A WebSocket API has an address of https, and forgets that it has IPv6."""
    from moto.apigatewayv2.models import Api
    from moto.apigatewayv2.responses import ApiGatewayV2Response as Response

    told, create = Api.to_json, Response.create_api

    @functools.wraps(told)
    def to_json(self: Any) -> dict[str, Any]:
        found: dict[str, Any] = told(self)
        if self.protocol_type == "WEBSOCKET":
            found["apiEndpoint"] = found["apiEndpoint"].replace("https://", "wss://")
        found["ipAddressType"] = getattr(self, "ip_address_type", "ipv4")
        return found

    @functools.wraps(create)
    def create_api(self: Any) -> Any:
        status, headers, body = create(self)
        api = self.apigatewayv2_backend.get_api(json.loads(body)["apiId"])
        api.ip_address_type = json.loads(self.body).get("ipAddressType", "ipv4")
        return status, headers, json.dumps(api.to_json())

    Api.to_json = to_json  # type: ignore[method-assign]
    Response.create_api = create_api  # type: ignore[method-assign]


def _give_identities_keys_and_tags() -> None:
    """An identity has neither the keys that SES signs with nor, where they are asked for, its tags."""
    from moto.ses.models import EmailIdentity
    from moto.sesv2.responses import SESV2Response as Response

    create, init = Response.create_email_identity, EmailIdentity.__init__

    @functools.wraps(create)
    def create_email_identity(self: Any) -> str:
        answer: str = create(self)
        arn = f"arn:aws:ses:{self.region}:{self.current_account}:identity/{self._get_param('EmailIdentity')}"
        self.sesv2_backend.tag_resource(arn, {tag["Key"]: tag["Value"] for tag in self._get_param("Tags") or []})
        return answer

    @functools.wraps(init)
    def made(self: Any, *given: Any, **more: Any) -> None:
        init(self, *given, **more)
        self.dkim_attributes.update({"SigningEnabled": True, "Status": "PENDING", "Tokens": ["one", "two", "three"]})

    Response.create_email_identity = create_email_identity  # type: ignore[method-assign]
    EmailIdentity.__init__ = made  # type: ignore[method-assign]


def _tell_of_sending_as_ses_does() -> None:
    """A configuration set tells an object where SES tells whether it sends, and options that it was not given."""
    from moto.ses.models import ConfigurationSet

    told = ConfigurationSet.to_dict_v2

    @functools.wraps(told)
    def to_dict_v2(self: Any) -> dict[str, Any]:
        found: dict[str, Any] = told(self)
        if isinstance(self.enabled, dict):
            found["SendingOptions"] = {"SendingEnabled": self.enabled.get("SendingEnabled", True)}
        return {name: value for name, value in found.items() if value != {}}

    ConfigurationSet.to_dict_v2 = to_dict_v2  # type: ignore[method-assign]


def _forget_event_destinations() -> None:
    """An event destination cannot be deleted."""
    from moto.core.responses import EmptyResult
    from moto.ses.responses import EmailResponse

    def delete_configuration_set_event_destination(self: Any) -> Any:
        self.backend.config_set_event_destination.pop(self._get_param("ConfigurationSetName"), None)
        self.backend.event_destinations.pop(self._get_param("EventDestinationName"), None)
        return EmptyResult()

    EmailResponse.delete_configuration_set_event_destination = delete_configuration_set_event_destination  # type: ignore[attr-defined]
