"""Takes a firing to its target, or to the dead-letter queue of its schedule."""

from __future__ import annotations

import json
import logging
from typing import Any

from botocore.exceptions import ClientError, ParamValidationError

from serverless.local.clock.firings import Firing

log = logging.getLogger(__name__)


class UndeliverableError(Exception):
    """The target did not take it. code, message: AWS's, as the dead letter tells them."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Courier:
    """clients: of boto3, by service."""

    def __init__(self, clients: dict[str, Any]) -> None:
        self._sqs = clients["sqs"]
        self._lambda = clients["lambda"]
        self._addresses: dict[str, str] = {}

    def deliver(self, firing: Firing) -> None:
        """Raises UndeliverableError; and what botocore raises where the local cloud does not answer."""
        try:
            self._deliver(firing)
        except ClientError as error:
            told = error.response.get("Error", {})
            raise UndeliverableError(told.get("Code", ""), told.get("Message", "")) from error
        except ParamValidationError as error:
            raise UndeliverableError("ValidationException", str(error)) from error

    def bury(self, firing: Firing, condition: str) -> None:
        """Send it to the dead-letter queue, with its story; without a queue it is gone, as at AWS."""
        if not firing.dead_letter_arn:
            return
        attributes = {
            name: {"DataType": "String", "StringValue": value or "none"}
            for name, value in firing.story(condition).items()
        }
        try:
            self._send(firing.dead_letter_arn, _request(firing), {"MessageAttributes": attributes})
        except (ClientError, UndeliverableError) as error:
            log.error("%s: the dead-letter queue took nothing either: %s", firing.arn, error)

    def _deliver(self, firing: Firing) -> None:
        service, message = _service(firing.target_arn), firing.message(firing.attempts + 1)
        if service == "sqs":
            group = firing.target.get("SqsParameters", {}).get("MessageGroupId")
            self._send(firing.target_arn, message, {"MessageGroupId": group} if group else {})
        elif service == "lambda":
            # As EventBridge does: what the function makes of it is between Lambda and the function.
            self._lambda.invoke(FunctionName=firing.target_arn, InvocationType="Event", Payload=message.encode())
        else:
            raise UndeliverableError(
                "ValidationException", f"the local clock plays SQS and Lambda alone, not {firing.target_arn}."
            )

    def _send(self, arn: str, body: str, options: dict[str, Any]) -> None:
        if _service(arn) != "sqs":
            raise UndeliverableError("ValidationException", f"{arn} is no queue.")
        if arn not in self._addresses:
            _, _, _, _, account, name = arn.split(":")
            self._addresses[arn] = self._sqs.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]
        self._sqs.send_message(QueueUrl=self._addresses[arn], MessageBody=body, **options)


def is_slow(firing: Firing) -> bool:
    """Whether its target keeps the caller waiting: moto runs a function while it is invoked."""
    return _service(firing.target_arn) == "lambda"


def _service(arn: str) -> str:
    parts = arn.split(":")
    return parts[2] if len(parts) >= 6 else ""


def _request(firing: Firing) -> str:
    """What a dead letter holds: the request that EventBridge made of a schedule, a rule's event as it is."""
    message = firing.message(firing.attempts)
    if firing.source == "rule":
        return message
    if _service(firing.target_arn) == "lambda":
        return json.dumps({"FunctionName": firing.target_arn, "InvocationType": "Event", "Payload": message})
    return json.dumps({"MessageBody": message, "QueueUrl": firing.target_arn})
